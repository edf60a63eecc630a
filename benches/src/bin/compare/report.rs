//! The report: what it was measured on, and the tables.

use std::fmt::Write as _;

use slackwater_benches::comparing::contender::Face;
use slackwater_benches::comparing::machine;
use slackwater_benches::comparing::measurements::{Figure, Measurements};
use slackwater_benches::comparing::ratios::Ratios;
use slackwater_benches::comparing::table::Table;
use slackwater_benches::comparing::versions;

use crate::plan::{Outcome, Plan};

/// What stands beside the time.
const COUNTED: [Figure; 4] =
    [Figure::Instructions, Figure::Refills, Figure::Spills, Figure::OtherSlowPaths];

impl Plan {
    pub fn report(&self, outcome: &Outcome) -> String {
        let measurements = &outcome.measurements;
        let mut report = self.head(outcome);
        let rows = self.row_names();
        let beside =
            if self.figure() == Figure::Instructions { &COUNTED[1..] } else { &COUNTED[..] };
        let shown = [(self.figure(), beside), (Figure::PeakMib, &[])];
        for (figure, beside) in shown.into_iter().filter(|(figure, _)| measurements.have(*figure)) {
            let contenders = &self.names();
            let table = Table { measurements, rows: &rows, contenders, figure, beside };
            let _ = write!(report, "\n{}", table.markdown());
        }
        report
    }

    fn head(&self, outcome: &Outcome) -> String {
        let mut lines = machine::lines();
        let described: Vec<_> = self
            .contenders
            .iter()
            .map(|contender| versions::described(contender, &self.options.built))
            .collect();
        let face = match self.face {
            Face::Linked => "linked as the global allocator",
            Face::Preloaded => "preloaded before the system's",
        };
        lines.push(format!("Compared, {face}: {}.", described.join("; ")));
        if !self.left_out.is_empty() {
            lines.push(format!("**Left out, not installed: {}.**", self.left_out.join("; ")));
        }
        for failure in &outcome.failures {
            lines.push(format!("**Failed: {failure}.**"));
        }
        if self.figure() != Figure::Instructions {
            lines.push(format!(
                "Medians of {}, interleaved, threads pinned in turn to the cores; in brackets the spread: the \
                 distance between the quartiles, of fewer than four the whole range. Who differs by no more than \
                 the spread of either is tied. Load average at the end: {}.",
                self.options.rounds,
                machine::load()
            ));
        }
        if COUNTED.iter().any(|figure| outcome.measurements.have(*figure)) {
            lines.push(
                "Instructions are callgrind's, the loop around the operation included; where threads wait \
                 for each other, the waiting as well. Slow paths are those that slackwater tells of itself."
                    .to_owned(),
            );
        }
        lines.join("\n\n") + "\n"
    }

    fn row_names(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.name.clone()).collect()
    }

    fn names(&self) -> Vec<&'static str> {
        self.contenders.iter().map(|contender| contender.name).collect()
    }

    pub fn picture(&self, measurements: &Measurements) -> String {
        let (rows, contenders) = (&self.row_names()[..], &self.names()[..]);
        Ratios { measurements, rows, contenders, figure: self.figure() }.svg()
    }
}
