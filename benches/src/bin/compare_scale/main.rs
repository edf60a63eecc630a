//! Counts what threads have to do with each other as there are more of them: under slackwater by line of source, under
//! its peers as a whole. And says what a model makes of it.
//!
//! `scripts/bench scale` builds what this needs and starts it.

mod report;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use slackwater_benches::comparing::contender::{
    Contender, Face, PRELOADED_NAMES, builds, installed,
};
use slackwater_benches::comparing::counting::missing;
use slackwater_benches::comparing::options::{Options, exit_code, value};
use slackwater_benches::comparing::table::OURS;
use slackwater_benches::rows::selected;
use slackwater_benches::scaling::counts::Counts;
use slackwater_benches::scaling::{TOOLS, count_ours, count_preloaded};

const USAGE: &str =
    "usage: scripts/bench scale [--threads N,…] [--csv FILE] [--allocators NAME,…] [LOAD…]";

/// The bench, and the build of it whose lines are known.
const BENCH: &str = "scale";
const LINES: &str = "lines";

fn main() -> ExitCode {
    let plan = Plan::from_arguments(std::env::args().skip(1));
    exit_code(plan.and_then(Plan::carry_out).map(|()| true))
}

/// A row of the bench: a load with a number of threads.
#[derive(Clone)]
struct Row {
    name: String,
    load: String,
    threads: u32,
}

struct Plan {
    options: Options,
    csv: Option<PathBuf>,
    /// All but ourselves.
    peers: Vec<&'static Contender>,
    left_out: Vec<String>,
    /// Of how many threads; of any if there are none.
    threads: Vec<u32>,
    loads: Vec<String>,
}

/// What was counted of a row.
struct Counted {
    row: Row,
    ours: Counts,
    /// Of each peer, in their order, all its locked instructions; none if that failed.
    peers: Vec<Option<f64>>,
}

impl Plan {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Plan {
            options: Options::default(),
            csv: None,
            peers: Contender::all_named(Face::Preloaded, PRELOADED_NAMES)?,
            left_out: Vec::new(),
            threads: Vec::new(),
            loads: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--allocators" => {
                    let names = value(&argument, &mut arguments)?;
                    plan.peers = Contender::all_named(Face::Preloaded, names.split(','))?;
                }
                "--threads" => plan.threads = threads(&value(&argument, &mut arguments)?)?,
                "--csv" => plan.csv = Some(value(&argument, &mut arguments)?.into()),
                _ if plan.options.take(&argument, &mut arguments)? => {}
                flag if flag.starts_with('-') => {
                    return Err(format!("unknown flag: {flag}; {USAGE}"));
                }
                _ => plan.loads.push(argument),
            }
        }
        plan.peers.retain(|contender| !contender.name.starts_with(OURS));
        Ok(plan)
    }

    fn carry_out(mut self) -> Result<(), String> {
        if self.options.only_allocators {
            println!("{LINES}\n{}", builds(&self.peers).join("\n"));
            return Ok(());
        }
        if let Some(tool) = missing(&TOOLS) {
            return Err(format!("{tool} is not installed"));
        }
        (self.peers, self.left_out) = installed(&self.peers, &self.options.built);
        let (mut counted, mut failures) = (Vec::new(), Vec::new());
        for row in self.rows()? {
            eprintln!("counting {}", row.name);
            counted.push(self.count(row, &mut failures)?);
        }
        print!("{}", self.report(&counted, &failures));
        match &self.csv {
            Some(csv) => std::fs::write(csv, self.csv_of(&counted))
                .map_err(|error| format!("{}: {error}", csv.display())),
            None => Ok(()),
        }
    }

    fn program(&self, build: &str) -> PathBuf {
        let built = &self.options.built;
        // As callgrind names it.
        let built = built.canonicalize().unwrap_or_else(|_| built.clone());
        built.join(build).join("release").join(BENCH)
    }

    /// The rows that were asked for, those of a load side by side.
    fn rows(&self) -> Result<Vec<Row>, String> {
        let program = self.program(LINES);
        let list = Command::new(&program).arg("--list").output();
        let list = list.map_err(|error| format!("{}: {error}", program.display()))?;
        let text = String::from_utf8_lossy(&list.stdout);
        let rows: Vec<Row> = text.lines().filter_map(row).collect();
        let mut rows: Vec<Row> =
            selected(&rows, |row| &row.name, &self.loads)?.into_iter().cloned().collect();
        rows.retain(|row| self.threads.is_empty() || self.threads.contains(&row.threads));
        let mut loads: Vec<String> = Vec::new();
        for row in &rows {
            if !loads.contains(&row.load) {
                loads.push(row.load.clone());
            }
        }
        rows.sort_by_key(|row| (loads.iter().position(|load| *load == row.load), row.threads));
        Ok(rows)
    }

    fn count(&self, row: Row, failures: &mut Vec<String>) -> Result<Counted, String> {
        let ours = count_ours(&self.program(LINES), &row.name, &[])?;
        let built = &self.options.built;
        let mut total_of = |peer: &Contender| {
            let object = peer.object(built);
            let counts = object.and_then(|object| {
                let valgrind = || peer.command(built, "valgrind");
                count_preloaded(valgrind, &self.program(peer.build), &row.name, object.as_deref())
            });
            counts
                .map(|counts| counts.sum(|_| true).writes)
                .inspect_err(|why| {
                    failures.push(format!("{} under {}: {why}", row.name, peer.name))
                })
                .ok()
        };
        let peers = self.peers.iter().map(|peer| total_of(peer)).collect();
        Ok(Counted { row, ours, peers })
    }
}

/// "larson_by_4" is larson with four threads.
fn row(name: &str) -> Option<Row> {
    let (load, threads) = name.rsplit_once("_by_")?;
    Some(Row { name: name.to_owned(), load: load.to_owned(), threads: threads.parse().ok()? })
}

fn threads(list: &str) -> Result<Vec<u32>, String> {
    let number = |word: &str| {
        word.parse()
            .map_err(|_| format!("--threads needs numbers with commas between them, not {list}"))
    };
    list.split(',').map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, String> {
        Plan::from_arguments(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn bad_arguments_are_refused_before_anything_is_built() {
        let refusal = |line| plan(line).err().expect("it is refused");
        assert!(refusal("--fast").starts_with("unknown flag: --fast"));
        assert!(refusal("--threads 1,x").starts_with("--threads needs numbers"));
        assert!(refusal("--allocators dlmalloc").starts_with("unknown allocator: dlmalloc"));
        let plan = plan("--threads 1,64 --allocators slackwater,glibc larson").unwrap();
        assert_eq!(plan.threads, [1, 64]);
        assert_eq!(plan.loads, ["larson"]);
        assert_eq!(plan.peers.len(), 1, "we are there in any case");
    }

    #[test]
    fn a_row_s_name_is_a_load_with_its_threads() {
        let row = row("larson_by_16").unwrap();
        assert_eq!((&*row.load, row.threads), ("larson", 16));
    }
}
