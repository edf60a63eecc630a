//! Publishes the families through the `metrics` facade, into whatever recorder there is.
//!
//! A handle is kept for every series: setting one costs 11 ns, while the facade's macros look the
//! series up each time (88 ns and an allocation, in a process whose allocator is being watched).

use std::io;
use std::thread;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use slackwater::snapshot;

use crate::families::{FAMILIES, Family, LabelValue, Read, Sample};

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// The shortest period that [`publish_every`] keeps to.
const SHORTEST_PERIOD: Duration = Duration::from_millis(10);

/// A histogram's counts.
const BUCKETS: usize = snapshot::Histogram::BUCKETS;

/// Sets every series of the table from a fresh sample, each time it is told to.
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
    /// The recorder for which the handles were made.
    recorder: Option<RecorderIdentity>,
    /// In the order of [`FAMILIES`].
    families: Vec<FamilyHandles>,
}

/// Tells recorders apart by their address. A service may create its publisher before it installs
/// its recorder; handles made then lead nowhere, and this is how it is noticed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct RecorderIdentity(usize);

impl RecorderIdentity {
    fn of(recorder: &dyn Recorder) -> Self {
        RecorderIdentity((&raw const *recorder).addr())
    }
}

enum FamilyHandles {
    Counters(Vec<Series<Counter>>),
    Gauges(Vec<Series<Gauge>>),
    /// With the counts that have been recorded.
    Histogram(Histogram, [u64; BUCKETS]),
}

struct Series<H> {
    labels: Vec<LabelValue>,
    handle: H,
    /// Whether the current round has set it.
    set: bool,
}

impl Publisher {
    /// A publisher that has published nothing yet.
    pub fn new() -> Publisher {
        Publisher::default()
    }

    /// Takes a sample and sets every series of the installed recorder. Call it just before the
    /// recorder is rendered. A recorder installed after earlier calls is picked up by the next.
    pub fn publish(&mut self) {
        metrics::with_recorder(|recorder| self.publish_to(recorder));
    }

    /// The same for a recorder that is not installed.
    pub fn publish_to(&mut self, recorder: &dyn Recorder) {
        let identity = RecorderIdentity::of(recorder);
        if self.recorder != Some(identity) {
            self.recorder = Some(identity);
            self.families = describe(recorder);
        }
        self.set_all(recorder, &Sample::take());
    }

    fn set_all(&mut self, recorder: &dyn Recorder, sample: &Sample) {
        for (family, handles) in FAMILIES.iter().zip(&mut self.families) {
            match (family.read, handles) {
                (Read::Counter(read), FamilyHandles::Counters(series)) => set_series(
                    series,
                    |put| read(sample, put),
                    |labels| recorder.register_counter(&key(family, labels), &METADATA),
                    Counter::absolute,
                    // A counter without a value keeps the one it had.
                    |_| {},
                ),
                (Read::Gauge(read), FamilyHandles::Gauges(series)) => set_series(
                    series,
                    |put| read(sample, put),
                    |labels| recorder.register_gauge(&key(family, labels), &METADATA),
                    Gauge::set,
                    // A size class that gave its last span back holds 0, not what it held before.
                    |gauge| gauge.set(0.0),
                ),
                (Read::Seconds(read), FamilyHandles::Counters(series)) => set_series(
                    series,
                    |put| read(sample, put),
                    |labels| recorder.register_counter(&key(family, labels), &METADATA),
                    // The facade's counters are whole numbers.
                    |counter, seconds| counter.absolute(seconds as u64),
                    |_| {},
                ),
                (Read::Histogram(read), FamilyHandles::Histogram(handle, recorded)) => {
                    read(sample, &mut |_, histogram| record_new(handle, recorded, &histogram));
                }
                _ => unreachable!("handles are made from the table, in its order"),
            }
        }
    }
}

/// Tells the recorder each family's type, unit and help; returns a place for each one's handles.
fn describe(recorder: &dyn Recorder) -> Vec<FamilyHandles> {
    let describe_one = |family: &Family| {
        let (name, help) = (family.full_name().into(), family.help.into());
        match family.read {
            Read::Counter(_) | Read::Seconds(_) => {
                recorder.describe_counter(name, family.unit, help);
                FamilyHandles::Counters(Vec::new())
            }
            Read::Gauge(_) => {
                recorder.describe_gauge(name, family.unit, help);
                FamilyHandles::Gauges(Vec::new())
            }
            Read::Histogram(_) => {
                recorder.describe_histogram(name, family.unit, help);
                let handle = recorder.register_histogram(&key(family, &[]), &METADATA);
                FamilyHandles::Histogram(handle, [0; BUCKETS])
            }
        }
    };
    FAMILIES.iter().map(describe_one).collect()
}

