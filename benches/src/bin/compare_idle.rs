//! Runs `burst_idle` under every allocator and setting, interleaved, and prints the medians as
//! Markdown tables, with a verdict on slackwater.
//!
//! `scripts/bench burst_idle` builds what this needs and starts it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use slackwater_benches::burst::Shape;
use slackwater_benches::comparing::contender::{Contender, Face, builds};
use slackwater_benches::comparing::options::{Options, exit_code};
use slackwater_benches::comparing::statistics::{median, three_digits};

const USAGE: &str = "usage: scripts/bench burst_idle [--rounds N] [--full] [--check] \
                     [--allocators NAME,…] [the ten arguments of burst_idle]";

/// What is measured without arguments. Where a block is half a MiB on average there are fewer, so
/// that the peak is about 1 GiB: 200,000 would need 100 GiB.
const ROWS: [&str; 7] = [
    "200000 10 3 0 4 256 4096 1 100 1",
    "200000 10 3 0 4 16 2048 1 100 1",
    "200000 10 3 0 4 4096 32768 1 100 1",
    "2000 10 3 0 4 32768 1048576 1 100 1",
    "200000 10 3 20 4 256 4096 1 100 1",
    "200000 10 3 20 4 16 2048 1 100 1",
    "200000 10 3 20 4 4096 32768 1 100 1",
];

/// Idle seconds and cycles of [`ROWS`] unless they are wanted in full: the last figure that is
/// judged is that of one second.
const SHORT: (u64, usize) = (4, 2);

/// Who is compared, if nobody is chosen.
const CONTENDERS: [&str; 7] =
    [OURS, "system", "jemalloc", "jemalloc-background", "mimalloc", "mimalloc-delay-0", "tcmalloc"];

/// The product: the one that is judged.
const OURS: &str = "slackwater";

fn main() -> ExitCode {
    exit_code(Plan::from_arguments(std::env::args().skip(1)).and_then(|plan| plan.carry_out()))
}

struct Plan {
    options: Options,
    /// A failed check is a failure of this program.
    check: bool,
    contenders: Vec<&'static Contender>,
    shapes: Vec<Shape>,
}

