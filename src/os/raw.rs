//! System calls as the kernel takes them, past libc.
//!
//! libc's wrappers set `errno`, which nothing that `free` calls may do; and each of them is a name that another
//! library may have put its own function behind, which our own threads must not run: it may want thread-local
//! variables, and they have none.

use core::arch::asm;
use core::ffi::{c_int, c_long, c_void};
use core::sync::atomic::AtomicU32;

/// Makes the system call of this number. What the kernel returns: the negative number of an error, if it is one.
///
/// # Safety
/// As for what the call does with these arguments.
#[inline(always)]
pub(super) unsafe fn system_call<const N: usize>(number: c_long, arguments: [usize; N]) -> isize {
    const { assert!(N <= 6) };
    // The kernel does not look at those that a call does not have.
    let argument = |index: usize| if index < N { arguments[index] } else { 0 };
    let result;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for what is done; `syscall` changes the registers that are named.
    unsafe {
        asm!(
            "syscall",
            inout("rax") number as isize => result,
            in("rdi") argument(0),
            in("rsi") argument(1),
            in("rdx") argument(2),
            in("r10") argument(3),
            in("r8") argument(4),
            in("r9") argument(5),
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the caller vouches for what is done; `svc` changes no other register.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inout("x0") argument(0) as isize => result,
            in("x1") argument(1),
            in("x2") argument(2),
            in("x3") argument(3),
            in("x4") argument(4),
            in("x5") argument(5),
            options(nostack),
        );
    }
    result
}

/// `clone(2)` of a thread that runs `run` on a stack of its own, and ends with it. Returns its number, or the
/// negative number of an error. The kernel writes to `id`, and reads the thread pointer, as `flags` say.
///
/// # Safety
/// `flags` share the memory; what lies below `stack_end`, a multiple of 16, and around `thread_pointer` is the new
/// thread's alone and fit for it; `id` outlives it; `run` needs nothing that libc prepares for a thread.
pub(super) unsafe fn clone_thread(
    flags: c_int,
    stack_end: usize,
    id: &AtomicU32,
    thread_pointer: usize,
    run: extern "C" fn(*mut c_void) -> c_int,
) -> isize {
    let result;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for the memory and for `run`. The new thread begins with these registers on its own
    // stack, and never leaves this code.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            // The end of the frame pointers' chain.
            "xor ebp, ebp",
            "xor edi, edi",
            "call r12",
            "mov edi, eax",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "2:",
            exit = const libc::SYS_exit,
            inout("rax") libc::SYS_clone as isize => result,
            in("rdi") flags as usize,
            in("rsi") stack_end,
            in("rdx") id.as_ptr(),
            in("r10") id.as_ptr(),
            in("r8") thread_pointer,
            in("r12") run,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            // The end of the frame pointers' chain.
            "mov x29, xzr",
            "blr x9",
            "mov x8, {exit}",
            "svc 0",
            "brk 1",
            "2:",
            exit = const libc::SYS_exit,
            in("x8") libc::SYS_clone,
            inout("x0") flags as isize => result,
            in("x1") stack_end,
            in("x2") id.as_ptr(),
            in("x3") thread_pointer,
            in("x4") id.as_ptr(),
            in("x9") run,
            options(nostack),
        );
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::{errno, set_errno};

    #[test]
    fn a_result_is_the_kernels_and_errno_stays() {
        set_errno(7);
        // SAFETY: takes no arguments.
        assert_eq!(unsafe { system_call(libc::SYS_getpid, []) } as u32, std::process::id());
        // SAFETY: not a descriptor; nothing is closed.
        let result = unsafe { system_call(libc::SYS_close, [usize::MAX]) };
        assert_eq!(result, -libc::EBADF as isize);
        assert_eq!(errno(), 7);
    }

    #[test]
    fn all_six_arguments_arrive() {
        let bytes = 4096;
        let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let call = |offset: usize| {
            let arguments = [0, bytes, protection as usize, flags as usize, usize::MAX, offset];
            // SAFETY: a new mapping, at a place of the kernel's choice.
            unsafe { system_call(libc::SYS_mmap, arguments) }
        };
        // The last argument must be a multiple of the page's size.
        assert_eq!(call(1), -libc::EINVAL as isize);
        let start = call(0);
        assert!(start > 0);
        // SAFETY: it was mapped just now.
        assert_eq!(unsafe { system_call(libc::SYS_munmap, [start as usize, bytes]) }, 0);
    }
}
