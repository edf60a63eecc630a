//! Calls that a program makes to the kernel through libc and of which the allocator is to hear before the kernel
//! does: those that set a filter of system calls, and those that change its blocks' pages past libc's functions.
//!
//! `prctl(2)` is called so, and what libc has no function for goes through `syscall(2)`, as libseccomp's filters do.
//! A program that makes its system calls itself is not heard.

use core::arch::naked_asm;
use core::ffi::{c_int, c_long, c_void};
use core::mem::transmute;

use slackwater::seccomp;

use crate::calls::set_errno;
use crate::next::Next;
use crate::page_flags;

type Prctl = unsafe extern "C" fn(c_int, usize, usize, usize, usize) -> c_int;

static SYSCALL: Next = Next::named(c"syscall");
static PRCTL: Next = Next::named(c"prctl");

pub(crate) static NEXT: [&Next; 2] = [&SYSCALL, &PRCTL];

/// `syscall(2)`. It goes on as if it had been called itself, with the caller's frame: a child that the call makes may
/// share the stack, and come back through it first.
///
/// # Safety
/// As for the call that is made.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[cfg(target_arch = "x86_64")]
pub unsafe extern "C" fn syscall(number: c_long) -> c_long {
    naked_asm!(
        ".cfi_startproc",
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 56",
        "call {route}",
        "add rsp, 8",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        ".cfi_adjust_cfa_offset -56",
        "jmp rax",
        ".cfi_endproc",
        route = sym route,
    )
}

/// `syscall(2)`. It goes on as if it had been called itself, with the caller's frame: a child that the call makes may
/// share the stack, and come back through it first.
///
/// # Safety
/// As for the call that is made.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[cfg(target_arch = "aarch64")]
pub unsafe extern "C" fn syscall(number: c_long) -> c_long {
    naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-80]!",
        ".cfi_adjust_cfa_offset 80",
        ".cfi_offset 29, -80",
        ".cfi_offset 30, -72",
        "stp x0, x1, [sp, #16]",
        "stp x2, x3, [sp, #32]",
        "stp x4, x5, [sp, #48]",
        "str x6, [sp, #64]",
        "bl {route}",
        "mov x16, x0",
        "ldp x0, x1, [sp, #16]",
        "ldp x2, x3, [sp, #32]",
        "ldp x4, x5, [sp, #48]",
        "ldr x6, [sp, #64]",
        "ldp x29, x30, [sp], #80",
        ".cfi_adjust_cfa_offset -80",
        ".cfi_restore 29",
        ".cfi_restore 30",
        "br x16",
        ".cfi_endproc",
        route = sym route,
    )
}

/// Hears of a call, and says which function, with the arguments of `syscall`, is to make it.
extern "C" fn route(
    number: c_long,
    first: usize,
    second: usize,
    third: usize,
    fourth: usize,
    fifth: usize,
) -> *const c_void {
    match number {
        libc::SYS_seccomp => before_seccomp(first, second, third),
        libc::SYS_prctl => before_prctl(first as c_int, second, third),
        other => page_flags::note(other, &[first, second, third, fourth, fifth]),
    }
    let next = SYSCALL.address();
    if next.is_null() { refuse as *const c_void } else { next }
}

/// Makes a call for this library, by libc's function: the result, or -1 and the error in `errno`.
///
/// # Safety
/// As for the call that is made.
pub unsafe fn call(number: c_long, arguments: [usize; 5]) -> c_long {
    type Syscall = unsafe extern "C" fn(c_long, usize, usize, usize, usize, usize) -> c_long;
    let [first, second, third, fourth, fifth] = arguments;
    // SAFETY: null, which is none, or the function of that name, which takes as many numbers as a call has arguments.
    match unsafe { transmute::<*mut c_void, Option<Syscall>>(SYSCALL.address()) } {
        // SAFETY: the caller's contract is the same.
        Some(next) => unsafe { next(number, first, second, third, fourth, fifth) },
        None => refuse(),
    }
}

/// In the place of a `syscall` that no library has.
extern "C" fn refuse() -> c_long {
    set_errno(libc::ENOSYS);
    -1
}

/// `prctl(2)`.
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prctl(
    operation: c_int,
    first: usize,
    second: usize,
    third: usize,
    fourth: usize,
) -> c_int {
    before_prctl(operation, first, second);
    // SAFETY: null, which is none, or the function that has this type under this name: its arguments are numbers or
    // pointers, of which it takes as many as the operation has.
    match unsafe { transmute::<*mut c_void, Option<Prctl>>(PRCTL.address()) } {
        // SAFETY: the caller's arguments.
        Some(next) => unsafe { next(operation, first, second, third, fourth) },
        None => refuse() as c_int,
    }
}

fn before_prctl(operation: c_int, first: usize, second: usize) {
    match (operation, first as u32) {
        (libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) => seccomp::expect_strict_mode(),
        // Without a filter it is the question whether there could be one.
        (libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER) if second != 0 => {
            seccomp::expect_filter()
        }
        // What a program without rights does before, and hardly anybody else. The filter itself may not be heard.
        (libc::PR_SET_NO_NEW_PRIVS, 1) => seccomp::expect_filter(),
        _ => {}
    }
}

fn before_seccomp(operation: usize, flags: usize, filter: usize) {
    match (operation as u32, flags, filter) {
        (libc::SECCOMP_SET_MODE_STRICT, 0, 0) => seccomp::expect_strict_mode(),
        (libc::SECCOMP_SET_MODE_FILTER, _, filter) if filter != 0 => seccomp::expect_filter(),
        _ => {}
    }
}
