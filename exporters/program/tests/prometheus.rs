//! A real Prometheus scrapes the running demo and answers a query.

mod common;

use common::Demo;
use common::prometheus::Prometheus;

#[test]
fn prometheus_scrapes_the_demo_and_answers() {
    if !common::have_tool("prometheus") {
        return;
    }
    let demo = Demo::start(&[]);
    let target = demo.address;
    let prometheus = Prometheus::start(|_| {
        format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs: [{{job_name: demo, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
    });
    assert_eq!(prometheus.answer("slackwater_build_info"), [1.0]);
    assert_eq!(prometheus.answer("up"), [1.0]);
    let resident = prometheus.answer("sum(slackwater_process_resident_bytes)");
    assert!(resident[0] > 0.0);
    assert_eq!(prometheus.answer("count(slackwater_memory_bytes)"), [7.0]);
    // What Prometheus asks for first is OpenMetrics. Only there has a family a unit.
    let metric = [("metric", "slackwater_rss_peak_bytes")];
    let metadata = prometheus.ask("targets/metadata", &metric).expect("it is up");
    assert_eq!(metadata[0]["unit"], "bytes", "{metadata}");
    // Two scrapes of a counter make a rate.
    prometheus.answer("rate(slackwater_allocated_bytes_total[10s])");
}
