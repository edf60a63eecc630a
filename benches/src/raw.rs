//! Blocks asked for as collections ask for theirs: zeroed, aligned, resized.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error, realloc};
use std::hint::black_box;
use std::ptr::NonNull;

/// A block of memory; dropping it frees it.
///
/// # Invariants
///
/// `start` is what the global allocator gave for `layout`, whose size is not zero.
#[derive(Debug)]
pub struct RawBlock {
    start: NonNull<u8>,
    layout: Layout,
}

/// The layout of a block of `size` bytes, not zero, aligned to a power of two.
#[inline]
fn layout(size: usize, alignment: usize) -> Layout {
    assert!(size > 0, "blocks of no bytes are not allocated");
    Layout::from_size_align(size, alignment).expect("a power of two and no overflow")
}

impl RawBlock {
    /// A block of `size` bytes, of which the first is written, aligned as C's `malloc` does.
    #[inline]
    pub fn new(size: usize) -> Self {
        Self::aligned(size, 16)
    }

    /// A block of `size` bytes at a multiple of `alignment`, of which the first is written.
    #[inline]
    pub fn aligned(size: usize, alignment: usize) -> Self {
        let layout = layout(size, alignment);
        // SAFETY: `layout` has made sure that the size is not zero.
        Self::written(unsafe { alloc(layout) }, layout)
    }

    /// A block of `size` zeroes, of which the first is then written.
    #[inline]
    pub fn zeroed(size: usize) -> Self {
        let layout = layout(size, 16);
        // SAFETY: `layout` has made sure that the size is not zero.
        Self::written(unsafe { alloc_zeroed(layout) }, layout)
    }

    #[inline]
    fn written(start: *mut u8, layout: Layout) -> Self {
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        // SAFETY: the block is ours alone and has at least one byte.
        unsafe { start.write(1) };
        // Without this the compiler may leave out an allocation that is freed unread.
        black_box(start);
        RawBlock { start, layout }
    }

    /// Makes it `size` bytes, wherever they then are, and writes the last.
    #[inline]
    pub fn resize(&mut self, size: usize) {
        let layout = layout(size, self.layout.align());
        // SAFETY: by the invariants the block is the allocator's, for this layout; the new size is
        // not zero, and `layout` has checked that it does not overflow.
        let start = unsafe { realloc(self.start.as_ptr(), self.layout, size) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        self.start = start;
        self.layout = layout;
        // SAFETY: the block has `size` bytes, at least one.
        let last = unsafe { start.add(size - 1) };
        // SAFETY: the last byte is in the block, which is borrowed mutably.
        unsafe { last.write(1) };
        black_box(start);
    }

    /// Where it starts.
    #[inline]
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }
}

// SAFETY: a block belongs to whoever has it, and the allocator is everybody's.
unsafe impl Send for RawBlock {}

impl Drop for RawBlock {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: by the invariants the block is the allocator's, for this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_aligned_and_keeps_its_bytes_when_it_grows() {
        for alignment in [16, 64, 4096] {
            let mut block = RawBlock::aligned(24, alignment);
            assert!(block.start().addr().get().is_multiple_of(alignment));
            for size in [25, 8192, 16] {
                block.resize(size);
                assert!(block.start().addr().get().is_multiple_of(alignment));
                // SAFETY: the block has at least one byte.
                assert_eq!(unsafe { block.start().read() }, 1);
            }
        }
    }
}
