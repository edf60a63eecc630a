//! What those functions do that are exported under two names.

use core::ffi::c_void;
use core::ptr;

use slackwater::malloc;
use slackwater::size_class::GRANULE;
use slackwater::units::PAGE_BYTES;

/// The answer to an argument that cannot be: null, with `errno` `EINVAL`.
pub fn invalid() -> *mut c_void {
    set_errno(libc::EINVAL);
    ptr::null_mut()
}

pub fn set_errno(value: core::ffi::c_int) {
    // SAFETY: libc's location function has no preconditions.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: it returns the address of the thread's own errno.
    unsafe { *location = value };
}

pub fn calloc(count: usize, bytes: usize) -> *mut c_void {
    match count.checked_mul(bytes) {
        Some(bytes) => malloc::allocate_zeroed(bytes, GRANULE).cast(),
        None => malloc::refuse().cast(),
    }
}

/// # Safety
/// `block` is null or a block that is not used any more, of this allocator or of the next one.
#[inline(always)]
pub unsafe fn realloc(block: *mut c_void, bytes: usize) -> *mut c_void {
    if block.is_null() || bytes == 0 {
        // SAFETY: the caller's contract is the same.
        return unsafe { allocate_or_free(block, bytes) };
    }
    // SAFETY: the caller vouches for the block; C makes no promise about a larger alignment.
    unsafe { malloc::reallocate(block.cast(), bytes, GRANULE) }.cast()
}

/// [`realloc`] of no block, or to no bytes.
///
/// # Safety
/// As [`realloc`].
#[inline(never)]
unsafe fn allocate_or_free(block: *mut c_void, bytes: usize) -> *mut c_void {
    if block.is_null() {
        return malloc::allocate(bytes).cast();
    }
    // SAFETY: the caller's contract is the same.
    unsafe { malloc::free(block.cast()) };
    ptr::null_mut()
}

pub fn memalign(align: usize, bytes: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => malloc::allocate_aligned(bytes, align).cast(),
        None => invalid(),
    }
}

pub fn valloc(bytes: usize) -> *mut c_void {
    malloc::allocate_aligned(bytes, PAGE_BYTES).cast()
}

pub fn pvalloc(bytes: usize) -> *mut c_void {
    match bytes.max(1).checked_next_multiple_of(PAGE_BYTES) {
        Some(bytes) => valloc(bytes),
        None => malloc::refuse().cast(),
    }
}