impl Plan {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Plan {
            options: Options::default(),
            check: false,
            contenders: Contender::all_named(Face::Linked, CONTENDERS)?,
            shapes: Vec::new(),
        };
        let mut full = false;
        let mut numbers = Vec::new();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                _ if plan.options.take(&argument, &mut arguments)? => {}
                "--full" => full = true,
                "--check" => plan.check = true,
                "--allocators" => {
                    let names = arguments.next().ok_or("--allocators needs names")?;
                    plan.contenders = Contender::all_named(Face::Linked, names.split(','))?;
                }
                flag if flag.starts_with("--") => {
                    return Err(format!("unknown flag: {flag}; {USAGE}"));
                }
                _ => numbers.push(argument),
            }
        }
        if numbers.is_empty() {
            plan.shapes = ROWS.into_iter().map(|row| row_shape(row, full)).collect();
        } else {
            plan.shapes = vec![Shape::parse(&numbers)?];
        }
        Ok(plan)
    }

    /// Whether all went well that was to be checked.
    fn carry_out(&self) -> Result<bool, String> {
        if self.options.only_allocators {
            println!("{}", builds(&self.contenders).join("\n"));
            return Ok(true);
        }
        let runs = self.measure()?;
        print!("{}", self.comparison(&runs));
        let (verdict, passed) = self.verdict(&runs);
        print!("{verdict}");
        Ok(passed || !self.check)
    }

    /// Runs every shape under every contender, `rounds` times. Neighbours in time are the same
    /// shape under other allocators; who comes first changes from round to round.
    fn measure(&self) -> Result<Runs, String> {
        let mut runs = Runs::default();
        for round in 0..self.options.rounds {
            for (row, shape) in self.shapes.iter().enumerate() {
                eprintln!("round {} of {}: {shape}", round + 1, self.options.rounds);
                for turn in 0..self.contenders.len() {
                    let contender = self.contenders[(round + turn) % self.contenders.len()];
                    let run = self.run(contender, shape)?;
                    runs.0.entry((row, contender.name)).or_default().push(run);
                }
            }
        }
        Ok(runs)
    }

    fn run(&self, contender: &Contender, shape: &Shape) -> Result<Run, String> {
        let shape = shape.to_string();
        let mut arguments: Vec<_> = shape.split(' ').collect();
        arguments.push("--line");
        let lines = contender.run(&self.options.built, "burst_idle", &arguments)?;
        Run::from_lines(&lines)
            .map_err(|missing| format!("{shape} under {}: no {missing}", contender.name))
    }

    /// What each allocator has left.
    fn comparison(&self, runs: &Runs) -> String {
        let mut text = format!(
            "Medians of {}, interleaved. Percent of the peak above the base, the worst cycle of \
             each run; floor: the pages under kept blocks.\n\n\
             | burst_idle | allocator | peak, MiB | floor, % | +300 ms, % | +1 s, % | k ops/s |\n\
             |---|---|--:|--:|--:|--:|--:|\n",
            self.options.rounds
        );
        for (row, shape) in self.shapes.iter().enumerate() {
            for contender in &self.contenders {
                let figure = |of: fn(&Run) -> f64| runs.median(row, contender.name, of);
                let _ = writeln!(
                    text,
                    "| {shape} | {} | {:.0} | {:.1} | {:.1} | {:.1} | {} |",
                    contender.name,
                    figure(|run| run.peak_bytes) / (1 << 20) as f64,
                    figure(|run| run.floor_percent),
                    figure(|run| run.left_300_percent),
                    figure(|run| run.left_1000_percent),
                    three_digits(figure(|run| run.thousand_operations_per_second)),
                );
            }
        }
        text
    }

    /// Whether slackwater does what it is to do, and the table that says so; nothing is said where
    /// it was not measured.
    fn verdict(&self, runs: &Runs) -> (String, bool) {
        if !self.contenders.iter().any(|contender| contender.name == OURS) {
            return (String::new(), true);
        }
        let mut text =
            "\n| burst_idle | slackwater is to have | it has | |\n|---|---|--:|---|\n".to_owned();
        let mut all_passed = true;
        for (row, shape) in self.shapes.iter().enumerate() {
            for check in checks(shape) {
                let measured = runs.median(row, OURS, check.figure);
                let passed = check.limit.admits(measured);
                all_passed &= passed;
                let _ = writeln!(
                    text,
                    "| {shape} | {}: {} {} | {} | {} |",
                    check.name,
                    check.limit.words(),
                    check.unit,
                    // Where nothing was purged, or nothing fell, there is no quotient.
                    if measured.is_nan() { "-".to_owned() } else { format!("{measured:.2}") },
                    if passed { "PASS" } else { "FAIL" },
                );
            }
        }
        (text, all_passed)
    }
}

/// One of [`ROWS`].
fn row_shape(row: &str, full: bool) -> Shape {
    let shape = Shape::parse(&row.split(' ').collect::<Vec<_>>()).expect("rows are well formed");
    if full {
        return shape;
    }
    Shape { idle_seconds: SHORT.0, cycles: SHORT.1, ..shape }
}

/// What one run showed. Of its cycles each figure is that of the worst; one that cannot be known is
/// no number, and passes no check.
#[derive(Clone, Copy, Debug)]
struct Run {
    peak_bytes: f64,
    /// Percent of the peak above the base.
    floor_percent: f64,
    left_300_percent: f64,
    left_1000_percent: f64,
    /// RSS beyond the floor, in percent of the peak.
    over_floor_300_percent: f64,
    over_floor_1000_percent: f64,
    /// RSS over the floor.
    of_floor_1000: f64,
    thousand_operations_per_second: f64,
    purged_of_fall_percent: f64,
    pages_per_call: f64,
    dropped: f64,
}

