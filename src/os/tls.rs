//! Three words of thread-local storage, reached with the initial-exec model.
//!
//! `thread_local!` in a shared library calls `__tls_get_addr` at every access, which costs more than
//! a whole allocation should. An initial-exec variable is one load from the thread pointer, in the
//! preloaded library as in a linked binary; at 24 bytes, static TLS never runs out of room for it
//! (stable Rust has no attribute for the model, hence the assembly).
//!
//! The first word says whether the thread is inside its cache: each call stores it twice. The second is the cache's
//! address, which stays as it is. Were both one word, each call would load an address that the call before it has
//! just stored, and wait for that store to be forwarded; a word that is only compared nobody waits for, since a branch
//! is predicted. The third is the thread's number, for samples, which would ask the kernel for it each time.

use core::arch::{asm, global_asm};
use core::sync::atomic::AtomicU32;

use crate::os::biased_lock::{AT_REST, BUSY, OwnerWord};

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("slackwater supports x86_64 and aarch64");

#[cfg(not(target_os = "linux"))]
compile_error!("slackwater supports Linux");

global_asm!(
    ".pushsection .tbss.slackwater_thread,\"awT\",%nobits",
    ".globl slackwater_thread",
    ".hidden slackwater_thread",
    ".type slackwater_thread, %object",
    ".size slackwater_thread, 24",
    ".balign 16",
    "slackwater_thread:",
    ".zero 24",
    ".popsection",
);

/// The place of the calling thread's words, relative to its thread pointer.
#[derive(Clone, Copy)]
pub(crate) struct ThreadWord(usize);

