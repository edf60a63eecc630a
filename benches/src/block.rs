//! The memory that a bench takes and gives back.

use std::hint::black_box;
use std::mem::MaybeUninit;

/// A page as the kernel hands it out.
pub const OS_PAGE_BYTES: usize = 4096;

/// A block of memory; dropping it frees it, with its size, as dropping a `Vec` does.
pub type Block = Box<[MaybeUninit<u8>]>;

/// Allocates `size` bytes and writes the first, as a program that wants a block would.
#[inline]
pub fn block(size: usize) -> Block {
    let mut block = Box::new_uninit_slice(size);
    if let Some(first) = block.first_mut() {
        first.write(1);
    }
    // Without this the compiler may leave out an allocation that is freed unread.
    black_box(block.as_ptr());
    block
}

/// Allocates `size` bytes and writes one byte of every page, so that the block is resident as a
/// whole: for the benches that ask for peak RSS.
#[inline]
pub fn resident_block(size: usize) -> Block {
    let mut block = block(size);
    for page in block.chunks_mut(OS_PAGE_BYTES).skip(1) {
        if let Some(first) = page.first_mut() {
            first.write(1);
        }
    }
    block
}
