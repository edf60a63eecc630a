//! What becomes of a program that misuses a sampled block: C programs that do, with every allocation
//! sampled, and what the library says of it.

#[path = "support/programs_in_c.rs"]
mod programs_in_c;
mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use support::{LIMIT, Outcome, installed, plain, preloaded, run, unique_path};

/// `guards.c`, as it misuses a block under the library.
fn misuse(how: &str, environment: &[(&str, &str)]) -> Option<Outcome> {
    let mut command: Command = preloaded(programs_in_c::built("guards.c")?);
    command.arg(how).env("SLACKWATER_PROFILE_RATE_BYTES", "1").envs(environment.iter().copied());
    // The second thread of a check would have a core of its own.
    command.env("SLACKWATER_PROFILE_EPOCH_SAMPLES", "4000000000");
    Some(run(&mut command, "", LIMIT))
}

/// The functions in the stack whose heading begins with `heading`, innermost first; as many as
/// addr2line knows.
fn stack(outcome: &Outcome, heading: &str) -> Option<Vec<String>> {
    let addr2line = installed("guards", "addr2line")?;
    let said = outcome.said();
    let mut lines =
        outcome.stderr.lines().map(|line| line.trim_start_matches("slackwater:").trim());
    lines
        .find(|line| line.starts_with(heading))
        .unwrap_or_else(|| panic!("no {heading} in {said}"));
    let frames = lines.take_while(|line| line.starts_with('#'));
    let functions = frames.filter_map(|frame| {
        let (file, place) = frame.split_whitespace().nth(2)?.rsplit_once('+')?;
        let resolved = run(plain(&addr2line).args(["-f", "-e", file, place]), "", LIMIT);
        resolved.stdout.lines().next().map(str::to_owned)
    });
    Some(functions.collect())
}

/// The stack goes through these functions, in this order, from the innermost one on.
fn assert_through(outcome: &Outcome, heading: &str, functions: &[&str]) {
    let Some(stack) = stack(outcome, heading) else { return };
    let own = stack.iter().position(|name| name == functions[0]);
    let found = own.map(|own| &stack[own..(own + functions.len()).min(stack.len())]);
    assert!(
        found.is_some_and(|found| found == functions),
        "{heading} through {functions:?}, not {stack:?}\n{}",
        outcome.said()
    );
    // Whatever comes before is malloc or free.
    assert!(own.is_some_and(|own| own <= 1), "{stack:?}");
}

fn assert_said(outcome: &Outcome, what: &str) {
    assert!(outcome.stderr.contains(what), "{what} is not in what was said: {}", outcome.said());
}

#[test]
fn an_overflow_by_one_byte_is_caught_as_it_happens() {
    let Some(outcome) = misuse("overflow", &[]) else { return };
    assert_eq!(outcome.status.signal(), Some(libc::SIGSEGV), "{}", outcome.said());
    assert_said(&outcome, "slackwater: heap overflow at 0x");
    assert_said(&outcome, ", 0 bytes behind the end of a block of 4096 bytes at 0x");
    assert_through(&outcome, "here by thread", &["touch", "main"]);
    assert_through(&outcome, "allocated by thread", &["make", "main"]);
}

/// Between the end of the block and the next multiple of its alignment.
#[test]
fn a_smaller_overflow_is_found_when_the_block_is_freed_and_does_no_harm() {
    let Some(outcome) = misuse("small_overflow", &[]) else { return };
    let outcome = outcome.expect_success();
    assert_eq!(outcome.stdout, "went on\n");
    assert_said(&outcome, ", 0 bytes behind the end of a block of 13 bytes at 0x");
    assert_said(&outcome, "it was found when the block was freed");
    assert_through(&outcome, "here by thread", &["drop", "main"]);
    assert_through(&outcome, "allocated by thread", &["make", "main"]);
}

#[test]
fn a_smaller_overflow_is_found_when_the_block_first_grows() {
    let Some(outcome) = misuse("overflow_before_a_resize", &[]) else { return };
    let outcome = outcome.expect_success();
    assert_eq!(outcome.stdout, "went on\n");
    assert_said(&outcome, ", 0 bytes behind the end of a block of 113 bytes at 0x");
    assert_said(&outcome, "it was found when the block was freed or resized");
    assert_through(&outcome, "allocated by thread", &["make", "main"]);
}

/// A sample that has grown has the room of its class, and the guard behind that.
#[test]
fn an_overflow_of_a_block_that_has_grown_is_caught() {
    let Some(outcome) = misuse("overflow_after_a_resize", &[]) else { return };
    assert_eq!(outcome.status.signal(), Some(libc::SIGSEGV), "{}", outcome.said());
    assert_said(&outcome, ", 0 bytes behind the end of a block of 4096 bytes at 0x");
    assert_through(&outcome, "here by thread", &["touch", "main"]);
    assert_through(&outcome, "allocated by thread", &["make", "main"]);
}

#[test]
fn a_use_after_free_is_caught_with_both_stacks() {
    for (how, freed) in [
        ("use_after_free", ["drop", "main"]),
        ("use_after_free_elsewhere", ["drop", "drop_elsewhere"]),
    ] {
        let Some(outcome) = misuse(how, &[]) else { return };
        assert_eq!(outcome.status.signal(), Some(libc::SIGSEGV), "{}", outcome.said());
        assert_said(&outcome, "slackwater: use after free at 0x");
        assert_said(&outcome, ", 10 bytes behind the start of a block of 100 bytes at 0x");
        assert_through(&outcome, "here by thread", &["touch", "main"]);
        assert_through(&outcome, "allocated by thread", &["make", "main"]);
        assert_through(&outcome, "freed by thread", &freed);
    }
}

