//! `slackwater export`: one scrape for all processes.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::export::Export;
use common::{Demo, Scraped, Shell};
use slackwater_exporters::families::FAMILIES;

impl Export {
    fn scrape(&self) -> BTreeMap<String, Scraped> {
        common::parse(&common::get(self.address(), "/metrics").body)
    }

    /// Starts it with more arguments, on a free port.
    fn start_by(arguments: &[&str]) -> Export {
        let mut command = common::slackwater();
        command.args(["export", "--listen", "127.0.0.1:0"]).args(arguments);
        Export::start_with(command)
    }

    /// Scrapes until the text is as it should be.
    fn scrape_until_text(&self, is: impl Fn(&str) -> bool) {
        let end = Instant::now() + Duration::from_secs(300);
        while !is(&common::get(self.address(), "/metrics").body) {
            assert!(Instant::now() < end, "it never is");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Scrapes until the processes in the scrape are as they should be.
    fn scrape_until(&self, is: impl Fn(&BTreeMap<String, String>) -> bool) {
        // Not an asserted time: a test that hangs says nothing.
        let end = Instant::now() + common::PATIENCE;
        loop {
            let processes = processes(&self.scrape());
            if is(&processes) {
                return;
            }
            assert!(Instant::now() < end, "it never is: {processes:?}");
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The value of a label among labels as written.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let mut values = labels.split(',').filter_map(|label| label.split_once('='));
    let found = values.find(|(found, _)| *found == name);
    found.unwrap_or_else(|| panic!("no {name} in {labels}")).1.trim_matches('"')
}

/// Id and name of every process in a scrape.
fn processes(scraped: &BTreeMap<String, Scraped>) -> BTreeMap<String, String> {
    let series = scraped["slackwater_threads"].series.keys();
    series.map(|labels| (label(labels, "pid").into(), label(labels, "comm").into())).collect()
}

#[test]
fn every_process_is_in_one_scrape_with_its_labels() {
    let demo = Demo::start(&[]);
    let shells = [Shell::start(), Shell::start()];
    let export = Export::start("127.0.0.1:0");
    let response = common::get(export.address(), "/metrics");
    assert_eq!(response.status, 200);
    let scraped = common::parse(&response.body);
    let processes = processes(&scraped);
    for (process, comm) in [
        (demo.id(), "slackwater"),
        (shells[0].id(), "sh"),
        (shells[1].id(), "sh"),
        (export.child.id(), "slackwater"),
    ] {
        assert_eq!(processes.get(&process.to_string()).map(String::as_str), Some(comm));
    }
    let heads: BTreeSet<String> = FAMILIES.iter().map(|family| family.full_name()).collect();
    for (name, family) in &scraped {
        assert!(heads.contains(name), "{name} is not in the table");
        let start = if family.kind == "histogram" { "" } else { "pid=" };
        assert!(family.series.keys().all(|labels| labels.starts_with(start)), "{name}");
    }
    let figures = &scraped["slackwater_export_processes"].series;
    let own = export.child.id().to_string();
    assert!(figures.keys().all(|labels| label(labels, "pid") == own), "{figures:?}");
    let read = figures.iter().find(|(labels, _)| label(labels, "result") == "read");
    assert_eq!(*read.expect("always there").1 as usize, processes.len());
    let cost = &scraped["slackwater_observer_cpu_seconds_total"].series;
    assert!(cost.iter().any(|(labels, &cost)| label(labels, "pid") == own && cost > 0.0));
    common::assert_promtool_is_silent(&response.body);

    let other = common::get(export.address(), "/elsewhere");
    assert_eq!((other.status, other.body.as_str()), (404, "/elsewhere: expected /metrics\n"));
}

#[test]
fn processes_come_go_and_become_others() {
    let export = Export::start("127.0.0.1:0");
    let mut shell = Shell::start();
    let id = shell.id().to_string();
    export.scrape_until(|processes| processes.contains_key(&id));
    shell.finish();
    export.scrape_until(|processes| !processes.contains_key(&id));

    // A shell without our library, until it executes another one under it.
    let script = "echo ready; read line; exec \"$0\" run -- sh -c 'read line'";
    let mut late = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_slackwater")])
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh starts");
    let mut line = String::new();
    let mut output = BufReader::new(late.stdout.take().expect("piped"));
    output.read_line(&mut line).expect("readable");
    let id = late.id().to_string();
    assert!(!processes(&export.scrape()).contains_key(&id), "it has no heap of ours");
    late.stdin.as_ref().expect("piped").write_all(b"\n").expect("it reads");
    export.scrape_until(|processes| processes.get(&id).is_some_and(|comm| comm == "sh"));
    drop(late.stdin.take());
    late.wait().expect("it ends");

    // And one that has it, until it executes itself under another name.
    let mut shell = Shell::run("echo ready; read line; exec sleep 60");
    let id = shell.id().to_string();
    export.scrape_until(|processes| processes.get(&id).is_some_and(|comm| comm == "sh"));
    shell.go_on();
    export.scrape_until(|processes| processes.get(&id).is_some_and(|comm| comm == "sleep"));
}

/// Runs a program of that name (a shell by a link) that ends, and scrapes once while it is there.
fn run_one(export: &Export, name: &str) -> BTreeMap<String, Scraped> {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if let Err(error) = symlink("/bin/sh", &program) {
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    }
    let mut shell = Shell::run_by(&program, "echo ready; read line");
    let scraped = export.scrape();
    shell.finish();
    scraped
}

#[test]
fn processes_of_one_name_can_be_one() {
    const WORKER: &str = "one-worker";
    let is_workers = |labels: &str| labels.starts_with("comm=\"one-worker\"");
    let export = Export::start_by(&["--by", "comm", "--match", "one-*"]);
    let sum = |scraped: &BTreeMap<String, Scraped>, family: &str| -> f64 {
        let series = scraped[family].series.iter();
        series.filter(|(labels, _)| is_workers(labels)).map(|(_, value)| value).sum()
    };
    let kinds = |scraped: &BTreeMap<String, Scraped>| -> BTreeSet<String> {
        let named = scraped
            .iter()
            .flat_map(|(name, family)| family.series.keys().map(move |labels| (name, labels)));
        // Size classes come and go with what a process allocates.
        named
            .filter(|(_, labels)| is_workers(labels) && !labels.contains("size_class"))
            .map(|(name, labels)| format!("{name} {labels}"))
            .collect()
    };
    let first = run_one(&export, WORKER);
    let mut before = sum(&first, "slackwater_allocations_total");
    for _ in 0..4 {
        let scraped = run_one(&export, WORKER);
        let now = sum(&scraped, "slackwater_allocations_total");
        assert!(now > before, "{now} after {before}: what ended processes counted is missing");
        before = now;
        assert_eq!(sum(&scraped, "slackwater_build_info"), 1.0, "one process at a time");
        assert!(kinds(&scraped).is_superset(&kinds(&first)), "series that were there are not");
        assert!(kinds(&scraped).iter().all(|one| !one.contains("pid=")));
    }
    // Once its last process has ended the group is gone.
    export.scrape_until_text(|text| !text.contains(WORKER));
    common::assert_promtool_is_silent(&common::get(export.address(), "/metrics").body);
}

#[test]
fn processes_can_be_left_out_by_name_and_size() {
    let shells = [Shell::start(), Shell::start()];
    for (arguments, is_there) in [
        (&["--match", "s?"][..], true),
        (&["--match", "redis*"], false),
        (&["--except", "sh"], false),
        (&["--match", "sh", "--except", "s*"], false),
        (&["--min-rss", "1K"], true),
        (&["--min-rss", "900G"], false),
    ] {
        let export = Export::start_by(arguments);
        let processes = processes(&export.scrape());
        for shell in &shells {
            let found = processes.contains_key(&shell.id().to_string());
            assert_eq!(found, is_there, "{arguments:?}: {processes:?}");
        }
        // It tells what became of looking, whatever is left out.
        assert!(processes.contains_key(&export.child.id().to_string()), "{arguments:?}");
    }
}

/// Each process takes a descriptor, and shells give a program few.
#[test]
fn there_may_be_more_processes_than_the_soft_limit_has_descriptors() {
    let shells: Vec<Shell> = (0..30).map(|_| Shell::start()).collect();
    let mut command = Command::new("sh");
    let script = "ulimit -S -n 24 && exec \"$0\" export --listen 127.0.0.1:0";
    command.args(["-c", script, env!("CARGO_BIN_EXE_slackwater")]);
    let export = Export::start_with(command);
    let processes = processes(&export.scrape());
    for shell in &shells {
        assert!(processes.contains_key(&shell.id().to_string()), "{processes:?}");
    }
}

#[test]
fn a_unix_socket_serves_as_well() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("export.sock");
    let mut export = Export::start(&format!("unix:{}", path.display()));
    assert!(export.place.starts_with("curl --unix-socket "), "{}", export.place);
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    let own = format!("pid=\"{}\"", export.child.id());
    assert!(text.starts_with("HTTP/1.0 200") && text.contains(&own), "{text}");
    // SAFETY: plain numbers; the child has not been waited for.
    assert_eq!(unsafe { libc::kill(export.child.id() as libc::pid_t, libc::SIGTERM) }, 0);
    assert!(export.child.wait().expect("it ends").success());
    assert!(!path.exists(), "the socket's file is left");
    let mut said = String::new();
    export.output.read_to_string(&mut said).expect("text");
    assert!(said.contains("have a heap of Slackwater's, this one included"), "{said}");
}

/// Memory that a parent and its forked workers share is there once.
#[test]
fn what_forked_workers_share_is_told() {
    if !common::have_tool("gcc") {
        return;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("forking");
    let source =
        b"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n\
        int main(void) {\n\
            char *block = malloc(64 << 20);\n\
            memset(block, 1, 64 << 20);\n\
            for (int i = 0; i < 3; i++) if (fork() == 0) { getchar(); _exit(block[0] - 1); }\n\
            puts(\"ready\"); fflush(stdout); getchar();\n\
        }\n";
    let mut gcc = Command::new("gcc");
    common::output_of(gcc.args(["-O1", "-w", "-xc", "-", "-o"]).arg(&program), source);
    let mut parent = Shell::of(&program, &[]);
    let export = Export::start_by(&["--match", "forking"]);
    let sums = || {
        let scraped = export.scrape();
        let sum = |family: &str| -> Option<f64> {
            let series = scraped.get(family)?.series.iter();
            let anon = series.filter(|(labels, _)| {
                label(labels, "comm") == "forking" && label(labels, "kind") == "anon"
            });
            Some(anon.map(|(_, value)| value).sum())
        };
        (sum("slackwater_process_resident_bytes"), sum("slackwater_process_proportional_bytes"))
    };
    common::wait_until("all four are seen", || {
        sums().0.is_some_and(|sum| sum > 3.9 * 67_108_864.0)
    });
    match sums() {
        (Some(resident), Some(proportional)) => {
            assert!(proportional < resident / 3.0, "{proportional} of {resident}");
            assert!(proportional > 60e6, "{proportional}: the block is there once");
        }
        _ => common::note("SKIPPED: this kernel does not tell what is shared"),
    }
    parent.finish();
}
