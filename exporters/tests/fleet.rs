//! What a fleet costs the Prometheus that scrapes it, and whether the fleet's dashboard shows it.
//!
//! The small fleet is a test. The large one is a measurement, whose result is in
//! dashboards/README.md:
//!
//! ```console
//! $ cargo test --release -p slackwater-exporters --test fleet -- --ignored --nocapture
//! ```

mod common;
#[path = "../examples/fleet/simulation.rs"]
mod simulation;

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use common::dashboards;
use common::prometheus::Prometheus;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// A fleet, and a Prometheus that scrapes it by the rules of `dashboards/`.
fn observed_fleet(instances: usize, interval_seconds: u64) -> (SocketAddr, Prometheus) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let fleet = simulation::serve(listener, instances).expect("the fleet is served");
    let rules = dashboards::file("rules").display().to_string();
    let prometheus = Prometheus::start(|own| {
        format!(
            "global: {{scrape_interval: {interval_seconds}s, evaluation_interval: \
             {interval_seconds}s}}\n\
             rule_files: ['{rules}/recording.yml', '{rules}/alerts.yml']\n\
             scrape_configs:\n\
             - {{job_name: fleet, http_sd_configs: [{{url: 'http://{fleet}/targets'}}]}}\n\
             - {{job_name: prometheus, static_configs: [{{targets: ['{own}']}}]}}\n"
        )
    });
    (fleet, prometheus)
}

#[test]
fn the_fleet_dashboard_shows_a_fleet() {
    if !common::have_tool("prometheus") {
        return;
    }
    let (fleet, prometheus) = observed_fleet(20, 1);
    prometheus.wait_for("twenty processes", || {
        let counted = prometheus.query("sum(job:slackwater_build_info:count)").ok()?;
        (counted == [20.0]).then_some(())
    });
    let jobs = prometheus.answer("job:slackwater_build_info:count");
    assert_eq!(jobs, [2.0; 10], "five jobs in two clusters");
    // Each of the rules adds up: the fleet is the sum of its processes, and nothing is counted twice.
    let both = |left: &str, right: &str| {
        prometheus.wait_for(left, || {
            let left = prometheus.query(left).ok()?.first().copied()?;
            let right = prometheus.query(right).ok()?.first().copied()?;
            // The two are not recorded at the same moment.
            (left > 0.0 && (left - right).abs() < 0.2 * left).then_some(())
        });
    };
    both(
        "sum(job:slackwater_process_resident_bytes:sum)",
        "sum(process:slackwater_process_resident_bytes:sum)",
    );
    both(
        "sum(job:slackwater_rss_bytes:sum) + sum(job:slackwater_rss_unattributed_bytes:sum)",
        "sum(slackwater_process_resident_bytes)",
    );
    let rules = prometheus.rules();
    let page = common::get(fleet, "/instances/0/metrics").body;
    let absent = dashboards::absent_series(&[page], &rules);
    dashboards::ask_all(&prometheus, &dashboards::panels("fleet.json"), &absent);
}

#[test]
#[ignore = "a measurement of three minutes, not a test"]
fn what_two_hundred_instances_cost() {
    assert!(common::have_tool("prometheus"), "nothing is measured without Prometheus");
    const INSTANCES: usize = 200;
    const INTERVAL_SECONDS: u64 = 5;
    let (_, prometheus) = observed_fleet(INSTANCES, INTERVAL_SECONDS);
    thread::sleep(Duration::from_secs(180));

    let one = |query: &str| prometheus.answer(query)[0];
    let own = "{job=\"prometheus\"}";
    let fleet = "job!=\"prometheus\"";
    let instances = one("sum(job:slackwater_build_info:count)");
    let head = one(&format!("prometheus_tsdb_head_series{own}"));
    let itself = one(&format!("scrape_samples_post_metric_relabeling{own}"));
    let cpu = one(&format!("rate(process_cpu_seconds_total{own}[2m])"));
    let resident = one(&format!("process_resident_memory_bytes{own}"));
    let heap = one(&format!("go_memstats_alloc_bytes{own}"));
    let recorded = one("count({__name__=~\"(process|job|job_version):.*\"})");
    let per_process = one("count({__name__=~\"process:.*\"})") / instances;
    let rules = one(&format!("sum(prometheus_rule_group_last_duration_seconds{own})"));
    let samples = one(&format!("avg(scrape_samples_scraped{{{fleet}}})"));
    let scrape = one(&format!("avg(avg_over_time(scrape_duration_seconds{{{fleet}}}[2m]))"));
    let slowest = one(&format!("max(max_over_time(scrape_duration_seconds{{{fleet}}}[2m]))"));
    println!(
        "instances                                 {instances}\n\
         scrape interval                           {INTERVAL_SECONDS} s\n\
         series of an instance                     {samples:.0}\n\
         recorded series, all / of a process       {recorded} / {per_process:.1}\n\
         series in the head                        {head} ({itself} of them Prometheus' own)\n\
         scrape of an instance, mean / slowest     {:.1} / {:.1} ms\n\
         evaluation of all rules                   {:.1} ms\n\
         CPU of Prometheus                         {:.1}% of a core, {:.0} µs for an instance and scrape\n\
         memory of Prometheus, resident / heap     {:.0} / {:.0} MiB, {:.1} KiB of heap for a series",
        scrape * 1e3,
        slowest * 1e3,
        rules * 1e3,
        cpu * 100.0,
        cpu / instances * INTERVAL_SECONDS as f64 * 1e6,
        resident / f64::from(1 << 20),
        heap / f64::from(1 << 20),
        heap / head / 1024.0,
    );
}
