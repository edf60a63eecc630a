//! What a bench prints of a row, for the programs that compare.

use std::fmt;
use std::str::FromStr;

use crate::allocator::{Release, SlowPaths, samples};

/// What a bench prints of a row: its fields, separated by tabs.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The row's.
    pub name: String,
    /// The operations done.
    pub operations: u64,
    /// Nanoseconds per operation.
    pub ns: f64,
    /// The same on processors, of all threads together.
    pub processor_ns: f64,
    /// The process's peak RSS.
    pub peak_kib: u64,
    /// What the allocator knows of itself, if it tells.
    pub told: Option<Told>,
}

/// What an allocator tells of a whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Pages given back since the process's start.
    pub purged_pages: u64,
    /// Pages allocated again after that.
    pub refault_pages: u64,
    /// Times the fast path had to leave off.
    pub slow_paths: SlowPaths,
    /// Allocations that were sampled.
    pub samples: u64,
}

impl Told {
    /// The figures now; none from any allocator but slackwater.
    pub fn now() -> Option<Self> {
        let (release, slow_paths) = (Release::now()?, SlowPaths::now()?);
        let samples = samples()?;
        Some(Told {
            purged_pages: release.purged_pages,
            refault_pages: release.refault_pages,
            slow_paths,
            samples,
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { name, operations, ns, processor_ns, peak_kib, told } = self;
        write!(f, "{name}\t{operations}\t{ns:.3}\t{processor_ns:.3}\t{peak_kib}")?;
        let Some(Told { purged_pages, refault_pages, slow_paths, samples }) = told else {
            return Ok(());
        };
        let SlowPaths { refills, spills, others } = slow_paths;
        write!(f, "\t{purged_pages}\t{refault_pages}\t{refills}\t{spills}\t{others}\t{samples}")
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let malformed = || format!("not a row's line: {line:?}");
        let fields: Vec<_> = line.trim_end().split('\t').collect();
        let [name, operations, ns, processor_ns, peak_kib, told @ ..] = &fields[..] else {
            return Err(malformed());
        };
        let told: Result<Vec<u64>, _> = told.iter().map(|field| field.parse()).collect();
        let told = match told.map_err(|_| malformed())?[..] {
            [] => None,
            [purged_pages, refault_pages, refills, spills, others, samples] => Some(Told {
                purged_pages,
                refault_pages,
                slow_paths: SlowPaths { refills, spills, others },
                samples,
            }),
            _ => return Err(malformed()),
        };
        Ok(Line {
            name: (*name).to_owned(),
            operations: operations.parse().map_err(|_| malformed())?,
            ns: ns.parse().map_err(|_| malformed())?,
            processor_ns: processor_ns.parse().map_err(|_| malformed())?,
            peak_kib: peak_kib.parse().map_err(|_| malformed())?,
            told,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_s_line_reads_as_it_was_written() {
        let slow_paths = SlowPaths { refills: 7, spills: 5, others: 3 };
        let told = Line {
            name: "larson_2".to_owned(),
            operations: 1000,
            ns: 5.125,
            processor_ns: 10.25,
            peak_kib: 4096,
            told: Some(Told { purged_pages: 12, refault_pages: 0, slow_paths, samples: 9 }),
        };
        let untold = Line { told: None, ..told.clone() };
        for line in [told, untold] {
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        let malformed = [
            "",
            "larson_2\t5\t4096",
            "r\t1\t5.1\t5.1\t4096\t1",
            "r\t1\t5.1\t5.1\t1\t1\t2\t3\t4\t5\tx",
        ];
        for malformed in malformed {
            assert!(malformed.parse::<Line>().is_err(), "{malformed}");
        }
    }
}
