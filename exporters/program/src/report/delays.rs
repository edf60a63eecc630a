//! Why free memory has not been given back yet: a table of rules.

use slackwater::knobs::{Coverage, GateMode};
use slackwater::snapshot::GateState;

use super::evidence::{Evidence, Rule};
use crate::amounts::{count, seconds};

/// Below this the heap is left alone.
const TICKER_FROM: u64 = 4 << 20;

/// Every reason, the most certain first.
pub const RULES: &[Rule] = &[
    ("release off", release_off),
    ("coverage", coverage),
    ("ticker off", ticker_off),
    ("no tick yet", no_tick_yet),
    ("gate busy", gate_busy),
    ("delay", delay),
    ("just freed", just_freed),
    ("no take-over", no_takeover),
    ("refused", refused),
];

fn release_off(evidence: &Evidence) -> Option<String> {
    (!evidence.knobs.release)
        .then(|| "release is off (SLACKWATER_RELEASE): no tick gives anything back".to_string())
}

fn coverage(evidence: &Evidence) -> Option<String> {
    let Coverage { small, sub4k, medium, large } = evidence.knobs.coverage;
    let kinds = [("small", small), ("sub4k", sub4k), ("medium", medium), ("large", large)];
    let left_out: Vec<&str> = kinds.iter().filter(|kind| !kind.1).map(|kind| kind.0).collect();
    (!left_out.is_empty()).then(|| {
        format!("pages of kind {} stay: SLACKWATER_COVERAGE leaves it out", left_out.join(", "))
    })
}

fn ticker_off(evidence: &Evidence) -> Option<String> {
    (!evidence.knobs.ticker).then(|| {
        "the ticker is off (SLACKWATER_TICKER): pages go back only while the program allocates \
         and frees"
            .to_string()
    })
}

fn no_tick_yet(evidence: &Evidence) -> Option<String> {
    let snapshot = &evidence.observation.snapshot;
    let ticks = snapshot.epoch_ticks_total;
    (ticks.idle + ticks.busy == 0 && snapshot.mapped_bytes < TICKER_FROM)
        .then(|| "there was no tick yet: the ticker starts when the heap has 4 MiB".to_string())
}

fn gate_busy(evidence: &Evidence) -> Option<String> {
    if evidence.observation.snapshot.gate_state != GateState::Busy {
        return None;
    }
    let rest = evidence.knobs.delay_epochs_busy as f64 * evidence.epoch_seconds();
    let why = match evidence.knobs.gate {
        GateMode::Busy => "it is told to say so (SLACKWATER_GATE)",
        _ => "the program is at work",
    };
    Some(format!(
        "{why}: only what has been free for {} goes back (SLACKWATER_DELAY_EPOCHS_BUSY), and little \
         at a time",
        seconds(rest)
    ))
}

fn delay(evidence: &Evidence) -> Option<String> {
    let epochs = evidence.knobs.delay_epochs_idle;
    let applies = epochs > 0 && evidence.observation.snapshot.gate_state == GateState::Idle;
    applies.then(|| {
        let rest = seconds(epochs as f64 * evidence.epoch_seconds());
        format!("pages rest for {rest} before they go back (SLACKWATER_DELAY_EPOCHS_IDLE)")
    })
}

fn just_freed(evidence: &Evidence) -> Option<String> {
    let age = evidence.observation.snapshot.release_oldest_age_seconds;
    let is_fresh = evidence.breakdown.dirty > 0 && age < evidence.epoch_seconds();
    is_fresh.then(|| {
        format!(
            "the oldest of it has been free for {}, and ticks are {} apart",
            seconds(age),
            seconds(evidence.epoch_seconds())
        )
    })
}

fn no_takeover(evidence: &Evidence) -> Option<String> {
    let unavailable = evidence.observation.snapshot.takeovers_total.unavailable;
    (unavailable > 0).then(|| {
        "the kernel has no membarrier for the process: threads keep their caches until they \
         allocate or free again"
            .to_string()
    })
}

fn refused(evidence: &Evidence) -> Option<String> {
    let errors = evidence.observation.snapshot.release_errors_total;
    (errors > 0).then(|| format!("the kernel refused {} purges so far", count(errors as f64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::evidence::{self, Heard};

    fn said(change: impl Fn(&mut Evidence)) -> Vec<Heard> {
        evidence::said(RULES, change)
    }

    #[test]
    fn a_process_that_is_well_has_no_reason() {
        assert_eq!(said(|_| {}), []);
    }

    #[test]
    fn each_reason_is_found_alone() {
        type Case = (&'static str, fn(&mut Evidence), &'static str);
        let cases: &[Case] = &[
            ("release off", |e| e.knobs.release = false, "SLACKWATER_RELEASE"),
            (
                "coverage",
                |e| e.knobs.coverage = Coverage { large: false, small: false, ..Coverage::ALL },
                "kind small, large stay",
            ),
            ("ticker off", |e| e.knobs.ticker = false, "SLACKWATER_TICKER"),
            (
                "no tick yet",
                |e| {
                    e.observation.snapshot.epoch_ticks_total.idle = 0;
                    e.observation.snapshot.mapped_bytes = 2 << 20;
                },
                "4 MiB",
            ),
            (
                "gate busy",
                |e| e.observation.snapshot.gate_state = GateState::Busy,
                "at work: only what has been free for 5.0 s",
            ),
            (
                "gate busy",
                |e| {
                    e.observation.snapshot.gate_state = GateState::Busy;
                    e.knobs.gate = GateMode::Busy;
                },
                "told to say so",
            ),
            ("delay", |e| e.knobs.delay_epochs_idle = 40, "rest for 2.0 s"),
            (
                "just freed",
                |e| {
                    e.breakdown.dirty = 8 << 20;
                    e.observation.snapshot.release_oldest_age_seconds = 0.02;
                },
                "free for 20 ms, and ticks are 50 ms apart",
            ),
            (
                "no take-over",
                |e| e.observation.snapshot.takeovers_total.unavailable = 1,
                "no membarrier",
            ),
            ("refused", |e| e.observation.snapshot.release_errors_total = 3, "refused 3 purges"),
        ];
        for (name, change, mention) in cases {
            let said = said(change);
            assert_eq!(said.len(), 1, "{said:?}");
            assert_eq!(said[0].0, *name);
            assert!(said[0].1.contains(mention), "{mention}: {said:?}");
        }
        for (name, _) in RULES {
            assert!(cases.iter().any(|case| case.0 == *name), "{name} has no case");
        }
    }
}
