//! Runs busy rows of other benches with release on and off, interleaved, and prints the medians as a
//! Markdown table, with a verdict: a program that never rests is not to pay for release.
//!
//! `scripts/bench busy` builds what this needs and starts it. slackwater's other settings are those
//! of the environment, the same on both sides.

use std::fmt::Write as _;
use std::process::ExitCode;

use slackwater_benches::comparing::contender::{Contender, Face, builds};
use slackwater_benches::comparing::options::{Options, exit_code};
use slackwater_benches::comparing::statistics::{median, three_digits};
use slackwater_benches::line::{Line, Told};
use slackwater_benches::rows::{positive, selected};

const USAGE: &str = "usage: scripts/bench busy [--rounds N] [--scale F] [--check] [ROW…]";

/// A row of another bench.
#[derive(Debug)]
struct Row {
    bench: &'static str,
    name: &'static str,
    /// How much longer it is here. By itself mstress ends before a busy tick gives back its first
    /// page, which has to be free for half a second.
    times: f64,
}

/// None of these rests.
static ROWS: [Row; 8] = [
    Row { bench: "pair", name: "random_400", times: 1.0 },
    Row { bench: "pair", name: "random_400_medium", times: 1.0 },
    Row { bench: "pair", name: "random_400_all", times: 1.0 },
    Row { bench: "threads", name: "larson_8", times: 8.0 },
    Row { bench: "threads", name: "xmalloc_8", times: 8.0 },
    Row { bench: "threads", name: "mstress_8", times: 8.0 },
    Row { bench: "pair", name: "remote_mixed", times: 2.0 },
    Row { bench: "pair", name: "swap_1000_mixed", times: 4.0 },
];

/// Who is compared.
const ON_OFF: [&str; 2] = ["slackwater-release-on", "slackwater-release-off"];

/// What is left of the throughput, at least.
const LEAST_THROUGHPUT: f64 = 0.99;

/// Percent of the purged pages that are wanted again, at most; and how many pages a row must have
/// purged for that to be judged.
const MOST_REFAULTED_PERCENT: f64 = 5.0;
const JUDGED_PAGES: f64 = 1000.0;

fn main() -> ExitCode {
    exit_code(Plan::from_arguments(std::env::args().skip(1)).and_then(|plan| plan.carry_out()))
}

#[derive(Debug)]
struct Plan {
    options: Options,
    scale: f64,
    /// A failed check is a failure of this program.
    check: bool,
    rows: Vec<&'static Row>,
}

impl Plan {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan =
            Plan { options: Options::default(), scale: 1.0, check: false, rows: Vec::new() };
        let mut names = Vec::new();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                _ if plan.options.take(&argument, &mut arguments)? => {}
                "--scale" => plan.scale = positive(&argument, arguments.next())?,
                "--check" => plan.check = true,
                flag if flag.starts_with('-') => {
                    return Err(format!("unknown flag: {flag}; {USAGE}"));
                }
                _ => names.push(argument),
            }
        }
        plan.rows = selected(&ROWS, |row| row.name, &names)?;
        Ok(plan)
    }

    /// Whether all went well that was to be checked.
    fn carry_out(&self) -> Result<bool, String> {
        let on_off = Contender::all_named(Face::Linked, ON_OFF)?;
        if self.options.only_allocators {
            println!("{}", builds(&on_off).join("\n"));
            return Ok(true);
        }
        let medians: Vec<_> = self.measure(&on_off)?.iter().map(Medians::of).collect();
        print!("{}", self.report(&medians));
        Ok(!self.check || medians.iter().all(|row| row.misses().is_empty()))
    }

    /// Runs every row with release on and off, `rounds` times: what they printed, by row, then in
    /// the order of [`ON_OFF`]. Neighbours in time are the two of one row; who comes first changes
    /// from round to round.
    fn measure(&self, on_off: &[&'static Contender]) -> Result<Vec<[Vec<Line>; 2]>, String> {
        let mut lines: Vec<_> = self.rows.iter().map(|_| [Vec::new(), Vec::new()]).collect();
        for round in 0..self.options.rounds {
            eprintln!("round {} of {}", round + 1, self.options.rounds);
            for (row, lines) in self.rows.iter().zip(&mut lines) {
                let scale = (self.scale * row.times).to_string();
                for turn in 0..on_off.len() {
                    let side = (round + turn) % on_off.len();
                    let arguments = ["--scale", &scale, row.name];
                    let line = on_off[side].run(&self.options.built, row.bench, &arguments)?;
                    lines[side].push(line.parse()?);
                }
            }
        }
        Ok(lines)
    }

    fn report(&self, medians: &[Medians]) -> String {
        let mut report = format!(
            "Medians of {}, interleaved. To have: on/off ≥ {LEAST_THROUGHPUT}; refaulted ≤ \
             {MOST_REFAULTED_PERCENT}% of {JUDGED_PAGES} purged pages or more.\n\n\
             | ns per pair | release on | off | throughput on/off | purged, pages | refaulted, pages \
             | % of purged | |\n\
             |---|--:|--:|--:|--:|--:|--:|---|\n",
            self.options.rounds
        );
        for (row, medians) in self.rows.iter().zip(medians) {
            let percent = match medians.refaulted_percent() {
                Some(percent) => format!("{percent:.1}"),
                None => "-".to_owned(),
            };
            let misses = medians.misses();
            let verdict = if misses.is_empty() {
                "PASS".to_owned()
            } else {
                format!("FAIL ({})", misses.join(", "))
            };
            let _ = writeln!(
                report,
                "| {} | {} | {} | {:.3} | {:.0} | {:.0} | {percent} | {verdict} |",
                row.name,
                three_digits(medians.on_ns),
                three_digits(medians.off_ns),
                medians.throughput(),
                medians.purged_pages,
                medians.refault_pages,
            );
        }
        report
    }
}

