//! A lock that neither allocates nor poisons, and knows its holder: `malloc` cannot use std's.
//!
//! After U. Drepper, "Futexes Are Tricky": one word that says free, held, or held with others
//! asleep. Where it is held it names the thread, so that a signal handler which interrupted the
//! holder can tell that it would wait for itself.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::os::report;
use crate::os::threads::{futex_wait, futex_wake};
use crate::os::tls::ThreadWord;

const FREE: u64 = 0;
/// Set beside the holder's name when somebody may be asleep: the holder must wake one.
const CONTENDED: u64 = 1;

/// How often to look again before sleeping. What these locks guard takes about as long as this.
const SPINS: u32 = 100;

/// A value that one thread at a time can reach.
///
/// # Invariants
/// - `word` is [`FREE`], or the holder's [`name`] with or without [`CONTENDED`].
/// - `value` is touched only between `word` leaving [`FREE`] and returning to it, by the thread that
///   made it leave (or, in a forked child, by the thread that the lock was taken for).
pub(crate) struct Lock<T> {
    word: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives the value to one thread at a time; it may be sent, so it may be shared.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The right to use a lock's value.
pub(crate) struct Guard<'a, T>(&'a Lock<T>);

/// This thread's name in a lock: the address of its word, which no other living thread has and which
/// is a multiple of 8.
#[inline(always)]
fn name() -> u64 {
    ThreadWord::of_this_thread().address() as u64
}

impl<T> Lock<T> {
    pub const fn new(value: T) -> Lock<T> {
        Lock { word: AtomicU64::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock. For code that no signal handler can reach while its thread holds it.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        match self.lock_unless_mine() {
            Some(guard) => guard,
            None => report::fail("a lock is taken twice", self.word.as_ptr() as usize),
        }
    }

    /// Waits for the lock. `None` if the calling thread holds it already: this is a signal handler
    /// that interrupted it, or another library's fork handler, and waiting would be for ever.
    #[inline]
    pub fn lock_unless_mine(&self) -> Option<Guard<'_, T>> {
        // Acquire: partner of the Release in `unlock`.
        let free = self.word.compare_exchange(FREE, name(), Ordering::Acquire, Ordering::Relaxed);
        (free.is_ok() || self.lock_slow()).then(|| Guard(self))
    }

    /// Does the calling thread hold the lock?
    pub fn is_mine(&self) -> bool {
        // Relaxed: only this thread writes its own name.
        self.word.load(Ordering::Relaxed) & !CONTENDED == name()
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        // Acquire: partner of the Release in `unlock`.
        let free = self.word.compare_exchange(FREE, name(), Ordering::Acquire, Ordering::Relaxed);
        free.is_ok().then(|| Guard(self))
    }

    #[cold]
    fn lock_slow(&self) -> bool {
        let name = name();
        let mut spins = 0;
        let mut taken = name;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word == FREE {
                // Acquire: partner of the Release in `unlock`.
                let free =
                    self.word.compare_exchange(FREE, taken, Ordering::Acquire, Ordering::Relaxed);
                if free.is_ok() {
                    return true;
                }
            } else if word & !CONTENDED == name {
                return false;
            } else if spins < SPINS {
                spins += 1;
                core::hint::spin_loop();
            } else {
                let marked = self.word.compare_exchange(
                    word,
                    word | CONTENDED,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                if marked.is_ok() {
                    futex_wait(self.futex(), (word | CONTENDED) as u32);
                    // Others may still be asleep: whoever was, wakes the next one.
                    taken = name | CONTENDED;
                }
            }
        }
    }

    /// What sleepers wait on: the half of the word with [`CONTENDED`] in it. Another holder's half may
    /// look the same, but only if that one has a sleeper to wake, too.
    fn futex(&self) -> &AtomicU32 {
        const { assert!(cfg!(target_endian = "little")) };
        // SAFETY: the lower half of an aligned 64-bit atomic is an aligned 32-bit one.
        unsafe { AtomicU32::from_ptr(self.word.as_ptr().cast()) }
    }

    #[inline]
    fn unlock(&self) {
        // Release: partner of the Acquires above.
        if self.word.swap(FREE, Ordering::Release) & CONTENDED != 0 {
            futex_wake(self.futex());
        }
    }

    /// Frees the lock if another thread holds it. Returns whether one did.
    ///
    /// # Safety
    /// That thread is not there: this process is a copy of its own. Whatever it left half done, the caller makes
    /// whole before anybody uses the value.
    pub unsafe fn free_from_ghost(&self) -> bool {
        let is_held = self.word.load(Ordering::Relaxed) != FREE && !self.is_mine();
        if is_held {
            self.word.store(FREE, Ordering::Relaxed);
        }
        is_held
    }

    /// Takes the lock for longer than a scope: before a fork. `false` if the calling thread holds it
    /// already.
    pub fn lock_for_fork(&self) -> bool {
        self.lock_unless_mine().map(core::mem::forget).is_some()
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
        assert!(lock.lock_unless_mine().is_none(), "the holder does not wait for itself");
        assert!(lock.is_mine());
        std::thread::scope(|scope| scope.spawn(|| assert!(!lock.is_mine())).join().unwrap());
        // SAFETY: nobody but this thread uses the value.
        assert!(!unsafe { lock.free_from_ghost() } && lock.is_mine(), "it is no ghost");
        drop(held);
        assert!(!lock.is_mine());
        assert!(lock.try_lock().is_some());
        std::thread::scope(|scope| scope.spawn(|| lock.lock_for_fork()).join().unwrap());
        // SAFETY: the thread that took it has ended, and left the value whole.
        assert!(unsafe { lock.free_from_ghost() });
        assert!(lock.try_lock().is_some());
    }
}
