//! `slackwater run`: the program under the preload library is the program, and nothing else.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn run(arguments: &[&str]) -> Command {
    let mut command = common::slackwater();
    command.arg("run").args(arguments);
    command
}

fn output(arguments: &[&str]) -> Output {
    run(arguments).output().expect("it starts")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn the_exit_code_is_the_programs() {
    for code in [0, 1, 2, 7, 255] {
        let output = output(&["--", "sh", "-c", &format!("exit {code}")]);
        assert_eq!(output.status.code(), Some(code));
    }
    assert_eq!(output(&["true"]).status.code(), Some(0));
    assert_eq!(output(&["--", "false"]).status.code(), Some(1));
}

#[test]
fn a_signal_is_the_programs_and_a_shell_sees_128_plus_its_number() {
    for (name, number) in [("KILL", 9), ("TERM", 15), ("SEGV", 11)] {
        let dies = format!("kill -s {name} $$");
        assert_eq!(output(&["--", "sh", "-c", &dies]).status.signal(), Some(number));

        let mut shell = Command::new("sh");
        shell.args(["-c", "\"$0\" run -- sh -c \"$1\"; exit $?"]);
        shell.args([env!("CARGO_BIN_EXE_slackwater"), &dies]);
        assert_eq!(shell.output().expect("sh starts").status.code(), Some(128 + number));
    }
}

#[test]
fn a_pipe_that_closes_ends_the_program_as_it_would_alone() {
    let mut yes = run(&["--", "yes"]).stdout(Stdio::piped()).spawn().expect("it starts");
    drop(yes.stdout.take());
    assert_eq!(yes.wait().expect("it ends").signal(), Some(13), "SIGPIPE is not ignored");
}

#[test]
fn the_library_is_in_the_program_and_in_what_it_starts() {
    let maps = text(&output(&["--", "cat", "/proc/self/maps"]));
    assert!(maps.contains("libslackwater_preload.so"), "{maps}");
    let maps = text(&output(&["--", "sh", "-c", "cat /proc/self/maps; true"]));
    assert!(maps.contains("libslackwater_preload.so"), "{maps}");
}

#[test]
fn arguments_input_and_environment_pass_through() {
    let out = output(&["--", "printf", "%s|", "--summary", "", "a b", "-x"]);
    assert_eq!(text(&out), "--summary||a b|-x|");

    let mut cat = run(&["cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut input = cat.stdin.take().expect("piped");
    input.write_all(b"through\0and through").expect("it reads");
    drop(input);
    assert_eq!(cat.wait_with_output().expect("it ends").stdout, b"through\0and through");
}

#[test]
fn the_summary_is_asked_for_only_by_its_flag() {
    let asked = |flags: &[&str]| {
        let show = ["--", "sh", "-c", "echo ${SLACKWATER_SUMMARY-unset}"];
        text(&output(&[flags, &show].concat()))
    };
    assert_eq!(asked(&[]), "unset\n");
    assert_eq!(asked(&["--summary"]), "1\n");
}

#[test]
fn what_was_preloaded_already_stays_behind_the_library() {
    let show = ["--", "sh", "-c", "echo $LD_PRELOAD"];
    let alone = text(&output(&show)).trim().to_string();
    assert!(alone.ends_with("/libslackwater_preload.so"), "{alone}");
    // Any loadable library will do for the second: here, the same one.
    let both = run(&show).env("LD_PRELOAD", &alone).output().expect("it starts");
    assert_eq!(text(&both).trim(), format!("{alone}:{alone}"));
    let named = run(&show).env("SLACKWATER_PRELOAD_LIB", &alone).output().expect("it starts");
    assert_eq!(text(&named).trim(), alone);
}

/// A program that is statically linked; `None` without a compiler.
fn static_program(name: &str, source: &[u8]) -> Option<PathBuf> {
    if !common::have_tool("gcc") {
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut gcc = Command::new("gcc");
    common::output_of(gcc.args(["-static", "-xc", "-", "-o"]).arg(&program), source);
    Some(program)
}

/// It cannot be preloaded: it runs all the same, and that is said, with what can be done.
#[test]
fn a_static_program_is_told_to_be_one() {
    let source = b"int main(void) { return 7; }";
    let Some(program) = static_program("static-program", source) else { return };
    let name = program.to_str().expect("text");
    let output = output(&["--", name]);
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8(output.stderr).expect("text");
    let expected =
        format!("slackwater: {name}: is statically linked, and LD_PRELOAD has no effect");
    assert!(said.starts_with(&expected) && said.lines().count() == 1, "{said}");
    assert!(said.contains("links the crate `slackwater`"), "{said}");

    let mut profile = common::slackwater();
    let output = profile.args(["profile", "run", "--", name]).output().expect("it starts");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("is statically linked") && said.lines().count() == 1, "{said}");
    assert_eq!(output.status.code(), Some(1));
}

/// The same of a child of what is profiled, which is seen while it runs.
#[test]
fn a_static_child_is_told_to_be_one() {
    let source = b"#include <stdio.h>\nint main(void) { getchar(); return 7; }";
    let Some(program) = static_program("static-child", source) else { return };
    let mut profile = common::slackwater();
    profile.args(["profile", "run", "--", "sh", "-c", "\"$0\"; true"]).arg(&program);
    let pipes = profile.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = pipes.spawn().expect("it starts");
    let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
    let told = said.by_ref().map_while(Result::ok).find(|line| line.contains("is not profiled: "));
    drop(child.stdin.take());
    let rest: Vec<String> = said.map_while(Result::ok).collect();
    assert!(child.wait().expect("it ends").success(), "{rest:?}");
    let told = told.expect("before it ends");
    assert!(told.starts_with("slackwater: child ") && told.contains("statically"), "{told}");
}
