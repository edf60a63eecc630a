//! Walks the call stack of code that keeps no frame pointers, by the unwind tables that compilers
//! leave for exceptions, so that samples of allocations have whole stacks.
//!
//! Nothing has to be set up: the first sample is walked like every other. Where libc does not say, without a
//! lock, where a module's tables are (glibc before 2.35, musl), stacks go as far as frame pointers lead, and
//! so they do in an allocator that is built without feature `unwind`.
//!
//! It runs inside malloc: it allocates nothing, takes no lock and does not panic. Three steps lead
//! from one frame to the next:
//!
//! 1. glibc's `_dl_find_object` says which module an address belongs to (`loader`);
//! 2. the module's tables say where its caller's registers are (`tables`, by gimli). That takes some
//!    hundred nanoseconds, so
//! 3. what they say is kept (`cache`): an address that was seen before costs a few.
//!
//! Code without tables is left by a return address right behind it, or by its frame pointer, if that
//! looks like one (`compiled`); what follows is a guess, and leads into no module that may go away
//! (`safe`). Only stack pointer, frame pointer and return address are followed: the few functions that
//! keep their frame's place in another register (libc's lazy binding does) end the walk.
mod cache;
mod compiled;
mod rule;
mod safe;
mod tables;

use core::sync::atomic::{AtomicU64, Ordering};

use crate::os::loader::{self, Module};
use crate::stack::memory::StackMemory;
use crate::stack::registers::Registers;

use cache::Cache;
use rule::{Caller, Frame, Rule};
use safe::SafeModules;
use tables::Answer;

/// What the tables have said, of all threads.
static CACHE: Cache = Cache::new();

/// More unwanted frames than these in front of the wanted ones (the allocator's own) end a walk.
const MAX_UNWANTED: usize = 32;

/// Whether stacks are walked by tables: not where this libc does not say where they are. Nothing needs to
/// be installed any more; a program may still ask.
pub fn install() -> bool {
    loader::is_there()
}

/// For a shared object that is an allocator and nothing else: what it calls within itself is no part of its
/// users' stacks, however the compiler has arranged it. When it is loaded.
///
/// In a program that has the allocator built in, its functions are told from the program's by where
/// their frames are ([`crate::stack::capture`]); what the compiler puts between is part of the stack.
#[unsafe(link_section = "slackwater_start")]
pub fn leave_out_this_library() {
    if let Some(module) = loader::module_of(leave_out_this_library as *const () as u64) {
        // Relaxed: stacks that are walked meanwhile may have a frame more.
        LIBRARY_START.store(module.start, Ordering::Relaxed);
        LIBRARY_BYTES.store(module.end - module.start, Ordering::Relaxed);
    }
}

/// The loader's record (`struct link_map`) of the library that this is part of; null where libc does not say without a
/// lock. For the preload library, which looks there for what comes after it.
#[doc(hidden)]
#[unsafe(link_section = "slackwater_start")]
pub fn link_map_of_this_library() -> *const core::ffi::c_void {
    loader::link_map_of(link_map_of_this_library as *const () as u64) as *const core::ffi::c_void
}

/// Where the library is whose frames are left out; no bytes if there is none.
#[unsafe(link_section = ".data.slackwater_start")]
static LIBRARY_START: AtomicU64 = AtomicU64::new(0);
#[unsafe(link_section = ".data.slackwater_start")]
static LIBRARY_BYTES: AtomicU64 = AtomicU64::new(0);

fn is_librarys(address: u64) -> bool {
    let offset = address.wrapping_sub(LIBRARY_START.load(Ordering::Relaxed));
    offset < LIBRARY_BYTES.load(Ordering::Relaxed)
}

/// Fills in return addresses, innermost first, and says how many: a [`crate::stack::Walker`].
///
/// Where a signal has interrupted a function, the place in that function is the instruction's address
/// plus one: as for a return address, one less lies in the instruction that was under way.
pub fn walk(registers: &Registers, memory: &mut dyn StackMemory, frames: &mut [u64]) -> usize {
    let mut frame = Frame::innermost(registers);
    let mut way = Way::new();
    let mut count = 0;
    for _ in 0..frames.len().saturating_add(MAX_UNWANTED) {
        if count == frames.len() {
            break;
        }
        let Some(caller) = way.caller_of(&frame, memory) else { break };
        let is_librarys = count == 0 && is_librarys(caller.pc);
        if memory.is_wanted(caller.sp) && !is_librarys {
            frames[count] = caller.return_address();
            count += 1;
        }
        frame = Frame::of_caller(&caller);
    }
    count
}

/// How a walk gets on.
struct Way {
    /// The module that was last in.
    module: Option<Module>,
    safe: SafeModules,
}

impl Way {
    fn new() -> Way {
        Way { module: None, safe: SafeModules::new() }
    }

    /// Who called the function that `frame` is in. `None` if nobody did, or that cannot be found out.
    fn caller_of(&mut self, frame: &Frame, memory: &mut dyn StackMemory) -> Option<Caller> {
        if !self.module.as_ref().is_some_and(|module| module.contains(frame.address)) {
            self.module = loader::module_of(frame.address);
            if let Some(module) = &self.module {
                self.safe.add(module.start);
            }
        }
        let Some(module) = self.module.filter(|module| module.header != 0) else {
            return compiled::caller(frame, &mut self.safe, memory);
        };
        let key = Cache::key(frame.address, module.identity);
        let rule = match CACHE.get(key) {
            Some(rule) => rule,
            None => match tables::ask(&module, frame, memory) {
                Answer::Rule(rule) => {
                    CACHE.put(key, rule);
                    rule
                }
                Answer::Caller(caller) => return self.safe.let_pass(caller?),
            },
        };
        let caller = match rule {
            Rule::Caller(place) => frame.caller_at(&place, memory)?,
            Rule::Outermost => return None,
            Rule::Unknown => {
                self.safe.guess();
                frame.caller_by_frame_pointer(memory)?
            }
        };
        self.safe.let_pass(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Words([u64; 4]);

    impl StackMemory for Words {
        fn word(&mut self, address: u64) -> Option<u64> {
            self.0.get(address.checked_sub(0x7000_0000)? as usize / 8).copied()
        }
    }

    /// As of compiled code, and on a libc that does not say where tables are.
    #[test]
    fn without_tables_frame_pointers_are_followed() {
        // In no module.
        let code = 0x6000_0000_1000;
        let mut stack = Words([7, 7, 0, code]);
        let registers = Registers { pc: code, sp: 0x7000_0000, fp: 0x7000_0010, lr: 0 };
        let mut frames = [0; 2];
        assert_eq!(walk(&registers, &mut stack, &mut frames), 1);
        assert_eq!(frames[0], code);
    }
}
