//! Whether RSS fell by what was purged: the arithmetic on two observations.

use std::fmt;
use std::time::Duration;

use slackwater_exporters::Observation;

/// How far the fall of RSS and the purged bytes may be apart.
const MAX_APART_PERCENT: f64 = 10.0;

/// How many pages a call must have released, on average.
const MIN_PAGES_PER_CALL: u64 = 10;

/// What happened between the end of a burst and the end of the idle time after it.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    burst: u64,
    idle: Duration,
    /// Anonymous resident bytes at the end of the burst.
    peak_bytes: u64,
    /// The same at the end of the idle time.
    rest_bytes: u64,
    purged_bytes: u64,
    purged_pages: u64,
    madvise_calls: u64,
    /// Since the program started: there is no good time for a drop.
    dropped: u64,
}

impl Proof {
    /// Compares the observations around one idle time; `None` if the kernel gave no figures.
    pub fn between(
        burst: u64,
        idle: Duration,
        peak: &Observation,
        rest: &Observation,
    ) -> Option<Proof> {
        let (before, after) = (&peak.snapshot, &rest.snapshot);
        let since = |after: u64, before: u64| after.saturating_sub(before);
        Some(Proof {
            burst,
            idle,
            peak_bytes: peak.process?.anon_bytes,
            rest_bytes: rest.process?.anon_bytes,
            purged_bytes: since(
                after.release_purged_bytes_total,
                before.release_purged_bytes_total,
            ),
            purged_pages: since(purged_pages(rest), purged_pages(peak)),
            madvise_calls: since(
                after.release_madvise_calls_total,
                before.release_madvise_calls_total,
            ),
            dropped: after.release_dropped_total,
        })
    }

    /// Positive if RSS fell.
    fn fall_bytes(&self) -> i128 {
        i128::from(self.peak_bytes) - i128::from(self.rest_bytes)
    }

    /// The distance of the fall from the purged bytes, in percent of the latter; `None` if nothing
    /// was purged.
    fn apart_percent(&self) -> Option<f64> {
        let distance = (self.fall_bytes() - i128::from(self.purged_bytes)).abs();
        (self.purged_bytes > 0).then(|| 100.0 * distance as f64 / self.purged_bytes as f64)
    }

    fn pages_per_call(&self) -> f64 {
        self.purged_pages as f64 / self.madvise_calls.max(1) as f64
    }

    /// What does not hold, in words; empty if everything does.
    fn objections(&self) -> Vec<String> {
        let mut objections = Vec::new();
        match self.apart_percent() {
            None => objections.push("nothing was purged".to_string()),
            Some(apart) if apart > MAX_APART_PERCENT => objections.push(format!(
                "the fall of RSS and the purged bytes are more than {MAX_APART_PERCENT}% apart"
            )),
            Some(_) => {}
        }
        if self.madvise_calls.saturating_mul(MIN_PAGES_PER_CALL) > self.purged_pages {
            objections.push("madvise_calls is more than a tenth of purged_pages".to_string());
        }
        if self.dropped > 0 {
            objections.push("the ledger dropped pages".to_string());
        }
        objections
    }

    /// The whole in one line, for while the demo goes on.
    pub fn in_one_line(&self) -> String {
        format!(
            "burst {}: {} -> {}: {}; {} pages in {} calls, drop={}",
            self.burst,
            mib(self.peak_bytes),
            mib(self.rest_bytes),
            self.fall_against_purged(),
            self.purged_pages,
            self.madvise_calls,
            self.dropped
        )
    }

    fn fall_against_purged(&self) -> String {
        let fall = self.fall_bytes();
        let direction = if fall < 0 { "rose" } else { "fell" };
        let size = mib(u64::try_from(fall.unsigned_abs()).unwrap_or(u64::MAX));
        let purged = mib(self.purged_bytes);
        match self.apart_percent() {
            Some(apart) => {
                format!("RSS {direction} by {size}, purged {purged} ({apart:.1}% apart)")
            }
            None => format!("RSS {direction} by {size}, purged nothing"),
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "burst {}: RSS {} at its end, {} after {:.1} s of idle",
            self.burst,
            mib(self.peak_bytes),
            mib(self.rest_bytes),
            self.idle.as_secs_f64()
        )?;
        writeln!(f, "  {}", self.fall_against_purged())?;
        writeln!(
            f,
            "  madvise_calls={} for purged_pages={} ({:.1} pages a call), drop={}",
            self.madvise_calls,
            self.purged_pages,
            self.pages_per_call(),
            self.dropped
        )?;
        let objections = self.objections();
        if objections.is_empty() {
            write!(f, "  as promised: memory came back, in few calls, and RSS shows it")
        } else {
            write!(f, "  NOT as promised: {}", objections.join("; "))
        }
    }
}

/// Pages given back so far, for whatever reason they were free.
pub fn purged_pages(observation: &Observation) -> u64 {
    observation.snapshot.release_purged_pages_total.sum()
}

/// Bytes as people read them here.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use slackwater_exporters::process::ProcessMemory;

    use super::*;

    fn observation(anon_mib: u64, purged_mib: u64, calls: u64, dropped: u64) -> Observation {
        let mut snapshot = slackwater::snapshot();
        snapshot.release_purged_bytes_total = purged_mib << 20;
        snapshot.release_purged_pages_total = Default::default();
        snapshot.release_purged_pages_total.medium_run_reclaim = purged_mib << 8;
        snapshot.release_madvise_calls_total = calls;
        snapshot.release_dropped_total = dropped;
        let process =
            Some(ProcessMemory { anon_bytes: anon_mib << 20, ..ProcessMemory::default() });
        Observation { snapshot, process, ..Observation::take() }
    }

    fn text(peak: &Observation, rest: &Observation) -> String {
        let idle = Duration::from_secs(4);
        Proof::between(3, idle, peak, rest).expect("both have figures").to_string()
    }

    #[test]
    fn what_holds_is_said_to_hold() {
        let text = text(&observation(300, 1000, 50, 0), &observation(60, 1250, 300, 0));
        assert_eq!(
            text,
            "burst 3: RSS 300.0 MiB at its end, 60.0 MiB after 4.0 s of idle\n  \
             RSS fell by 240.0 MiB, purged 250.0 MiB (4.0% apart)\n  \
             madvise_calls=250 for purged_pages=64000 (256.0 pages a call), drop=0\n  \
             as promised: memory came back, in few calls, and RSS shows it"
        );
    }

    #[test]
    fn what_does_not_hold_is_said_too() {
        for (peak, rest, objection) in [
            (observation(300, 0, 0, 0), observation(300, 0, 0, 0), "nothing was purged"),
            (observation(300, 0, 0, 0), observation(100, 250, 9, 0), "more than 10% apart"),
            (observation(100, 0, 0, 0), observation(300, 250, 9, 0), "RSS rose by 200.0 MiB"),
            (observation(300, 0, 0, 0), observation(50, 250, 6401, 0), "more than a tenth"),
            (observation(300, 0, 0, 1), observation(50, 250, 9, 1), "dropped pages"),
        ] {
            let text = text(&peak, &rest);
            assert!(text.contains(objection), "{objection}: {text}");
            assert!(text.contains("NOT as promised"), "{objection}: {text}");
        }
    }
}
