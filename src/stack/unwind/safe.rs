//! Which modules may be looked at in a walk.
//!
//! A module whose code is on the stack cannot be unloaded meanwhile. That holds for what tables say of a frame
//! which they were asked about rightly. Where there were none, the next frame is a guess, a stale word of the
//! stack perhaps, and whatever follows from it is one, too: it may lead into a plugin that another thread is
//! just unloading. From then on a walk goes on only in modules that it had met before, in the program, in the C
//! library and in our own; and in code that is in no module, of which nothing is read.

use super::rule::Caller;
use crate::os::loader;

/// More modules than these are on few stacks. Those that are met later are as if they had not been.
const MAX_MET: usize = 16;

pub struct SafeModules {
    /// First addresses of those that the walk was in before it guessed.
    met: [u64; MAX_MET],
    count: usize,
    /// First addresses of those that never go away, since the first guess.
    lasting: Option<[u64; 3]>,
}

/// What an address leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A module that may be looked at.
    Safe,
    /// A module that may be unloaded at this moment.
    Unsafe,
    /// No module: there is nothing to be looked at.
    Nowhere,
}

impl SafeModules {
    pub fn new() -> SafeModules {
        SafeModules { met: [0; MAX_MET], count: 0, lasting: None }
    }

    /// Adds a module, by its first address, that the walk is in.
    pub fn add(&mut self, start: u64) {
        if self.lasting.is_none() && self.count < MAX_MET {
            self.met[self.count] = start;
            self.count += 1;
        }
    }

    /// What comes next is a guess.
    pub fn guess(&mut self) {
        self.lasting.get_or_insert_with(loader::lasting);
    }

    /// Whether what is at this address may be looked at. As long as nothing was guessed all may.
    pub fn place(&self, address: u64) -> Place {
        let Some(lasting) = &self.lasting else { return Place::Safe };
        match loader::start_of(address) {
            None => Place::Nowhere,
            Some(start) if lasting.contains(&start) => Place::Safe,
            Some(start) if self.met[..self.count].contains(&start) => Place::Safe,
            Some(_) => Place::Unsafe,
        }
    }

    /// The caller, unless its return address leads where nothing may be looked at.
    pub fn let_pass(&self, caller: Caller) -> Option<Caller> {
        // Both are asked for later: the address, and the call before it.
        let places = [caller.pc, caller.pc.wrapping_sub(1)].map(|address| self.place(address));
        (!places.contains(&Place::Unsafe)).then_some(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_guess_only_what_was_met_or_stays_is_looked_at() {
        let library = libc::atoi as *const () as u64;
        let own = after_a_guess_only_what_was_met_or_stays_is_looked_at as *const () as u64;
        let mut safe = SafeModules::new();
        assert_eq!(safe.place(8), Place::Safe, "no guess: nothing is asked");
        safe.guess();
        if !loader::is_there() {
            return;
        }
        let places =
            |safe: &SafeModules, addresses: [u64; 3]| addresses.map(|address| safe.place(address));
        assert_eq!(places(&safe, [own, library, 8]), [Place::Safe, Place::Safe, Place::Nowhere]);
        // The loader itself is neither.
        // SAFETY: no preconditions.
        let other = unsafe { libc::getauxval(libc::AT_BASE) };
        assert_eq!(safe.place(other), Place::Unsafe);
        safe.add(other);
        assert_eq!(safe.place(other), Place::Unsafe, "it was met by a guess");
        let mut safe = SafeModules::new();
        for _ in 0..2 * MAX_MET {
            safe.add(other);
        }
        safe.guess();
        assert_eq!(places(&safe, [own, library, other]), [Place::Safe; 3]);
    }
}
