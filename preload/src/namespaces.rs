//! Calls that the kernel refuses to a process of several threads find one where the program has one.
//!
//! `unshare(2)` and `setns(2)` say `EINVAL` or `EUSERS` for a namespace of users or of time, and for sharing less than
//! a thread does, if there is another thread; the program knows of none. So the allocator's own end before.

use core::ffi::{c_int, c_void};
use core::mem::transmute;

use crate::calls::set_errno;
use crate::next::Next;

static UNSHARE: Next = Next::named(c"unshare");
static SETNS: Next = Next::named(c"setns");

pub(crate) static NEXT: [&Next; 2] = [&UNSHARE, &SETNS];

/// What of `unshare`'s flags takes a process of one thread.
const ALONE: c_int =
    libc::CLONE_NEWUSER | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM;

/// What of `setns`'s kinds does. 0 is any.
const ALONE_THERE: c_int = libc::CLONE_NEWUSER | CLONE_NEWTIME;
const CLONE_NEWTIME: c_int = 0x80;

/// `unshare(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn unshare(flags: c_int) -> c_int {
    if flags & ALONE != 0 {
        slackwater::fork::end_own_threads();
    }
    let next = UNSHARE.address();
    // SAFETY: null, which is none, or libc's function of that name, which has this type.
    match unsafe { transmute::<*mut c_void, Option<extern "C" fn(c_int) -> c_int>>(next) } {
        Some(unshare) => unshare(flags),
        None => refuse(),
    }
}

/// `setns(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn setns(descriptor: c_int, kind: c_int) -> c_int {
    if kind == 0 || kind & ALONE_THERE != 0 {
        slackwater::fork::end_own_threads();
    }
    let next = SETNS.address();
    // SAFETY: null, which is none, or libc's function of that name, which has this type.
    match unsafe { transmute::<*mut c_void, Option<extern "C" fn(c_int, c_int) -> c_int>>(next) } {
        Some(setns) => setns(descriptor, kind),
        None => refuse(),
    }
}

fn refuse() -> c_int {
    set_errno(libc::ENOSYS);
    -1
}
