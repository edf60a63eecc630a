//! Where a walk begins: the registers of a function, or of what a signal interrupted.

use core::arch::asm;
use core::ffi::c_void;

/// Where a walk begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The address of the instruction.
    pub pc: u64,
    /// The stack pointer.
    pub sp: u64,
    /// The frame pointer, if the code has one: `rbp`, `x29`.
    pub fp: u64,
    /// The link register on aarch64, else 0.
    pub lr: u64,
}

impl Registers {
    /// The registers as they are in the function that this is inlined into.
    #[inline(always)]
    pub fn here() -> Registers {
        let (pc, sp, fp, lr): (u64, u64, u64, u64);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: reads registers. One piece of assembly, so that all are of one instruction.
        unsafe {
            asm!(
                "lea {0}, [rip]",
                "mov {1}, rsp",
                "mov {2}, rbp",
                "xor {3:e}, {3:e}",
                out(reg) pc,
                out(reg) sp,
                out(reg) fp,
                out(reg) lr,
                options(nomem, nostack),
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: reads registers. One piece of assembly, so that all are of one instruction.
        unsafe {
            asm!(
                "adr {0}, .",
                "mov {1}, sp",
                "mov {2}, x29",
                "mov {3}, x30",
                out(reg) pc,
                out(reg) sp,
                out(reg) fp,
                out(reg) lr,
                options(nomem, nostack, preserves_flags),
            );
        }
        Registers { pc, sp, fp, lr }
    }
}

impl Registers {
    /// The registers of what a signal interrupted; `context` is what the handler was given.
    pub(crate) fn of_context(context: *const c_void) -> Registers {
        let context = context.cast::<libc::ucontext_t>();
        // SAFETY: the kernel has filled it in; the handler's caller vouches for the pointer.
        let machine = unsafe { &(*context).uc_mcontext };
        #[cfg(target_arch = "x86_64")]
        {
            let register = |index: libc::c_int| machine.gregs[index as usize] as u64;
            Registers {
                pc: register(libc::REG_RIP),
                sp: register(libc::REG_RSP),
                fp: register(libc::REG_RBP),
                lr: 0,
            }
        }
        #[cfg(target_arch = "aarch64")]
        Registers { pc: machine.pc, sp: machine.sp, fp: machine.regs[29], lr: machine.regs[30] }
    }
}

/// An address in the frame of the function that this is inlined into, for [`capture`](super::capture): every frame
/// that ends above it is that function's or an outer one's.
///
/// Costs one instruction. It holds whether the function then calls or jumps to the next one.
#[inline(always)]
pub fn address_in_frame() -> usize {
    let address: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a register. The return address is at or above it, and the frame's end behind that.
    unsafe {
        asm!("mov {}, rsp", out(reg) address, options(nomem, nostack, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reads a register. `lr` counts as overwritten so that it has been saved by now: without
    // that the function might have no frame yet, and end where its callee ends.
    unsafe {
        asm!("mov {}, sp", out(reg) address, out("lr") _, options(nomem, nostack, preserves_flags));
    }
    address
}
