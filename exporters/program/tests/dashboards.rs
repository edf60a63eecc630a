//! Every query of the dashboards and every rule is run by a real Prometheus that scrapes real runs.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Demo;
use common::dashboards::{self, DASHBOARDS};
use common::export::Export;
use common::prometheus::{Prometheus, Rule};

/// Alerts that may well be right about the demo: its bursts follow each other closely, and what
/// watching costs is a matter of the machine. Whether they are is not for a test to say.
const MAY_BE_TRUE: [&str; 2] = ["SlackwaterRefaultsHigh", "SlackwaterObserverCostly"];

#[test]
fn promtool_is_content_with_rules_and_configurations() {
    if !common::have_tool("promtool") {
        return;
    }
    for (command, files) in [
        (&["check", "rules", "--lint-fatal"][..], &["rules/recording.yml", "rules/alerts.yml"][..]),
        (&["test", "rules"], &["rules/tests/recording.yml", "rules/tests/alerts.yml"]),
        (
            &["check", "config", "--lint-fatal"],
            &[
                "examples/prometheus/prometheus.yml",
                "examples/prometheus/shard.yml",
                "examples/prometheus/global.yml",
            ],
        ),
        (&["check", "config", "--syntax-only"], &["examples/compose/prometheus.yml"]),
    ] {
        for file in files {
            let path = dashboards::file(file);
            let output =
                Command::new("promtool").args(command).arg(path).output().expect("promtool runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "promtool {command:?} {file}: {said}");
        }
    }
}

#[test]
fn every_query_and_every_rule_has_data() {
    if !common::have_tool("prometheus") {
        return;
    }
    let free = Demo::start(&["--perf"]);
    let limited = LimitedDemo::start();
    let demos = [Some(&free), limited.as_ref().map(|limited| &limited.demo)];
    let demos: Vec<&Demo> = demos.into_iter().flatten().collect();
    let export = Export::start("127.0.0.1:0");
    let nodes = export.address().to_string();
    let prometheus = Prometheus::start(|own| example_config(&demos, &nodes, &own.to_string()));
    // One scrape is not enough for a rate, and the demo begins with a burst.
    prometheus.answer("rate(slackwater_release_purged_pages_total[10s]) > 0");

    let addresses = demos.iter().map(|demo| demo.address).chain([export.address()]);
    let pages: Vec<String> =
        addresses.map(|address| common::get(address, "/metrics").body).collect();
    let rules = prometheus.rules();
    let absent = dashboards::absent_series(&pages, &rules);
    let panels = DASHBOARDS.map(dashboards::panels);
    let asked = dashboards::ask_all(&prometheus, &panels.concat(), &absent);
    for rule in &rules {
        check(&prometheus, rule, &absent);
    }
    assert!(asked > 100 && rules.len() > 30, "{asked} queries, {} rules", rules.len());
    for dashboard in DASHBOARDS {
        variables_have_values(&prometheus, dashboard);
    }
}

/// The example configuration, with the demos for its services, `export` for its node and a second for
/// its intervals.
fn example_config(demos: &[&Demo], nodes: &str, own: &str) -> String {
    let mut config = dashboards::text("examples/prometheus/prometheus.yml");
    let addresses: Vec<String> = demos.iter().map(|demo| format!("\"{}\"", demo.address)).collect();
    let rules = dashboards::file("rules").display().to_string();
    for (example, here) in [
        ("15s", "1s"),
        ("../../rules", &rules),
        ("\"127.0.0.1:9464\"", &addresses.join(", ")),
        ("127.0.0.1:9465", nodes),
        ("127.0.0.1:9090", own),
    ] {
        assert!(config.contains(example), "the example has no {example}");
        config = config.replace(example, here);
    }
    config
}

/// A demo in a control group of its own, so that the families of the group's limit have data.
struct LimitedDemo {
    demo: Demo,
    _group: MemoryGroup,
}

impl LimitedDemo {
    /// `None`, and a word about it, where this user may not make a group.
    fn start() -> Option<LimitedDemo> {
        let Some(group) = MemoryGroup::make() else {
            common::note("no control group can be made here, so none has a limit of its own");
            return None;
        };
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        shell.arg(group.0.join("cgroup.procs")).arg(common::slackwater().get_program());
        Some(LimitedDemo { demo: Demo::start_by(shell, "127.0.0.1:0", &[]), _group: group })
    }
}

/// A control group with a limit that the demo does not come near.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn make() -> Option<MemoryGroup> {
        let name = format!("slackwater-dashboards-{}", std::process::id());
        [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
            .into_iter()
            .find_map(|(mount, limit)| {
                let path = Path::new(mount).join(&name);
                fs::create_dir(&path).ok()?;
                let group = MemoryGroup(path);
                // A group without the memory controller has no such file, and is removed again.
                let limited = group.0.join(limit);
                (limited.exists() && fs::write(limited, "2147483648").is_ok()).then_some(group)
            })
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A recorded series is there. An alert's operands are there, and it is not true of a healthy demo.
fn check(prometheus: &Prometheus, rule: &Rule, absent: &BTreeSet<String>) {
    assert_eq!(rule.health, "ok", "{}: {}", rule.name, rule.query);
    if dashboards::names_one_of(&rule.query, absent) {
        return;
    }
    if rule.records {
        prometheus.answer(&rule.name);
        return;
    }
    for operand in operands(&rule.query) {
        prometheus.answer(&operand);
    }
    if !MAY_BE_TRUE.contains(&rule.name.as_str()) {
        // A scrape that came too late on a busy machine is over with the next one.
        prometheus.wait_for(&format!("{} to be false: {}", rule.name, rule.query), || {
            prometheus.query(&rule.query).expect("a sound expression").is_empty().then_some(())
        });
    }
}

/// The series that an expression reads: its metrics, each with the labels it is asked for.
fn operands(query: &str) -> Vec<String> {
    let mut operands = Vec::new();
    for name in dashboards::metric_names(query) {
        for (at, _) in query.match_indices(name) {
            let rest = &query[at + name.len()..];
            let labels = match rest.strip_prefix('{') {
                Some(labels) => labels.split_once('}').map_or("", |(labels, _)| labels),
                None => "",
            };
            operands.push(format!("{name}{{{labels}}}"));
        }
    }
    assert!(!operands.is_empty(), "nothing of ours in {query}");
    operands
}

/// Each choice that a dashboard offers has something to choose.
fn variables_have_values(prometheus: &Prometheus, dashboard: &str) {
    let json = dashboards::json(dashboard);
    let variables = json["templating"]["list"].as_array().expect("variables");
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
        let query = dashboards::substituted(variable["query"]["query"].as_str().expect("a query"));
        let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (series, label) = inside
            .and_then(|inside| inside.rsplit_once(", "))
            .expect("label_values(series, label)");
        let path = format!("label/{label}/values");
        let values = prometheus.ask(&path, &[("match[]", series)]).expect("a sound query");
        let some = values.as_array().is_some_and(|values| !values.is_empty());
        assert!(some, "{dashboard}: {query} offers nothing");
    }
}
