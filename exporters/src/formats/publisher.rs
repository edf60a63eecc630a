//! Publishes the families through the `metrics` facade, into whatever recorder there is.
//!
//! A key is kept for every series, and looked up in the recorder each time: the facade has no way to
//! learn that a recorder has forgotten a series.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Histogram, Key, Label, Level, Metadata, Recorder};
use slackwater::snapshot;

use crate::figures::families::{FAMILIES, Family, LabelValue, Read};
use crate::figures::observation::Observation;
use crate::formats::periodic::Periodic;
use crate::kernel::observer;

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// A histogram's counts.
const BUCKETS: usize = snapshot::Histogram::BUCKETS;

/// Sets every series of the table from a fresh observation, each time it is told to.
///
/// Several of them may publish to one recorder: what each sets is the same, and what is added up (the
/// counts of histograms) is added once for each recorder.
///
/// The facade has no counters of fractions, so families in seconds are gauges there, under the same
/// names; `rate()` reads them as well. It cannot take a series back either. A size class that has no
/// memory any more has 0 bytes; every other gauge that has no value any more (a limit that was lifted) is
/// NaN, of which no alert is true and no panel shows a line.
///
/// # Examples
///
/// ```
/// # let render_my_recorder = || String::new();
/// let mut publisher = slackwater_exporters::Publisher::new();
/// // In the handler of the service's own /metrics:
/// publisher.publish();
/// let body = render_my_recorder();
/// ```
#[derive(Default)]
pub struct Publisher {
    /// The recorder for which the series were made.
    recorder: Option<RecorderIdentity>,
    /// In the order of [`FAMILIES`].
    families: Vec<Vec<Series>>,
}

/// Tells recorders apart by their address. One that is made where another one was has its address: it
/// gets everything that is set, but of histograms what is new.
#[derive(Clone, Copy, PartialEq, Eq)]
struct RecorderIdentity(usize);

impl RecorderIdentity {
    fn of(recorder: &dyn Recorder) -> Self {
        RecorderIdentity((&raw const *recorder).addr())
    }
}

struct Series {
    labels: Vec<LabelValue>,
    key: Key,
    /// Whether the current round has set it.
    set: bool,
}

impl Publisher {
    /// A publisher that has published nothing yet.
    pub fn new() -> Publisher {
        Publisher::default()
    }

    /// Takes an observation and sets every series of the installed recorder (or of the thread's own). Call it
    /// just before the recorder is rendered. A recorder installed after earlier calls is picked up by
    /// the next.
    pub fn publish(&mut self) {
        metrics::with_recorder(|recorder| self.publish_to(recorder));
    }

    /// The same for a recorder that is not installed. The facade gives recorders no identity but their place:
    /// publish to it where it stays. One that is moved afterwards (into `set_global_recorder`) counts as
    /// another, and is told the past of the histograms again.
    pub fn publish_to(&mut self, recorder: &dyn Recorder) {
        let identity = RecorderIdentity::of(recorder);
        if self.recorder != Some(identity) {
            self.recorder = Some(identity);
            self.families = FAMILIES.iter().map(|_| Vec::new()).collect();
        }
        observer::count(|| self.set_all(recorder, identity, &Observation::take()));
    }

    /// Series are registered anew each time: the recorder may have forgotten those that were idle, or be
    /// another one at the same address. That takes a look into its table for each.
    fn set_all(
        &mut self,
        recorder: &dyn Recorder,
        identity: RecorderIdentity,
        observation: &Observation,
    ) {
        for (place, (family, known)) in FAMILIES.iter().zip(&mut self.families).enumerate() {
            let (name, help) = (family.full_name().into(), family.help.into());
            match family.read {
                Read::Counter(read) => {
                    recorder.describe_counter(name, family.unit, help);
                    let set = |key: &Key, value| {
                        recorder.register_counter(key, &METADATA).absolute(value);
                    };
                    set_series(family, known, |put| read(observation, put), set);
                }
                Read::Seconds(read) | Read::Gauge(read) => {
                    recorder.describe_gauge(name, family.unit, help);
                    let set = |key: &Key, value| recorder.register_gauge(key, &METADATA).set(value);
                    set_series(family, known, |put| read(observation, put), set);
                    let none = if family.labels.contains(&"size_class") { 0.0 } else { f64::NAN };
                    for one in known.iter().filter(|one| !one.set) {
                        set(&one.key, none);
                    }
                }
                Read::Histogram(read) => {
                    recorder.describe_histogram(name, family.unit, help);
                    let handle = recorder.register_histogram(&key(family, &[]), &METADATA);
                    read(observation, &mut |_, now| record_new(&handle, identity, place, &now));
                }
            }
        }
    }
}

/// What recorders have of histograms. The oldest are forgotten; a service has one recorder, or a few in
/// its tests.
static RECORDED: Mutex<VecDeque<Recorded>> = Mutex::new(VecDeque::new());

/// What a recorder has of one histogram.
struct Recorded {
    recorder: RecorderIdentity,
    /// The family's place in the table.
    place: usize,
    counts: [u64; BUCKETS],
}

/// How many of them are remembered.
const MAX_RECORDED: usize = 64;

