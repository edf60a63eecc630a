//! `scripts/hot-path`, from a workload to pictures, and what it says to bad input.

#[path = "../../tests/surroundings/mod.rs"]
mod surroundings;

use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/hot-path"))
}

/// An empty folder for a test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a writable place");
    folder
}

/// Without perf a test is skipped, loudly; in CI it must be there.
fn have_perf() -> bool {
    let found = Command::new("perf").arg("--version").output().is_ok();
    if !found {
        assert!(env::var_os("CI").is_none(), "perf is not installed, and this is CI");
        // Not `eprintln!`, which the test runner keeps to itself.
        let _ = writeln!(io::stderr(), "SKIPPED: perf is not installed");
    }
    found
}

fn assert_refused(output: &Output, mentions: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for mention in mentions {
        assert!(said.contains(mention), "{mention} is not named: {said}");
    }
}

/// Runs it, and returns the three files' texts.
fn record(name: &str, arguments: &[&str]) -> [String; 3] {
    let folder = folder(name);
    let output = script().arg("-o").arg(&folder).args(arguments).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    ["flame.svg", "report.txt", "annotate.txt"]
        .map(|file| fs::read_to_string(folder.join(file)).expect("it was written"))
}

#[test]
fn rows_of_the_pair_bench_are_drawn_and_annotated() {
    if !have_perf() {
        return;
    }
    let [flame, report, annotations] = record("rows", &["--scale", "0.2", "random_400"]);
    assert!(flame.contains("<svg") && flame.contains("--scale 0.2 random_400"), "{flame}");
    assert!(flame.contains("<title>slackwater_benches::rows::main"), "{flame}");
    assert!(report.contains("Samples: "), "{report}");
    assert!(report.contains("slackwater_benches::rows::timed"), "{report}");
    assert!(annotations.contains("Disassembly of pair for"), "{annotations}");
}

#[test]
fn any_program_is_drawn_under_the_preload_library() {
    if !have_perf() {
        return;
    }
    let script = "import sys\nfor i in range(4000): x = [bytes(1000 + j) for j in range(1000)]";
    let [flame, report, annotations] = record("program", &["--", "python3", "-c", script]);
    assert!(flame.contains("<svg") && flame.contains(">python3 "), "{flame}");
    assert!(report.contains("libslackwater_preload.so"), "{report}");
    assert!(annotations.contains("Disassembly of libslackwater_preload.so for"), "{annotations}");
}

#[test]
fn bad_input_is_refused_in_one_line() {
    if !have_perf() {
        return;
    }
    let cases: &[(&[&str], &[&str])] = &[
        (&["-o"], &["-o", "expected a folder"]),
        (&["--"], &["--", "expected a command"]),
        (&["pair_64", "--", "true"], &["pair_64", "not both"]),
        (&["--", "no-such-program"], &["no-such-program", "name or the path of a program"]),
        (&["no_such_row"], &["no_such_row"]),
        (&["--scale", "x"], &["x"]),
    ];
    for (arguments, mentions) in cases {
        assert_refused(&script().args(*arguments).output().expect("it starts"), mentions);
    }
}

#[test]
fn without_perf_it_says_so() {
    let folder = folder("without perf");
    for tool in ["bash", "dirname", "mkdir"] {
        let place = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(tool));
        let place = place.into_iter().find(|place| place.exists()).expect("coreutils and bash");
        symlink(place, folder.join(tool)).expect("a writable place");
    }
    let output = script().env("PATH", &folder).output().expect("it starts");
    assert_refused(&output, &["perf is not installed", "linux-perf"]);
}
