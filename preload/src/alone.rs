//! What the standard library has for others, in a library that is built without it.
//!
//! The standard library brings `libgcc_s.so.1` into every process, for stacks that a panic unwinds. Here a panic ends
//! the process, and nothing but a defect of ours panics; so in a build where panics abort, as releases are, the
//! preload library does without, and the loader has half as much to do. Test builds, whose panics unwind, have it.

use core::arch::global_asm;
use core::panic::PanicInfo;

// Otherwise it is the standard library that asks for it.
#[link(name = "c")]
unsafe extern "C" {}

#[panic_handler]
fn panicked(panic: &PanicInfo) -> ! {
    let place = panic.location().map_or(("", 0), |place| (place.file(), place.line()));
    slackwater::end_by_panic(place)
}

/// What an unwinder that passes through a frame of ours is told: to go on (`_URC_CONTINUE_UNWIND`). libc's does, when
/// a thread is cancelled in `malloc_info`; no frame of ours has anything to clean up.
const CONTINUE_UNWIND: u32 = 8;

// By this name the compiler has it; nobody outside sees it, for it would be taken for that of other Rust code.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".pushsection .text.rust_eh_personality,\"ax\",@progbits",
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    ".type rust_eh_personality, @function",
    "rust_eh_personality:",
    "mov eax, {continue_unwind}",
    "ret",
    ".size rust_eh_personality, . - rust_eh_personality",
    ".popsection",
    continue_unwind = const CONTINUE_UNWIND,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".pushsection .text.rust_eh_personality,\"ax\",@progbits",
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    ".type rust_eh_personality, @function",
    "rust_eh_personality:",
    "mov w0, {continue_unwind}",
    "ret",
    ".size rust_eh_personality, . - rust_eh_personality",
    ".popsection",
    continue_unwind = const CONTINUE_UNWIND,
);
