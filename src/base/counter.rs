//! A number that is counted up by one thread at a time and read by any.

use core::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer at a time: its only writer, or whoever holds the lock that guards the writers. Plain
/// loads and stores, so that counting costs no atomic read-modify-write.
#[derive(Default)]
#[repr(transparent)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// Wraps around.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Wraps around.
    #[inline]
    pub fn subtract(&self, less: u64) {
        self.add(less.wrapping_neg());
    }

    #[inline]
    pub fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// Any thread.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
