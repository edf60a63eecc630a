//! What a bench is made of: rows, each a pattern of allocation with one figure of time and one of
//! memory, each run in a process of its own.

use std::fmt::Write as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::clock::{Elapsed, Start};
use crate::cores;
use crate::line::{Line, Told};
use crate::watched;

/// One pattern.
pub struct Row {
    /// Its name, on the command line and in the tables.
    pub name: String,
    /// Operations at scale 1: a fixed amount of work, so that times compare.
    pub operations: u64,
    /// Does about so many operations.
    pub run: Box<dyn Fn(u64) -> Measured>,
}

impl Row {
    /// A row of this name, which does `operations` at scale 1.
    pub fn new(
        name: impl Into<String>,
        operations: u64,
        run: impl Fn(u64) -> Measured + 'static,
    ) -> Self {
        Row { name: name.into(), operations, run: Box::new(run) }
    }
}

/// What a row cost.
pub struct Measured {
    /// The operations really done: pairs of one allocation and one free, unless the row says otherwise.
    pub operations: u64,
    /// The time they took, start-up and warm-up excluded.
    pub elapsed: Elapsed,
}

/// Times `work`, which does `operations`.
pub fn timed(operations: u64, work: impl FnOnce()) -> Measured {
    let start = Start::now();
    work();
    Measured { operations, elapsed: start.elapsed() }
}

/// The whole `main` of a bench: `[--list] [--scale F] [ROW…]`.
///
/// Prints a [`Line`] for each row, its fields separated by tabs. `larson` means every row whose name
/// starts with `larson_`.
pub fn main(rows: &[Row]) -> ExitCode {
    match try_main(rows, std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn try_main(rows: &[Row], mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
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
    let selected = selected(rows, |row| &row.name, &names)?;
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
            .args(["--scale", &scale.to_string(), &row.name])
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
    name_of: fn(&R) -> &str,
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
    // Before this thread is pinned: those of the observer are not.
    let _watched = watched::start();
    cores::pin(0);
    let operations = ((row.operations as f64 * scale) as u64).max(1);
    let measured = (row.run)(operations);
    let ns = |time: Duration| time.as_nanos() as f64 / measured.operations as f64;
    let line = Line {
        name: row.name.clone(),
        operations: measured.operations,
        ns: ns(measured.elapsed.wall),
        processor_ns: ns(measured.elapsed.processors),
        peak_kib: peak_kib(),
        told: Told::now(),
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

    fn names_of(filters: &[&str]) -> Result<Vec<String>, String> {
        let names = ["larson_2", "larson_2_large", "larson_32", "larsonist", "other"];
        let rows = names.map(|name| Row::new(name, 1, |operations| timed(operations, || ())));
        let filters: Vec<_> = filters.iter().map(|name| (*name).to_owned()).collect();
        let selected = selected(&rows, |row| &row.name, &filters)?;
        Ok(selected.iter().map(|row| row.name.clone()).collect())
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
}
