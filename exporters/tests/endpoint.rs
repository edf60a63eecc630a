//! The endpoint against good, bad and slow clients.

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use common::{exchange, get};
use slackwater_exporters::Endpoint;
use slackwater_exporters::http::Address;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

fn endpoint() -> SocketAddr {
    let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
    endpoint.detach().tcp().expect("it is TCP")
}

#[test]
fn a_scrape_is_complete_and_typed() {
    let response = get(endpoint(), "/metrics?from=a-scraper");
    assert_eq!(response.status, 200);
    assert!(response.head.contains("content-type: text/plain; version=0.0.4"), "{}", response.head);
    common::assert_complete(&response.body);
    common::assert_promtool_is_silent(&response.body);
}

#[test]
fn the_snapshot_is_json_with_the_tables_names() {
    let response = get(endpoint(), "/snapshot.json");
    assert_eq!(response.status, 200);
    assert!(response.head.contains("content-type: application/json"), "{}", response.head);
    let json: serde_json::Value = serde_json::from_str(&response.body).expect("valid JSON");
    for family in slackwater_exporters::families::FAMILIES {
        let value = &json[family.name];
        if family.type_name() == "histogram" {
            assert_eq!(value["buckets"][10], serde_json::json!([null, value["count"]]), "{value}");
            continue;
        }
        if common::dashboards::CONDITIONAL.contains(&family.name) && value.is_null() {
            continue;
        }
        assert_eq!(value.is_object(), !family.labels.is_empty(), "{}: {value}", family.name);
        assert_eq!(value.is_number(), family.labels.is_empty(), "{}: {value}", family.name);
    }
}

#[test]
fn the_page_is_one_file() {
    let response = get(endpoint(), "/");
    assert_eq!(response.status, 200);
    assert!(response.head.contains("content-type: text/html"), "{}", response.head);
    for elsewhere in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!response.body.contains(elsewhere), "the page fetches {elsewhere}");
    }
}

