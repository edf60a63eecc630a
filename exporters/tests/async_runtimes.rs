//! Everything public works where services call it from: outside of an async runtime, inside of one that
//! has one thread, and of one that has several.

mod common;

use std::net::TcpListener;
use std::time::Duration;

use slackwater_exporters::attach::Target;
use slackwater_exporters::fleet::Fleet;
use slackwater_exporters::profile::kind::Kind;
use slackwater_exporters::profile::pprof::{self, DefaultType};
use slackwater_exporters::profile::reading::ProfileReading;
use slackwater_exporters::profile::{flamegraph, leaks, legacy};
use slackwater_exporters::trace::Drain;
use slackwater_exporters::{Endpoint, Observation, Publisher, perf, publish_every, trace_every};
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// Calls all of it once. What fails here may (a port is taken); it may not panic, nor hang.
fn everything() {
    // The allocator.
    let snapshot = slackwater::snapshot();
    assert!(snapshot.mapped_bytes > 0);
    slackwater::release_now();
    slackwater::set_knobs(slackwater::knobs()).expect("those that it has");

    // Addresses: a free one, a taken one, one that is none; dropped, stopped, detached.
    let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
    let tcp = endpoint.address().tcp().expect("it is TCP");
    assert_eq!(common::get(tcp, "/metrics").status, 200);
    Endpoint::bind(&tcp.to_string()).expect_err("it is taken");
    drop(endpoint);
    Endpoint::bind(&tcp.to_string()).expect("it was given back").stop();
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = elsewhere.local_addr().expect("bound").to_string();
    Endpoint::bind(&taken).expect_err("somebody else has it");
    Endpoint::bind("nowhere").expect_err("no address");
    Endpoint::bind("127.0.0.1:0").expect("a free port").detach();

    // The facade and tracing.
    let mut publisher = Publisher::new();
    publisher.publish();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    publisher.publish_to(&recorder);
    publish_every(Duration::from_millis(10)).expect("a thread").stop();
    Drain::new().poll();
    trace_every(Duration::from_secs(1)).expect("a thread").stop();

    // Figures, of this process and of others; profiles.
    let observation = Observation::take();
    assert!(observation.breakdown().is_some());
    Target::open(std::process::id()).expect("its own heap").observe().expect("readable");
    Target::open(u32::MAX).map(drop).expect_err("no such process");
    assert!(!Fleet::default().look().0.is_empty());
    let reading = ProfileReading::of_this_process().expect("readable");
    let names = reading.names();
    assert!(!pprof::render(&reading.profile, &names, DefaultType::InuseSpace, None).is_empty());
    assert!(!legacy::render(&reading.profile, &names).is_empty());
    assert!(!leaks::render(&reading.profile, &names).is_empty());
    flamegraph::draw(Kind::Live, "this", None, &reading, &names).expect("drawn");
    // There may be no counters here.
    let _ = perf::count_sections();
}

#[test]
fn everything_works_outside_and_inside_of_runtimes() {
    everything();
    let runtimes: [fn() -> Builder; 2] = [Builder::new_current_thread, Builder::new_multi_thread];
    for builder in runtimes {
        let runtime = || -> Runtime { builder().enable_all().build().expect("a runtime") };
        runtime().block_on(async { everything() });
        let spawned = runtime();
        spawned.block_on(async { tokio::spawn(async { everything() }).await }).expect("no panic");
        runtime().block_on(async {
            tokio::task::spawn_blocking(everything).await.expect("no panic");
        });
    }
}
