//! A lock that costs its owner no atomic read-modify-write, and anybody else a system call.
//!
//! ```text
//!  owner                                taker
//!  word = BUSY                          bound = 0
//!  (compiler barrier)                   membarrier: every thread passes a full barrier
//!  address >= bound? → leave and wait   word == BUSY? → not now
//!  … what the lock guards …             … what the lock guards …
//!  word = what it was                   bound = what it was, wake
//! ```
//!
//! After the barrier either the owner's BUSY is visible to the taker, or the taker's 0 to the owner.
//! The bound is a number, and not a flag, so that the owner may bring an address with it: one that is
//! too high does not get in either, and that costs nothing beside.
//!
//!  A word that says BUSY when its owner comes in means re-entrance: a signal handler
//! interrupted the owner.
//!
//! After D. Dice, M. Moir, W. Scherer, "Quickly Reacquirable Locks" (2003), with the kernel's
//! `membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED)` as the taker's barrier.

use crate::base::atomics::{AtomicU32, AtomicUsize, Ordering, compiler_barrier};
use crate::os::threads::{futex_wait, futex_wake};

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
/// All-zero memory is a lock that has not been [opened](BiasedLock::open) yet, into which nobody gets.
/// From then on `bound` is `usual`, but 0 from [`BiasedLock::want`] to [`BiasedLock::let_go`] of one
/// taker, and so long `hold` is 1. Takers exclude each other by another lock.
pub(crate) struct BiasedLock {
    bound: AtomicUsize,
    usual: AtomicUsize,
    hold: AtomicU32,
}

impl BiasedLock {
    #[cfg(all(test, loom))]
    pub fn new(bound: usize) -> BiasedLock {
        let (bound, usual) = (AtomicUsize::new(bound), AtomicUsize::new(bound));
        BiasedLock { bound, usual, hold: AtomicU32::new(0) }
    }

    /// Before its first use: addresses below `bound`, which is not 0, may come in from now on.
    #[cfg(not(all(test, loom)))]
    pub fn open(&self, bound: usize) {
        self.usual.store(bound, Ordering::Relaxed);
        self.bound.store(bound, Ordering::Relaxed);
    }

    /// The owner goes in. `false`: a taker has the lock or wants it, and the owner must not touch
    /// what it guards; it leaves again and may wait.
    #[inline(always)]
    pub fn enter(&self, word: impl OwnerWord) -> bool {
        self.enter_with(word, 0)
    }

    /// The same with an address. `false`, too, if that is not below the bound.
    #[inline(always)]
    pub fn enter_with(&self, word: impl OwnerWord, address: usize) -> bool {
        word.set(BUSY);
        compiler_barrier();
        // Acquire: partner of the Release in `let_go`; what a taker did is visible to the owner.
        address < self.bound.load(Ordering::Acquire)
    }

    /// The owner goes out.
    #[inline(always)]
    pub fn leave(word: impl OwnerWord, value: usize) {
        compiler_barrier();
        word.set(value);
    }

    /// Does a taker have the lock, or want it?
    pub fn is_wanted(&self) -> bool {
        // Acquire: as in `enter_with`.
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
        self.bound.store(0, Ordering::Relaxed);
    }

    /// After the barrier: is the owner inside? If not, the taker has the lock.
    pub fn owner_is_inside(word: &AtomicUsize) -> bool {
        // Acquire: partner of the Release in `OwnerWord::set`.
        word.load(Ordering::Acquire) == BUSY
    }

    /// A taker is done, or gives up.
    pub fn let_go(&self) {
        if self.hold.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Release: partner of the Acquire in `enter_with`.
        self.bound.store(self.usual.load(Ordering::Relaxed), Ordering::Release);
        // Release: partner of the Acquire in `is_wanted`.
        self.hold.store(0, Ordering::Release);
        futex_wake(&self.hold);
    }
}