#[test]
fn what_is_not_there_is_refused_with_the_right_status() {
    let address = endpoint();
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: x\r\n".repeat(1000));
    for (request, status) in [
        ("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", 405),
        ("GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", 413),
        ("nonsense\r\n\r\n", 400),
        (&long, 431),
        (&many, 431),
    ] {
        let shown: String = request.chars().take(40).collect();
        assert_eq!(exchange(address, request.as_bytes()).status, status, "{shown:?}");
    }
    let head = exchange(address, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

/// Head (in lower case) and body, as they came.
fn exchange_bytes(address: SocketAddr, path: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("accepted");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("complete");
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
    let body = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).expect("text").to_ascii_lowercase();
    let length = format!("content-length: {}\r\n", body.len());
    assert!(head.contains(&length), "{head}, and {} bytes", body.len());
    (head, body)
}

#[test]
fn gzip_is_for_those_who_ask_and_for_what_gains() {
    let address = endpoint();
    let (head, body) = exchange_bytes(address, "/metrics", "Accept-Encoding: br, gzip\r\n");
    assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
    for header in ["vary: accept\r\n", "vary: accept-encoding\r\n"] {
        assert!(head.contains(header), "{head}");
    }
    let text = common::output_of(Command::new("gzip").arg("-dc"), &body);
    common::assert_complete(&text);
    assert!(body.len() * 3 < text.len(), "{} of {} bytes", body.len(), text.len());

    for headers in ["", "Accept-Encoding: gzip;q=0\r\n", "Accept-Encoding: br\r\n"] {
        let (head, body) = exchange_bytes(address, "/metrics", headers);
        assert!(!head.contains("content-encoding"), "{headers}: {head}");
        assert!(head.contains("vary: accept-encoding\r\n"), "a cache must know: {head}");
        common::assert_complete(&String::from_utf8(body).expect("text"));
    }
    let (head, body) = exchange_bytes(address, "/nothing", "Accept-Encoding: gzip\r\n");
    assert!(!head.contains("content-encoding"), "{head}");
    assert!(body.starts_with(b"/nothing: expected "), "{body:?}");
}

#[test]
fn a_head_says_how_long_the_body_would_be() {
    let address = endpoint();
    let page = get(address, "/");
    for encoding in ["", "Accept-Encoding: gzip\r\n"] {
        let (_, body) = exchange_bytes(address, "/", encoding);
        let request = format!("HEAD / HTTP/1.1\r\nHost: x\r\n{encoding}\r\n");
        let head = exchange(address, request.as_bytes());
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert!(
            head.head.contains(&format!("content-length: {}\r\n", body.len())),
            "{}",
            head.head
        );
        assert_eq!(body.len() == page.body.len(), encoding.is_empty());
    }
}

const OPEN_METRICS: &str =
    "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";

/// The parser of Prometheus's own client for Python, which is strict about OpenMetrics: it knows
/// suffixes, units, the order of buckets, and the end.
const PARSER: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    print(family.name, family.type, len(family.samples), family.unit)
";

#[test]
fn openmetrics_is_accepted_by_a_strict_parser() {
    let Some(python) = python_with("prometheus_client") else { return };
    let address = endpoint();
    let _used: Vec<Vec<u8>> = (0..1000).map(|i| vec![1; 16 + i]).collect();
    let (head, body) = exchange_bytes(address, "/metrics", OPEN_METRICS);
    let media_type = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(head.contains(media_type), "{head}");
    let found = common::output_of(Command::new(python).args(["-c", PARSER]), &body);
    let mut found: Vec<&str> = found.lines().collect();
    for family in slackwater_exporters::families::FAMILIES {
        let full_name = family.full_name();
        let name = full_name.strip_suffix("_total").unwrap_or(&full_name);
        let start = format!("{name} {} ", family.type_name());
        let Some(at) = found.iter().position(|line| line.starts_with(&start)) else {
            let conditional = common::dashboards::CONDITIONAL.contains(&family.name);
            assert!(conditional, "{name} is missing");
            continue;
        };
        let line = found.swap_remove(at);
        assert_eq!(line.ends_with(" bytes"), name.ends_with("_bytes"), "{line}");
        assert_eq!(line.ends_with(" seconds"), name.ends_with("_seconds"), "{line}");
        assert!(!line.starts_with(&format!("{start}0")), "{line}");
    }
    assert_eq!(found, Vec::<&str>::new(), "not in the table");
}

/// A Python that has `module`; without one a test is skipped, loudly, and in CI it must be there.
fn python_with(module: &str) -> Option<&'static str> {
    let import = format!("import {module}");
    let has_it = |python: &&str| {
        let ran = Command::new(python).args(["-c", &import]).output();
        ran.is_ok_and(|output| output.status.success())
    };
    // The first of the path may be one of the user's own, without the system's modules.
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has_it);
    if found.is_none() {
        common::skip(&format!("python3 with {module}"));
    }
    found
}

#[test]
fn clients_that_never_finish_do_not_keep_others_out() {
    let address = endpoint();
    let unfinished: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(address).expect("accepted");
            stream.write_all(b"GET /metrics HTTP/1.1\r\n").expect("sent");
            stream
        })
        .collect();
    assert_eq!(get(address, "/metrics").status, 200);
    drop(unfinished);
    assert_eq!(get(address, "/metrics").status, 200);
}

#[test]
fn a_taken_port_is_an_error() {
    let error = Endpoint::bind(&endpoint().to_string()).expect_err("it is taken");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn a_text_that_is_no_address_is_named_in_the_error() {
    let error = Endpoint::bind("unix").expect_err("no address");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("\"unix\": expected an IP address"), "{error}");
}

