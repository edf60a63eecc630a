//! The report: what it was measured on, and the tables.

use std::fmt::Write as _;

use slackwater_benches::comparing::head::{Head, legend};
use slackwater_benches::comparing::measurements::{Figure, Outcome};
use slackwater_benches::comparing::table::Table;

use crate::plan::Plan;

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
        let head = Head {
            face: self.face,
            contenders: &self.contenders,
            built: &self.options.built,
            left_out: &self.left_out,
            failures: &outcome.failures,
        };
        let mut paragraphs = head.paragraphs();
        if self.figure() != Figure::Instructions {
            paragraphs.push(legend(self.options.rounds));
        }
        if COUNTED.iter().any(|figure| outcome.measurements.have(*figure)) {
            paragraphs.push(
                "Instructions are callgrind's, the loop around the operation included; where threads wait \
                 for each other, the waiting as well. Slow paths are those that slackwater tells of itself."
                    .to_owned(),
            );
        }
        paragraphs.join("\n\n") + "\n"
    }

    pub fn row_names(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.name.clone()).collect()
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.contenders.iter().map(|contender| contender.name).collect()
    }
}