/// The facade takes values, not counts: each new one is recorded as its bucket's bound, so sums and
/// quantiles that a recorder makes of them are upper bounds. There is one for each purge.
fn record_new(
    handle: &Histogram,
    recorder: RecorderIdentity,
    place: usize,
    now: &snapshot::Histogram,
) {
    let mut all = RECORDED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = all.iter().position(|one| (one.recorder, one.place) == (recorder, place));
    let known = known.unwrap_or_else(|| {
        if all.len() == MAX_RECORDED {
            all.pop_front();
        }
        all.push_back(Recorded { recorder, place, counts: [0; BUCKETS] });
        all.len() - 1
    });
    let bounds = now.bounds.iter().chain(now.bounds.last());
    for ((recorded, &count), &bound) in all[known].counts.iter_mut().zip(&now.counts).zip(bounds) {
        handle.record_many(bound, count.saturating_sub(*recorded) as usize);
        // Another publisher may have a later observation already.
        *recorded = count.max(*recorded);
    }
}

fn key(family: &Family, values: &[LabelValue]) -> Key {
    let labels = family.labels.iter().zip(values);
    let labels: Vec<Label> =
        labels.map(|(name, value)| Label::new(*name, value.to_string())).collect();
    Key::from_parts(family.full_name(), labels)
}

/// One round over a family: sets what `read` yields, and leaves everything else that is known unset.
fn set_series<T>(
    family: &Family,
    known: &mut Vec<Series>,
    read: impl FnOnce(&mut dyn FnMut(&[LabelValue], T)),
    set: impl Fn(&Key, T),
) {
    known.iter_mut().for_each(|one| one.set = false);
    // Series come in the same order each time, so the next one is nearly always the right one.
    let mut next = 0;
    read(&mut |labels, value| {
        let is_it = |one: &Series| one.labels == labels;
        let place = match known.get(next) {
            Some(one) if is_it(one) => next,
            _ => known.iter().position(is_it).unwrap_or_else(|| {
                let key = key(family, labels);
                known.push(Series { labels: labels.to_vec(), key, set: false });
                known.len() - 1
            }),
        };
        let one = &mut known[place];
        set(&one.key, value);
        one.set = true;
        next = place + 1;
    });
}

/// Starts a thread that publishes now and then every `period` (at least 10 ms), until it is stopped. The
/// one line of set-up for a service that has a recorder of its own; the order of this and of the
/// recorder's installation does not matter. Works inside of an async runtime and outside.
///
/// # Errors
///
/// When the system gives no thread.
pub fn publish_every(period: Duration) -> io::Result<Periodic> {
    let mut publisher = Publisher::new();
    Periodic::start("slackwater-publish", period, move || publisher.publish())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use crate::kernel::cgroup::CgroupMemory;

    /// A limit that is lifted is no limit of 0: use would be infinitely many times as much.
    #[test]
    fn what_is_gone_is_no_number_and_an_empty_size_class_is_empty() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let mut publisher = Publisher::new();
        let mut publish = |observation: &Observation| {
            let identity = RecorderIdentity::of(&recorder);
            if publisher.families.is_empty() {
                publisher.families = FAMILIES.iter().map(|_| Vec::new()).collect();
            }
            publisher.set_all(&recorder, identity, observation);
            recorder.handle().render()
        };
        let mut observation = Observation::take();
        observation.cgroup =
            Some(CgroupMemory { limit_bytes: Some(4096), ..CgroupMemory::default() });
        let class = observation.snapshot.size_classes[0].block_bytes;
        observation.snapshot.size_classes[0].span_bytes = 65536;
        let before = publish(&observation);
        assert!(before.contains("\nslackwater_cgroup_limit_bytes 4096\n"), "{before}");
        let spans = |bytes| format!("span_bytes{{size_class=\"{class}\"}} {bytes}\n");
        assert!(before.contains(&spans(65536)), "{before}");
        observation.cgroup = None;
        (
            observation.snapshot.size_classes[0].span_bytes,
            observation.snapshot.size_classes[0].live_bytes,
        ) = (0, 0);
        let after = publish(&observation);
        assert!(after.contains("\nslackwater_cgroup_limit_bytes NaN\n"), "{after}");
        assert!(after.contains(&spans(0)), "{after}");
    }

    #[test]
    fn a_series_is_known_once_and_unset_when_it_yields_nothing() {
        let family = FAMILIES.iter().find(|family| family.name == "size_class_span_bytes");
        let family = family.expect("it has a label");
        let mut known = Vec::new();
        let mut round = |yields: &[(u64, u64)]| {
            let values = RefCell::new(BTreeMap::new());
            let read = |put: &mut dyn FnMut(&[LabelValue], u64)| {
                for &(label, value) in yields {
                    put(&[LabelValue::Number(label)], value);
                }
            };
            let set = |key: &Key, value| {
                let label = key.labels().next().expect("one").value().to_string();
                values.borrow_mut().insert(label, value);
            };
            set_series(family, &mut known, read, set);
            let unset = known.iter().filter(|one| !one.set).count();
            (values.into_inner().into_values().collect::<Vec<_>>(), unset, known.len())
        };
        assert_eq!(round(&[(16, 1), (48, 3)]), (vec![1, 3], 0, 2));
        assert_eq!(round(&[(16, 4), (32, 5), (48, 6)]), (vec![4, 5, 6], 0, 3));
        assert_eq!(round(&[(32, 7)]), (vec![7], 2, 3));
    }
}
