//! The allocator's code stays: threads that end, forks and the ticker call it for as long as the
//! process lives, also if the shared object that it is part of (a plugin in Rust, say) is closed.

use core::ffi::c_void;

use super::weak::address_of;
use libc::{RTLD_LAZY, RTLD_NODELETE, RTLD_NOLOAD};

/// Where a 64-bit executable's program headers are, from its start.
const PROGRAM_HEADERS: usize = 64;

/// `Elf64_Dyn`: what it is about, and a value.
type Dynamic = [usize; 2];

/// Is this part of a module that the loader never unloads anyway: one that was linked so (`-z nodelete`), as the
/// preload library is, or an executable that may be loaded anywhere?
fn is_marked_to_stay() -> bool {
    const DT_NULL: usize = 0;
    const DT_FLAGS_1: usize = 0x6fff_fffb;
    const DF_1_NODELETE: usize = 8;
    const DF_1_PIE: usize = 0x0800_0000;
    let mut entry = address_of!("_DYNAMIC").cast_const().cast::<Dynamic>();
    if entry.is_null() {
        return false;
    }
    loop {
        // SAFETY: the linker's name for this module's list, which ends with a null.
        let [kind, value] = unsafe { *entry };
        match kind {
            DT_NULL => return false,
            DT_FLAGS_1 => return value & (DF_1_NODELETE | DF_1_PIE) != 0,
            // SAFETY: this was not the last one.
            _ => entry = unsafe { entry.add(1) },
        }
    }
}

/// Keeps the shared object that this is part of from being unloaded. While it is being loaded, when
/// asking the loader is allowed. The executable itself is never unloaded.
#[unsafe(link_section = "slackwater_start")]
pub(crate) fn pin() {
    if is_marked_to_stay() {
        return;
    }
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
