//! The allocator's code stays: threads that end, forks and the ticker call it for as long as the
//! process lives, also if the shared object that it is part of (a plugin in Rust, say) is closed.

use core::ffi::c_void;

use libc::{RTLD_LAZY, RTLD_NODELETE, RTLD_NOLOAD};

/// Where a 64-bit executable's program headers are, from its start.
const PROGRAM_HEADERS: usize = 64;

/// Keeps the shared object that this is part of from being unloaded. While it is being loaded, when
/// asking the loader is allowed. The executable itself is never unloaded.
pub(crate) fn pin() {
    // SAFETY: all-zero is a valid Dl_info.
    let mut module: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: an address in this module, and a valid place.
    if unsafe { libc::dladdr(pin as fn() as *const c_void, &mut module) } == 0 {
        return;
    }
    // SAFETY: getauxval has no preconditions.
    let headers = unsafe { libc::getauxval(libc::AT_PHDR) } as usize;
    if module.dli_fbase as usize + PROGRAM_HEADERS == headers || module.dli_fname.is_null() {
        return;
    }
    // SAFETY: the name is the loader's own. Nothing is loaded, and the handle is given up: the flag
    // stays with the object.
    unsafe { libc::dlopen(module.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE) };
}
