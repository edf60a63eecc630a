//! The families through the `metrics` facade, in a process whose allocator is Slackwater.

mod common;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use slackwater_exporters::{Publisher, Sample};

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// A recorder that keeps histograms as such, as a service sets it up; and something to count there.
fn builder() -> PrometheusBuilder {
    drop(vec![1u8; 8 << 20]);
    slackwater::release_now();
    let snapshot = Sample::take().snapshot;
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

#[test]
fn an_installed_recorder_shows_every_family_and_promtool_has_nothing_to_say() {
    let mut publisher = Publisher::new();
    publisher.publish(); // Into nothing: the recorder comes later, as it may.
    let handle = builder().install_recorder().expect("the first recorder");
    publisher.publish();
    let first = handle.render();
    common::assert_complete(&first);
    common::assert_promtool_is_silent(&first);

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
    common::assert_complete(&recorder.handle().render());
}
