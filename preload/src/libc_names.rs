//! glibc's second names of the same functions: `__libc_malloc` and its kin.
//!
//! A program that has a `malloc` of its own, to count or to check, reaches libc's by them, and leaves to libc the
//! functions that it does not have: `realloc`, `posix_memalign`, what libc allocates for it. All of these must be
//! of one allocator. glibc's own libraries (`libc_malloc_debug.so`) do the same.

use core::ffi::{c_int, c_void};

use slackwater::malloc;

use crate::{calls, next, told};

/// `malloc(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn __libc_malloc(bytes: usize) -> *mut c_void {
    malloc::allocate(bytes).cast()
}

/// `free(3)`.
///
/// # Safety
/// `block` is null or a block that is not used any more, of this allocator or of the next one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __libc_free(block: *mut c_void) {
    if is_foreign(block) {
        // SAFETY: the caller's contract is the same.
        unsafe { next::libc_free(block) }
    } else {
        // SAFETY: the caller's contract is the same.
        unsafe { malloc::free(block.cast()) }
    }
}

/// `calloc(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn __libc_calloc(count: usize, bytes: usize) -> *mut c_void {
    calls::calloc(count, bytes)
}

/// `realloc(3)`.
///
/// # Safety
/// As [`__libc_free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __libc_realloc(block: *mut c_void, bytes: usize) -> *mut c_void {
    if is_foreign(block) {
        // SAFETY: the caller's contract is the same.
        unsafe { next::libc_realloc(block, bytes) }
    } else {
        // SAFETY: the caller's contract is the same.
        unsafe { calls::realloc(block, bytes) }
    }
}

/// `memalign(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn __libc_memalign(align: usize, bytes: usize) -> *mut c_void {
    calls::memalign(align, bytes)
}

/// `valloc(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn __libc_valloc(bytes: usize) -> *mut c_void {
    calls::valloc(bytes)
}

/// `pvalloc(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn __libc_pvalloc(bytes: usize) -> *mut c_void {
    calls::pvalloc(bytes)
}

/// `mallinfo(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn __libc_mallinfo() -> libc::mallinfo {
    told::narrow(&told::totals())
}

/// `mallopt(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn __libc_mallopt(_parameter: c_int, _value: c_int) -> c_int {
    1
}

/// Whether the next allocator is asked, by the same name: `free` of a library that comes after this one may be
/// what called, and would be called again by the other.
fn is_foreign(block: *mut c_void) -> bool {
    !block.is_null() && !malloc::is_ours(block.cast())
}
