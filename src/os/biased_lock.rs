//! A lock that costs its owner no atomic read-modify-write, and anybody else a system call.
//!
//! ```text
//!  owner, slow path                     taker
//!  word = BUSY                          hold = 1
//!  (compiler barrier)                   membarrier: every thread passes a full barrier
//!  hold? → leave and wait               word == BUSY? → not now
//!  … what the lock guards …             close gates
//!  word = AT_REST                       membarrier
//!                                       word == BUSY? → open the gates again, not now
//!  owner, fast path                     … what is behind the gates …
//!  word = BUSY                          open gates
//!  (compiler barrier)                   hold = 0, wake
//!  gate closed? → leave, slow path
//!  … what is behind the gate …
//!  word = AT_REST
//! ```
//!
//! After a barrier either the owner's BUSY is visible to the taker, or what the taker wrote before it to the owner. So
//! after the first one the owner is in none of its slow paths, and will not be: gates, which slow paths change as
//! well, are the taker's. After the second one it is in none of its fast paths that go through a closed gate. A gate is
//! something that a fast path compares in any case (the ends of a bin), so the lock costs it two stores of the
//! word.
//!
//! A word that says BUSY when its owner comes in means re-entrance: a signal handler
//! interrupted the owner.
//!
//! After D. Dice, M. Moir, W. Scherer, "Quickly Reacquirable Locks" (2003), with the kernel's
//! `membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED)` as the taker's barrier.

use crate::base::atomics::{AtomicU32, AtomicUsize, Ordering, compiler_barrier};
use crate::os::threads::{futex_wait, futex_wake};

/// What the owner's word says while the owner is inside.
pub(crate) const BUSY: usize = 1;

/// What it says while the owner is outside, and may come in.
pub(crate) const AT_REST: usize = 2;

/// The owner's word, which only the owner writes.
pub(crate) trait OwnerWord: Copy {
    fn get(self) -> usize;

    /// Does it say [`AT_REST`]?
    #[inline(always)]
    fn is_at_rest(self) -> bool {
        self.get() == AT_REST
    }

    /// Release: what the owner did before is visible to whoever reads this value (Acquire).
    fn set(self, value: usize);

    /// The same with a value that the compiler knows.
    #[inline(always)]
    fn set_to<const VALUE: usize>(self) {
        self.set(VALUE);
    }
}

/// The takers' half; the owner's is its word.
///
/// # Invariants
/// `hold` is 1 from [`BiasedLock::want`] to [`BiasedLock::let_go`] of one taker, and else 0. Takers exclude each other
/// by another lock.
pub(crate) struct BiasedLock {
    hold: AtomicU32,
}

impl BiasedLock {
    #[cfg(all(test, loom))]
    pub fn new() -> BiasedLock {
        BiasedLock { hold: AtomicU32::new(0) }
    }

    /// The owner goes in. `false`: a taker has the lock or wants it, and the owner must not touch
    /// what it guards; it leaves again and may wait.
    #[inline(always)]
    pub fn enter(&self, word: impl OwnerWord) -> bool {
        Self::enter_fast(word);
        // Acquire: partner of the Release in `let_go`; what a taker did is visible to the owner.
        self.hold.load(Ordering::Acquire) == 0
    }

    /// The owner goes in where it touches nothing but what is behind a gate, and that only if the gate is open,
    /// which it reads (Acquire) after this.
    #[inline(always)]
    pub fn enter_fast(word: impl OwnerWord) {
        word.set_to::<BUSY>();
        compiler_barrier();
    }

    /// The owner goes out.
    #[inline(always)]
    pub fn leave(word: impl OwnerWord) {
        compiler_barrier();
        word.set_to::<AT_REST>();
    }

    /// Does a taker have the lock, or want it?
    pub fn is_wanted(&self) -> bool {
        // Acquire: as in `enter`.
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

    /// After a barrier: is the owner inside?
    pub fn owner_is_inside(word: &AtomicUsize) -> bool {
        // Acquire: partner of the Release in `OwnerWord::set`.
        word.load(Ordering::Acquire) == BUSY
    }

    /// A taker is done, or gives up; all gates are open.
    pub fn let_go(&self) {
        if self.hold.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Release: partner of the Acquire in `enter`.
        self.hold.store(0, Ordering::Release);
        futex_wake(&self.hold);
    }
}
