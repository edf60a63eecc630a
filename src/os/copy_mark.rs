//! How a process knows that it is a copy of another one, however it was made.
//!
//! libc's `fork` calls handlers. The system call alone, `clone` without `CLONE_VM`, calls none, and in the copy is the
//! calling thread alone, with whatever others had in hand. So there is a page that reads as zero in a copy
//! (`MADV_WIPEONFORK`, Linux 4.14). In a child that shares the memory, as one of `vfork` does, it is what it was.
//! Where the kernel has no such page, nobody is told.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::memory::map_metadata;
use super::raw::system_call;
use super::threads::yield_now;
use crate::base::units::PAGE_BYTES;

/// Wiped in copies (`linux/mman.h`).
const MADV_WIPEONFORK: usize = libc::MADV_WIPEONFORK as usize;

/// What the word says: nobody has seen to this copy yet,
const COPY: u32 = 0;
/// somebody does,
const IN_HAND: u32 = 1;
/// or this process is as it should be.
const SETTLED: u32 = 2;

/// # Invariants
/// `word` is null, or the first word of a page of its own, which is never unmapped and which the kernel wipes in
/// copies.
pub(crate) struct CopyMark {
    word: AtomicPtr<AtomicU32>,
}

impl CopyMark {
    pub const fn new() -> CopyMark {
        CopyMark { word: AtomicPtr::new(ptr::null_mut()) }
    }

    /// From now on copies are told. Once, before any other thread looks. Returns the bytes that it takes.
    pub fn set(&self) -> usize {
        let Some(page) = map_metadata(PAGE_BYTES) else { return 0 };
        let word = page as *mut AtomicU32;
        // SAFETY: the page was mapped just now, and has room for the word.
        unsafe { word.write(AtomicU32::new(SETTLED)) };
        // SAFETY: this advice changes nothing in this process.
        let is_wiped =
            unsafe { system_call(libc::SYS_madvise, [page, PAGE_BYTES, MADV_WIPEONFORK]) == 0 };
        if is_wiped {
            self.word.store(word, Ordering::Relaxed);
        }
        PAGE_BYTES
    }

    fn word(&self) -> Option<&AtomicU32> {
        // SAFETY: null, or a word that stays.
        unsafe { self.word.load(Ordering::Relaxed).as_ref() }
    }

    /// Is this a copy that nobody has seen to, or not to its end? Two loads.
    #[inline]
    pub fn is_copy(&self) -> bool {
        // Acquire: partner of the Release in `settle`.
        self.word().is_some_and(|word| word.load(Ordering::Acquire) != SETTLED)
    }

    /// `true`: the caller sees to this copy, and calls [`CopyMark::settle`] then. `false`: another thread has.
    pub fn take_in_hand(&self) -> bool {
        let Some(word) = self.word() else { return false };
        let taken = word.compare_exchange(COPY, IN_HAND, Ordering::Acquire, Ordering::Relaxed);
        while taken.is_err() && self.is_copy() {
            yield_now();
        }
        taken.is_ok()
    }

    /// This process is as it should be.
    pub fn settle(&self) {
        if let Some(word) = self.word() {
            // Release: partner of the Acquire in `is_copy`.
            word.store(SETTLED, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ffi::c_int;

    /// Ends a copy of this process, made by `flags`, with what `work` returns.
    fn copy(flags: c_int, work: impl Fn() -> bool) -> bool {
        // SAFETY: a copy of this process with a stack of its own, which makes no call but to the kernel.
        let child = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
        if child == 0 {
            let code = work() as c_int;
            // SAFETY: ends the child, and runs nothing.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: `status` is a valid place; the child is ours.
        let ended = unsafe { libc::waitpid(child as libc::pid_t, &mut status, 0) };
        assert!(child > 0 && ended == child as libc::pid_t && libc::WIFEXITED(status));
        libc::WEXITSTATUS(status) == 1
    }

    #[test]
    fn a_copy_knows_that_it_is_one_until_somebody_has_seen_to_it() {
        let mark = CopyMark::new();
        assert!(!copy(0, || mark.is_copy()), "nobody has asked to be told");
        assert_eq!(mark.set(), PAGE_BYTES);
        assert!(!mark.is_copy() && !mark.take_in_hand());
        assert!(copy(0, || mark.is_copy()));
        assert!(copy(0, || {
            let was_first = mark.take_in_hand() && mark.is_copy();
            mark.settle();
            was_first && !mark.is_copy() && !mark.take_in_hand()
        }));
        assert!(copy(0, || mark.take_in_hand() && {
            mark.settle();
            copy(0, || mark.is_copy())
        }));
        assert!(!mark.is_copy(), "a copy's word is its own");
    }
}
