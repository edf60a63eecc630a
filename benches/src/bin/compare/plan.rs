//! What is to be compared, and the carrying out.

use std::process::Command;

use slackwater_benches::allocator::NAMES;
use slackwater_benches::comparing::contender::{
    Contender, Face, PRELOADED_NAMES, builds, installed,
};
use slackwater_benches::comparing::counting::Counted;
use slackwater_benches::comparing::measurements::{Figure, Outcome};
use slackwater_benches::comparing::options::{Files, Options, value};
use slackwater_benches::line::Line;
use slackwater_benches::rows::{positive, selected};

const USAGE: &str = "usage: scripts/bench pair|depths|calls|sizes|threads|patterns|suite [--preload] [--rounds N] \
                     [--scale F] [--processor-time] [--count|--only-count] [--csv FILE] [--plot FILE] [--allocators NAME,…] \
                     [ROW…], or scripts/bench observed|programs|burst_idle|busy …";

/// The benches that are made of rows, and which of them mean something linked; `suite` is all.
const BENCHES: [(&str, bool); 6] = [
    ("pair", true),
    ("depths", true),
    ("calls", true),
    ("sizes", false),
    ("threads", true),
    ("patterns", true),
];

/// A row of a bench.
#[derive(Clone)]
pub struct Row {
    pub bench: &'static str,
    pub name: String,
}

pub struct Plan {
    pub face: Face,
    pub options: Options,
    pub contenders: Vec<&'static Contender>,
    pub rows: Vec<Row>,
    /// Who would be compared, but is not installed: why.
    pub left_out: Vec<String>,
    /// Whether rows are run against the clock, and whether their instructions are counted.
    timed: bool,
    counted: bool,
    /// By which clock the tables go.
    clock: Figure,
    scale: f64,
    files: Files,
}

impl Plan {
    pub fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Plan {
            face: Face::Linked,
            options: Options::default(),
            contenders: Vec::new(),
            rows: Vec::new(),
            left_out: Vec::new(),
            timed: true,
            counted: false,
            clock: Figure::Ns,
            scale: 1.0,
            files: Files::default(),
        };
        let (mut names, mut words) = (None, Vec::new());
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--preload" => plan.face = Face::Preloaded,
                "--processor-time" => plan.clock = Figure::ProcessorNs,
                "--count" => plan.counted = true,
                "--only-count" => (plan.counted, plan.timed) = (true, false),
                "--allocators" => names = Some(value(&argument, &mut arguments)?),
                "--scale" => plan.scale = positive(&argument, arguments.next())?,
                _ if plan.options.take(&argument, &mut arguments)? => {}
                _ if plan.files.take(&argument, &mut arguments)? => {}
                flag if flag.starts_with('-') => {
                    return Err(format!("unknown flag: {flag}; {USAGE}"));
                }
                _ => words.push(argument),
            }
        }
        plan.choose(names.as_deref())?;
        plan.rows = listed(plan.face, &plan.options, &words)?;
        Ok(plan)
    }

    /// Takes the contenders of these names, or else the usual ones.
    fn choose(&mut self, names: Option<&str>) -> Result<(), String> {
        let usual = match self.face {
            Face::Linked => &NAMES[..],
            Face::Preloaded => &PRELOADED_NAMES[..],
        };
        self.contenders = match names {
            Some(names) => Contender::all_named(self.face, names.split(','))?,
            None => Contender::all_named(self.face, usual.iter().copied())?,
        };
        Ok(())
    }

    pub fn carry_out(mut self) -> Result<(), String> {
        if self.options.only_allocators {
            println!("{}", builds(&self.contenders).join("\n"));
            return Ok(());
        }
        (self.contenders, self.left_out) = installed(&self.contenders, &self.options.built);
        let mut outcome = Outcome::default();
        if self.counted {
            self.count(&mut outcome);
        }
        if self.timed {
            self.measure(&mut outcome);
        }
        print!("{}", self.report(&outcome));
        let (rows, contenders) = (self.row_names(), self.names());
        self.files.write(&outcome.measurements, &rows, &contenders, self.figure())
    }

    /// Runs every row under every contender, `rounds` times. Neighbours in time are the same row
    /// under other allocators, so that whatever else the machine does hits all alike; who comes
    /// first changes from round to round.
    fn measure(&self, outcome: &mut Outcome) {
        let scale = self.scale.to_string();
        for round in 0..self.options.rounds {
            eprintln!("round {} of {}", round + 1, self.options.rounds);
            for row in &self.rows {
                for turn in 0..self.contenders.len() {
                    let contender = self.contenders[(round + turn) % self.contenders.len()];
                    let arguments = ["--scale", &scale, &row.name];
                    let line = contender.run(&self.options.built, row.bench, &arguments);
                    let figures = line.and_then(|line| line.parse::<Line>()).map(|line| {
                        vec![
                            (Figure::Ns, line.ns),
                            (Figure::ProcessorNs, line.processor_ns),
                            (Figure::PeakMib, line.peak_kib as f64 / 1024.0),
                        ]
                    });
                    outcome.add(&row.name, contender.name, round + 1, figures);
                }
            }
        }
    }

    /// Counts every row under every contender, once: it repeats, but for threads that wait.
    fn count(&self, outcome: &mut Outcome) {
        for row in &self.rows {
            eprintln!("counting {}", row.name);
            for contender in &self.contenders {
                let built = &self.options.built;
                let counted = Counted { contender, built, bench: row.bench, row: &row.name };
                outcome.add(&row.name, contender.name, 1, counted.count());
            }
        }
    }

    /// The figure that comes first in the tables.
    pub fn figure(&self) -> Figure {
        if self.timed { self.clock } else { Figure::Instructions }
    }
}

