//! What valgrind's callgrind counts.

use std::path::Path;
use std::process::Command;

use crate::support::{LIMIT, run};

/// Makes a command of valgrind's run this program and count its instructions.
pub fn counting<'a>(valgrind: &'a mut Command, program: &Path) -> &'a mut Command {
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program)
}

/// Runs it, and returns how many there were.
pub fn instructions(command: &mut Command) -> u64 {
    let outcome = run(command, "", LIMIT).expect_success();
    let counted = outcome.stderr.lines().find_map(|line| line.split_once("Collected : "));
    counted
        .and_then(|(_, count)| count.trim().parse().ok())
        .unwrap_or_else(|| panic!("{}", outcome.said()))
}
