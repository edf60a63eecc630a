//! The lock of glibc's list of open streams, which `fork` takes after all handlers have run.
//!
//! Whoever holds it may wait for a stream (`fflush(NULL)` does), and whoever holds a stream may wait for memory
//! (`getline` does). So a fork that held the heap's locks and then waited for the list could wait for ever:
//! the list comes first, and the heap's locks after it. glibc takes those of its own malloc in this order.

use core::ffi::c_void;
use core::mem::transmute;

use super::weak::address_of;

/// Calls a function without arguments, if it is there.
fn call(address: *mut c_void) {
    // SAFETY: null, which is none, or a function of glibc's of this type.
    let function = unsafe { transmute::<*mut c_void, Option<unsafe extern "C" fn()>>(address) };
    if let Some(function) = function {
        // SAFETY: the three below have no preconditions but each other's order, which callers keep.
        unsafe { function() };
    }
}

/// Waits for the list and takes it. A thread that has it may take it again.
pub(crate) fn lock() {
    call(address_of!("_IO_list_lock"));
}

/// Gives it back. After [`lock`], on the same thread.
pub(crate) fn unlock() {
    call(address_of!("_IO_list_unlock"));
}

/// In the child of a fork before which its thread took it: nobody has it any more, however often that was.
pub(crate) fn reset_in_child() {
    call(address_of!("_IO_list_resetlock"));
}
