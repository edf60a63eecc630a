//! Who owns which pages, under one lock; the boundary through which they become free; and what is counted of
//! them.

pub(crate) mod boundary;
pub(crate) mod clock;
pub(crate) mod metadata;
pub(crate) mod page_heap;
pub(crate) mod totals;
pub(crate) mod touched;

use crate::geometry::arena::Arena;
use crate::os::lock::Lock;

use clock::Clock;
use metadata::Metadata;
use page_heap::PageHeap;
use totals::Totals;

/// The pages of a heap: where they are, whose they are, what is counted of them, and by which clock they rest.
///
/// # Invariants
/// `totals` is written with `page_heap` locked, and agrees with it and with the segments of `arena`.
pub(crate) struct HeapPages {
    pub arena: Arena,
    pub page_heap: Lock<PageHeap>,
    pub totals: Totals,
    pub clock: Clock,
    /// Records that lie outside of the arena.
    pub metadata: Metadata,
}

impl HeapPages {
    pub const fn new() -> HeapPages {
        HeapPages {
            arena: Arena::new(),
            page_heap: Lock::new(PageHeap::new()),
            totals: Totals::new(),
            clock: Clock::new(),
            metadata: Metadata::new(),
        }
    }
}