/// The facade takes values, not counts: each new one is recorded as its bucket's bound, so sums and
/// quantiles that a recorder makes of them are upper bounds. There is one for each purge.
fn record_new(handle: &Histogram, recorded: &mut [u64; BUCKETS], now: &snapshot::Histogram) {
    let bounds = now.bounds.iter().chain(now.bounds.last());
    for ((recorded, &count), &bound) in recorded.iter_mut().zip(&now.counts).zip(bounds) {
        handle.record_many(bound, count.saturating_sub(*recorded) as usize);
        *recorded = count;
    }
}

fn key(family: &Family, values: &[LabelValue]) -> Key {
    let labels = family.labels.iter().zip(values);
    let labels: Vec<Label> =
        labels.map(|(name, value)| Label::new(*name, value.to_string())).collect();
    Key::from_parts(family.full_name(), labels)
}

/// One round over a family: sets what `read` yields, registers what is new, and hands the handles
/// that got no value to `unset`.
fn set_series<H, T>(
    series: &mut Vec<Series<H>>,
    read: impl FnOnce(&mut dyn FnMut(&[LabelValue], T)),
    register: impl Fn(&[LabelValue]) -> H,
    set: impl Fn(&H, T),
    unset: impl Fn(&H),
) {
    series.iter_mut().for_each(|one| one.set = false);
    // Series come in the same order each time, so the next one is nearly always the right one.
    let mut next = 0;
    read(&mut |labels, value| {
        let is_it = |one: &Series<H>| one.labels == labels;
        let place = match series.get(next) {
            Some(one) if is_it(one) => next,
            _ => series.iter().position(is_it).unwrap_or_else(|| {
                let handle = register(labels);
                series.push(Series { labels: labels.to_vec(), handle, set: false });
                series.len() - 1
            }),
        };
        let one = &mut series[place];
        set(&one.handle, value);
        one.set = true;
        next = place + 1;
    });
    series.iter().filter(|one| !one.set).for_each(|one| unset(&one.handle));
}

/// Starts a thread that publishes now and then every `period` (at least 10 ms), for as long as the
/// process lives. The one line of set-up for a service that has a recorder of its own; the order
/// of this and of the recorder's installation does not matter. From here on the stacks of samples are
/// walked by unwind tables.
///
/// # Errors
///
/// When the system gives no thread.
pub fn publish_every(period: Duration) -> io::Result<()> {
    slackwater_unwind::install();
    let period = period.max(SHORTEST_PERIOD);
    thread::Builder::new().name("slackwater-publish".into()).spawn(move || {
        let mut publisher = Publisher::new();
        loop {
            publisher.publish();
            thread::sleep(period);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::{Cell, RefCell};

    /// The handles of a made-up family: registrations in order, values by place.
    #[derive(Default)]
    struct Recorded {
        registered: RefCell<Vec<Vec<LabelValue>>>,
        values: RefCell<Vec<Option<u64>>>,
        lookups: Cell<usize>,
    }

    impl Recorded {
        fn round(&self, series: &mut Vec<Series<usize>>, yields: &[(u64, u64)]) {
            set_series(
                series,
                |put| {
                    for &(label, value) in yields {
                        put(&[LabelValue::Number(label)], value);
                    }
                },
                |labels| {
                    self.registered.borrow_mut().push(labels.to_vec());
                    self.values.borrow_mut().push(None);
                    self.lookups.set(self.lookups.get() + 1);
                    self.registered.borrow().len() - 1
                },
                |&handle, value| self.values.borrow_mut()[handle] = Some(value),
                |&handle| self.values.borrow_mut()[handle] = None,
            );
        }
    }

    #[test]
    fn a_series_is_registered_once_and_unset_when_it_yields_nothing() {
        let recorded = Recorded::default();
        let mut series = Vec::new();
        recorded.round(&mut series, &[(16, 1), (48, 3)]);
        recorded.round(&mut series, &[(16, 4), (32, 5), (48, 6)]);
        assert_eq!(*recorded.values.borrow(), [Some(4), Some(6), Some(5)]);
        recorded.round(&mut series, &[(32, 7)]);
        assert_eq!(*recorded.values.borrow(), [None, None, Some(7)]);
        assert_eq!(recorded.lookups.get(), 3);
    }
}
