//! Which modules may be looked at in a walk.
//!
//! A module whose code is on the stack cannot be unloaded meanwhile. That holds for what tables say of a frame
//! which they were asked about rightly. Where there were none, the next frame is a guess, a stale word of the
//! stack perhaps, and whatever follows from it is one, too: it may lead into a plugin that another thread is
//! just unloading. From then on a walk goes on only in modules that it had met before, in the program, in the C
//! library and in our own; and in code that is in no module, of which nothing is read.

use super::rule::Caller;
use crate::loader;

/// More modules than these are on few stacks. Those that are met later are as if they had not been.
const MAX_MET: usize = 16;

pub struct SafeModules {
    /// First addresses; those that never go away come first once they are asked for.
    met: [u64; MAX_MET],
    count: usize,
    is_guessing: bool,
}

impl SafeModules {
    pub fn new() -> SafeModules {
        SafeModules { met: [0; MAX_MET], count: 0, is_guessing: false }
    }

    /// Adds a module, by its first address, that the walk is in.
    pub fn add(&mut self, start: u64) {
        if !self.is_guessing && self.count < MAX_MET {
            self.met[self.count] = start;
            self.count += 1;
        }
    }

    /// What comes next is a guess.
    pub fn guess(&mut self) {
        if self.is_guessing {
            return;
        }
        self.is_guessing = true;
        for start in loader::lasting() {
            // They take the place of others, if need be.
            self.count = self.count.min(MAX_MET - 1);
            self.met[self.count] = start;
            self.count += 1;
            self.met.swap(0, self.count - 1);
        }
    }

    /// Whether what is at this address may be looked at: `Some(false)`: it is in no module.
    pub fn has(&self, address: u64) -> Option<bool> {
        if !self.is_guessing {
            return Some(true);
        }
        match loader::start_of(address) {
            None => Some(false),
            Some(start) => self.met[..self.count].contains(&start).then_some(true),
        }
    }

    /// The caller, if its return address may be looked at.
    pub fn let_pass(&self, caller: Caller) -> Option<Caller> {
        // Both are asked for later: the address, and the call before it.
        self.has(caller.pc)?;
        self.has(caller.pc.wrapping_sub(1))?;
        Some(caller)
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
        assert_eq!(safe.has(8), Some(true), "no guess: nothing is asked");
        safe.guess();
        if !loader::is_there() {
            return;
        }
        assert_eq!(
            [own, library, 8].map(|address| safe.has(address)),
            [Some(true), Some(true), Some(false)]
        );
        // The loader itself is neither.
        // SAFETY: no preconditions.
        let other = unsafe { libc::getauxval(libc::AT_BASE) };
        assert_eq!(safe.has(other), None);
        safe.add(other);
        assert_eq!(safe.has(other), None, "it was met by a guess");
        let mut safe = SafeModules::new();
        for _ in 0..2 * MAX_MET {
            safe.add(other);
        }
        safe.guess();
        assert_eq!([own, library, other].map(|address| safe.has(address)), [Some(true); 3]);
    }
}
