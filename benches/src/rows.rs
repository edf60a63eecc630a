//! What a bench is made of: rows, each a pattern of allocation with one figure of time and one of
//! memory, each run in a process of its own.

use std::fmt::{self, Write as _};
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::allocator::Release;
use crate::cores;

/// One pattern.
pub struct Row {
    /// Its name, on the command line and in the tables.
    pub name: &'static str,
    /// Operations at scale 1: a fixed amount of work, so that times compare.
    pub operations: u64,
    /// Does about so many operations.
    pub run: fn(operations: u64) -> Measured,
}

/// What a row cost.
pub struct Measured {
    /// The operations really done: pairs of one allocation and one free.
    pub operations: u64,
    /// The time they took, start-up and warm-up excluded.
    pub elapsed: Duration,
}

/// What a bench prints of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The row's.
    pub name: String,
    /// Nanoseconds per operation.
    pub ns: f64,
    /// The process's peak RSS.
    pub peak_kib: u64,
    /// Pages given back since the process's start, if the allocator tells.
    pub purged_pages: Option<u64>,
    /// Pages allocated again after that, if the allocator tells.
    pub refault_pages: Option<u64>,
}

/// Stands where the allocator does not tell.
const UNTOLD: &str = "-";

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{:.3}\t{}", self.name, self.ns, self.peak_kib)?;
        for pages in [self.purged_pages, self.refault_pages] {
            match pages {
                Some(pages) => write!(f, "\t{pages}")?,
                None => write!(f, "\t{UNTOLD}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let malformed = || format!("not a row's line: {line:?}");
        let fields: Vec<_> = line.trim_end().split('\t').collect();
        let [name, ns, peak_kib, purged, refaulted] = fields[..] else { return Err(malformed()) };
        let pages = |field: &str| match field {
            UNTOLD => Ok(None),
            told => told.parse().map(Some).map_err(|_| malformed()),
        };
        Ok(Line {
            name: name.to_owned(),
            ns: ns.parse().map_err(|_| malformed())?,
            peak_kib: peak_kib.parse().map_err(|_| malformed())?,
            purged_pages: pages(purged)?,
            refault_pages: pages(refaulted)?,
        })
    }
}

/// Times `work`, which does `operations`.
pub fn timed(operations: u64, work: impl FnOnce()) -> Measured {
    let start = Instant::now();
    work();
    Measured { operations, elapsed: start.elapsed() }
}

/// The whole `main` of a bench: `[--list] [--scale F] [ROW…]`.
///
/// Prints a [`Line`] for each row, its fields separated by tabs. `larson` means every row whose name
/// starts with `larson_`.
pub fn main(rows: &'static [Row]) -> ExitCode {
    match try_main(rows, std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn try_main(
    rows: &'static [Row],
    mut arguments: impl Iterator<Item = String>,
) -> Result<(), String> {
    let mut list = false;
    let mut scale = 1.0;
    let mut names = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => list = true,
            "--scale" => scale = positive(&argument, arguments.next())?,
            flag if flag.starts_with('-') => return Err(format!("unknown flag: {flag}")),
            _ => names.push(argument),
        }
    }
    let selected = selected(rows, |row| row.name, &names)?;
    if list {
        for row in selected {
            println!("{}", row.name);
        }
        return Ok(());
    }
    if let [row] = selected[..] {
        print_row(row, scale);
        return Ok(());
    }
    // One row's heap must not be the next one's past: each in a process of its own.
    let program = std::env::current_exe().map_err(|error| format!("own program: {error}"))?;
    for row in selected {
        let status = Command::new(&program)
            .args(["--scale", &scale.to_string(), row.name])
            .status()
            .map_err(|error| format!("{}: {error}", row.name))?;
        if !status.success() {
            return Err(format!("{}: {status}", row.name));
        }
    }
    Ok(())
}

/// The positive number after `flag`.
pub fn positive<N: std::str::FromStr + PartialOrd + Default>(
    flag: &str,
    value: Option<String>,
) -> Result<N, String> {
    let value = value.ok_or_else(|| format!("{flag} needs a number"))?;
    match value.parse() {
        Ok(number) if number > N::default() => Ok(number),
        _ => Err(format!("{flag} needs a positive number, not {value}")),
    }
}

/// The rows meant by `names`: all if there are none. A name is that of a row, or else of a family.
pub fn selected<'a, R>(
    rows: &'a [R],
    name_of: fn(&R) -> &'static str,
    names: &[String],
) -> Result<Vec<&'a R>, String> {
    let mut selected = vec![];
    for name in names {
        if let Some(row) = rows.iter().find(|row| name_of(row) == name) {
            selected.push(row);
            continue;
        }
        let before = selected.len();
        let family = format!("{name}_");
        selected.extend(rows.iter().filter(|row| name_of(row).starts_with(&family)));
        if selected.len() == before {
            let mut message = format!("unknown row: {name}; there are");
            for row in rows {
                let _ = write!(message, " {}", name_of(row));
            }
            return Err(message);
        }
    }
    if names.is_empty() {
        selected.extend(rows);
    }
    Ok(selected)
}

fn print_row(row: &Row, scale: f64) {
    cores::pin(0);
    let operations = ((row.operations as f64 * scale) as u64).max(1);
    let measured = (row.run)(operations);
    let release = Release::now();
    let line = Line {
        name: row.name.to_owned(),
        ns: measured.elapsed.as_nanos() as f64 / measured.operations as f64,
        peak_kib: peak_kib(),
        purged_pages: release.map(|release| release.purged_pages),
        refault_pages: release.map(|release| release.refault_pages),
    };
    println!("{line}");
}

/// This process's own peak. (`ru_maxrss` would count what its parent had when it forked.)
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|value| value.trim().trim_end_matches("kB").trim_end().parse().ok())
        .expect("the kernel says the peak RSS")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(filters: &[&str]) -> Result<Vec<&'static str>, String> {
        const fn row(name: &'static str) -> Row {
            Row { name, operations: 1, run: |operations| timed(operations, || ()) }
        }
        const ROWS: &[Row] = &[
            row("larson_2"),
            row("larson_2_large"),
            row("larson_32"),
            row("larsonist"),
            row("other"),
        ];
        let filters: Vec<_> = filters.iter().map(|name| (*name).to_owned()).collect();
        Ok(selected(ROWS, |row| row.name, &filters)?.iter().map(|row| row.name).collect())
    }

    #[test]
    fn a_name_means_its_row_or_its_family() {
        let larson = ["larson_2", "larson_2_large", "larson_32"];
        assert_eq!(names_of(&["larson"]).unwrap(), larson);
        assert_eq!(names_of(&["other", "larson_2"]).unwrap(), ["other", "larson_2"]);
        assert_eq!(names_of(&[]).unwrap().len(), 5);
        assert!(
            names_of(&["lars"]).unwrap_err().starts_with("unknown row: lars; there are larson_2")
        );
    }

    #[test]
    fn a_row_s_line_reads_as_it_was_written() {
        let told = Line {
            name: "larson_2".to_owned(),
            ns: 5.125,
            peak_kib: 4096,
            purged_pages: Some(12),
            refault_pages: Some(0),
        };
        let untold = Line { purged_pages: None, refault_pages: None, ..told.clone() };
        for line in [told, untold] {
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        for malformed in ["", "larson_2\t5.125\t4096", "larson_2\t5.125\t4096\t1\tx"] {
            assert!(malformed.parse::<Line>().is_err(), "{malformed}");
        }
    }
}
