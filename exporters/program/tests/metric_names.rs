//! Whatever names a metric names one that exists, and every metric that exists is shown.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use common::dashboards::{self, DASHBOARDS};
use slackwater_exporters::breakdown::{Breakdown, UNATTRIBUTED};
use slackwater_exporters::families::FAMILIES;

/// Crates and targets of the workspace whose names look like a metric's.
const NOT_METRICS: [&str; 5] = [
    "slackwater_exporters",
    "slackwater_preload",
    "slackwater_benches",
    "slackwater_start",
    "slackwater_unobserved",
];

/// Every text that a user reads or a program loads: the documents and all of `dashboards/`.
fn texts() -> BTreeMap<String, String> {
    let root = dashboards::root();
    let mut texts = BTreeMap::new();
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"] {
        texts.insert(name.to_string(), fs::read_to_string(root.join(name)).expect("a document"));
    }
    collect(&root.join("dashboards"), &root, &mut texts);
    texts
}

fn collect(folder: &Path, root: &Path, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, root, texts);
        } else if let Ok(text) = fs::read_to_string(&path) {
            // A picture is no text.
            let name = path.strip_prefix(root).expect("inside").display().to_string();
            texts.insert(name, text);
        }
    }
}

fn records() -> Vec<String> {
    dashboards::rule_names("rules/recording.yml", "record")
}

#[test]
fn every_metric_that_is_named_exists() {
    let records: BTreeSet<String> = records().into_iter().collect();
    let families: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
    let mut unknown = Vec::new();
    for (file, text) in &texts() {
        for name in dashboards::metric_names(text) {
            let exists = match name.contains(':') {
                true => records.contains(name),
                false => {
                    families.contains(name.trim_start_matches("slackwater_"))
                        || families.contains(dashboards::family_of(name))
                        || NOT_METRICS.contains(&name)
                }
            };
            if !exists {
                unknown.push(format!("{file}: {name}"));
            }
        }
    }
    assert!(unknown.is_empty(), "no such metric:\n{}", unknown.join("\n"));
}

#[test]
fn every_metric_that_exists_is_shown() {
    let queries: String = DASHBOARDS
        .iter()
        .flat_map(|dashboard| dashboards::panels(dashboard))
        .flat_map(|panel| panel.queries)
        .map(|query| query + "\n")
        .collect();
    let named = dashboards::metric_names(&queries);
    let shown: BTreeSet<&str> = named
        .iter()
        .filter(|name| !name.contains(':'))
        .flat_map(|name| [name.trim_start_matches("slackwater_"), dashboards::family_of(name)])
        .collect();
    for family in FAMILIES {
        assert!(shown.contains(family.name), "no panel shows {}", family.full_name());
    }

    let rules = dashboards::text("rules/recording.yml") + &dashboards::text("rules/alerts.yml");
    for record in records() {
        let uses = rules.matches(&record).count() - 1;
        assert!(uses > 0 || queries.contains(&record), "nothing reads {record}");
    }
}

/// One panel of each dashboard stacks the parts of RSS up.
#[test]
fn every_part_of_rss_is_shown() {
    let breakdown = Breakdown::default().with_stacks(Some(0));
    let parts: BTreeSet<&str> = breakdown.parts().map(|part| part.name).collect();
    for dashboard in DASHBOARDS {
        let queries: Vec<String> =
            dashboards::panels(dashboard).into_iter().flat_map(|panel| panel.queries).collect();
        let named = queries.iter().flat_map(|query| query.split("part=\"").skip(1));
        let mut named: BTreeSet<&str> = named.filter_map(|rest| rest.split('"').next()).collect();
        named.insert(UNATTRIBUTED);
        assert_eq!(named, parts, "{dashboard}");
    }
}

#[test]
fn every_panel_has_its_place_a_unit_and_says_what_to_look_for() {
    for dashboard in DASHBOARDS {
        let json = dashboards::json(dashboard);
        for panel in json["panels"].as_array().expect("panels") {
            if panel["type"] == "row" {
                continue;
            }
            let title = panel["title"].as_str().unwrap_or_default();
            assert!(!title.is_empty(), "{panel}");
            let description = panel["description"].as_str().unwrap_or_default();
            assert!(description.ends_with('.'), "{dashboard}: {title} says nothing");
            let unit = match panel["type"].as_str() {
                Some("heatmap") => &panel["options"]["yAxis"]["unit"],
                _ => &panel["fieldConfig"]["defaults"]["unit"],
            };
            assert!(unit.is_string(), "{dashboard}: {title} has no unit");
            let place = |key| panel["gridPos"][key].as_u64().expect("a place on the grid");
            assert!(place("x") + place("w") <= 24, "{dashboard}: {title} is beyond the edge");
            let source = &panel["datasource"]["uid"];
            assert_eq!(source, "${datasource}", "{dashboard}: {title}");
        }
    }
}

#[test]
fn every_alert_is_tested_and_explained() {
    let tests = dashboards::text("rules/tests/alerts.yml");
    let rules = dashboards::text("rules/alerts.yml");
    let manual = dashboards::text("README.md");
    for alert in dashboards::rule_names("rules/alerts.yml", "alert") {
        // By its whole name, or by a pattern for a few.
        let short = alert.trim_start_matches("Slackwater");
        assert!(tests.contains(short), "rules/tests/alerts.yml has no test for {alert}");
        assert!(manual.contains(&format!("\n### {alert}\n")), "README.md does not explain {alert}");
        let runbook = format!("runbook: dashboards/README.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&runbook), "{alert} does not lead to its explanation");
    }
}
