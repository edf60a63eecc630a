//! The calling thread's call stack, as return addresses.
//!
//! All of this runs inside malloc, on the stack of whoever called it. A [`Walker`] finds one return
//! address after the other; the one that is built in follows frame pointers, as far as the code has
//! them, and [`set_walker`] puts another in its place. What a walker takes for the address of a frame
//! may be anything, so it never reads the stack itself but a copy, made where the kernel says that there is
//! something to read ([`CopiedStack`]): a wrong address ends the walk.

mod frame_pointers;
mod memory;
mod registers;
#[cfg(feature = "unwind")]
pub mod unwind;

pub use frame_pointers::{frame_record, program_address, walk_frame_pointers};
pub use memory::{CopiedStack, Scratch, StackMemory};
pub use registers::{Registers, address_in_frame};

use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// The most return addresses that are kept of a stack.
pub const MAX_FRAMES: usize = 128;

/// Fills in return addresses, innermost first, and says how many. The first is the one to which the
/// function returns in which the registers were read.
///
/// It runs inside malloc: it must not allocate, take locks, panic, or change `errno`.
pub type Walker = fn(&Registers, &mut dyn StackMemory, &mut [u64]) -> usize;

/// A [`Walker`], or null for the one that is built in.
static WALKER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Sets what walks stacks from now on. Any thread, at any time.
pub fn set_walker(walker: Walker) {
    // Release, for whatever the walker has prepared; the partner is in `walker`.
    WALKER.store(walker as *mut (), Ordering::Release);
}

/// By the tables that compilers leave for exceptions; without the feature by frame pointers.
#[cfg(feature = "unwind")]
const BUILT_IN: Walker = crate::stack::unwind::walk;

#[cfg(not(feature = "unwind"))]
const BUILT_IN: Walker = walk_frame_pointers;

/// Whether stacks are walked by tables, so that every return address is in a module of the stack, or in one
/// that stays.
pub(crate) fn is_by_tables() -> bool {
    cfg!(feature = "unwind") && WALKER.load(Ordering::Relaxed).is_null()
}

fn walker() -> Walker {
    let walker = WALKER.load(Ordering::Acquire);
    if walker.is_null() {
        return BUILT_IN;
    }
    // SAFETY: only `set_walker` writes the place, and it writes a `Walker`.
    unsafe { transmute::<*mut (), Walker>(walker) }
}

/// The calling thread's stack: fills in return addresses, innermost first, and says how many; 0 if the
/// stack is unknown.
///
/// `skip_to` is the [`address_in_frame`] of a function of the allocator's that its user has called:
/// the first return address is the one to which that function returns, whatever the allocator has
/// called since. Keeps `errno`; costs little more than the copy.
#[inline(never)]
pub fn capture(scratch: &mut Scratch, frames: &mut [u64; MAX_FRAMES], skip_to: usize) -> usize {
    let registers = Registers::here();
    let mut memory = CopiedStack::new(scratch, registers.sp, skip_to as u64);
    walker()(&registers, &mut memory, frames).min(MAX_FRAMES)
}

/// The stack of what a signal interrupted: its callers.
pub(crate) fn capture_interrupted(
    registers: &Registers,
    scratch: &mut Scratch,
    frames: &mut [u64; MAX_FRAMES],
) -> usize {
    let mut memory = CopiedStack::of_anything(scratch, registers.sp);
    walker()(registers, &mut memory, frames).min(MAX_FRAMES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_interrupted_need_not_have_a_stack() {
        let mut scratch = Box::new(Scratch::new());
        let mut frames = [0; MAX_FRAMES];
        for sp in [0, 8, 4096, 0x7fff_0000_0000, 0x7fff_0000_0000 + 3, u64::MAX] {
            let registers = Registers { pc: 0x5555_0000_0000, sp, fp: sp, lr: 0 };
            assert_eq!(capture_interrupted(&registers, &mut scratch, &mut frames), 0);
        }
    }
}
