//! A lock that costs its owner no atomic read-modify-write, and anybody else a system call.
//!
//! ```text
//!  owner                                taker
//!  word = BUSY                          hold = 1
//!  (compiler barrier)                   membarrier: every thread passes a full barrier
//!  hold? → leave and wait               word == BUSY? → not now
//!  … what the lock guards …             … what the lock guards …
//!  word = what it was                   hold = 0, wake
//! ```
//!
//! After the barrier either the owner's BUSY is visible to the taker, or the taker's `hold` to the
//! owner. A word that says BUSY when its owner comes in means re-entrance: a signal handler
//! interrupted the owner.
//!
//! After D. Dice, M. Moir, W. Scherer, "Quickly Reacquirable Locks" (2003), with the kernel's
//! `membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED)` as the taker's barrier.

use crate::sync::{AtomicU32, AtomicUsize, Ordering, compiler_barrier};
use crate::sys::{futex_wait, futex_wake};

/// What the owner's word says while the owner is inside.
pub(crate) const BUSY: usize = 1;

/// The owner's word, which only the owner writes.
pub(crate) trait OwnerWord: Copy {
    fn get(self) -> usize;
    /// Release: what the owner did before is visible to whoever reads this value (Acquire).
    fn set(self, value: usize);
}

/// The takers' half; the owner's is its word.
///
/// # Invariants
/// All-zero memory is a lock that nobody has. `hold` is 1 only from [`BiasedLock::want`] to
/// [`BiasedLock::let_go`] of one taker: takers exclude each other by another lock.
#[derive(Default)]
pub(crate) struct BiasedLock {
    hold: AtomicU32,
}

impl BiasedLock {
    /// The owner goes in. `false`: a taker has the lock or wants it, and the owner must not touch
    /// what it guards; it leaves again and may wait.
    #[inline(always)]
    pub fn enter(&self, word: impl OwnerWord) -> bool {
        word.set(BUSY);
        compiler_barrier();
        !self.is_wanted()
    }

    /// The owner goes out.
    #[inline(always)]
    pub fn leave(word: impl OwnerWord, value: usize) {
        compiler_barrier();
        word.set(value);
    }

    /// Does a taker have the lock, or want it?
    #[inline(always)]
    pub fn is_wanted(&self) -> bool {
        // Acquire: partner of the Release in `let_go`; what a taker did is visible to the owner.
        self.hold.load(Ordering::Acquire) != 0
    }

    /// The owner sleeps until no taker wants the lock. Its word does not say [`BUSY`] meanwhile.
    #[cold]
    pub fn wait_until_unwanted(&self) {
        while self.is_wanted() {
            futex_wait(&self.hold, 1);
        }
    }

    /// A taker announces itself. It then lets every thread pass a barrier, and looks at the owner.
    pub fn want(&self) {
        // Relaxed: ordered by the barrier.
        self.hold.store(1, Ordering::Relaxed);
    }

    /// After the barrier: is the owner inside? If not, the taker has the lock.
    pub fn owner_is_inside(word: &AtomicUsize) -> bool {
        // Acquire: partner of the Release in `OwnerWord::set`.
        word.load(Ordering::Acquire) == BUSY
    }

    /// A taker is done, or gives up.
    pub fn let_go(&self) {
        // Release: partner of the Acquire in `is_wanted`.
        if self.hold.swap(0, Ordering::Release) != 0 {
            futex_wake(&self.hold);
        }
    }
}
