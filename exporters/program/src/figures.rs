//! Figures of an observation by the names that the table of families gives them.

use std::time::{SystemTime, UNIX_EPOCH};

use slackwater_exporters::Observation;
use slackwater_exporters::families::{FAMILIES, Family};

/// What is shown per second: a name for people, and the counter whose increase it is.
pub const RATES: [(&str, &str); 6] = [
    ("allocations", "allocations_total"),
    ("frees", "frees_total"),
    ("refills", "refills_total"),
    ("spills", "spills_total"),
    ("purged pages", "release_purged_pages_total"),
    ("madvise calls", "release_madvise_calls_total"),
];

/// A row of the table. The names asked for are constants of this program.
pub fn family(name: &str) -> &'static Family {
    let found = FAMILIES.iter().find(|family| family.name == name);
    found.unwrap_or_else(|| unreachable!("{name} is a family"))
}

/// The family's series: the values of its labels, and the series' value.
pub fn series(observation: &Observation, name: &str) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    family(name).series(observation, &mut |labels, value| {
        let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
        found.push((labels.join(","), value));
    });
    found
}

/// The sum of the family's series.
pub fn total(observation: &Observation, name: &str) -> f64 {
    let mut sum = 0.0;
    family(name).series(observation, &mut |_, value| sum += value);
    sum
}

/// How fast a counter went from one observation to the next; 0 where it went back, as it does when the
/// process has executed another program.
pub fn per_second(before: f64, after: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { (after - before).max(0.0) / seconds } else { 0.0 }
}

/// RSS as the kernel counts it; 0 where it does not tell.
pub fn resident_bytes(observation: &Observation) -> u64 {
    observation.process.map_or(0, |process| process.resident_bytes())
}

/// Seconds since 1970, to the millisecond.
pub fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_counters_in_the_table() {
        for (_, name) in RATES {
            assert_eq!(family(name).type_name(), "counter", "{name}");
        }
    }

    #[test]
    fn a_total_is_the_sum_of_its_series() {
        let mut observation = Observation::take();
        observation.snapshot.epoch_ticks_total.idle = 3;
        observation.snapshot.epoch_ticks_total.busy = 4;
        assert_eq!(total(&observation, "epoch_ticks_total"), 7.0);
        let expected = [("idle".to_string(), 3.0), ("busy".to_string(), 4.0)];
        assert_eq!(series(&observation, "epoch_ticks_total"), expected);
    }

    #[test]
    fn a_counter_that_went_back_has_no_rate() {
        assert_eq!(per_second(10.0, 30.0, 2.0), 10.0);
        assert_eq!(per_second(30.0, 10.0, 2.0), 0.0);
        assert_eq!(per_second(10.0, 30.0, 0.0), 0.0);
    }
}
