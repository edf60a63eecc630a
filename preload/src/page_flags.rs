//! What a program has the kernel do to pages of its blocks is heard of, so that it ends with the block: these functions
//! of libc tell the allocator, and go on to libc's own, or to those of a library in between.
//!
//! They may be called by signal handlers, by constructors and before the heap is started: nothing is allocated, no
//! lock is taken, and `errno` is what the next function makes of it. A program that makes its system calls itself is
//! not heard; nor are advice for other processes (`process_madvise`) and what `ioctl` does (`userfaultfd`).

use core::ffi::{c_int, c_long, c_uint, c_void};
use core::mem::transmute;

use slackwater::page_flags::will_change;

use crate::calls::set_errno;
use crate::next::Next;

/// Tells the allocator of a system call with these arguments, if it does something to pages that lasts as long as
/// their mapping does, or puts another one in its place.
pub(crate) fn note(call: c_long, arguments: &[usize]) {
    let &[start, bytes, ref rest @ ..] = arguments else { return };
    let flags = |index: usize| rest.get(index).map_or(0, |&argument| argument as c_int);
    let lasts = match call {
        libc::SYS_madvise => advice_lasts(flags(0)),
        libc::SYS_mprotect => flags(0) != libc::PROT_READ | libc::PROT_WRITE,
        libc::SYS_mmap => flags(1) & libc::MAP_FIXED != 0,
        libc::SYS_mremap => {
            if let (true, &[new_bytes, _, to, ..]) = (flags(1) & libc::MREMAP_FIXED != 0, rest) {
                will_change(to as *const u8, new_bytes);
            }
            true
        }
        libc::SYS_mlock | libc::SYS_mlock2 | libc::SYS_munmap => true,
        libc::SYS_pkey_mprotect | libc::SYS_mbind => true,
        _ => false,
    };
    if lasts {
        will_change(start as *const u8, bytes);
    }
}

/// Does the mapping remember this advice? What is not known is taken to last; it costs a new mapping. What undoes
/// other advice is not told twice.
fn advice_lasts(advice: c_int) -> bool {
    use libc::*;
    let does_something_now = matches!(
        advice,
        MADV_WILLNEED
            | MADV_DONTNEED
            | MADV_DONTNEED_LOCKED
            | MADV_FREE
            | MADV_REMOVE
            | MADV_COLD
            | MADV_PAGEOUT
            | MADV_POPULATE_READ
            | MADV_POPULATE_WRITE
    );
    let undoes = matches!(
        advice,
        MADV_NORMAL | MADV_DOFORK | MADV_KEEPONFORK | MADV_DODUMP | MADV_UNMERGEABLE
    );
    !does_something_now && !undoes
}

/// Functions of libc with this name, which make this system call and return this without it: here they are heard.
macro_rules! heard {
    ($($name:ident, $call:expr, $missing:expr,
        fn($($argument:ident: $type:ty),+) -> $result:ty;)+) => {
        mod next {
            use super::Next;

            $(
                #[expect(non_upper_case_globals, reason = "each has its function's name")]
                pub static $name: Next = {
                    let name = concat!(stringify!($name), "\0").as_bytes();
                    match core::ffi::CStr::from_bytes_with_nul(name) {
                        Ok(name) => Next::named(name),
                        Err(_) => panic!("a name with a zero at its end"),
                    }
                };
            )+
        }

        pub(crate) static NEXT: &[&Next] = &[$(&next::$name),+];

        $(
            #[doc = concat!("`", stringify!($name), "`, as libc has it.")]
            ///
            /// # Safety
            /// As for libc's.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $type),+) -> $result {
                type Function = unsafe extern "C" fn($($type),+) -> $result;
                note($call, &[$($argument as usize),+]);
                // SAFETY: null, which is none, or a function of this name, which has this type.
                let next = unsafe {
                    transmute::<*mut c_void, Option<Function>>(next::$name.address())
                };
                match next {
                    // SAFETY: the caller's arguments.
                    Some(next) => unsafe { next($($argument),+) },
                    None => {
                        set_errno(libc::ENOSYS);
                        $missing
                    }
                }
            }
        )+
    };
}

heard! {
    madvise, libc::SYS_madvise, -1,
    fn(start: *mut c_void, bytes: usize, advice: c_int) -> c_int;

    posix_madvise, libc::SYS_madvise, libc::ENOSYS,
    fn(start: *mut c_void, bytes: usize, advice: c_int) -> c_int;

    mprotect, libc::SYS_mprotect, -1,
    fn(start: *mut c_void, bytes: usize, protection: c_int) -> c_int;

    pkey_mprotect, libc::SYS_pkey_mprotect, -1,
    fn(start: *mut c_void, bytes: usize, protection: c_int, key: c_int) -> c_int;

    mlock, libc::SYS_mlock, -1,
    fn(start: *const c_void, bytes: usize) -> c_int;

    mlock2, libc::SYS_mlock2, -1,
    fn(start: *const c_void, bytes: usize, flags: c_uint) -> c_int;

    mmap, libc::SYS_mmap, libc::MAP_FAILED,
    fn(start: *mut c_void, bytes: usize, protection: c_int, flags: c_int, file: c_int,
        offset: libc::off_t) -> *mut c_void;

    mmap64, libc::SYS_mmap, libc::MAP_FAILED,
    fn(start: *mut c_void, bytes: usize, protection: c_int, flags: c_int, file: c_int,
        offset: libc::off64_t) -> *mut c_void;

    munmap, libc::SYS_munmap, -1,
    fn(start: *mut c_void, bytes: usize) -> c_int;

    mremap, libc::SYS_mremap, libc::MAP_FAILED,
    fn(start: *mut c_void, bytes: usize, new_bytes: usize, flags: c_int, to: *mut c_void)
        -> *mut c_void;
}
