//! The kernel's clock, past libc: programs and libraries put their own `clock_gettime` in the place of libc's, which
//! may want thread-local variables (our threads have none), or stop the time.
//!
//! The kernel maps a small library into every process, the vDSO, and says where by `AT_SYSINFO_EHDR`: see vdso(7).

use core::ffi::CStr;
use core::mem::transmute;
use core::sync::atomic::{AtomicPtr, Ordering};
use core::{ptr, slice};

use libc::{Elf64_Ehdr, Elf64_Phdr, Elf64_Sym};

use super::raw::system_call;

type ClockGettime = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> i32;

const NAME: &CStr =
    if cfg!(target_arch = "x86_64") { c"__vdso_clock_gettime" } else { c"__kernel_clock_gettime" };

/// More symbols than this are no vDSO's.
const MAX_SYMBOLS: usize = 256;

/// The function, or null: there is none, or nobody has looked yet.
static CLOCK_GETTIME: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Looks for the function. When the heap starts; until then, and where there is none, the kernel itself is asked.
pub(crate) fn find_clock() {
    // SAFETY: getauxval has no preconditions.
    let image = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } as usize;
    if image != 0 {
        // SAFETY: the kernel has mapped a whole vDSO there, for as long as the process lives.
        let found = unsafe { find(image) };
        // Relaxed: what it points to was there before the process began.
        CLOCK_GETTIME.store(found as *mut (), Ordering::Relaxed);
    }
}

/// The address of the function in the vDSO at `image`, or 0.
///
/// # Safety
/// A vDSO is mapped there.
unsafe fn find(image: usize) -> usize {
    let place = image as *const Elf64_Ehdr;
    // SAFETY: an ELF file begins with its header.
    let header = unsafe { &*place };
    let headers = (image + header.e_phoff as usize) as *const Elf64_Phdr;
    // SAFETY: its program headers are where the header says.
    let headers = unsafe { slice::from_raw_parts(headers, header.e_phnum as usize) };
    let of_type = |kind| headers.iter().find(|header| header.p_type == kind);
    let (Some(load), Some(dynamic)) = (of_type(libc::PT_LOAD), of_type(libc::PT_DYNAMIC)) else {
        return 0;
    };
    let bias = image.wrapping_add(load.p_offset as usize).wrapping_sub(load.p_vaddr as usize);
    let words = bias.wrapping_add(dynamic.p_vaddr as usize) as *const [usize; 2];
    // SAFETY: the dynamic section is loaded with the rest.
    let entries = unsafe { slice::from_raw_parts(words, dynamic.p_memsz as usize / 16) };
    let value = |tag| {
        let entry = entries.iter().take_while(|entry| entry[0] != 0).find(|entry| entry[0] == tag);
        entry.map(|entry| bias.wrapping_add(entry[1]))
    };
    const DT_STRTAB: usize = 5;
    const DT_SYMTAB: usize = 6;
    let (Some(names), Some(symbols)) = (value(DT_STRTAB), value(DT_SYMTAB)) else { return 0 };
    // The names follow the symbols.
    let count = names.saturating_sub(symbols) / size_of::<Elf64_Sym>();
    let symbols = symbols as *const Elf64_Sym;
    // SAFETY: so many symbols lie before the names.
    let symbols = unsafe { slice::from_raw_parts(symbols, count.min(MAX_SYMBOLS)) };
    let is_it = |symbol: &&Elf64_Sym| {
        let name = (names + symbol.st_name as usize) as *const core::ffi::c_char;
        // SAFETY: a symbol's name is a string in that table.
        symbol.st_value != 0 && unsafe { CStr::from_ptr(name) } == NAME
    };
    symbols.iter().find(is_it).map_or(0, |symbol| bias.wrapping_add(symbol.st_value as usize))
}

/// `clock_gettime(2)`; a clock that exists does not fail.
pub(super) fn clock_gettime(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let found = CLOCK_GETTIME.load(Ordering::Relaxed);
    // SAFETY: null, which is none, or the function of this type that `find_clock` found.
    let function = unsafe { transmute::<*mut (), Option<ClockGettime>>(found) };
    let Some(function) = function else {
        ask_the_kernel(clock, &mut time);
        return time;
    };
    // SAFETY: `time` is a valid place.
    unsafe { function(clock, &mut time) };
    time
}

fn ask_the_kernel(clock: libc::clockid_t, time: &mut libc::timespec) {
    let place = &raw mut *time as usize;
    // SAFETY: `time` is a valid place.
    unsafe { system_call(libc::SYS_clock_gettime, [clock as usize, place]) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(time: libc::timespec) -> i64 {
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    }

    fn of_libc(clock: libc::clockid_t) -> libc::timespec {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place.
        assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0);
        time
    }

    /// By whichever of the two ways: it lies between two looks at libc's.
    #[test]
    fn the_clock_is_libcs() {
        find_clock();
        for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_MONOTONIC_COARSE] {
            for _ in 0..100 {
                let before = nanos(of_libc(clock));
                let mut asked = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                let by_function = nanos(clock_gettime(clock));
                ask_the_kernel(clock, &mut asked);
                let after = nanos(of_libc(clock));
                assert!((before..=after).contains(&by_function), "{before} {by_function} {after}");
                assert!((before..=after).contains(&nanos(asked)), "{before} {after}");
            }
        }
    }

    #[test]
    fn a_vdso_that_is_there_is_found() {
        find_clock();
        // SAFETY: getauxval has no preconditions.
        let is_there = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } != 0;
        assert_eq!(!CLOCK_GETTIME.load(Ordering::Relaxed).is_null(), is_there);
    }
}
