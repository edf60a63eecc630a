//! The first fork handlers of a process are the allocator's.
//!
//! `pthread_atfork` is a piece of libc that each library has for itself; it calls `__register_atfork`. A library's
//! constructor may do that before anything was allocated, and before this library's own constructors run.
//! libc calls the handlers that were registered first last before a fork: then all others have run, and nobody
//! needs the heap until the fork is done.

use core::ffi::{c_int, c_void};
use core::mem::transmute;

use crate::next::Next;

type Handler = Option<unsafe extern "C" fn()>;
type Register = unsafe extern "C" fn(Handler, Handler, Handler, *mut c_void) -> c_int;

pub(crate) static REGISTER: Next = Next::named(c"__register_atfork");

/// What `pthread_atfork(3)` calls: glibc's own, after the allocator's handlers have been registered.
///
/// # Safety
/// As for glibc's: the handlers stay where they are as long as the library does which `library` names.
#[unsafe(no_mangle)]
#[unsafe(link_section = "slackwater_start")]
pub unsafe extern "C" fn __register_atfork(
    before: Handler,
    in_parent: Handler,
    in_child: Handler,
    library: *mut c_void,
) -> c_int {
    slackwater::fork::register();
    // SAFETY: null, which is none, or glibc's function of that name, which has this type.
    match unsafe { transmute::<*mut c_void, Option<Register>>(REGISTER.address()) } {
        // SAFETY: the caller's arguments.
        Some(register) => unsafe { register(before, in_parent, in_child, library) },
        None => libc::ENOMEM,
    }
}
