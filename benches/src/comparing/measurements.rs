//! Everything that was measured, one by one.

use std::fmt::{self, Write as _};

use super::statistics::Summary;

/// What a measurement is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Nanoseconds per operation, by the clock on the wall.
    Ns,
    /// Nanoseconds per operation on processors, of all threads together.
    ProcessorNs,
    /// The process's peak RSS.
    PeakMib,
    /// Seconds of a whole program, by the clock on the wall.
    Seconds,
    /// Seconds that a whole program had of processors.
    ProcessorSeconds,
    /// Instructions per operation.
    Instructions,
    /// Of those, what is taken whether an allocation is sampled or not.
    PathInstructions,
    /// Of those, what samples take.
    SampleInstructions,
    /// Of those, what scrapes take, and tracing.
    ScrapeInstructions,
    /// Refills of thread caches, of a thousand operations.
    Refills,
    /// Spills of thread caches, of a thousand operations.
    Spills,
    /// Other departures from the fast path, of a thousand operations.
    OtherSlowPaths,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Figure::Ns => "ns per operation",
            Figure::ProcessorNs => "processor ns per operation",
            Figure::PeakMib => "peak RSS, MiB",
            Figure::Seconds => "seconds",
            Figure::ProcessorSeconds => "processor seconds",
            Figure::Instructions => "instructions per operation",
            Figure::PathInstructions => "of paths",
            Figure::SampleInstructions => "of samples",
            Figure::ScrapeInstructions => "of scrapes and tracing",
            Figure::Refills => "refills per 1,000",
            Figure::Spills => "spills per 1,000",
            Figure::OtherSlowPaths => "other slow paths per 1,000",
        })
    }
}

/// One figure of one run.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// The row.
    pub row: String,
    /// The contender's name.
    pub contender: &'static str,
    /// The round, from 1.
    pub round: usize,
    /// What of.
    pub figure: Figure,
    /// How much.
    pub value: f64,
}

/// All measurements of a comparison, in the order in which they were made.
#[derive(Debug, Default)]
pub struct Measurements(Vec<Measurement>);

impl Measurements {
    /// One more.
    pub fn add(&mut self, measurement: Measurement) {
        self.0.push(measurement);
    }

    /// What the rounds of one cell say; none if it was not measured.
    pub fn summary(&self, row: &str, contender: &str, figure: Figure) -> Option<Summary> {
        let of_cell = self
            .0
            .iter()
            .filter(|one| one.row == row && one.contender == contender && one.figure == figure);
        Summary::of(&of_cell.map(|one| one.value).collect::<Vec<_>>())
    }

    /// Whether there is any of this figure.
    pub fn have(&self, figure: Figure) -> bool {
        self.0.iter().any(|one| one.figure == figure)
    }

    /// Every single one, as comma-separated values with a head.
    pub fn csv(&self) -> String {
        let mut csv = String::from("row,allocator,round,figure,value\n");
        for Measurement { row, contender, round, figure, value } in &self.0 {
            let _ = writeln!(csv, "{row},{contender},{round},\"{figure}\",{value}");
        }
        csv
    }
}

/// What came of a comparison.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was measured.
    pub measurements: Measurements,
    /// Why runs failed, each reason once.
    pub failures: Vec<String>,
}

impl Outcome {
    /// What a run has brought. One that failed does not end the others.
    pub fn add(
        &mut self,
        row: &str,
        contender: &'static str,
        round: usize,
        figures: Result<Vec<(Figure, f64)>, String>,
    ) {
        match figures {
            Ok(figures) => {
                for (figure, value) in figures {
                    let row = row.to_owned();
                    self.measurements.add(Measurement { row, contender, round, figure, value });
                }
            }
            Err(failure) => {
                eprintln!("FAILED: {failure}");
                if !self.failures.contains(&failure) {
                    self.failures.push(failure);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_all_rounds_of_its_own() {
        let mut measurements = Measurements::default();
        for (round, value) in [(1, 3.0), (2, 1.0), (3, 2.0)] {
            for (contender, times) in [("a", 1.0), ("b", 10.0)] {
                measurements.add(Measurement {
                    row: "row".to_owned(),
                    contender,
                    round,
                    figure: Figure::Ns,
                    value: value * times,
                });
            }
        }
        assert_eq!(measurements.summary("row", "b", Figure::Ns).unwrap().median, 20.0);
        assert_eq!(measurements.summary("row", "b", Figure::PeakMib), None);
        assert!(measurements.have(Figure::Ns) && !measurements.have(Figure::Instructions));
        let csv = measurements.csv();
        assert_eq!(csv.lines().count(), 7);
        assert_eq!(csv.lines().nth(4), Some("row,b,2,\"ns per operation\",10"));
    }
}