impl ThreadWord {
    #[inline(always)]
    pub fn of_this_thread() -> ThreadWord {
        let offset: usize;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: loads the variable's offset, a constant of the process, from the GOT.
        unsafe {
            asm!(
                "mov {}, qword ptr [rip + slackwater_thread@GOTTPOFF]",
                out(reg) offset,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: loads the variable's offset, a constant of the process, from the GOT.
        unsafe {
            asm!(
                "adrp {0}, :gottprel:slackwater_thread",
                "ldr {0}, [{0}, :gottprel_lo12:slackwater_thread]",
                out(reg) offset,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        ThreadWord(offset)
    }

    /// The address of the thread's cache, from the last [`ThreadWord::set_cache`]; 0 before.
    #[inline(always)]
    pub fn cache(self) -> usize {
        let value: usize;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: reads this thread's second word.
        unsafe {
            asm!(
                "mov {}, qword ptr fs:[{} + 8]",
                out(reg) value,
                in(reg) self.0,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: reads this thread's second word.
        unsafe {
            asm!(
                "mrs {0}, tpidr_el0",
                "add {0}, {0}, {1}",
                "ldr {0}, [{0}, #8]",
                out(reg) value,
                in(reg) self.0,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value
    }

    /// The thread has a cache, at this address. While the first word keeps signal handlers from looking.
    pub fn set_cache(self, address: usize) {
        let place = (self.address() + size_of::<usize>()) as *mut usize;
        // SAFETY: this thread's second word, which nobody else looks at.
        unsafe { place.write(address) };
    }

    /// The kernel's number of this thread; 0 where it was not asked for, or is another one since the process is a copy.
    pub fn number(&self) -> &AtomicU32 {
        let place = (self.address() + 2 * size_of::<usize>()) as *mut u32;
        // SAFETY: the first half of this thread's third word, which is there as long as the thread.
        unsafe { AtomicU32::from_ptr(place) }
    }

    /// The first word's address, by which another thread may read it while this thread lives.
    pub fn address(self) -> usize {
        Self::thread_pointer().wrapping_add(self.0)
    }

    /// What the places of thread-local variables are relative to.
    pub fn thread_pointer() -> usize {
        let pointer: usize;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the first word of the thread control block is its own address (psABI).
        unsafe {
            asm!(
                "mov {}, qword ptr fs:[0]",
                out(reg) pointer,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: reads the thread pointer.
        unsafe {
            asm!(
                "mrs {}, tpidr_el0",
                out(reg) pointer,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        pointer
    }
}

/// Makes zero memory at `pointer` fit to be a thread's pointer, so that [`ThreadWord`] works there.
///
/// # Safety
/// The three words at `pointer` are the caller's, to write to.
pub(crate) unsafe fn prepare_thread_pointer(pointer: usize) {
    if cfg!(target_arch = "x86_64") {
        // SAFETY: the caller says so. The control block begins with its own address, and has it once
        // more for libc, as its third word.
        unsafe { (pointer as *mut [usize; 3]).write([pointer, 0, pointer]) };
    }
}

impl OwnerWord for ThreadWord {
    /// Reads the word. A compiler barrier: what comes after stays after.
    #[inline(always)]
    fn get(self) -> usize {
        let value: usize;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: reads this thread's own word.
        unsafe {
            asm!(
                "mov {}, qword ptr fs:[{}]",
                out(reg) value,
                in(reg) self.0,
                options(nostack, preserves_flags),
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: reads this thread's own word.
        unsafe {
            asm!(
                "mrs {0}, tpidr_el0",
                "ldr {0}, [{0}, {1}]",
                out(reg) value,
                in(reg) self.0,
                options(nostack, preserves_flags),
            );
        }
        value
    }

    /// The same as one comparison with memory: the compiler would load what it cannot see is only compared.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn is_at_rest(self) -> bool {
        // SAFETY: reads this thread's own word.
        unsafe {
            asm!(
                "cmp qword ptr fs:[{}], {}",
                "jne {}",
                in(reg) self.0,
                const AT_REST,
                label { return false },
                options(nostack),
            );
        }
        true
    }

    /// Writes the word. A compiler barrier: what comes before stays before, and after after. On
    /// x86_64 every store is a Release.
    #[cfg(not(sanitized))]
    #[inline(always)]
    fn set(self, value: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: writes this thread's own word, which nobody else writes.
        unsafe {
            asm!(
                "mov qword ptr fs:[{}], {}",
                in(reg) self.0,
                in(reg) value,
                options(nostack, preserves_flags),
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: writes this thread's own word, which nobody else writes.
        unsafe {
            asm!(
                "mrs {2}, tpidr_el0",
                "add {2}, {2}, {0}",
                "stlr {1}, [{2}]",
                in(reg) self.0,
                in(reg) value,
                out(reg) _,
                options(nostack, preserves_flags),
            );
        }
    }

    #[cfg(all(target_arch = "x86_64", not(sanitized)))]
    #[inline(always)]
    fn set_to<const VALUE: usize>(self) {
        // SAFETY: writes this thread's own word, which nobody else writes.
        unsafe {
            asm!(
                "mov qword ptr fs:[{}], {}",
                in(reg) self.0,
                const VALUE,
                options(nostack, preserves_flags),
            );
        }
    }

    /// The same store as one that the thread sanitizer sees: it does not look into assembly.
    #[cfg(sanitized)]
    fn set(self, value: usize) {
        use core::sync::atomic::{AtomicUsize, Ordering};
        // SAFETY: the address is this thread's own word.
        unsafe { &*(self.address() as *const AtomicUsize) }.store(value, Ordering::Release);
    }
}

/// The address of the calling thread's word, and whether the thread is inside its cache.
pub(crate) fn this_thread() -> (usize, bool) {
    let word = ThreadWord::of_this_thread();
    (word.address(), word.get() == BUSY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicUsize, Ordering};

    /// Runs on threads that never allocate between the writes, for the word is the allocator's own.
    #[test]
    fn every_thread_has_a_word_of_its_own() {
        let seen = [const { AtomicUsize::new(0) }; 3];
        let mut before = usize::MAX;
        for place in &seen {
            let handle = std::thread::scope(|scope| {
                scope
                    .spawn(|| {
                        let word = ThreadWord::of_this_thread();
                        before = word.get();
                        let address = word.address() as *const AtomicUsize;
                        word.set(before);
                        // SAFETY: the address is this thread's word.
                        let through_address = unsafe { &*address }.load(Ordering::Relaxed);
                        place.store(address as usize, Ordering::Relaxed);
                        through_address == word.get()
                    })
                    .join()
            });
            assert!(handle.unwrap(), "the address leads to the word");
            assert_ne!(place.load(Ordering::Relaxed), ThreadWord::of_this_thread().address());
        }
    }
}
