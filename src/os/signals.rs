//! Signals, past libc: of a process that dies, the allocator asks the kernel alone.

use core::arch::asm;
use core::ffi::{c_int, c_void};

use super::raw::system_call;
use super::threads::{process, thread};

/// Sends the calling thread a signal as it came to it: with its code, its address, or who had sent it.
///
/// # Safety
/// `info` is what a handler of the signal was given.
pub(crate) unsafe fn send_again(signal: c_int, info: *const libc::siginfo_t) {
    let (process, thread) = (process() as usize, thread() as usize);
    let arguments = [process, thread, signal as usize, info as usize];
    // SAFETY: the caller says that the kernel has filled it; it goes to this thread alone.
    unsafe { system_call(libc::SYS_rt_tgsigqueueinfo, arguments) };
}

/// Calls `function` with `argument` on another stack, and comes back to this one. A handler's may be small: the
/// alternate ones of std have 8 KiB, of which the kernel takes up to a half for the registers.
///
/// # Safety
/// The memory below `stack_end`, a multiple of 16, is free to be a stack and large enough; `function` does not
/// unwind.
pub(crate) unsafe fn call_on_stack(
    stack_end: usize,
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for the stack; the register that keeps this one is the same after a call.
    unsafe {
        asm!(
            "xchg rsp, r12",
            "call {function}",
            "mov rsp, r12",
            function = in(reg) function,
            inout("r12") stack_end => _,
            in("rdi") argument,
            clobber_abi("C"),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!(
            "mov x20, sp",
            "mov sp, {stack_end}",
            "blr {function}",
            "mov sp, x20",
            stack_end = in(reg) stack_end,
            function = in(reg) function,
            in("x0") argument,
            out("x20") _,
            clobber_abi("C"),
        );
    }
}
