//! A service whose figures the test sets. The page is the real endpoint's, with its policy.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use slackwater_exporters::Endpoint;

use crate::common::get;

pub const MIB: u64 = 1 << 20;

/// Pages of the one segment that has any: two chunks of spans, the second without memory; a large
/// run that is partly touched; pages that wait; one that nothing explains; and clean ones.
const FILLED: &[(&str, usize)] =
    &[("s", 16), ("o", 16), ("L", 8), ("l", 8), ("d", 16), ("?", 8), (".", 440)];

/// The number of the segment with [`FILLED`] pages; all others are clean.
pub const FILLED_SEGMENT: usize = 1;

/// Pages of a kind in the filled segment.
pub fn filled(kind: &str) -> usize {
    FILLED.iter().filter(|(letter, _)| *letter == kind).map(|(_, pages)| pages).sum()
}

/// What `/snapshot.json` answers to the nth question.
type Figures = dyn Fn(usize) -> Value + Send + Sync;

/// A served page with figures of the test's making.
pub struct Stage {
    pub address: SocketAddr,
    answered: Arc<AtomicUsize>,
}

impl Stage {
    /// Serves these figures, and an arena of so many segments.
    pub fn start(
        segments: usize,
        figures: impl Fn(usize) -> Value + Send + Sync + 'static,
    ) -> Stage {
        let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
        let page = get(endpoint.address().tcp().expect("it is TCP"), "/");
        let policy = page.head.lines().find(|line| line.starts_with("content-security-policy:"));
        let policy = policy.expect("the page has a policy").to_string();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let answered = Arc::new(AtomicUsize::new(0));
        let play = Arc::new(Play {
            page: page.body,
            policy,
            figures: Box::new(figures),
            answered: answered.clone(),
            segments,
        });
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, play) = (stream.expect("a connection"), play.clone());
                // A browser connects ahead of what it asks, so each has a thread.
                thread::spawn(move || play.answer(stream));
            }
        });
        Stage { address, answered }
    }

    /// The page's address.
    pub fn page(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// How often `/snapshot.json` was asked for.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }
}

struct Play {
    page: String,
    policy: String,
    figures: Box<Figures>,
    answered: Arc<AtomicUsize>,
    segments: usize,
}

impl Play {
    fn answer(&self, mut stream: TcpStream) {
        let mut head = BufReader::new(&stream).lines().map_while(Result::ok);
        let Some(request) = head.next() else { return };
        head.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
        let target = request.split(' ').nth(1).expect("GET path HTTP/1.1");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (kind, body) = match path {
            "/" => ("text/html; charset=utf-8", self.page.clone()),
            "/snapshot.json" => {
                let number = self.answered.fetch_add(1, Ordering::Relaxed);
                ("application/json", (self.figures)(number).to_string())
            }
            "/map.json" => ("application/json", self.map(query).to_string()),
            _ => panic!("the page asked for {target}"),
        };
        let length = body.len();
        // The browser may be gone by now; then nobody misses the answer.
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\n{}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}",
            self.policy
        );
    }

    fn map(&self, query: &str) -> Value {
        let parameter = |name: &str| -> Option<usize> {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
        };
        if let Some(number) = parameter("segment") {
            return one_segment(number);
        }
        let (first, count) =
            (parameter("first").expect("first"), parameter("count").expect("count"));
        let segments: Vec<Value> =
            (first..self.segments.min(first + count)).map(segment_counts).collect();
        json!({
            "page_bytes": 4096, "segment_bytes": 2 * MIB,
            "first": first, "segments": segments, "total": self.segments,
        })
    }
}

fn segment_counts(number: usize) -> Value {
    let pages = |kind| if number == FILLED_SEGMENT { filled(kind) } else { 0 };
    let clean = if number == FILLED_SEGMENT { filled(".") } else { 512 };
    json!({
        "span_resident": pages("s"), "span_other": pages("o"),
        "large_resident": pages("L"), "large_other": pages("l"),
        "dirty": pages("d"), "clean": clean, "unexplained": pages("?"),
    })
}

