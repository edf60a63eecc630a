//! Profiles of real programs, by the endpoint and from outside, as the tools that people use read
//! them.

mod common;

use std::net::SocketAddr;

use common::{exchange, get};
use slackwater_exporters::Endpoint;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

fn endpoint() -> SocketAddr {
    let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
    endpoint.address().tcp().expect("it is TCP")
}

const KINDS: [&str; 5] = ["live", "alloc", "peak", "fragmentation", "release"];

#[test]
fn every_route_answers_in_its_own_form() {
    let address = endpoint();
    for kind in KINDS {
        for query in ["", "?seconds=1"] {
            let response = get(address, &format!("/debug/flame/{kind}.svg{query}"));
            assert_eq!(response.status, 200, "{kind}{query}: {}", response.body);
            assert!(response.head.contains("content-type: image/svg+xml"), "{}", response.head);
            assert!(response.body.trim_end().ends_with("</svg>"), "{}", response.body);
        }
    }
    for (path, start) in [
        ("/debug/pprof/", "<!doctype html>"),
        ("/debug/pprof", "<!doctype html>"),
        ("/debug/pprof/heap?debug=1", "heap profile: "),
        ("/debug/pprof/allocs?debug=1&gc=1&seconds=1", "heap profile: "),
        ("/debug/pprof/symbol", "num_symbols: 1\n"),
        ("/debug/leaks", "No call site looks as if it leaks: "),
    ] {
        let response = get(address, path);
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        assert!(response.body.starts_with(start), "{path}: {}", response.body);
    }
}

#[test]
fn bad_values_are_refused_in_one_line() {
    let address = endpoint();
    for (path, line) in [
        ("/debug/pprof/heap?seconds=x", "seconds=x: expected a whole number from 1 to 600"),
        ("/debug/pprof/allocs?seconds=601", "seconds=601: expected a whole number from 1 to 600"),
        ("/debug/pprof/heap?debug=yes", "debug=yes: expected 0 or 1"),
        ("/debug/flame/live.svg?seconds=-1", "seconds=-1: expected a whole number from 1 to 600"),
        ("/debug/flame/live.svg?debug=1", "debug: expected seconds"),
        ("/debug/leaks?x=1", "x: expected nothing"),
        ("/debug/pprof/symbol?main", "main: expected addresses like 0x4010f3+0x401123"),
    ] {
        let response = get(address, path);
        assert_eq!((response.status, response.body), (400, format!("{line}\n")), "{path}");
    }
    for path in ["/debug/flame/banana.svg", "/debug/flame/live", "/debug", "/debug/pprof/heap/x"] {
        let response = get(address, path);
        assert_eq!(response.status, 404, "{path}");
        assert_eq!(response.body.lines().count(), 1, "{}", response.body);
    }
}

#[test]
fn addresses_are_named_as_pprof_asks_for_them() {
    let address = endpoint();
    let here = every_route_answers_in_its_own_form as *const () as usize;
    let asked = format!("0x8+{here:#x}");
    let expected =
        format!("num_symbols: 1\n{here:#x} profile::every_route_answers_in_its_own_form\n");
    assert_eq!(get(address, &format!("/debug/pprof/symbol?{asked}")).body, expected);
    let length = asked.len();
    let post = format!(
        "POST /debug/pprof/symbol HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{asked}"
    );
    assert_eq!(exchange(address, post.as_bytes()).body, expected);
    let elsewhere = post.replace("symbol", "heap");
    assert_eq!(exchange(address, elsewhere.as_bytes()).status, 405);
}
