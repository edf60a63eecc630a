//! The families through the `metrics` facade, in a process whose allocator is Slackwater.

mod common;

use metrics_exporter_prometheus::PrometheusBuilder;
use slackwater_exporters::Publisher;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

#[test]
fn an_installed_recorder_shows_every_family_and_promtool_has_nothing_to_say() {
    let mut publisher = Publisher::new();
    publisher.publish(); // Into nothing: the recorder comes later, as it may.
    let handle = PrometheusBuilder::new().install_recorder().expect("the first recorder");
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
    let recorder = PrometheusBuilder::new().build_recorder();
    let mut publisher = Publisher::new();
    publisher.publish_to(&recorder);
    common::assert_complete(&recorder.handle().render());
}
