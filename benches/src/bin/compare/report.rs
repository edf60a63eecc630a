//! The report: what it was measured on, and the tables.

use std::fmt::Write as _;

use slackwater_benches::comparing::contender::OBSERVER_NAMES;
use slackwater_benches::comparing::head::{Head, legend};
use slackwater_benches::comparing::measurements::{Figure, Outcome};
use slackwater_benches::comparing::table::{OURS, Table};

use crate::plan::Plan;

/// What stands beside the time.
const COUNTED: [Figure; 4] =
    [Figure::Instructions, Figure::Refills, Figure::Spills, Figure::OtherSlowPaths];

/// The same where the observer is what is compared.
const WATCHED: [Figure; 4] = [
    Figure::Instructions,
    Figure::PathInstructions,
    Figure::SampleInstructions,
    Figure::ScrapeInstructions,
];

const WATCHED_LEGEND: &str = "observed: the profiler at its default rate, /metrics scraped each second over HTTP by another process, as \
     Prometheus does it, and a subscriber that drops all that is traced. unobserved: built with \
     --cfg slackwater_unobserved, without tallies and samples. Of instructions: what a sample and what a second of \
     scrapes take, times as many as an operation had against the clock; not what the kernel does.";

impl Plan {
    pub fn report(&self, outcome: &Outcome) -> String {
        let measurements = &outcome.measurements;
        let mut report = self.head(outcome);
        let rows = self.row_names();
        let counted = if self.is_watched() { WATCHED } else { COUNTED };
        let beside =
            if self.figure() == Figure::Instructions { &counted[1..] } else { &counted[..] };
        let ours = if self.is_watched() { OBSERVER_NAMES[0] } else { OURS };
        let shown = [(self.figure(), beside), (Figure::PeakMib, &[])];
        for (figure, beside) in shown.into_iter().filter(|(figure, _)| measurements.have(*figure)) {
            let contenders = &self.names();
            let table = Table { measurements, rows: &rows, contenders, ours, figure, beside };
            let _ = write!(report, "\n{}", table.markdown());
        }
        report
    }

    /// Whether one of the contenders is scraped.
    fn is_watched(&self) -> bool {
        self.contenders.iter().any(|contender| contender.is_watched)
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
        if self.is_watched() {
            paragraphs.push(WATCHED_LEGEND.to_owned());
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
