//! The endpoint against good, bad and slow clients.

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use common::{exchange, get};
use slackwater_exporters::Endpoint;
use slackwater_exporters::http::Address;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

fn endpoint() -> SocketAddr {
    let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
    let Address::Tcp(address) = endpoint.address() else { panic!("{endpoint:?} is TCP") };
    *address
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
    fs::remove_file(path).expect("ours");
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
