//! A lock that neither allocates nor poisons: `malloc` cannot use std's.
//!
//! After U. Drepper, "Futexes Are Tricky": three states, one word.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::sys;

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody may be asleep: the holder must wake one.
const CONTENDED: u32 = 2;

/// How often to look again before sleeping. What these locks guard takes about as long as this.
const SPINS: u32 = 100;

/// A value that one thread at a time can reach.
///
/// # Invariants
/// `value` is touched only between `word` leaving [`FREE`] and returning to it, by the thread that
/// made it leave (or, in a forked child, by the thread that the lock was taken for).
pub(crate) struct Lock<T> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives the value to one thread at a time; it may be sent, so it may be shared.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The right to use a lock's value.
pub(crate) struct Guard<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    pub const fn new(value: T) -> Lock<T> {
        Lock { word: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock. Not re-entrant.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        // Acquire: partner of the Release in `unlock`.
        if self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_slow();
        }
        Guard(self)
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        // Acquire: partner of the Release in `unlock`.
        let taken = self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then_some(Guard(self))
    }

    #[cold]
    fn lock_slow(&self) {
        for _ in 0..SPINS {
            if self.word.load(Ordering::Relaxed) == FREE
                && self
                    .word
                    // Acquire: partner of the Release in `unlock`.
                    .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return;
            }
            core::hint::spin_loop();
        }
        // Acquire: partner of the Release in `unlock`.
        while self.word.swap(CONTENDED, Ordering::Acquire) != FREE {
            sys::futex_wait(&self.word, CONTENDED);
        }
    }

    #[inline]
    fn unlock(&self) {
        // Release: partner of the Acquires above.
        if self.word.swap(FREE, Ordering::Release) == CONTENDED {
            sys::futex_wake(&self.word);
        }
    }

    /// Takes the lock for longer than a scope: before a fork.
    pub fn lock_for_fork(&self) {
        core::mem::forget(self.lock());
    }

    /// Gives back what [`Lock::lock_for_fork`] took, in the parent or in the child.
    ///
    /// # Safety
    /// The calling thread took the lock so, or is the copy of that thread in the child.
    pub unsafe fn unlock_after_fork(&self) {
        self.unlock();
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this guard exists, so this thread holds the lock.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard exists, so this thread holds the lock; `&mut self` makes it the only
        // reference.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time() {
        let lock = Lock::new(0u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        // A read and a write that would lose updates without the lock.
                        let mut guard = lock.lock();
                        let seen = *guard;
                        *guard = core::hint::black_box(seen) + 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), 80_000);
        let held = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(held);
        assert!(lock.try_lock().is_some());
    }
}