impl Run {
    /// Reads what `burst_idle --line` printed; the error is the name of what is missing.
    fn from_lines(text: &str) -> Result<Self, String> {
        let (mut cycles, mut all) = (Vec::new(), Fields::default());
        for line in text.lines() {
            match line.split_once('\t') {
                Some(("cycle", fields)) => cycles.push(Fields::parse(fields)),
                Some(("all", fields)) => all = Fields::parse(fields),
                _ => return Err(format!("meaning in {line:?}")),
            }
        }
        let base = all.get("base_bytes")?;
        let worst = |figure: &dyn Fn(&Fields) -> Result<f64, String>| {
            let mut worst = f64::NEG_INFINITY;
            for cycle in &cycles {
                worst = worst.max(figure(cycle)?);
            }
            Ok::<f64, String>(worst)
        };
        let above_base_percent = |name: &'static str| {
            worst(
                &|cycle| Ok((cycle.get(name)? - base) / (cycle.get("peak_bytes")? - base) * 100.0),
            )
        };
        let over_floor_percent = |name: &'static str| {
            worst(&|cycle| {
                let over = cycle.get(name)? - cycle.get("floor_bytes")?;
                Ok(over / cycle.get("peak_bytes")? * 100.0)
            })
        };
        // Only slackwater tells.
        let known = |name| all.get(name).unwrap_or(f64::NAN);
        // No number where it is divided by what is not there.
        let over = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { f64::NAN };
        Ok(Run {
            peak_bytes: worst(&|cycle| cycle.get("peak_bytes"))?,
            floor_percent: above_base_percent("floor_bytes")?,
            left_300_percent: above_base_percent("rss_300ms_bytes")?,
            left_1000_percent: above_base_percent("rss_1000ms_bytes")?,
            over_floor_300_percent: over_floor_percent("rss_300ms_bytes")?,
            over_floor_1000_percent: over_floor_percent("rss_1000ms_bytes")?,
            of_floor_1000: worst(&|cycle| {
                Ok(cycle.get("rss_1000ms_bytes")? / cycle.get("floor_bytes")?)
            })?,
            thousand_operations_per_second: all.get("operations")?
                / all.get("burst_seconds")?
                / 1e3,
            purged_of_fall_percent: over(known("purged_in_fall_bytes"), all.get("fall_bytes")?)
                * 100.0,
            pages_per_call: over(known("purged_pages"), known("madvise_calls")),
            dropped: known("dropped"),
        })
    }
}

/// Names and numbers of one line.
#[derive(Default)]
struct Fields<'a>(HashMap<&'a str, f64>);

impl<'a> Fields<'a> {
    fn parse(line: &'a str) -> Self {
        let pairs = line.split('\t').filter_map(|field| field.split_once('='));
        Fields(pairs.filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect())
    }

    fn get(&self, name: &str) -> Result<f64, String> {
        self.0.get(name).copied().ok_or_else(|| name.to_owned())
    }
}

