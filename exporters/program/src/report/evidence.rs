//! What a report is made from.

use slackwater::knobs::Knobs;
use slackwater_exporters::Observation;
use slackwater_exporters::breakdown::Breakdown;
use slackwater_exporters::mappings::MappingUse;
use slackwater_exporters::perf::PerfError;

use super::events::Watched;
use crate::amounts::share;

/// Amounts below this, or below [`SMALL_SHARE`] of RSS, are not worth a sentence.
const SMALL_BYTES: u64 = 1 << 20;
const SMALL_SHARE: f64 = 0.02;

/// One process, looked at once or twice.
pub struct Evidence {
    /// Its figures.
    pub observation: Observation,
    /// Why its RSS is what it is.
    pub breakdown: Breakdown,
    /// The largest mappings beside the heap and the stacks.
    pub mappings: Vec<MappingUse>,
    /// The knobs in force there.
    pub knobs: Knobs,
    /// The same process some time before.
    pub earlier: Option<Earlier>,
    /// What its threads did in between, if that was asked for.
    pub watched: Option<Result<Watched, PerfError>>,
    /// What its profile lacks, a line for each thing.
    pub lacks: Vec<String>,
}

/// The first of two looks.
pub struct Earlier {
    /// Its figures then.
    pub observation: Observation,
    /// Why its RSS was what it was.
    pub breakdown: Breakdown,
    /// How long ago that was.
    pub seconds: f64,
}

/// What a rule is called, and the rule: what it has to say, if it has.
pub type Rule = (&'static str, fn(&Evidence) -> Option<String>);

/// A rule's name, and what it said.
pub type Heard = (&'static str, String);

/// What the rules have to say.
pub fn heard(rules: &[Rule], evidence: &Evidence) -> Vec<Heard> {
    rules.iter().filter_map(|(name, rule)| Some((*name, rule(evidence)?))).collect()
}

impl Evidence {
    /// Resident bytes of the process.
    pub fn rss(&self) -> u64 {
        self.breakdown.sum()
    }

    /// Is this amount worth a sentence?
    pub fn matters(&self, bytes: u64) -> bool {
        bytes >= SMALL_BYTES && share(bytes, self.rss()) >= SMALL_SHARE
    }

    /// The length of an epoch in seconds.
    pub fn epoch_seconds(&self) -> f64 {
        self.knobs.epoch_ms as f64 / 1000.0
    }
}

/// What the rules say of a process that differs from a well one by `change`.
#[cfg(test)]
pub fn said(rules: &[Rule], change: impl Fn(&mut Evidence)) -> Vec<Heard> {
    let mut evidence = Evidence::made_up();
    change(&mut evidence);
    heard(rules, &evidence)
}

#[cfg(test)]
impl Evidence {
    /// A process of 100 MiB that is well: 90 live, the rest its libraries.
    pub fn made_up() -> Evidence {
        let mut observation = Observation { cgroup: None, ..Observation::take() };
        let snapshot = &mut observation.snapshot;
        snapshot.size_classes.fill(Default::default());
        snapshot.gate_state = slackwater::snapshot::GateState::Idle;
        snapshot.epoch_ticks_total.idle = 100;
        snapshot.epoch_ticks_total.busy = 0;
        snapshot.release_oldest_age_seconds = 0.0;
        snapshot.release_refault_pages_total = 0;
        snapshot.release_purged_pages_total = Default::default();
        snapshot.release_errors_total = 0;
        snapshot.takeovers_total = Default::default();
        snapshot.threads = 4;
        snapshot.mapped_bytes = 96 << 20;
        observation.residency = Some(Default::default());
        let breakdown = Breakdown { live: 90 << 20, file: 10 << 20, ..Breakdown::default() };
        let (mappings, knobs, lacks) = (Vec::new(), slackwater::knobs(), Vec::new());
        Evidence { observation, breakdown, mappings, knobs, earlier: None, watched: None, lacks }
    }
}
