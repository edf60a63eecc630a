//! The lock of glibc's list of open streams, which `fork` takes after all handlers have run.
//!
//! Whoever holds it may wait for a stream (`fflush(NULL)` does), and whoever holds a stream may wait for memory
//! (`getline` does). So a fork that held the heap's locks and then waited for the list could wait for ever:
//! the list comes first, and the heap's locks after it. glibc takes those of its own malloc in this order.

use core::arch::asm;
use core::ffi::c_void;
use core::mem::transmute;

/// The address of one of glibc's functions, as the loader has stored it in the module's table; null on another libc,
/// which has no value for a weak name.
macro_rules! address_of {
    ($name:literal) => {{
        let address: *mut c_void;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: loads what the loader has stored in the module's table.
        unsafe {
            asm!(
                concat!(".weak ", $name),
                concat!("mov {}, qword ptr [rip + ", $name, "@GOTPCREL]"),
                out(reg) address,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            asm!(
                concat!(".weak ", $name),
                concat!("adrp {0}, :got:", $name),
                concat!("ldr {0}, [{0}, :got_lo12:", $name, "]"),
                out(reg) address,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        address
    }};
}

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