#[test]
fn a_double_free_ends_the_process_with_all_three_stacks() {
    let Some(outcome) = misuse("double_free", &[]) else { return };
    assert_eq!(outcome.status.signal(), Some(libc::SIGABRT), "{}", outcome.said());
    assert_said(&outcome, "slackwater: double free at 0x");
    assert_said(&outcome, "; aborting");
    assert_through(&outcome, "here by thread", &["drop", "main"]);
    assert_through(&outcome, "allocated by thread", &["make", "main"]);
    assert_through(&outcome, "freed by thread", &["drop", "main"]);
}

#[test]
fn a_free_of_the_inside_of_a_block_ends_the_process() {
    let Some(outcome) = misuse("free_inside", &[]) else { return };
    assert_eq!(outcome.status.signal(), Some(libc::SIGABRT), "{}", outcome.said());
    assert_said(&outcome, "slackwater: free of an address that is no block at 0x");
}

#[test]
fn faults_that_are_not_ours_are_left_to_whom_they_belong() {
    let Some(outcome) = misuse("not_ours", &[]) else { return };
    assert_eq!(outcome.status.signal(), Some(libc::SIGSEGV), "{}", outcome.said());
    assert_eq!(outcome.stderr, "", "nothing is said of a fault elsewhere");
    let Some(outcome) = misuse("own_handler", &[]) else { return };
    assert_eq!(outcome.status.code(), Some(42), "{}", outcome.said());
    assert_said(&outcome, "the program's own handler");
}

/// By the next fault the process ends: the access is made again when the handler has returned.
#[test]
fn a_handler_that_is_to_be_called_once_is_called_once() {
    for how in ["overflow", "not_ours"] {
        let Some(outcome) = misuse(how, &[("HANDLER_FOR_ONCE", "1")]) else { return };
        assert_eq!(outcome.status.signal(), Some(libc::SIGSEGV), "{}", outcome.said());
        let calls = outcome.stderr.matches("the handler that is called once").count();
        assert_eq!(calls, 1, "{}", outcome.said());
    }
}

/// It has the signal first; and then what would be told without it is told.
#[test]
fn a_handler_that_gives_the_signal_back_leaves_the_telling_to_the_library() {
    for how in ["BY_SIGACTION", "BY_SIGNAL"] {
        let Some(outcome) = misuse("given_back", &[(how, "1")]) else { return };
        assert_eq!(outcome.status.signal(), Some(libc::SIGSEGV), "{}", outcome.said());
        let first = outcome.stderr.lines().next();
        assert_eq!(first, Some("the handler that gives the signal back"), "{}", outcome.said());
        assert_eq!(outcome.stderr.matches("gives the signal back").count(), 1);
        assert_eq!(outcome.stderr.matches("use after free at 0x").count(), 1);
        assert_through(&outcome, "here by thread", &["touch", "main"]);
        assert_through(&outcome, "freed by thread", &["drop", "main"]);
    }
}

/// Its own message comes from a handler that it installs only where there is none.
#[test]
fn a_rust_programs_stack_overflows_as_without_the_library() {
    const TEST: &str = "a_rust_programs_stack_overflows_as_without_the_library";
    let Some(rustc) = installed(TEST, "rustc") else { return };
    let program = unique_path("overflow");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rust/overflow.rs");
    let mut compile = plain(rustc);
    compile.args(["--edition", "2024", "-O", source, "-o"]).arg(&program);
    run(&mut compile, "", LIMIT).expect_success();
    for (what, is_told) in [("main", false), ("thread", false), ("use_after_free", true)] {
        let mut command = preloaded(&program);
        command.arg(what).env("SLACKWATER_PROFILE_RATE_BYTES", "1");
        command.env("SLACKWATER_PROFILE_EPOCH_SAMPLES", "4000000000");
        let outcome = run(&mut command, "", LIMIT);
        if is_told {
            assert_eq!(outcome.status.signal(), Some(libc::SIGSEGV), "{}", outcome.said());
            assert_said(&outcome, "slackwater: use after free at 0x");
        } else {
            assert_eq!(outcome.status.signal(), Some(libc::SIGABRT), "{}", outcome.said());
            assert_said(&outcome, "has overflowed its stack");
        }
    }
    fs::remove_file(program).expect("remove the program");
}

#[test]
fn a_program_without_misuse_goes_on_and_nothing_is_said() {
    for guards in ["on", "off"] {
        let Some(outcome) = misuse("none", &[("SLACKWATER_PROFILE_GUARDS", guards)]) else {
            return;
        };
        let outcome = outcome.expect_success();
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("went on\n", ""));
    }
}

#[test]
fn guards_can_be_switched_off() {
    let off = [("SLACKWATER_PROFILE_GUARDS", "off")];
    let Some(outcome) = misuse("use_after_free", &off) else { return };
    assert_eq!(outcome.expect_success().stderr, "");
    let Some(outcome) = misuse("double_free", &off) else { return };
    assert_said(&outcome, "slackwater: double free at 0x");
}
