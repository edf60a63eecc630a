//! The calling thread's error number: set where the standards say so, and changed by no call of ours to the kernel.

use core::ffi::c_int;

/// Runs what may change it, code of somebody else, and puts it back.
pub(crate) fn keep_errno<T>(call: impl FnOnce() -> T) -> T {
    let before = errno();
    let result = call();
    set_errno(before);
    result
}

/// Where the calling thread's `errno` is.
fn errno_place() -> *mut c_int {
    // SAFETY: libc's location function has no preconditions.
    unsafe { libc::__errno_location() }
}

/// The calling thread's `errno`.
pub(crate) fn errno() -> c_int {
    // SAFETY: the address of the thread's own errno.
    unsafe { *errno_place() }
}

/// Sets the calling thread's `errno`.
pub(crate) fn set_errno(value: c_int) {
    // SAFETY: the address of the thread's own errno.
    unsafe { *errno_place() = value }
}
