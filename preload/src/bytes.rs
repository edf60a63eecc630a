//! The functions that the compiler calls to move, fill and compare bytes, as this library calls them; and the one that
//! measures texts.
//!
//! By these names libc's would be called, or those of a library in between: a checker's, for one, that keeps something
//! per thread. The allocator's own threads have no such storage, for libc does not know them. So within this library
//! the names are functions that ask for the thread's word: own threads have simple code here, all others go on to
//! the functions of that name that come after this library's. Nobody outside sees these.

use core::arch::global_asm;
use core::ffi::c_void;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::next::Next;

unsafe extern "C" {
    fn slackwater_copy();
    fn slackwater_move();
    fn slackwater_fill();
    fn slackwater_compare();
}

/// Where the program's threads go on. Until they have been looked for, in the simple code, too.
macro_rules! onward {
    ($($place:ident = $name:literal, $simple:ident;)*) => {
        $(static $place: AtomicPtr<c_void> =
            AtomicPtr::new($simple as *const () as *mut c_void);)*

        mod next {
            use super::Next;

            $(pub static $place: Next = Next::named($name);)*
        }

        pub(crate) static NEXT: &[&Next] = &[$(&next::$place),*];

        /// When the library is loaded, and [`NEXT`] has been looked for.
        pub(crate) fn start() {
            $(
                let next = next::$place.address();
                if !next.is_null() {
                    $place.store(next, Ordering::Relaxed);
                }
            )*
        }
    };
}

onward! {
    COPY = c"memcpy", slackwater_copy;
    MOVE = c"memmove", slackwater_move;
    FILL = c"memset", slackwater_fill;
    COMPARE = c"memcmp", slackwater_compare;
    DIFFER = c"bcmp", slackwater_compare;
}

/// A function of libc's name that goes on to what `$place` says, but on own threads to `$simple`.
macro_rules! choose {
    ($name:literal, $place:ident, $simple:literal) => {
        global_asm!(
            ".pushsection slackwater_start,\"ax\",@progbits",
            concat!(".globl ", $name),
            concat!(".hidden ", $name),
            concat!(".type ", $name, ", @function"),
            concat!($name, ":"),
            "mov rax, qword ptr [rip + slackwater_thread@GOTTPOFF]",
            "cmp qword ptr fs:[rax], {own}",
            concat!("je ", $simple),
            "jmp qword ptr [rip + {place}]",
            concat!(".size ", $name, ", . - ", $name),
            ".popsection",
            own = const slackwater::NO_CACHE,
            place = sym $place,
        );
    };
}

choose!("memcpy", COPY, "slackwater_copy");
choose!("memmove", MOVE, "slackwater_move");
choose!("memset", FILL, "slackwater_fill");
choose!("memcmp", COMPARE, "slackwater_compare");
choose!("bcmp", DIFFER, "slackwater_compare");

global_asm!(
    ".pushsection slackwater_start,\"ax\",@progbits",
    ".globl slackwater_copy",
    ".hidden slackwater_copy",
    ".type slackwater_copy, @function",
    "slackwater_copy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    ".size slackwater_copy, . - slackwater_copy",
    ".globl slackwater_move",
    ".hidden slackwater_move",
    ".type slackwater_move, @function",
    "slackwater_move:",
    "mov rcx, rdi",
    "sub rcx, rsi",
    "cmp rcx, rdx",
    // The place is before the bytes, or behind all of them: from the first on.
    "jae slackwater_copy",
    "mov rax, rdi",
    "mov rcx, rdx",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    ".size slackwater_move, . - slackwater_move",
    ".globl slackwater_fill",
    ".hidden slackwater_fill",
    ".type slackwater_fill, @function",
    "slackwater_fill:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    ".size slackwater_fill, . - slackwater_fill",
    ".globl slackwater_compare",
    ".hidden slackwater_compare",
    ".type slackwater_compare, @function",
    "slackwater_compare:",
    "xor eax, eax",
    "xor r8d, r8d",
    "2:",
    "cmp r8, rdx",
    "je 3f",
    "movzx eax, byte ptr [rdi + r8]",
    "movzx ecx, byte ptr [rsi + r8]",
    "inc r8",
    "sub eax, ecx",
    "je 2b",
    "3:",
    "ret",
    ".size slackwater_compare, . - slackwater_compare",
    // Texts here are short: names of variables, symbols and files.
    ".globl strlen",
    ".hidden strlen",
    ".type strlen, @function",
    "strlen:",
    "mov rax, -1",
    "2:",
    "inc rax",
    "cmp byte ptr [rdi + rax], 0",
    "jne 2b",
    "ret",
    ".size strlen, . - strlen",
    ".popsection",
);
