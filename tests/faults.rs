//! SIGSEGV in a program that has the allocator linked in: std's handler and the program's own are as without it,
//! and an access to a guarded block is told where the program has asked for that.
//!
//! Each deed is done in a process of its own: this program once more.

use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, mem, ptr, thread};

use slackwater::faults;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

const VARIABLE: &str = "SLACKWATER_TEST_DEED";

/// This program once more, with every allocation sampled.
fn done(deed: &str, guards: &str) -> Output {
    let program = env::current_exe().expect("a test knows its own path");
    Command::new(program)
        .args(["--exact", "deed", "--nocapture"])
        .env(VARIABLE, deed)
        .env("SLACKWATER_PROFILE_RATE_BYTES", "1")
        .env("SLACKWATER_PROFILE_EPOCH_SAMPLES", "4000000000")
        .env("SLACKWATER_PROFILE_GUARDS", guards)
        .output()
        .expect("a program that runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What the child does. Alone it is no test.
#[test]
fn deed() {
    match env::var(VARIABLE).as_deref() {
        Ok("use_after_free") => use_after_free(),
        Ok("told_use_after_free") => {
            assert!(faults::report());
            use_after_free();
        }
        Ok("overflow") => overflow(),
        Ok("told_overflow") => {
            assert!(faults::report());
            overflow();
        }
        Ok("asks_twice") => {
            let before = action();
            assert!(faults::report());
            let after = action();
            assert_ne!(after.sa_sigaction, before.sa_sigaction);
            assert_eq!(after.sa_flags, before.sa_flags);
            assert!(!faults::report());
            assert_eq!(action().sa_sigaction, after.sa_sigaction);
        }
        Ok("rearms") => {
            arm(report_a_crash);
            assert!(faults::report());
            arm(report_a_crash);
            use_after_free();
        }
        Ok("recovers") => {
            arm(open_a_page);
            assert!(faults::report());
            let page = closed_page();
            for _ in 0..100 {
                // SAFETY: the handler makes the page accessible.
                unsafe { page.write_volatile(1) };
                close(page);
            }
        }
        Ok("default") => {
            // SAFETY: all-zero is the default.
            set_action(&unsafe { mem::zeroed() });
            assert!(faults::report());
            use_after_free();
        }
        Ok("ignores") => {
            // SAFETY: all-zero is a valid action.
            let mut ignore: libc::sigaction = unsafe { mem::zeroed() };
            ignore.sa_sigaction = libc::SIG_IGN;
            set_action(&ignore);
            assert!(!faults::report());
            assert_eq!(action().sa_sigaction, libc::SIG_IGN);
        }
        _ => {}
    }
}

fn use_after_free() {
    let block = Box::into_raw(Box::new([1u8; 100]));
    // SAFETY: it is not used any more, but by the mistake that is looked for.
    drop(unsafe { Box::from_raw(block) });
    // SAFETY: none: the page cannot be touched.
    unsafe { block.cast::<u8>().wrapping_add(10).write_volatile(1) };
}

fn overflow() {
    // Blocks are sampled, and some are in quarantine.
    let kept: Vec<_> = (0..1000).map(|i| vec![1u8; 1 + i]).collect();
    drop(black_box(kept));
    thread::spawn(|| deeper(0)).join().expect("it does not return");
}

#[expect(unconditional_recursion, reason = "the stack is to overflow")]
#[inline(never)]
fn deeper(depth: u64) -> u64 {
    let room = [depth; 64];
    black_box(&room);
    deeper(depth + 1) + room[(depth % 64) as usize]
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Who had the signal before `report_a_crash`.
static PREVIOUS: AtomicUsize = AtomicUsize::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(0);
const PAGE_BYTES: usize = 4096;

fn action() -> libc::sigaction {
    // SAFETY: all-zero is a valid action.
    let mut now: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: a valid place.
    assert_eq!(unsafe { libc::sigaction(libc::SIGSEGV, ptr::null(), &mut now) }, 0);
    now
}

fn set_action(action: &libc::sigaction) {
    // SAFETY: a valid action.
    assert_eq!(unsafe { libc::sigaction(libc::SIGSEGV, action, ptr::null_mut()) }, 0);
}

fn arm(handler: Handler) {
    let previous = action();
    PREVIOUS.store(previous.sa_sigaction, Ordering::Relaxed);
    set_action(&libc::sigaction { sa_sigaction: handler as *const () as usize, ..previous });
}

/// Hands on to whoever was there before, if that is another; then it says so and ends.
extern "C" fn report_a_crash(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.load(Ordering::Relaxed);
    if previous != report_a_crash as *const () as usize {
        // SAFETY: std's handler or ours, which are of this type.
        let previous: Handler = unsafe { mem::transmute(previous) };
        previous(signal, info, context);
    }
    // SAFETY: it ends the process.
    unsafe { libc::_exit(42) };
}

fn closed_page() -> *mut u8 {
    let (flags, none) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_NONE);
    // SAFETY: a new mapping.
    let page = unsafe { libc::mmap(ptr::null_mut(), PAGE_BYTES, none, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    PAGE.store(page as usize, Ordering::Relaxed);
    page.cast()
}

fn close(page: *mut u8) {
    // SAFETY: a page of ours.
    assert_eq!(unsafe { libc::mprotect(page.cast(), PAGE_BYTES, libc::PROT_NONE) }, 0);
}

extern "C" fn open_a_page(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let page = PAGE.load(Ordering::Relaxed) as *mut c_void;
    // SAFETY: a page of the test's.
    unsafe { libc::mprotect(page, PAGE_BYTES, libc::PROT_READ | libc::PROT_WRITE) };
}

#[test]
fn a_stack_that_overflows_is_reported_by_std() {
    for (deed, guards) in [("overflow", "off"), ("overflow", "on"), ("told_overflow", "on")] {
        let output = done(deed, guards);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}", said(&output));
        assert!(said(&output).contains("has overflowed its stack"), "{}", said(&output));
    }
}

#[test]
fn an_access_to_a_guarded_block_ends_the_program_and_is_told_if_it_has_asked() {
    let output = done("use_after_free", "on");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{}", said(&output));
    assert!(!said(&output).contains("slackwater"), "{}", said(&output));
    for deed in ["told_use_after_free", "default"] {
        let output = done(deed, "on");
        assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{}", said(&output));
        for part in ["slackwater: use after free at 0x", "  allocated by thread", "  freed by"] {
            assert!(said(&output).contains(part), "{deed}: {part} is not in {}", said(&output));
        }
    }
}

#[test]
fn it_is_asked_for_once_and_keeps_the_flags_of_who_was_there() {
    let output = done("asks_twice", "on");
    assert!(output.status.success(), "{}", said(&output));
    let output = done("ignores", "on");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_handler_that_is_installed_again_and_hands_on_comes_to_its_end() {
    let output = done("rearms", "on");
    assert_eq!(output.status.code(), Some(42), "{}", said(&output));
    assert_eq!(said(&output).matches("use after free at").count(), 1, "{}", said(&output));
}

#[test]
fn a_handler_that_mends_what_was_wrong_goes_on_doing_so() {
    let output = done("recovers", "on");
    assert!(output.status.success(), "{}", said(&output));
}