/// The rows that `words` mean: a bench, and rows or families of it, or else all.
fn listed(face: Face, options: &Options, words: &[String]) -> Result<Vec<Row>, String> {
    let [bench, names @ ..] = words else { return Err(USAGE.to_owned()) };
    let benches = BENCHES.into_iter().filter(|(known, _)| bench == "suite" || known == bench);
    let benches: Vec<_> = benches
        .filter(|(_, linked)| *linked || face == Face::Preloaded)
        .map(|(known, _)| known)
        .collect();
    if benches.is_empty() {
        return Err(format!("unknown bench: {bench}; {USAGE}"));
    }
    let mut rows = Vec::new();
    for bench in benches {
        rows.extend(rows_of(options, bench)?.into_iter().map(|name| Row { bench, name }));
    }
    Ok(selected(&rows, |row| &row.name, names)?.into_iter().cloned().collect())
}

/// The names of a bench's rows, as the bench says them. The system's build is there before all
/// others: it is the one that this program is from.
fn rows_of(options: &Options, bench: &str) -> Result<Vec<String>, String> {
    let program = options.built.join("system").join("release").join(bench);
    let list = Command::new(&program).arg("--list").output();
    let list = list.map_err(|error| format!("{}: {error}", program.display()))?;
    if !list.status.success() {
        return Err(format!("{} --list: {}", program.display(), list.status));
    }
    Ok(String::from_utf8_lossy(&list.stdout).lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> String {
        let plan = Plan::from_arguments(line.split_whitespace().map(str::to_owned));
        plan.err().expect("it is refused")
    }

    #[test]
    fn bad_arguments_are_refused_before_anything_is_built() {
        assert!(refusal("").starts_with("usage: "));
        assert!(refusal("pair --fast").starts_with("unknown flag: --fast"));
        assert!(refusal("pair --rounds 0").starts_with("--rounds needs a positive number"));
        assert!(refusal("pair --csv").starts_with("--csv needs"));
        assert!(refusal("triple").starts_with("unknown bench: triple"));
        // Linked, nobody but the system's has the call.
        assert!(refusal("sizes").starts_with("unknown bench: sizes"));
        assert!(refusal("pair --allocators gperftools").starts_with("unknown allocator"));
        assert!(refusal("pair --preload --allocators tcmalloc").starts_with("unknown allocator"));
    }
}
