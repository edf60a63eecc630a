//! Profiles of real programs, by the endpoint and from outside, as the tools that people use read
//! them.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use common::{exchange, get};
use slackwater_exporters::Endpoint;
use slackwater_exporters::profile::modules::Modules;
use slackwater_exporters::profile::pprof::{self, DefaultType};
use slackwater_exporters::profile::symbols::{Frame, Names};
use slackwater_exporters::profile::{Profile, Stack, Weighted, legacy};

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

/// A profile with names, as there is none: one call site holds, another has freed what it took.
fn made_up() -> (Profile, Names) {
    let maps = "00400000-00401000 r--p 00000000 fe:01 11 /srv/app\n\
        00401000-00402000 r-xp 00001000 fe:01 11 /srv/app\n\
        7f0000000000-7f0000001000 r-xp 00000000 fe:01 12 /lib/libx.so.1\n";
    let mut profile = Profile::empty(Modules::parse(maps), SystemTime::UNIX_EPOCH);
    profile.rate_bytes = 512 << 10;
    let objects = |objects: f64, bytes: f64| Weighted { objects, bytes: objects * bytes };
    profile.stacks = vec![
        Stack {
            frames: vec![0x40_1011, 0x40_1101, 0x40_1201],
            allocated: objects(100.0, 1024.0),
            samples: 4,
            ..Stack::default()
        },
        Stack {
            frames: vec![0x7f00_0000_0021, 0x40_1101, 0x40_1201],
            allocated: objects(5000.0, 64.0),
            freed: objects(4000.0, 64.0),
            samples: 9,
            ..Stack::default()
        },
    ];
    let frame = |function: &str, line| Frame {
        function: function.to_string(),
        file: "/src/app.rs".to_string(),
        line,
    };
    let names = Names::new([
        (
            0x40_1011,
            vec![
                frame(
                    "<slackwater::global::Slackwater as core::alloc::global::GlobalAlloc>::alloc",
                    1,
                ),
                frame("alloc::alloc::exchange_malloc", 2),
                frame("app::keep", 7),
                frame("app::leak", 30),
            ],
        ),
        (0x40_1101, vec![frame("slackwater::program::serve", 12)]),
        (0x40_1201, vec![frame("main", 3)]),
    ]);
    (profile, names)
}

/// What Go's `pprof` makes of a file; `None` where there is none, which is said, and in CI fails.
fn go_pprof(arguments: &[&str], name: &str, content: &[u8]) -> Option<String> {
    if !Command::new("go").arg("version").output().is_ok_and(|output| output.status.success()) {
        common::skip("go");
        return None;
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&file, content).expect("a writable place");
    let mut command = Command::new("go");
    command.args(["tool", "pprof"]).args(arguments).arg(&file).env("PPROF_BINARY_PATH", "/none");
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    Some(String::from_utf8(output.stdout).expect("text"))
}

/// The lines of `pprof -top`: flat, cumulative, and the function.
fn rows(top: &str) -> Vec<(String, String, String)> {
    let rows = top.lines().skip_while(|line| !line.trim_start().starts_with("flat ")).skip(1);
    rows.map(|line| {
        let mut words = line.split_whitespace();
        let mut word = |skip| words.nth(skip).unwrap_or_default().to_string();
        let (flat, cumulative) = (word(0), word(2));
        (flat, cumulative, words.skip(1).collect::<Vec<_>>().join(" "))
    })
    .collect()
}

#[test]
fn the_reference_tool_reads_a_profile() {
    let (profile, names) = made_up();
    let heap = pprof::render(&profile, &names, DefaultType::InuseSpace, None);
    let Some(top) = go_pprof(&["-top", "-unit=B"], "made-up.pb.gz", &heap) else { return };
    assert!(top.contains("Type: inuse_space"), "{top}");
    let expected = [
        ("102400B", "102400B", "app::keep (inline)"),
        ("64000B", "64000B", "[libx.so.1]"),
        ("0", "102400B", "app::leak"),
        ("0", "166400B", "main"),
        ("0", "166400B", "slackwater::program::serve"),
    ];
    let expected = expected.map(|(a, b, c)| (a.to_string(), b.to_string(), c.to_string()));
    assert_eq!(rows(&top), expected, "the allocator's frames are dropped: {top}");
    let arguments = ["-top", "-sample_index=alloc_objects", "-lines"];
    let lines = go_pprof(&arguments, "made-up.pb.gz", &heap).expect("go is there");
    assert!(lines.contains("100  1.96%") && lines.contains("app::leak /src/app.rs:30"), "{lines}");
    let allocs = pprof::render(&profile, &names, DefaultType::AllocSpace, None);
    let top = go_pprof(&["-top"], "allocs.pb.gz", &allocs).expect("go is there");
    assert!(top.contains("Type: alloc_space"), "{top}");

    let mut after = profile.clone();
    after.stacks[1].freed = after.stacks[1].allocated;
    let window = pprof::render(&after.since(&profile), &names, DefaultType::InuseSpace, Some(2.0));
    let top = go_pprof(&["-top", "-unit=B"], "window.pb.gz", &window).expect("go is there");
    assert!(top.contains("Duration: 2s") && rows(&top)[0].0 == "-64000B", "{top}");
}

#[test]
fn the_reference_tool_reads_the_text_too() {
    let (profile, names) = made_up();
    let text = legacy::render(&profile, &names);
    let arguments = ["-raw", "-symbolize=none"];
    let Some(raw) = go_pprof(&arguments, "made-up.txt", text.as_bytes()) else { return };
    let line = |start: &str| raw.lines().any(|line| line.trim_start().starts_with(start));
    assert!(raw.contains("inuse_objects/count inuse_space/bytes"), "{raw}");
    assert!(line("100     102400        100     102400: "), "{raw}");
    assert!(line("5000     320000       1000      64000: "), "{raw}");
    assert!(raw.contains(" /srv/app") && raw.contains("1: 0x401010 M=1"), "{raw}");
}
