//! Runs a bench under every allocator, interleaved, and prints the medians as a Markdown table.
//!
//! `scripts/bench` builds what this needs and starts it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::{Command, ExitCode, Stdio};

use slackwater_benches::allocator::NAMES;
use slackwater_benches::comparison::{Options, exit_code};
use slackwater_benches::contender::{Contender, builds};
use slackwater_benches::cores;
use slackwater_benches::rows::{Line, positive};
use slackwater_benches::table::{median, three_digits};

const USAGE: &str = "usage: scripts/bench pair|threads [--rounds N] [--scale F] \
                     [--allocators NAME,…] [ROW…], or scripts/bench burst_idle|busy …";

/// The product, set against all the others.
const OURS: &str = "slackwater";

/// The peer that is to be beaten in every row.
const REFERENCE: &str = "mimalloc";

fn main() -> ExitCode {
    let plan = Plan::from_arguments(std::env::args().skip(1));
    exit_code(plan.and_then(|plan| plan.carry_out()).map(|()| true))
}

/// The benches there are: what their tables show.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bench {
    Pair,
    Threads,
}

impl Bench {
    fn binary(self) -> &'static str {
        match self {
            Bench::Pair => "pair",
            Bench::Threads => "threads",
        }
    }
}

struct Plan {
    bench: Bench,
    options: Options,
    scale: f64,
    allocators: Vec<&'static Contender>,
    rows: Vec<String>,
}

impl Plan {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut bench = None;
        let mut plan = Plan {
            bench: Bench::Pair,
            options: Options::default(),
            scale: 1.0,
            allocators: Contender::all_named(NAMES)?,
            rows: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                _ if plan.options.take(&argument, &mut arguments)? => {}
                "--scale" => plan.scale = positive(&argument, arguments.next())?,
                "--allocators" => {
                    let names = arguments.next().ok_or("--allocators needs names")?;
                    plan.allocators = Contender::all_named(names.split(','))?;
                }
                flag if flag.starts_with('-') => {
                    return Err(format!("unknown flag: {flag}; {USAGE}"));
                }
                _ if bench.is_some() => plan.rows.push(argument),
                "pair" => bench = Some(Bench::Pair),
                "threads" => bench = Some(Bench::Threads),
                other => return Err(format!("unknown bench: {other}; {USAGE}")),
            }
        }
        plan.bench = bench.ok_or(USAGE)?;
        Ok(plan)
    }

    fn carry_out(mut self) -> Result<(), String> {
        // The system's build is there before all others: it is the one that this program is from.
        let program = self.options.built.join("system").join("release").join(self.bench.binary());
        let list = Command::new(&program)
            .arg("--list")
            .args(&self.rows)
            .stderr(Stdio::piped())
            .output()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        if !list.status.success() {
            return Err(String::from_utf8_lossy(&list.stderr).trim_end().to_owned());
        }
        self.rows = String::from_utf8_lossy(&list.stdout).lines().map(str::to_owned).collect();
        if self.options.only_allocators {
            println!("{}", builds(&self.allocators).join("\n"));
            return Ok(());
        }
        let figures = self.measure()?;
        print!("{}", self.report(&figures));
        Ok(())
    }

    /// Runs every row under every allocator, `rounds` times. Neighbours in time are the same row
    /// under other allocators, so that whatever else the machine does hits all alike; who comes
    /// first changes from round to round.
    fn measure(&self) -> Result<Figures, String> {
        let mut figures = Figures::default();
        for round in 0..self.options.rounds {
            eprintln!("round {} of {}", round + 1, self.options.rounds);
            for row in &self.rows {
                for turn in 0..self.allocators.len() {
                    let allocator = self.allocators[(round + turn) % self.allocators.len()];
                    let line = self.run(allocator, row)?;
                    figures.add(row, allocator.name, line.ns, line.peak_kib as f64);
                }
            }
        }
        Ok(figures)
    }

    /// Runs one row under one allocator.
    fn run(&self, allocator: &Contender, row: &str) -> Result<Line, String> {
        let scale = self.scale.to_string();
        let bench = self.bench.binary();
        allocator.run(&self.options.built, bench, &["--scale", &scale, row])?.parse()
    }

    fn report(&self, figures: &Figures) -> String {
        let cores: Vec<_> = cores::allowed().iter().map(usize::to_string).collect();
        let mut report = format!(
            "Medians of {}, interleaved; threads pinned in turn to cores {}.\n\n",
            self.options.rounds,
            cores.join(", ")
        );
        match self.bench {
            Bench::Pair => {
                self.table(&mut report, "ns per pair", |row, name| figures.ns(row, name));
            }
            Bench::Threads => {
                self.table(&mut report, "ns per pair", |row, name| figures.ns(row, name));
                report.push('\n');
                self.table(&mut report, "peak RSS, MiB", |row, name| {
                    figures.peak_kib(row, name) / 1024.0
                });
            }
        }
        report
    }

    /// One table: a line for each row, a column for each allocator, and what there is of: ours over
    /// the best peer, ours over the reference. Below 1 is better than the peer.
    fn table(&self, report: &mut String, title: &str, figure: impl Fn(&str, &str) -> f64) {
        let names: Vec<_> = self.allocators.iter().map(|one| one.name).collect();
        let ours = names.contains(&OURS);
        let peers: Vec<_> = names.iter().filter(|name| **name != OURS).collect();
        let to_best = ours && !peers.is_empty();
        let to_reference = ours && names.contains(&REFERENCE);

        let mut heads: Vec<String> = vec![title.to_owned()];
        heads.extend(names.iter().map(|name| (*name).to_owned()));
        if to_best {
            heads.push(format!("{OURS} / best peer"));
        }
        if to_reference {
            heads.push(format!("{OURS} / {REFERENCE}"));
        }
        let _ = writeln!(report, "| {} |", heads.join(" | "));
        let _ = writeln!(report, "|---|{}", "--:|".repeat(heads.len() - 1));
        for row in &self.rows {
            let mut cells = vec![row.clone()];
            cells.extend(names.iter().map(|name| three_digits(figure(row, name))));
            if to_best {
                let best = peers
                    .iter()
                    .min_by(|a, b| figure(row, a).total_cmp(&figure(row, b)))
                    .expect("there are peers");
                cells.push(format!("{:.2} ({best})", figure(row, OURS) / figure(row, best)));
            }
            if to_reference {
                cells.push(format!("{:.2}", figure(row, OURS) / figure(row, REFERENCE)));
            }
            let _ = writeln!(report, "| {} |", cells.join(" | "));
        }
    }
}

/// What was measured: for each row and allocator, the nanoseconds and the peaks of all rounds.
#[derive(Default)]
struct Figures(HashMap<(String, String), (Vec<f64>, Vec<f64>)>);

impl Figures {
    fn add(&mut self, row: &str, allocator: &str, ns: f64, peak_kib: f64) {
        let (all_ns, all_peaks) = self.0.entry((row.to_owned(), allocator.to_owned())).or_default();
        all_ns.push(ns);
        all_peaks.push(peak_kib);
    }

    fn ns(&self, row: &str, allocator: &str) -> f64 {
        median(&self.of(row, allocator).0)
    }

    fn peak_kib(&self, row: &str, allocator: &str) -> f64 {
        median(&self.of(row, allocator).1)
    }

    fn of(&self, row: &str, allocator: &str) -> &(Vec<f64>, Vec<f64>) {
        &self.0[&(row.to_owned(), allocator.to_owned())]
    }
}
