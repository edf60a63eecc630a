//! What is counted without a thread cache.

use core::sync::atomic::AtomicU64;

use crate::geometry::size_class::CLASS_COUNT;

/// Counters of what is done without a thread cache or to another's, by any thread; and of the time that
/// ticks take.
#[repr(C)]
pub(crate) struct Uncached {
    pub operations: AtomicU64,
    pub foreign_frees: AtomicU64,
    pub allocation_failures: AtomicU64,
    pub resident_gained: AtomicU64,
    pub interior_refaults: AtomicU64,
    pub barriers: AtomicU64,
    pub takeovers_taken: AtomicU64,
    pub takeovers_busy: AtomicU64,
    pub takeovers_unavailable: AtomicU64,
    /// Nanoseconds in which idle bins were flushed; and nanoseconds of ticks, less those, the purges that
    /// the ticks made and the wait for their assistant's.
    pub takeover_nanos: AtomicU64,
    pub tick_nanos: AtomicU64,
    pub remaps: AtomicU64,
    pub zeroing_calls: AtomicU64,
    pub classes: [UncachedClass; CLASS_COUNT],
}

/// The same by class.
#[repr(C)]
pub(crate) struct UncachedClass {
    pub claimed: AtomicU64,
    pub spilled: AtomicU64,
    pub allocations: AtomicU64,
    pub bytes: AtomicU64,
}

impl Uncached {
    pub const fn new() -> Uncached {
        Uncached {
            operations: AtomicU64::new(0),
            foreign_frees: AtomicU64::new(0),
            allocation_failures: AtomicU64::new(0),
            resident_gained: AtomicU64::new(0),
            interior_refaults: AtomicU64::new(0),
            barriers: AtomicU64::new(0),
            takeovers_taken: AtomicU64::new(0),
            takeovers_busy: AtomicU64::new(0),
            takeovers_unavailable: AtomicU64::new(0),
            takeover_nanos: AtomicU64::new(0),
            tick_nanos: AtomicU64::new(0),
            remaps: AtomicU64::new(0),
            zeroing_calls: AtomicU64::new(0),
            classes: [const {
                UncachedClass {
                    claimed: AtomicU64::new(0),
                    spilled: AtomicU64::new(0),
                    allocations: AtomicU64::new(0),
                    bytes: AtomicU64::new(0),
                }
            }; CLASS_COUNT],
        }
    }
}
