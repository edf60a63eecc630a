//! Every row of every bench runs, and has a name of its own.

use std::collections::HashSet;
use std::process::Command;

use slackwater_benches::line::Line;

/// As little as a row does.
const SCALE: &str = "0.000001";

#[test]
fn every_row_runs_and_prints_its_line() {
    let benches = [
        env!("CARGO_BIN_EXE_pair"),
        env!("CARGO_BIN_EXE_depths"),
        env!("CARGO_BIN_EXE_calls"),
        env!("CARGO_BIN_EXE_threads"),
        env!("CARGO_BIN_EXE_scale"),
        env!("CARGO_BIN_EXE_patterns"),
    ];
    let mut names = HashSet::new();
    for bench in benches {
        let list = Command::new(bench).arg("--list").output().expect("it starts");
        let run = Command::new(bench).args(["--scale", SCALE]).output().expect("it starts");
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{bench}: {said}");
        let (list, lines) = (text(list.stdout), text(run.stdout));
        assert_eq!(list.lines().count(), lines.lines().count(), "{bench}: {lines}");
        for (name, line) in list.lines().zip(lines.lines()) {
            let line: Line = line.parse().expect("a row's line");
            assert_eq!(line.name, name);
            assert!(line.operations > 0 && line.told.is_some(), "{line}");
            assert!(names.insert(line.name), "two rows are called {name}");
        }
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("what a bench prints is text")
}
