//! `/map.json` against what this program knows of its own memory, and against the kernel.

mod common;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use common::get;
use serde_json::Value;
use slackwater_exporters::Endpoint;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

const PAGE: usize = 4096;
const SEGMENT: usize = 2 << 20;

/// Each test looks at the heap of the whole process: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn endpoint() -> SocketAddr {
    let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
    endpoint.detach().tcp().expect("it is TCP")
}

fn json(address: SocketAddr, path: &str) -> Value {
    let response = get(address, path);
    assert_eq!(response.status, 200, "{path}: {}", response.body);
    assert!(response.head.contains("content-type: application/json"), "{}", response.head);
    serde_json::from_str(&response.body).expect("valid JSON")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a whole number: {value}"))
}

/// The address of segment 0.
fn base(address: SocketAddr) -> usize {
    let text = json(address, "/map.json?segment=0")["address"].as_str().map(str::to_string);
    let text = text.expect("an address");
    usize::from_str_radix(text.strip_prefix("0x").expect("hexadecimal"), 16).expect("a number")
}

/// Segment, page and chunk of an address.
fn place(base: usize, address: usize) -> (usize, usize, usize) {
    let offset = address - base;
    (offset / SEGMENT, offset % SEGMENT / PAGE, offset % SEGMENT / (64 << 10))
}

#[test]
fn blocks_are_where_the_map_says() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let address = endpoint();
    let base = base(address);

    // 1,000 blocks of class 112, all written to.
    let blocks: Vec<Vec<u8>> = (0..1000).map(|i| vec![i as u8; 100]).collect();
    let total = number(&json(address, "/map.json")["total"]) as usize;
    // A sampled block stands alone between guard pages, behind all segments.
    let places = blocks.iter().map(|block| place(base, block.as_ptr().addr()));
    let places: Vec<_> = places.filter(|place| place.0 < total).collect();
    assert!(places.len() > 900, "{} of 1,000 are in segments", places.len());
    for (segment, page, chunk) in places {
        let map = json(address, &format!("/map.json?segment={segment}"));
        assert_eq!(number(&map["segment"]), segment as u64);
        let pages = map["pages"].as_str().expect("text").as_bytes();
        assert_eq!((pages.len(), pages[page]), (512, b's'), "{map}");
        let chunks = map["chunks"].as_array().expect("a list");
        let span = &chunks[chunk];
        assert_eq!((chunks.len(), number(&span["block_bytes"])), (32, 112), "{map}");
        assert_eq!(number(&span["blocks"]), (64 << 10) / 112, "{map}");
        assert!(number(&span["free"]) < number(&span["blocks"]), "{map}");
    }

    // A large run, of which the first half has been written to.
    let mut large = vec![0_u8; 1 << 20];
    large[..512 << 10].fill(1);
    let (segment, page, chunk) = place(base, large.as_ptr().addr());
    let map = json(address, &format!("/map.json?segment={segment}"));
    let pages = map["pages"].as_str().expect("text").as_bytes();
    assert!(pages[page..][..128].iter().all(|&page| page == b'L'), "{map}");
    assert!(pages[page + 128..][..128].iter().all(|&page| page == b'l' || page == b'L'), "{map}");
    assert!(map["chunks"][chunk].is_null(), "{map}");
}

