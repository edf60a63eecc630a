//! Slackwater as a Rust program's global allocator.

use core::alloc::{GlobalAlloc, Layout};

use crate::api::malloc;

/// The allocator, for `#[global_allocator]`:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();
///
/// let squares: Vec<u64> = (0..1000).map(|n| n * n).collect();
/// assert_eq!(squares[999], 998_001);
/// assert!(slackwater::snapshot().allocations_total.medium > 0);
/// ```
///
/// Any number of these are one and the same heap. It needs no set-up: the first allocation reserves
/// the arena and reads the [knobs](mod@crate::heap::knobs) from the environment.
///
/// Any thread; about 3 ns for an allocation and its release where the thread's cache serves both,
/// with the size known to the compiler less. Frees use the layout they are given and do not look the
/// block up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slackwater(());

impl Slackwater {
    /// The allocator. `const`, so that it can initialize a `static`.
    pub const fn new() -> Slackwater {
        Slackwater(())
    }
}

// SAFETY: blocks are as large and as aligned as their layout says (the class or run is chosen by
// it), distinct while in use, and nothing here unwinds.
unsafe impl GlobalAlloc for Slackwater {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        malloc::allocate_aligned(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        malloc::allocate_zeroed(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller gives the layout that the block was allocated with.
        unsafe { malloc::free_sized(block, layout.size(), layout.align()) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller gives the layout that the block was allocated with.
        unsafe { malloc::reallocate_sized(block, layout.size(), layout.align(), new_size) }
    }
}
