//! How much threads have to do with each other: atomic read-modify-writes and acquisitions of locks for each thousand
//! operations, by the line of source that does them and by what that line is for.
//!
//! They are counted, not timed. Callgrind sees every locked instruction (`--collect-bus=yes`), and lets one thread run
//! at a time; so a machine of two cores says what one of sixty-four would execute. What it does not see is what happens
//! because others are there at the same moment: attempts that fail and are made again, and waiting.
//!
//! What it takes to hold what is counted beside what a line of memory can bear is in [`model`].

mod bus;
pub mod counts;
pub mod model;
pub mod places;
mod source;

use std::path::Path;
use std::process::Command;

use crate::comparing::counting::STEADY;
use crate::line::Line;
use bus::Profile;
use counts::Counts;

/// The parts of a row's operations that its two runs do. The difference between them is what the operations took,
/// without the program's start, its end, and what caches take to learn a load.
const SCALES: [f64; 2] = [0.25, 1.0];

/// What it needs beside cargo.
pub const TOOLS: [&str; 2] = ["valgrind", "addr2line"];

/// Counts a row of the bench `scale` in our own build, `program`, which has the lines of its source with it, with these
/// settings.
pub fn count_ours(program: &Path, row: &str, settings: &[(&str, &str)]) -> Result<Counts, String> {
    let valgrind = || {
        let mut valgrind = Command::new("valgrind");
        valgrind.envs(settings.iter().copied());
        Ok(valgrind)
    };
    twice(row, valgrind, program, |profile| counts::ours(profile, program))
}

/// Counts it in a build without an allocator of its own, under a shared object: `valgrind` starts it there. `object` is
/// that one's name, none if it is the C library's.
pub fn count_preloaded(
    valgrind: impl Fn() -> Result<Command, String>,
    program: &Path,
    row: &str,
    object: Option<&Path>,
) -> Result<Counts, String> {
    twice(row, valgrind, program, |profile| Ok(counts::of_object(profile, object)))
}

fn twice(
    row: &str,
    valgrind: impl Fn() -> Result<Command, String>,
    program: &Path,
    counted: impl Fn(&Profile) -> Result<Counts, String>,
) -> Result<Counts, String> {
    let [first, second] = SCALES.map(|scale| {
        let mut valgrind = valgrind()?;
        valgrind.envs(STEADY);
        let (said, profile) = bus::run(valgrind, program, &["--scale", &scale.to_string(), row])?;
        let line: Line = said.parse()?;
        Ok::<_, String>((line.operations, counted(&profile)?))
    });
    let ((few, first), (many, second)) = (first?, second?);
    let operations = many.checked_sub(few).filter(|operations| *operations > 0);
    let operations = operations.ok_or_else(|| format!("{row}: no two sizes to count"))?;
    Ok(second.without(first).per_thousand(operations))
}
