//! What a shared object has from the compiler's own files where it is linked with them, as others are.

use core::arch::global_asm;

// The object by which libc tells one library's handlers from another's: its address says it all. Each has its own.
global_asm!(
    ".pushsection .data.rel.ro.slackwater,\"aw\",%progbits",
    ".globl __dso_handle",
    ".hidden __dso_handle",
    ".type __dso_handle, %object",
    ".size __dso_handle, 8",
    ".balign 8",
    "__dso_handle:",
    ".quad __dso_handle",
    ".popsection",
);
