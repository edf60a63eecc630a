//! The families through the `metrics` facade, in a process whose allocator is Slackwater.

mod common;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use slackwater_exporters::families::{FAMILIES, Family, Read};
use slackwater_exporters::{Observation, Publisher, publish_every};

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// A recorder that keeps histograms as such, as a service sets it up; and something to count there.
fn builder() -> PrometheusBuilder {
    drop(vec![1u8; 8 << 20]);
    slackwater::release_now();
    let snapshot = Observation::take().snapshot;
    [
        ("slackwater_purge_duration_seconds", snapshot.purge_duration_seconds),
        ("slackwater_purge_batch_pages", snapshot.purge_batch_pages),
    ]
    .into_iter()
    .fold(PrometheusBuilder::new(), |builder, (name, histogram)| {
        let matcher = Matcher::Full(name.to_string());
        builder.set_buckets_for_metric(matcher, &histogram.bounds).expect("it has bounds")
    })
}

/// The facade's counters are whole numbers: what is in seconds is a gauge there.
fn facade_type(family: &Family) -> &'static str {
    match family.read {
        Read::Seconds(_) => "gauge",
        _ => family.type_name(),
    }
}

/// Without those gauges, of whose names promtool thinks that they are a counter's.
fn without_seconds(text: &str) -> String {
    let seconds = FAMILIES.iter().filter(|family| matches!(family.read, Read::Seconds(_)));
    let names: Vec<String> = seconds.map(Family::full_name).collect();
    let is_seconds = |line: &str| names.iter().any(|name| line.contains(name.as_str()));
    text.lines().filter(|line| !is_seconds(line)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn an_installed_recorder_shows_every_family_and_promtool_has_nothing_to_say() {
    let mut publisher = Publisher::new();
    publisher.publish(); // Into nothing: the recorder comes later, as it may.
    let handle = builder().install_recorder().expect("the first recorder");
    publisher.publish();
    let first = handle.render();
    common::assert_complete_by(&first, facade_type);
    common::assert_promtool_is_silent(&without_seconds(&first));

    // Again, so that what is kept from the first time is used.
    publisher.publish();
    let second = common::parse(&handle.render());
    for (name, before) in common::parse(&first) {
        let after = &second[&name];
        assert!(before.series.keys().all(|labels| after.series.contains_key(labels)), "{name}");
        if before.kind == "counter" {
            assert!(before.series.iter().all(|(labels, was)| after.series[labels] >= *was));
        }
    }
}

#[test]
fn a_recorder_that_is_not_installed_is_served_too() {
    let recorder = builder().build_recorder();
    let mut publisher = Publisher::new();
    publisher.publish_to(&recorder);
    common::assert_complete_by(&recorder.handle().render(), facade_type);
}

/// Two parts of a service that both set it up, and a third that publishes when it is scraped.
#[test]
fn however_many_publish_to_a_recorder_nothing_is_counted_twice() {
    let recorder = builder().build_recorder();
    for _ in 0..3 {
        Publisher::new().publish_to(&recorder);
    }
    let text = recorder.handle().render();
    let purges = common::parse(&text)["slackwater_purge_batch_pages"].series["_count"];
    let counted = Observation::take().snapshot.purge_batch_pages.counts.iter().sum::<u64>();
    // More may have been purged since.
    assert!(purges > 0.0 && purges <= counted as f64, "{purges} of {counted}");
}

/// A publisher outlives its recorders: in the tests of a service each has its own.
#[test]
fn a_publisher_serves_one_recorder_after_the_other() {
    let mut publisher = Publisher::new();
    for _ in 0..3 {
        let recorder = Box::new(builder().build_recorder());
        publisher.publish_to(&*recorder);
        let text = recorder.handle().render();
        let series = text.lines().filter(|line| line.starts_with("slackwater_")).count();
        assert!(series > 100, "{text}");
        let local = builder().build_recorder();
        metrics::with_local_recorder(&local, || publisher.publish());
        assert!(local.handle().render().contains("slackwater_frees_total"));
    }
}

#[test]
fn fractions_of_seconds_are_published() {
    let recorder = builder().build_recorder();
    Publisher::new().publish_to(&recorder);
    let text = recorder.handle().render();
    let spent: f64 = common::parse(&text)["slackwater_release_seconds_total"].series.values().sum();
    assert!(spent > 0.0 && spent.fract() > 0.0, "{text}");
}

#[test]
fn publishing_can_be_stopped() {
    let publishing = publish_every(std::time::Duration::from_millis(10)).expect("a thread");
    publishing.stop();
    let names = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has it");
        let comm = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
        };
        tasks.filter_map(comm).collect::<Vec<_>>()
    };
    common::wait_until("its thread has ended", || {
        !names().iter().any(|name| name.starts_with("slackwater-publ"))
    });
}
