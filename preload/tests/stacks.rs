//! The stacks that reports name: of code without frame pointers, whole, and with the function first that
//! called the allocator.

#[path = "support/checks.rs"]
mod checks;
#[path = "support/programs_in_c.rs"]
mod programs_in_c;
mod support;

use std::ffi::CStr;
use std::os::unix::process::ExitStatusExt;

use support::Outcome;

/// The frames that a report has under a headline with these words.
fn frames<'a>(report: &'a str, words: &str) -> Vec<&'a str> {
    let lines = report.lines().skip_while(|line| !line.contains(words)).skip(1);
    lines.take_while(|line| line.contains(" #")).collect()
}

/// Says where unwind tables are: glibc has it from 2.35 on.
const FIND: &CStr = c"_dl_find_object";

fn leads_from_the_caller_to_main(outcome: Outcome) {
    // SAFETY: the name ends with a zero.
    if unsafe { libc::dlsym(libc::RTLD_DEFAULT, FIND.as_ptr()) }.is_null() {
        return support::skipped("stacks", "glibc 2.35");
    }
    let said = outcome.said();
    assert_eq!(outcome.status.signal(), Some(libc::SIGSEGV), "{}: {said}", outcome.status);
    let of_program = |frame: &&&str| frame.contains("stacks.c.program");
    // The function that allocates, which may be part of the innermost of the eleven; they; the check;
    // main. Then libc's, and the program's start.
    let allocated = frames(&outcome.stderr, "allocated by");
    let in_front = allocated.iter().take_while(of_program).count();
    assert!((12..=16).contains(&in_front), "{said}");
    assert!(allocated.last().is_some_and(|last| of_program(&last)), "{said}");
    let freed = frames(&outcome.stderr, "freed by");
    let in_front = freed.iter().take_while(of_program).count();
    assert!((2..=6).contains(&in_front), "{said}");
}

checks::checks!(
    "stacks.c",
    leads_from_the_caller_to_main,
    [
        of_malloc,
        of_calloc,
        of_realloc,
        of_reallocarray,
        of_aligned_alloc,
        of_memalign,
        of_posix_memalign,
    ]
);