fn get_unix(path: &Path, target: &str) -> String {
    let mut stream = UnixStream::connect(path).expect("accepted");
    write!(stream, "GET {target} HTTP/1.0\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    text
}

#[test]
fn a_unix_socket_serves_owner_and_group() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("endpoint.sock");
    // What a server that was killed leaves behind.
    let _ = fs::remove_file(&path);
    drop(UnixListener::bind(&path).expect("a writable place"));
    let name = format!("unix:{}", path.display());
    let endpoint = Endpoint::bind(&name).expect("the file of no server is replaced");
    assert_eq!(endpoint.address(), &Address::Unix(path.clone()));
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777 & !0o660, 0, "{mode:o}");
    let text = get_unix(&path, "/metrics");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    common::assert_complete(body);

    let error = Endpoint::bind(&name).expect_err("it is in use");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(get_unix(&path, "/").contains("<title>Slackwater"), "the first still serves");
}

#[test]
fn what_is_no_socket_is_not_replaced() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no.sock");
    fs::write(&path, "precious").expect("a writable place");
    let error = Endpoint::bind(&format!("unix:{}", path.display())).expect_err("it is a file");
    assert!(error.to_string().contains("exists and is no socket"), "{error}");
    assert_eq!(fs::read(&path).expect("still there"), b"precious");
    let error = Endpoint::bind("unix:/no/such/folder/x").expect_err("no place");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

/// Of this process, by the first letters of their names.
fn threads(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux has it");
    let comm =
        |task: io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(comm).filter(|comm| comm.starts_with(name)).count()
}

#[test]
fn what_is_dropped_or_stopped_gives_its_address_back() {
    for round in 0..50 {
        let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
        let address = endpoint.address().clone();
        let tcp = address.tcp().expect("it is TCP");
        assert_eq!(get(tcp, "/snapshot.json").status, 200);
        match round % 2 {
            0 => drop(endpoint),
            _ => endpoint.stop(),
        }
        let again = Endpoint::bind(&address.to_string()).expect("it is free again at once");
        assert_eq!(get(tcp, "/snapshot.json").status, 200);
        again.stop();
        TcpStream::connect(tcp).expect_err("nobody serves");
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stopped.sock");
    let endpoint = Endpoint::bind(&format!("unix:{}", path.display())).expect("a free name");
    assert!(path.exists());
    drop(endpoint);
    assert!(!path.exists(), "its file is left");
}

#[test]
fn an_endpoint_that_is_dropped_answers_who_has_asked() {
    let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
    let tcp = endpoint.address().tcp().expect("it is TCP");
    let mut window = TcpStream::connect(tcp).expect("accepted");
    write!(window, "GET /debug/pprof/heap?seconds=600 HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let asked: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(tcp).expect("accepted");
            write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").expect("sent");
            stream
        })
        .collect();
    // All are accepted before this one, which is answered.
    assert_eq!(get(tcp, "/snapshot.json").status, 200);
    endpoint.stop();
    for mut stream in asked {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("text");
        assert!(text.starts_with("HTTP/1.0 200"), "{text}");
        common::assert_complete(text.split_once("\r\n\r\n").expect("a head").1);
    }
    // One that would last for minutes is not waited for.
    window.read_to_end(&mut Vec::new()).expect("it is closed");
}

/// As many as may last at once, none of which is waited for.
#[test]
fn windows_of_clients_that_hang_up_make_room() {
    let tcp = endpoint();
    for round in 0..3 {
        let windows: Vec<TcpStream> = (0..4)
            .map(|_| {
                let mut stream = TcpStream::connect(tcp).expect("accepted");
                let target = "/debug/pprof/heap?seconds=600";
                write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
                stream
            })
            .collect();
        common::wait_until("all places are taken", || {
            get(tcp, "/debug/pprof/heap?debug=1").status == 503
        });
        match round {
            0 => drop(windows),
            1 => windows
                .iter()
                .for_each(|one| one.shutdown(std::net::Shutdown::Write).expect("open")),
            _ => {
                windows.iter().for_each(|one| one.shutdown(std::net::Shutdown::Both).expect("open"))
            }
        }
        common::wait_until("they are free", || get(tcp, "/debug/pprof/heap?debug=1").status == 200);
    }
    common::wait_until("its threads have ended", || threads("slackwater-last") == 0);
}