#[test]
fn counts_are_complete_and_agree_with_the_pages() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let address = endpoint();
    let _used: Vec<Vec<u8>> = (0..4000).map(|i| vec![1; 16 + i * 7 % 30_000]).collect();
    let whole = json(address, "/map.json");
    let total = number(&whole["total"]);
    let segments = whole["segments"].as_array().expect("a list");
    assert_eq!((number(&whole["page_bytes"]), number(&whole["segment_bytes"])), (4096, 2 << 20));
    assert_eq!((number(&whole["first"]), segments.len() as u64), (0, total.min(1024)));
    let names = ["span_resident", "span_other", "large_resident", "large_other"];
    let names = names.iter().chain(&["dirty", "clean", "unexplained"]);
    for segment in segments {
        let sum: u64 = names.clone().map(|&name| number(&segment[name])).sum();
        assert_eq!((sum, segment.as_object().map(|o| o.len())), (512, Some(7)), "{segment}");
    }

    // One of them at a time; the server's own allocations come and go between two requests.
    for at in 0..total {
        let agree = (0..20).any(|_| {
            let counts = json(address, &format!("/map.json?first={at}&count=1"));
            assert_eq!((number(&counts["first"]), number(&counts["total"])), (at, total));
            let pages = json(address, &format!("/map.json?segment={at}"));
            let pages = pages["pages"].as_str().expect("text");
            assert!(pages.bytes().all(|page| b"soLld.?".contains(&page)), "{pages}");
            let counted = |page: char| pages.matches(page).count() as u64;
            let drawn = ['s', 'o', 'L', 'l', 'd', '.', '?'].map(counted);
            names
                .clone()
                .zip(drawn)
                .all(|(&name, drawn)| number(&counts["segments"][0][name]) == drawn)
        });
        assert!(agree, "segment {at}");
    }
    let last = json(address, &format!("/map.json?first={}&count=1024", total - 1));
    assert_eq!(last["segments"].as_array().map(Vec::len), Some(1), "as many as there are");
}

/// What the kernel backs of a segment, asked in another way than through the page map.
fn resident(start: usize) -> [bool; 512] {
    let mut pages = [0_u8; 512];
    let start = std::ptr::without_provenance_mut(start);
    // SAFETY: it asks about addresses, and has a byte for each page to answer in.
    let failed = unsafe { libc::mincore(start, SEGMENT, pages.as_mut_ptr()) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
    pages.map(|page| page & 1 == 1)
}

#[test]
fn residency_agrees_with_the_kernel_page_by_page() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let address = endpoint();
    let base = base(address);
    let mut large = vec![0_u8; 8 << 20];
    // Some pages of every segment that it reaches into.
    for page in large.chunks_mut(PAGE).step_by(5) {
        page[0] = 1;
    }
    let total = number(&json(address, "/map.json")["total"]) as usize;
    let run =
        place(base, large.as_ptr().addr()).0..=place(base, large.as_ptr().addr() + (8 << 20)).0;
    let mut seen = [0; 2];
    for segment in 0..total {
        // The server's own pages come and go between the two looks.
        let map = (0..20).find_map(|_| {
            let map = json(address, &format!("/map.json?segment={segment}"));
            let pages = map["pages"].as_str().expect("text").to_string();
            let agree = pages
                .bytes()
                .zip(resident(base + segment * SEGMENT))
                .all(|(page, there)| page == b'd' || matches!(page, b's' | b'L' | b'?') == there);
            agree.then_some(pages)
        });
        let map = map.unwrap_or_else(|| panic!("segment {segment}"));
        if run.contains(&segment) {
            seen[0] += map.matches('l').count();
            seen[1] += map.matches('L').count();
        }
    }
    assert!(seen[0] > 1000 && seen[1] > 300, "{seen:?}");
    assert_eq!(large.iter().map(|&byte| u64::from(byte)).sum::<u64>(), 2048_u64.div_ceil(5));
}

#[test]
fn what_is_not_there_is_refused_in_one_line() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let address = endpoint();
    let total = number(&json(address, "/map.json")["total"]);
    for (query, mentions) in [
        (format!("segment={total}"), format!("segment={total}: expected a number below {total}")),
        (format!("first={total}"), format!("first={total}: expected a number below {total}")),
        ("segment=x".into(), "segment=x: expected a whole number".into()),
        ("count=1025".into(), "count=1025: expected a number from 1 to 1024".into()),
        ("what=1".into(), "what: expected first and count, or segment".into()),
        ("segment=%31".into(), "segment=%31: expected a whole number".into()),
    ] {
        let response = get(address, &format!("/map.json?{query}"));
        assert_eq!(response.status, 400, "{query}");
        assert!(response.body.starts_with(&mentions), "{query}: {}", response.body);
        assert_eq!(response.body.lines().count(), 1, "{}", response.body);
    }
}
