//! What the tests share, the program's too: an HTTP client, a strict reader of Prometheus text, a real
//! Prometheus, the dashboards.

// Every test file is a program of its own and uses a part of this.
#![allow(dead_code)]

pub mod dashboards;
pub mod prometheus;
#[path = "../../../tests/surroundings/mod.rs"]
mod surroundings;

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use slackwater_exporters::families::{FAMILIES, Family};

/// A response: status, head, body.
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// Sends `request` as it is and reads until the server closes.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Response {
    let text = String::from_utf8(exchange_bytes(address, request)).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Response {
        status: status.unwrap_or_else(|| panic!("no status: {head:?}")),
        head: head.to_ascii_lowercase(),
        body: body.to_string(),
    }
}

/// The same, as it comes.
pub fn exchange_bytes(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the endpoint accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    // A server may answer and close before it has read a request that is too long.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// `GET path`, in HTTP/1.0 so that no server answers in chunks.
pub fn get(address: SocketAddr, path: &str) -> Response {
    exchange(address, format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
}

/// One family of a scrape.
#[derive(Debug, Default)]
pub struct Scraped {
    pub kind: String,
    pub help: String,
    /// Labels as written, and the value.
    pub series: BTreeMap<String, f64>,
}

/// Reads the text format strictly; anything unexpected is a failed test.
pub fn parse(text: &str) -> BTreeMap<String, Scraped> {
    let mut families = BTreeMap::<String, Scraped>::new();
    assert!(text.ends_with('\n'), "the last line has no end");
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("HELP name text");
            let family = families.entry(name.to_string()).or_default();
            assert!(family.help.is_empty() && !help.is_empty(), "{line}");
            family.help = help.to_string();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("TYPE name type");
            let family = families.entry(name.to_string()).or_default();
            assert!(family.kind.is_empty() && family.series.is_empty(), "{line}");
            family.kind = kind.to_string();
        } else {
            let (series, value) = line.rsplit_once(' ').expect("series value");
            let value = value.parse::<f64>().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(value.is_finite() && value >= 0.0, "{line}");
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').expect("labels end")),
                None => (series, ""),
            };
            // A histogram's series have suffixes: they are its series, the suffix a label.
            let suffix = ["_bucket", "_sum", "_count"].into_iter().find(|suffix| {
                let family = name.strip_suffix(suffix).and_then(|name| families.get(name));
                family.is_some_and(|family| family.kind == "histogram")
            });
            let key = suffix.unwrap_or_default().to_string() + labels;
            let name = suffix.and_then(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
            let family = families.get_mut(name).unwrap_or_else(|| panic!("no TYPE: {line}"));
            assert!(family.series.insert(key, value).is_none(), "twice: {line}");
        }
    }
    families
}

/// Every family of the table is in the scrape, as the table has it, and nothing else of ours is.
/// Only what a process may not have is absent.
pub fn assert_complete(text: &str) {
    assert_complete_by(text, Family::type_name);
}

/// The same where families have other types than in the table.
pub fn assert_complete_by(text: &str, type_name: impl Fn(&Family) -> &'static str) {
    let mut scraped = parse(text);
    scraped.retain(|name, _| name.starts_with("slackwater_"));
    for family in FAMILIES {
        let name = family.full_name();
        let Some(found) = scraped.remove(&name) else {
            let conditional = dashboards::CONDITIONAL.contains(&family.name);
            assert!(conditional, "{name} is missing:\n{text}");
            continue;
        };
        let found_head = (found.kind.as_str(), found.help.as_str());
        assert_eq!(found_head, (type_name(family), family.help), "{name}");
        if family.type_name() == "histogram" {
            assert_histogram(&found);
            continue;
        }
        for labels in found.series.keys() {
            let names = labels.split(',').filter_map(|label| label.split_once('='));
            let names: Vec<_> = names.map(|(name, _)| name).collect();
            assert_eq!(names, family.labels, "{name}{{{labels}}}");
        }
    }
    assert!(scraped.is_empty(), "not in the table: {:?}", scraped.keys());
}

/// Its buckets never fall from one bound to the next, and the last one is its count.
fn assert_histogram(found: &Scraped) {
    let mut buckets: Vec<(f64, f64)> = found
        .series
        .iter()
        .filter_map(|(key, &count)| {
            let bound = key.strip_prefix("_bucketle=\"")?.strip_suffix('"')?;
            Some((bound.parse().expect("a bound"), count))
        })
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(buckets.is_sorted_by_key(|bucket| bucket.1), "{found:?}");
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, found.series["_count"])), "{found:?}");
    assert!(buckets.len() > 2 && found.series.contains_key("_sum"), "{found:?}");
}

/// Waits for something that takes as long as it takes; the bound is no assertion, but a test that hangs
/// says nothing.
pub fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "it never is so: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// How long a test waits for what it waits for. Not an asserted time: a test that hangs says nothing.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Whether a tool is there. Without it a test is skipped, loudly; in CI it must be there.
pub fn have_tool(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        skip(tool);
    }
    found
}

/// Says that a test is skipped for want of `tool`; in CI, fails it.
pub fn skip(tool: &str) {
    skip_because(&format!("{tool} is not installed"));
}

/// Says that a test is skipped, and why; in CI, fails it.
pub fn skip_because(why: &str) {
    assert!(env::var_os("CI").is_none(), "{why}, and this is CI");
    say(&format!("SKIPPED: {why}"));
}

/// What a command makes of `input`. It must succeed, and have nothing to say on stderr.
pub fn output_of(command: &mut Command, input: &[u8]) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut pipe = child.stdin.take().expect("piped");
    // It may have seen enough before the end; what it says then is looked at.
    let _ = pipe.write_all(input);
    drop(pipe);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    let input = || String::from_utf8_lossy(input);
    assert!(output.status.success() && said.is_empty(), "{command:?}: {said}\n{}", input());
    String::from_utf8(output.stdout).expect("text")
}

/// A word about what a test leaves out on this machine.
pub fn note(text: &str) {
    say(&format!("NOTE: {text}"));
}

/// Not `eprintln!`, which the test runner keeps to itself.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// `promtool check metrics` has nothing to say.
pub fn assert_promtool_is_silent(text: &str) {
    if !have_tool("promtool") {
        return;
    }
    let mut promtool = Command::new("promtool");
    let said = output_of(promtool.args(["check", "metrics"]), text.as_bytes());
    assert!(said.is_empty(), "promtool: {said}\n{text}");
}