/// The runs of all rounds, by the index of the shape and the contender's name.
#[derive(Default)]
struct Runs(HashMap<(usize, &'static str), Vec<Run>>);

impl Runs {
    fn median(&self, row: usize, contender: &'static str, figure: impl Fn(&Run) -> f64) -> f64 {
        median(&self.0[&(row, contender)].iter().map(figure).collect::<Vec<_>>())
    }
}

/// One thing that slackwater is to do.
struct Check {
    name: &'static str,
    unit: &'static str,
    figure: fn(&Run) -> f64,
    limit: Limit,
}

enum Limit {
    AtMost(f64),
    AtLeast(f64),
    Between(f64, f64),
}

impl Limit {
    /// What is not a number, no limit admits.
    fn admits(&self, figure: f64) -> bool {
        match *self {
            Limit::AtMost(most) => figure <= most,
            Limit::AtLeast(least) => figure >= least,
            Limit::Between(least, most) => (least..=most).contains(&figure),
        }
    }

    fn words(&self) -> String {
        match self {
            Limit::AtMost(most) => format!("≤ {most}"),
            Limit::AtLeast(least) => format!("≥ {least}"),
            Limit::Between(least, most) => format!("{least} to {most}"),
        }
    }
}

/// What slackwater is to do under a shape. Where nothing is kept, the floor is next to nothing and
/// the peak is the measure; else the floor is.
fn checks(shape: &Shape) -> Vec<Check> {
    let mut checks = if shape.keep_percent == 0 {
        vec![
            Check {
                name: "over the floor at +300 ms",
                unit: "% of the peak",
                figure: |run| run.over_floor_300_percent,
                limit: Limit::AtMost(10.0),
            },
            Check {
                name: "over the floor at +1 s",
                unit: "% of the peak",
                figure: |run| run.over_floor_1000_percent,
                limit: Limit::AtMost(2.0),
            },
        ]
    } else {
        vec![Check {
            name: "RSS at +1 s",
            unit: "of the floor",
            figure: |run| run.of_floor_1000,
            limit: Limit::AtMost(1.1),
        }]
    };
    checks.extend([
        Check {
            name: "purged",
            unit: "% of the fall of RSS",
            figure: |run| run.purged_of_fall_percent,
            limit: Limit::Between(95.0, 105.0),
        },
        Check {
            name: "purged by a call",
            unit: "pages",
            figure: |run| run.pages_per_call,
            limit: Limit::AtLeast(32.0),
        },
        Check {
            name: "dropped",
            unit: "pages",
            figure: |run| run.dropped,
            limit: Limit::AtMost(0.0),
        },
    ]);
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "cycle\tpeak_bytes=1100\tfloor_bytes=200\trss_300ms_bytes=310\t\
                         rss_1000ms_bytes=210\n\
                         cycle\tpeak_bytes=1000\tfloor_bytes=200\trss_300ms_bytes=300\t\
                         rss_1000ms_bytes=220\n\
                         all\tbase_bytes=100\toperations=4000000\tburst_seconds=2\tfall_bytes=1600\
                         \tpurged_in_fall_bytes=1600\tpurged_pages=640\tmadvise_calls=10\tdropped=0\n";

    fn failed(shape: &str, lines: &str) -> Vec<&'static str> {
        let run = Run::from_lines(lines).unwrap();
        checks(&row_shape(shape, true))
            .into_iter()
            .filter(|check| !check.limit.admits((check.figure)(&run)))
            .map(|check| check.name)
            .collect()
    }

    #[test]
    fn a_run_is_as_good_as_its_worst_cycle() {
        let run = Run::from_lines(LINES).unwrap();
        assert_eq!(run.peak_bytes, 1100.0);
        assert_eq!(run.over_floor_300_percent, 10.0);
        assert_eq!(run.over_floor_1000_percent, 2.0);
        assert_eq!(run.of_floor_1000, 1.1);
        assert_eq!(run.left_300_percent, 200.0 / 900.0 * 100.0);
        assert_eq!(run.thousand_operations_per_second, 2000.0);
        assert_eq!(run.pages_per_call, 64.0);
    }

    #[test]
    fn a_run_at_the_limits_passes_and_one_beyond_fails() {
        assert!(failed(ROWS[0], LINES).is_empty());
        assert!(failed(ROWS[4], LINES).is_empty());
        let later = LINES.replace("rss_1000ms_bytes=220", "rss_1000ms_bytes=221");
        assert_eq!(failed(ROWS[0], &later), ["over the floor at +1 s"]);
        assert_eq!(failed(ROWS[4], &later), ["RSS at +1 s"]);
        let dropped = LINES.replace("dropped=0", "dropped=1");
        assert_eq!(failed(ROWS[0], &dropped), ["dropped"]);
    }

    #[test]
    fn where_nothing_fell_and_no_call_was_made_it_fails() {
        let idle = LINES
            .replace("fall_bytes=1600", "fall_bytes=0")
            .replace("purged_pages=640\tmadvise_calls=10", "purged_pages=0\tmadvise_calls=0");
        assert_eq!(failed(ROWS[0], &idle), ["purged", "purged by a call"]);
    }

    #[test]
    fn arguments_choose_the_shape_or_all_rows() {
        let plan = |line: &str| Plan::from_arguments(line.split_whitespace().map(str::to_owned));
        assert_eq!(plan("").unwrap().shapes.len(), ROWS.len());
        assert_eq!(plan("").unwrap().shapes[0].to_string(), "200000 4 2 0 4 256 4096 1 100 1");
        assert_eq!(plan("--full").unwrap().shapes[0].to_string(), ROWS[0]);
        let one = plan("--rounds 2 9 1 1 0 1 1 2 1 100 0").unwrap();
        assert_eq!((one.options.rounds, one.shapes.len()), (2, 1));
        assert!(plan("--fast").is_err_and(|error| error.starts_with("unknown flag: --fast")));
        assert!(plan("9").is_err_and(|error| error.starts_with("IDLE_SECONDS is missing")));
        assert!(plan("--allocators dlmalloc").is_err_and(|error| error.contains("system")));
    }
}
