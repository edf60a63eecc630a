//! Instructions of slackwater with all that it has to observe it at work.
//!
//! How often something is sampled or scraped goes by time, of which a program under callgrind has fifty times as much.
//! So what one sample takes is counted, what a second of scrapes takes is, and how many of both an operation has is
//! measured in a run without callgrind.

use std::sync::OnceLock;

use super::counting::{Counted, difference, run};
use super::measurements::Figure;
use super::watcher::Watcher;
use crate::line::Line;
use crate::watched;

/// How much of a row is run against the clock: enough for the samples of a tight loop to have become rare.
const TIMED_SCALE: &str = "0.5";

const RATE: &str = "SLACKWATER_PROFILE_RATE_BYTES";

/// Nothing is sampled.
const UNSAMPLED: [(&str, &str); 1] = [(RATE, "0")];

/// So much is that it shows; each with the stack on which it is freed, too, as a quarter have at most when nobody
/// counts.
const DENSELY: [(&str, &str); 2] =
    [(RATE, "64K"), ("SLACKWATER_PROFILE_EPOCH_SAMPLES", "4294967296")];

/// Two times, in seconds, for which a row is scraped when it is done. What both begin with is not counted.
const LINGERS: [&str; 2] = ["1", "5"];

/// Counts a row.
pub(super) fn count(counted: &Counted) -> Result<Vec<(Figure, f64)>, String> {
    let arguments = ["--scale", TIMED_SCALE, counted.row];
    let timed = counted.contender.run(counted.built, counted.bench, &arguments)?;
    let timed: Line = timed.parse()?;
    let samples = timed.told.map_or(0, |told| told.samples) as f64 / timed.operations as f64;
    let seconds = timed.ns / 1e9;

    let [first, second] = counted.two_sizes(&UNSAMPLED)?;
    let mut figures = difference(&first, &second);
    let paths = figures[0].1;
    let [first, second] = counted.two_sizes(&DENSELY)?;
    let operations = (second.operations - first.operations) as f64;
    let sampled = (second.samples as f64 - first.samples as f64) / operations;
    let dense = difference(&first, &second)[0].1;
    let of_samples = if sampled > 0.0 { (dense - paths) / sampled * samples } else { 0.0 };
    let of_scrapes = SECOND.get_or_init(|| instructions_of_a_second(counted)).clone()? * seconds;

    figures[0].1 = paths + of_samples + of_scrapes;
    figures.extend([
        (Figure::PathInstructions, paths),
        (Figure::SampleInstructions, of_samples),
        (Figure::ScrapeInstructions, of_scrapes),
    ]);
    Ok(figures)
}

/// What a scrape takes, and what is traced in the second that it is for. Counted once, beside a row that takes the same
/// number of instructions each time.
static SECOND: OnceLock<Result<f64, String>> = OnceLock::new();

fn instructions_of_a_second(counted: &Counted) -> Result<f64, String> {
    let counted = &Counted { bench: "pair", row: "pair_64", ..*counted };
    let mut runs = Vec::new();
    for linger in LINGERS {
        let mut command = counted.smallest(&UNSAMPLED)?;
        command.env(watched::LINGER, linger);
        let watcher = Watcher::start(&mut command).map_err(|error| format!("scrapes: {error}"))?;
        let run = run(counted, &mut command);
        runs.push((watcher.stop() as f64, run?.instructions as f64));
    }
    let [(few, less), (many, more)] = runs[..] else { unreachable!("two runs") };
    if many <= few {
        return Err(format!("{}: nobody answers scrapes", counted.row));
    }
    Ok((more - less) / (many - few))
}
