//! What `dashboards/` keeps, as the tests read it: panels with their queries, rules by name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use slackwater_exporters::families::PREFIX;

use super::prometheus::{Prometheus, Rule};

/// The dashboards.
pub const DASHBOARDS: [&str; 2] = ["service.json", "fleet.json"];

/// Families that a process has only where its surroundings do (a control group with limits, a
/// kernel that tells the group's pressure), and those of `slackwater export`'s own process, and those
/// that a process counts if it is asked to. Every other family must be there in every run.
pub const CONDITIONAL: [&str; 14] = [
    "process_proportional_bytes",
    "swapped_bytes",
    "cgroup_limit_bytes",
    "cgroup_current_bytes",
    "cgroup_need_bytes",
    "cgroup_high_bytes",
    "cgroup_high_need_bytes",
    "cgroup_events_total",
    "cgroup_pressure_seconds_total",
    "export_processes",
    "export_duration_seconds",
    "perf_events_total",
    "perf_uncounted_sections_total",
    "trace_lost_events_total",
];

/// What only queries about events have that a machine may have no counters for.
const HARDWARE: &str = "event=\"instructions\"";

/// The repository.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let above = package.ancestors().find(|folder| folder.join("dashboards").is_dir());
    above.expect("the repository").to_path_buf()
}

/// A file of `dashboards/`.
pub fn file(path: &str) -> PathBuf {
    root().join("dashboards").join(path)
}

/// Its text.
pub fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("dashboards/{path}: {error}"))
}

/// A dashboard, or what else is JSON.
pub fn json(path: &str) -> Value {
    serde_json::from_str(&text(path)).unwrap_or_else(|error| panic!("dashboards/{path}: {error}"))
}

/// A panel that shows something.
#[derive(Clone)]
pub struct Panel {
    /// Dashboard and title, for messages.
    pub name: String,
    /// Its queries, as Grafana would send them but for the variables.
    pub queries: Vec<String>,
}

/// The panels of a dashboard, without the rows' headings.
pub fn panels(dashboard: &str) -> Vec<Panel> {
    let json = json(dashboard);
    let panels = json["panels"].as_array().expect("panels").iter();
    panels
        .filter(|panel| panel["type"] != "row")
        .map(|panel| {
            let title = panel["title"].as_str().expect("a panel has a title");
            let targets = panel["targets"].as_array().expect("a panel has queries").iter();
            let query = |target: &Value| target["expr"].as_str().expect("a query").to_string();
            Panel { name: format!("{dashboard}: {title}"), queries: targets.map(query).collect() }
        })
        .collect()
}

/// A query with the variables as they are when everything is chosen.
pub fn substituted(query: &str) -> String {
    let mut query = query.to_string();
    for (variable, value) in [
        ("$__rate_interval", "10s"),
        ("$__range", "1m"),
        ("$cluster", ".*"),
        ("$job", ".*"),
        ("$instance", ".*"),
        ("$comm", ".*"),
        ("$top", "3"),
    ] {
        query = query.replace(variable, value);
    }
    assert!(!query.contains('$'), "unknown variable: {query}");
    query
}

/// The values of `key` in a rules file: `record` or `alert`.
pub fn rule_names(path: &str, key: &str) -> Vec<String> {
    let key = format!("- {key}: ");
    let text = text(path);
    text.lines().filter_map(|line| line.trim().strip_prefix(&key)).map(str::to_owned).collect()
}

/// The names of metrics in `text`: scraped ones (`slackwater_…`) and recorded ones
/// (`job:slackwater_…:sum`). Paths of the code (`slackwater_exporters::…`) are none.
pub fn metric_names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .map(|word| word.trim_matches(':'))
        .filter(|word| !word.contains("::"))
        .filter(|word| {
            let metric = word.split(':').find(|part| part.starts_with(PREFIX));
            metric.is_some_and(|metric| metric != PREFIX)
        })
        .collect()
}

/// The family that a scraped series belongs to: a histogram has three series to a family.
pub fn family_of(series: &str) -> &str {
    let series = series.strip_prefix(PREFIX).unwrap_or(series);
    ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| series.strip_suffix(suffix))
        .unwrap_or(series)
}

/// Whether a query reads one of these series.
pub fn names_one_of(query: &str, names: &BTreeSet<String>) -> bool {
    metric_names(query).iter().any(|name| names.contains(*name))
        || query.contains(HARDWARE) && names.contains(HARDWARE)
}

/// The [`CONDITIONAL`] families that none of the scraped pages has, and the recorded series that are
/// made of them: nothing that reads them can have data here. Says so.
pub fn absent_series(pages: &[String], rules: &[Rule]) -> BTreeSet<String> {
    let mut absent: BTreeSet<String> = CONDITIONAL
        .iter()
        .map(|family| format!("{PREFIX}{family}"))
        .filter(|name| pages.iter().all(|page| !page.contains(&format!("\n{name}"))))
        .collect();
    if pages.iter().all(|page| !page.contains(HARDWARE)) {
        absent.insert(HARDWARE.to_string());
    }
    for name in &absent {
        super::note(&format!("no process has {name} here: what reads it is parsed, no more"));
    }
    for rule in rules.iter().filter(|rule| rule.records) {
        if names_one_of(&rule.query, &absent) {
            absent.insert(rule.name.clone());
        }
    }
    absent
}

/// Asks each query of the panels until it has data, or, where it reads what is absent here, whether
/// it is sound. Returns how many queries there were.
pub fn ask_all(prometheus: &Prometheus, panels: &[Panel], absent: &BTreeSet<String>) -> usize {
    for panel in panels {
        for query in panel.queries.iter().map(|query| substituted(query)) {
            if !names_one_of(&query, absent) {
                prometheus.answer(&query);
            } else if let Err(error) = prometheus.query(&query) {
                panic!("{}: {query}: {error}", panel.name);
            }
        }
    }
    panels.iter().map(|panel| panel.queries.len()).sum()
}