fn one_segment(number: usize) -> Value {
    let mut chunks = vec![Value::Null; 32];
    let mut pages = ".".repeat(512);
    if number == FILLED_SEGMENT {
        pages = FILLED.iter().map(|(kind, pages)| kind.repeat(*pages)).collect();
        chunks[0] = json!({ "block_bytes": 112, "blocks": 585, "free": 117 });
        chunks[1] = json!({ "block_bytes": 2048, "blocks": 32, "free": 0 });
    }
    json!({ "segment": number, "address": "0x7f3a40200000", "pages": pages, "chunks": chunks })
}

/// Figures in which every family of the page has a value of its own.
pub fn figures() -> Value {
    json!({
        "release_enqueued_total": { "small_page_retire": 20000, "large_free": 1000 },
        "release_coalesced_total": 11000,
        "release_purged_pages_total": {
            "small_page_retire": 250000, "sub4k_run_retire": 40000, "medium_run_reclaim": 9000,
            "large_free": 800, "span_interior": 200,
        },
        "release_purged_bytes_total": 300_000_u64 * 4096,
        "release_madvise_calls_total": 1600,
        "release_dropped_total": 3,
        "release_reused_pages_total": 1_234_567,
        "release_refault_pages_total": 77,
        "release_errors_total": 2,
        "release_pending_bytes": 12 * MIB,
        "release_oldest_age_seconds": 0.25,
        "takeovers_total": { "taken": 41, "busy": 2, "unavailable": 0 },
        "epoch_ticks_total": { "idle": 500, "busy": 300 },
        "gate_state": 1,
        "memory_bytes": { "live": 70 * MIB, "dirty": 12 * MIB },
        "mapped_bytes": 512 * MIB,
        "process_resident_bytes": { "anon": 195 * MIB / 2, "file": 6 * MIB, "shmem": MIB / 2 },
        "rss_peak_bytes": 300 * MIB,
        "rss_bytes": {
            "live": 64 * MIB, "rounding": 3 * MIB, "free_blocks": 10 * MIB,
            "thread_cache": 2 * MIB, "dirty": 12 * MIB, "metadata": 3 * MIB / 2,
            "sampled": MIB, "stacks": MIB, "other_anon": 2 * MIB, "file": 6 * MIB, "shmem": MIB / 2,
        },
        "rss_unattributed_bytes": MIB,
        "untouched_bytes": 6 * MIB,
        "swapped_bytes": { "heap": 3 * MIB, "rest": MIB },
        "huge_backed_bytes": 4 * MIB,
        "size_class_live_bytes": { "16": 65_536, "112": 3 * MIB, "2048": 0 },
        "size_class_span_bytes": { "16": 131_072, "112": 4 * MIB, "2048": 655_360 },
        "threads": 6,
        "allocations_total": { "small": 123_000_000, "large": 456 },
        "purge_duration_seconds": {
            "buckets": [[0.000001, 0], [0.000016, 10], [0.000064, 50], [0.001, 1590], [null, 1600]],
            "sum": 0.32, "count": 1600,
        },
        "purge_batch_pages": {
            "buckets": [[1, 0], [16, 400], [256, 1600], [null, 1600]],
            "sum": 300_000, "count": 1600,
        },
        "cgroup_current_bytes": 310 * MIB,
        "cgroup_need_bytes": 260 * MIB,
        "cgroup_limit_bytes": 512 * MIB,
        "cgroup_high_bytes": 480 * MIB,
        "cgroup_high_need_bytes": 260 * MIB,
        "cgroup_events_total": { "high": 1234, "max": 0, "oom": 0, "oom_kill": 3 },
        "cgroup_pressure_seconds_total": 1.5,
        "observer_cpu_seconds_total": 0.75,
        "build_info": { "9.8.7": 1 },
    })
}
