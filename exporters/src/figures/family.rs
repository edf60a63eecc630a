//! What a metric family is; all of them are in one table ([`FAMILIES`](crate::families::FAMILIES)).

use std::fmt;

pub use metrics::Unit;
use slackwater::snapshot::Histogram;

use crate::figures::observation::Observation;

/// What every metric's name begins with.
pub const PREFIX: &str = "slackwater_";

/// The value of one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LabelValue {
    /// One of a fixed set of words.
    Word(&'static str),
    /// A number out of a small set.
    Number(u64),
}

impl fmt::Display for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelValue::Word(word) => f.write_str(word),
            LabelValue::Number(number) => number.fmt(f),
        }
    }
}

/// Receives the series of one family: label values in the order of [`Family::labels`], and the
/// series' value.
pub type Put<'a, T> = &'a mut dyn FnMut(&[LabelValue], T);

/// A family's type, with the function that reads its series out of an observation.
#[derive(Clone, Copy)]
pub enum Read {
    /// Never goes back while the process lives.
    Counter(fn(&Observation, Put<'_, u64>)),
    /// The same for a fractional number of seconds.
    Seconds(fn(&Observation, Put<'_, f64>)),
    /// May go up and down.
    Gauge(fn(&Observation, Put<'_, f64>)),
    /// How often a quantity was how large.
    Histogram(fn(&Observation, Put<'_, Histogram>)),
}

/// One metric family.
pub struct Family {
    /// The name without [`PREFIX`].
    pub name: &'static str,
    /// The unit of the values, where they have one.
    pub unit: Option<Unit>,
    /// The names of the labels that tell the family's series apart.
    pub labels: &'static [&'static str],
    /// One sentence: what the value is.
    pub help: &'static str,
    /// Type and values.
    pub read: Read,
}

impl Family {
    /// The name as it appears in Prometheus.
    pub fn full_name(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// What Prometheus calls the family's type.
    pub fn type_name(&self) -> &'static str {
        match self.read {
            Read::Counter(_) | Read::Seconds(_) => "counter",
            Read::Gauge(_) => "gauge",
            Read::Histogram(_) => "histogram",
        }
    }

    /// Calls `put` for each series that is a number; histograms have none.
    pub fn series(&self, observation: &Observation, put: Put<'_, f64>) {
        match self.read {
            Read::Counter(read) => {
                read(observation, &mut |labels, value| put(labels, value as f64))
            }
            Read::Seconds(read) | Read::Gauge(read) => read(observation, put),
            Read::Histogram(_) => {}
        }
    }

    /// Calls `put` for each series that is a histogram.
    pub fn histograms(&self, observation: &Observation, put: Put<'_, Histogram>) {
        if let Read::Histogram(read) = self.read {
            read(observation, put);
        }
    }
}

pub(super) const fn counter(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Observation, Put<'_, u64>),
) -> Family {
    Family { name, unit: Some(unit), labels, help, read: Read::Counter(read) }
}

pub(super) const fn gauge(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Observation, Put<'_, f64>),
) -> Family {
    Family { name, unit: Some(unit), labels, help, read: Read::Gauge(read) }
}

pub(super) const fn histogram(
    name: &'static str,
    unit: Unit,
    help: &'static str,
    read: fn(&Observation, Put<'_, Histogram>),
) -> Family {
    Family { name, unit: Some(unit), labels: &[], help, read: Read::Histogram(read) }
}

pub(super) const fn seconds_total(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Observation, Put<'_, f64>),
) -> Family {
    Family { name, unit: Some(Unit::Seconds), labels, help, read: Read::Seconds(read) }
}

/// A gauge whose value is a state or a constant, not a quantity.
pub(super) const fn state(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Observation, Put<'_, f64>),
) -> Family {
    Family { name, unit: None, labels, help, read: Read::Gauge(read) }
}
