//! Foreign blocks: what is done when the program frees, resizes or asks about a block that is not of this heap.
//!
//! Who asks libc itself for its `malloc`, past the preload library's, may hand the block to somebody who finds the
//! library's `free`. Such blocks go to the *next allocator*: the one that the program would have without this one. So
//! an address that is no block at all does what it would do then.
//!
//! Only a library that stands in libc's place knows a next allocator, and defines it ([`NextAllocator`]). Elsewhere
//! there is none: foreign addresses are counted, and ignored.

use core::ffi::c_void;
use core::sync::atomic::Ordering;

use crate::heap::HEAP;
use crate::os;
use crate::os::weak::address_of;

/// The allocator that a program would have without this one, as functions of C.
///
/// A library that has one defines it under the name `slackwater_next_allocator`. That name is looked for by the
/// linker and not told at run time, because constructors of other libraries, which run before that library's own,
/// may free foreign blocks.
#[repr(C)]
pub struct NextAllocator {
    /// As `free(3)`.
    pub free: unsafe extern "C" fn(*mut c_void),
    /// As `realloc(3)`: null with `errno` set if the block cannot be had, which is then unchanged.
    pub reallocate: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    /// As `malloc_usable_size(3)`.
    pub usable_bytes: unsafe extern "C" fn(*mut c_void) -> usize,
}

/// The one of this program, if it has one.
fn next_allocator() -> Option<&'static NextAllocator> {
    let address: *mut c_void = address_of!("slackwater_next_allocator");
    // SAFETY: null, which is none, or the static that has this type under this name.
    unsafe { address.cast::<NextAllocator>().as_ref() }
}

/// `free` of an address that is not of this heap. Null is no block, and not counted. Keeps `errno`, which the next
/// allocator may not do (glibc before 2.33).
#[cold]
#[inline(never)]
pub(super) fn free(address: usize) {
    if address == 0 {
        return;
    }
    HEAP.uncached.foreign_frees.fetch_add(1, Ordering::Relaxed);
    if let Some(next) = next_allocator() {
        // SAFETY: the caller of `free` vouches for the block, which is not of this heap.
        os::keep_errno(|| unsafe { (next.free)(address as *mut c_void) });
    }
}

/// `realloc` of such an address, which is not null; `None` where there is no next allocator. Counted like a free.
#[cold]
#[inline(never)]
pub(super) fn reallocate(block: *mut u8, bytes: usize) -> Option<*mut u8> {
    HEAP.uncached.foreign_frees.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller of `realloc` vouches for the block, which is not of this heap.
    next_allocator().map(|next| unsafe { (next.reallocate)(block.cast(), bytes) }.cast())
}

/// How many bytes of such a block may be used; 0 for null, and where there is no next allocator.
#[cold]
#[inline(never)]
pub(super) fn usable_bytes(block: *mut u8) -> usize {
    match next_allocator() {
        // SAFETY: the caller vouches for the block, which is not of this heap.
        Some(next) if !block.is_null() => unsafe { (next.usable_bytes)(block.cast()) },
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_next_allocator_foreign_blocks_stay_as_they_are() {
        assert!(next_allocator().is_none(), "a Rust program stands in nobody's place");
        let mut block = [7u8; 64];
        let start = block.as_mut_ptr();
        let before = HEAP.uncached.foreign_frees.load(Ordering::Relaxed);
        os::set_errno(1234);
        free(start as usize);
        free(0);
        assert_eq!(os::errno(), 1234);
        assert_eq!(usable_bytes(start), 0);
        assert!(reallocate(start, 100).is_none());
        assert_eq!(HEAP.uncached.foreign_frees.load(Ordering::Relaxed), before + 2);
        assert_eq!(block, [7; 64]);
    }
}
