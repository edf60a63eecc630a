//! What the allocator does reaches `tracing` subscribers as spans: in a service of its own, and here, event
//! by event.

mod common;

use std::env;
use std::io::{self, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};

use common::output_of;
use slackwater_exporters::Observation;
use slackwater_exporters::families::FAMILIES;
use slackwater_exporters::trace::Drain;
use tracing_subscriber::fmt::format::FmtSpan;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// How many events the journal holds.
const JOURNAL: usize = 512;

/// The number behind the last `name=` of a line.
fn field(line: &str, name: &str) -> u64 {
    let (_, rest) =
        line.rsplit_once(&format!("{name}=")).unwrap_or_else(|| panic!("no {name}: {line}"));
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().expect("digits");
    digits.parse().unwrap_or_else(|_| panic!("{name}: {line}"))
}

/// The example gives its bursts' memory back: purges inside of ticks, of as much as it had, within their
/// ticks' times.
#[test]
fn a_service_sees_ticks_and_what_they_did() {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "slackwater-exporters", "--example", "traced"]);
    assert!(build.status().expect("cargo").success());
    let test = env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let output = output_of(&mut Command::new(profile.join("examples/traced")), b"");

    assert_eq!(output.matches("served a request").count(), 3, "{output}");
    let told = |line: &&str| line.contains(" slackwater: close");
    let purges: Vec<_> =
        output.lines().filter(told).filter(|line| line.contains("purge{")).collect();
    let ticks = output.lines().filter(told).filter(|line| line.matches('{').count() == 1).count();
    assert!(ticks > 3 && !purges.is_empty(), "{output}");
    let pages: u64 = purges.iter().map(|line| field(line, "pages")).sum();
    // Three times 100 MB, less what one burst left for the next.
    assert!(pages * 4096 > 100_000_000, "{pages} pages: {output}");
    for line in purges {
        let (tick, purge) = line.split_once("}:purge{").expect("inside of a tick");
        let began = [tick, purge].map(|part| field(part, "start_unix_nano"));
        let ended = [tick, purge].map(|part| field(part, "end_unix_nano"));
        assert!(began[0] <= began[1] && began[1] <= ended[1] && ended[1] <= ended[0], "{line}");
        assert_eq!((ended[1] - began[1]) / 1000, field(purge, "micros"), "{line}");
    }
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic in here").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().expect("no panic in here"));
        String::from_utf8(bytes).expect("text")
    }
}

fn purge_once() {
    drop(std::hint::black_box(vec![1u8; 1 << 20]));
    slackwater::release_now();
}

/// What `trace_lost_events_total` says.
fn lost_by_metric() -> f64 {
    let family = FAMILIES.iter().find(|family| family.name == "trace_lost_events_total");
    let mut lost = None;
    family.expect("in the table").series(&Observation::take(), &mut |_, value| lost = Some(value));
    lost.expect("somebody tells")
}

#[test]
fn every_event_is_told_or_counted() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let mut knobs = slackwater::knobs();
    // Next to nobody else purges.
    knobs.ticker = false;
    knobs.release = false;
    slackwater::set_knobs(knobs).expect("knobs");
    tracing::subscriber::with_default(subscriber, || {
        let mut drain = Drain::new();
        drain.poll();
        drain.poll();
        log.take();
        let told = |log: &str| log.matches("purge{").count() as u64;

        // One call later, for they are of no tick.
        purge_once();
        let before = slackwater::snapshot().purge_duration_seconds.counts.iter().sum::<u64>();
        for _ in 0..10 {
            purge_once();
        }
        let after = slackwater::snapshot().purge_duration_seconds.counts.iter().sum::<u64>();
        assert!(drain.poll() > 5);
        drain.poll();
        let told_now = told(&log.take());
        assert!(
            told_now >= after - before && after - before > 5,
            "{told_now} of {before} to {after}"
        );
        assert_eq!(lost_by_metric(), 0.0);

        for _ in 0..JOURNAL + 100 {
            purge_once();
        }
        drain.poll();
        let lost = lost_by_metric();
        assert!(lost >= 100.0, "{lost}");
        let text = log.take();
        let line = text.lines().find(|line| line.contains("overwritten")).expect("a warning");
        assert!(line.contains("WARN"), "{line}");
        assert_eq!(field(line, "lost") as f64, lost);
    });
}