/// What all rounds of a row showed. The pages are those with release on.
#[derive(Clone, Copy, Debug)]
struct Medians {
    on_ns: f64,
    off_ns: f64,
    purged_pages: f64,
    refault_pages: f64,
}

impl Medians {
    fn of([on, off]: &[Vec<Line>; 2]) -> Self {
        let of = |lines: &[Line], figure: fn(&Line) -> f64| {
            median(&lines.iter().map(figure).collect::<Vec<_>>())
        };
        Medians {
            on_ns: of(on, |line| line.ns),
            off_ns: of(off, |line| line.ns),
            purged_pages: of(on, |line| told(line).purged_pages as f64),
            refault_pages: of(on, |line| told(line).refault_pages as f64),
        }
    }

    /// With release on, as a part of that with release off.
    fn throughput(&self) -> f64 {
        self.off_ns / self.on_ns
    }

    fn refaulted_percent(&self) -> Option<f64> {
        (self.purged_pages > 0.0).then(|| self.refault_pages / self.purged_pages * 100.0)
    }

    /// The names of the targets that are missed.
    fn misses(&self) -> Vec<&'static str> {
        let mut misses = Vec::new();
        if self.throughput() < LEAST_THROUGHPUT {
            misses.push("throughput");
        }
        if self.purged_pages >= JUDGED_PAGES
            && self.refaulted_percent() > Some(MOST_REFAULTED_PERCENT)
        {
            misses.push("refaults");
        }
        misses
    }
}

/// slackwater tells.
fn told(line: &Line) -> Told {
    line.told.expect("slackwater's build says what it has released")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Medians =
        Medians { on_ns: 10.0, off_ns: 9.9, purged_pages: 1000.0, refault_pages: 50.0 };

    fn plan(line: &str) -> Result<Plan, String> {
        Plan::from_arguments(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_row_at_the_limits_passes_and_one_beyond_fails() {
        assert!(GOOD.misses().is_empty());
        assert_eq!(Medians { off_ns: 9.89, ..GOOD }.misses(), ["throughput"]);
        let refaulting = Medians { refault_pages: 51.0, ..GOOD };
        assert_eq!(refaulting.misses(), ["refaults"]);
        assert!(Medians { purged_pages: 999.0, ..refaulting }.misses().is_empty());
    }

    #[test]
    fn nothing_purged_has_no_percentage_and_passes() {
        let nothing = Medians { purged_pages: 0.0, refault_pages: 0.0, ..GOOD };
        assert_eq!(nothing.refaulted_percent(), None);
        assert!(nothing.misses().is_empty());
        assert!(
            plan("larson_8")
                .unwrap()
                .report(&[nothing])
                .ends_with("| larson_8 | 10.0 | 9.90 | 0.990 | 0 | 0 | - | PASS |\n")
        );
    }

    #[test]
    fn the_pages_are_those_of_release_on() {
        let line = |ns: f64, pages: u64| {
            format!("row\t1\t{ns}\t{ns}\t4096\t{pages}\t{}\t0\t0\t0\t0", pages / 10)
                .parse::<Line>()
                .unwrap()
        };
        let on = vec![line(3.0, 30), line(1.0, 10), line(2.0, 20)];
        let off = vec![line(6.0, 0), line(4.0, 0), line(5.0, 0)];
        let medians = Medians::of(&[on, off]);
        assert_eq!((medians.on_ns, medians.off_ns), (2.0, 5.0));
        assert_eq!((medians.purged_pages, medians.refault_pages), (20.0, 2.0));
        assert_eq!(medians.throughput(), 2.5);
    }

    #[test]
    fn arguments_choose_the_rows() {
        let names = |line| plan(line).unwrap().rows.iter().map(|row| row.name).collect::<Vec<_>>();
        assert_eq!(names("").len(), ROWS.len());
        assert_eq!(names("random_400"), ["random_400"]);
        assert_eq!(names("random mstress --rounds 2").len(), 4);
        assert!(plan("--check").unwrap().check);
        assert!(plan("--fast").is_err_and(|error| error.starts_with("unknown flag: --fast")));
        assert!(plan("pair_64").is_err_and(|error| error.starts_with("unknown row: pair_64")));
    }
}
