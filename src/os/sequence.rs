//! Figures that belong together, read whole without a lock: a sequence lock.
//!
//! A writer makes the sequence odd, writes, and makes it even again. A reader reads what it wants between two
//! looks at the sequence, and again if that was odd or has changed. Writers exclude each other by another lock,
//! or there is only one. After H.-J. Boehm, "Can Seqlocks Get Along With Programming Language Memory Models?"
//! (MSPC 2012): what is guarded are atomics, and the fences order them against the sequence.

use super::system::Nanos;
use super::threads::yield_now;
use super::time::sleep;
use crate::base::atomics::{AtomicU64, Ordering, fence};

/// How often to try for a consistent reading: for some tens of milliseconds, in which a writer that was
/// preempted gets to run again.
const MAX_ATTEMPTS: u32 = 1000;

/// After so many attempts a reader sleeps between them.
const BRIEF_ATTEMPTS: u32 = 100;
const PAUSE: Nanos = Nanos(50_000);

/// The sequence of some figures.
///
/// # Invariants
/// Odd exactly while a writer is between its first and its last store.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Sequence(AtomicU64);

impl Sequence {
    #[cfg(not(all(test, loom)))]
    pub const fn new() -> Sequence {
        Sequence(AtomicU64::new(0))
    }

    #[cfg(all(test, loom))]
    pub fn new() -> Sequence {
        Sequence(AtomicU64::new(0))
    }

    /// Makes a change whose stores readers see all or not at all. One writer at a time; not nested.
    #[inline]
    pub fn write<T>(&self, change: impl FnOnce() -> T) -> T {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.wrapping_add(1), Ordering::Relaxed);
        // Release: a reader that sees a store of the change also sees the odd sequence.
        fence(Ordering::Release);
        let result = change();
        // Release: partner of the Acquire in `try_read`.
        self.0.store(before.wrapping_add(2), Ordering::Release);
        result
    }

    /// In a copy of the process: a writer that the copy does not have was in the middle of a change, which readers
    /// must not wait for. What was written stays. Like a change, nobody else writes.
    pub fn end_ghosts_change(&self) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.next_multiple_of(2), Ordering::Release);
    }

    /// What `read` reads while nobody writes. Waits for no one but a writer between its two ends, and not for
    /// ever: a signal handler may have interrupted that very writer. Then it is what was there.
    pub fn read<T>(&self, read: impl Fn() -> T) -> T {
        let mut attempts = 0;
        loop {
            let (result, is_whole) = self.try_read(&read);
            if is_whole || attempts == MAX_ATTEMPTS {
                return result;
            }
            if attempts < BRIEF_ATTEMPTS {
                yield_now();
            } else {
                sleep(PAUSE);
            }
            attempts += 1;
        }
    }

    /// What `read` reads, and whether nobody wrote meanwhile.
    pub fn try_read<T>(&self, read: impl FnOnce() -> T) -> (T, bool) {
        // Acquire: partner of the Release in `write`.
        let before = self.0.load(Ordering::Acquire);
        let result = read();
        // Acquire: what was read was so before the sequence is read again.
        fence(Ordering::Acquire);
        let after = self.0.load(Ordering::Relaxed);
        (result, before.is_multiple_of(2) && before == after)
    }

    /// Of a copy of another process's figures: was it made while nobody wrote? `now` is what their sequence was
    /// when the copy had been made.
    pub fn is_settled_at(&self, now: u64) -> bool {
        now.is_multiple_of(2) && self.0.load(Ordering::Relaxed) == now
    }
}
