//! What does not depend on the machine: instructions, counted by callgrind, and slow paths, which
//! slackwater counts itself.
//!
//! A row is run at two sizes. The difference between the two is what the operations between them
//! took, without the program's start, its end and the row's preparations.

use std::path::Path;
use std::process::Command;

use super::contender::Contender;
use super::measurements::Figure;
use super::watched_count;
use crate::allocator::SlowPaths;
use crate::line::Line;

/// The part of a row's operations that the first run does, and how many times as much the second.
/// Callgrind takes some fifty times as long as the processor.
const FIRST_SCALE: f64 = 0.001;
const GROWTH: f64 = 4.0;

/// A row goes by whole rounds, so that a small run may be no smaller than a larger one; then the
/// larger grows, at most to this scale.
const LARGEST_SCALE: f64 = 2.0;

/// No release by the clock, of which a slow run sees more: only what the operations do themselves.
pub const STEADY: [(&str, &str); 2] =
    [("SLACKWATER_EPOCH_MS", "3600000"), ("SLACKWATER_TICKER", "off")];

/// What a run did and took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub operations: u64,
    pub instructions: u64,
    slow_paths: Option<SlowPaths>,
    /// Allocations that were sampled.
    pub samples: u64,
}

/// A row of a bench under a contender.
#[derive(Clone, Copy)]
pub struct Counted<'a> {
    /// Who runs it.
    pub contender: &'a Contender,
    /// Where the builds are.
    pub built: &'a Path,
    /// The bench.
    pub bench: &'a str,
    /// Its row.
    pub row: &'a str,
}

impl Counted<'_> {
    /// Counts it.
    pub fn count(&self) -> Result<Vec<(Figure, f64)>, String> {
        if self.contender.is_watched {
            return watched_count::count(self);
        }
        let [first, second] = self.two_sizes(&[])?;
        Ok(difference(&first, &second))
    }

    /// Runs at two sizes, with further settings.
    pub(super) fn two_sizes(&self, settings: &[(&str, &str)]) -> Result<[Run; 2], String> {
        let sized = |scale| run(self, &mut self.callgrind(scale, settings)?);
        let first = sized(FIRST_SCALE)?;
        let mut scale = FIRST_SCALE * GROWTH;
        while scale <= LARGEST_SCALE {
            let second = sized(scale)?;
            // A single round more would be the first that finds the heap as a round leaves it.
            if second.operations > 2 * first.operations {
                return Ok([first, second]);
            }
            scale *= GROWTH;
        }
        Err(format!("{} under {}: no two sizes to count", self.row, self.contender.name))
    }

    /// What runs the first size, with further settings.
    pub(super) fn smallest(&self, settings: &[(&str, &str)]) -> Result<Command, String> {
        self.callgrind(FIRST_SCALE, settings)
    }

    fn callgrind(&self, scale: f64, settings: &[(&str, &str)]) -> Result<Command, String> {
        let mut command = self.contender.command(self.built, "valgrind")?;
        command
            .envs(STEADY)
            .envs(settings.iter().copied())
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(self.contender.program(self.built, self.bench))
            .args(["--scale", &scale.to_string(), self.row]);
        Ok(command)
    }
}

/// Runs what [`Counted`] has made.
pub(super) fn run(counted: &Counted, callgrind: &mut Command) -> Result<Run, String> {
    let (row, name) = (counted.row, counted.contender.name);
    let failed = |said: &str| format!("valgrind, {row} under {name}: {said}");
    let output = callgrind.output().map_err(|error| failed(&error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(failed(said.lines().last().unwrap_or("nothing said")));
    }
    let line: Line = String::from_utf8_lossy(&output.stdout).parse()?;
    Ok(Run {
        operations: line.operations,
        instructions: collected(&said).ok_or_else(|| failed("no count"))?,
        slow_paths: line.told.map(|told| told.slow_paths),
        samples: line.told.map_or(0, |told| told.samples),
    })
}

/// The first of these programs that is not installed.
pub fn missing(tools: &[&'static str]) -> Option<&'static str> {
    let is_missing = |tool: &&&str| Command::new(**tool).arg("--version").output().is_err();
    tools.iter().find(is_missing).copied()
}

/// The number of instructions in what callgrind says at its end.
pub fn collected(said: &str) -> Option<u64> {
    let counted = said.lines().find_map(|line| line.split_once("Collected : "));
    counted.and_then(|(_, count)| count.trim().parse().ok())
}

/// What an operation takes: instructions, and slow paths of a thousand operations.
pub(super) fn difference(first: &Run, second: &Run) -> Vec<(Figure, f64)> {
    let operations = (second.operations - first.operations) as f64;
    let more = |first: u64, second: u64| (second as f64 - first as f64) / operations;
    let mut figures = vec![(Figure::Instructions, more(first.instructions, second.instructions))];
    if let (Some(first), Some(second)) = (first.slow_paths, second.slow_paths) {
        let per_thousand = |first, second| more(first, second) * 1000.0;
        figures.extend([
            (Figure::Refills, per_thousand(first.refills, second.refills)),
            (Figure::Spills, per_thousand(first.spills, second.spills)),
            (Figure::OtherSlowPaths, per_thousand(first.others, second.others)),
        ]);
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_the_one_collected() {
        let said = "==7== Events    : Ir\n==7== Collected : 2345678\n==7== \n";
        assert_eq!(collected(said), Some(2_345_678));
        assert_eq!(collected("==7== no such program\n"), None);
    }

    #[test]
    fn what_both_runs_did_is_not_counted() {
        let slow_paths = |refills| Some(SlowPaths { refills, spills: 2, others: 9 });
        let first =
            Run { operations: 1000, instructions: 500_000, slow_paths: slow_paths(3), samples: 0 };
        let second =
            Run { operations: 3000, instructions: 600_000, slow_paths: slow_paths(13), samples: 0 };
        let figures = difference(&first, &second);
        let values: Vec<_> = figures.iter().map(|(_, value)| *value).collect();
        assert_eq!(values, [50.0, 5.0, 0.0, 0.0]);
        let untold = Run { slow_paths: None, ..second };
        assert_eq!(difference(&first, &untold).len(), 1);
    }
}
