//! The breakdown against the kernel, over bursts and the idle time after them, every 100 ms. This
//! program is under Slackwater, and alone in its process: one test.

use std::fs;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use slackwater::remote::{RemoteHeap, own_root};
use slackwater_exporters::Observation;
use slackwater_exporters::memory::ProcessMemoryReader;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

const THREADS: usize = 3;
const CYCLES: usize = 3;

/// Of RSS: how far the parts may be from the kernel's figure, and how much may be unexplained.
const SUM_TOLERANCE: f64 = 0.01;
const UNATTRIBUTED_AT_MOST: f64 = 0.02;

/// What busy threads may take between two looks at a heap that is hardly there yet, in bytes.
const MOVED_AT_MOST: f64 = 512.0 * 1024.0;

/// The exact figure, which walks the page tables, in bytes.
fn rss_by_walk() -> f64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("Linux has it");
    rss_lines(&rollup)
}

fn rss_lines(smaps: &str) -> f64 {
    let lines = smaps.lines().filter_map(|line| line.strip_prefix("Rss:"));
    let kib = |line: &str| line.trim().strip_suffix(" kB").expect("kB").parse::<f64>();
    lines.map(|line| kib(line).expect("a number") * 1024.0).sum()
}

/// What the kernel counts outside the heap's addresses, mapping by mapping.
fn rss_outside_the_heap() -> f64 {
    let memory = ProcessMemoryReader::own();
    let heap = RemoteHeap::open(&memory, own_root()).expect("this process has a heap");
    let place = heap.place(&memory).expect("readable").expect("it has begun");
    let smaps = fs::read_to_string("/proc/self/smaps").expect("Linux has it");
    let mut outside = 0.0;
    let mut is_outside = true;
    for line in smaps.lines() {
        let address = line.split('-').next().and_then(|word| u64::from_str_radix(word, 16).ok());
        // The first line of a mapping: "start-end access …".
        let access = line.split_ascii_whitespace().nth(1);
        if let Some(start) = address.filter(|_| access.is_some_and(|access| access.len() == 4)) {
            is_outside = !(place.records..place.end()).contains(&start);
        }
        if is_outside {
            outside += rss_lines(line);
        }
    }
    // Records outside the heap's addresses: anonymous mappings like any other, but the allocator's.
    outside - place.pool_bytes as f64
}

/// One observation between two looks at the kernel's own figure: as long as RSS moves, it is somewhere
/// between them.
fn check(phase: &str) -> Observation {
    let before = rss_by_walk();
    let observation = Observation::take();
    let after = rss_by_walk();
    let parts = observation.breakdown().expect("Linux tells its side");
    let (low, high) = (before.min(after), before.max(after));
    let sum = parts.sum() as f64;
    let (low, high) = (low * (1.0 - SUM_TOLERANCE), high * (1.0 + SUM_TOLERANCE));
    assert!((low..=high).contains(&sum), "{phase}: {sum} not in {low}..{high}: {parts:?}");
    let unattributed = parts.unattributed as f64;
    // What comes while it is taken is in one of its figures and not in another.
    let moved = before.max(after) - before.min(after);
    let bound = (UNATTRIBUTED_AT_MOST * sum).max(MOVED_AT_MOST).max(moved);
    assert!(unattributed < bound, "{phase}: {unattributed} of {sum}: {parts:?}");
    let kernel = observation.process.expect("Linux has /proc").resident_bytes();
    assert_eq!(parts.sum(), kernel, "{phase}: what the kernel says is what is broken down");
    observation
}

fn burst(seed: usize, until: Instant) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    let mut state = seed as u64 * 0x9e37_79b9 + 1;
    while Instant::now() < until && blocks.len() < 60_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let bytes = match state >> 60 {
            0..12 => 16 + (state >> 33) % 2000,
            12..15 => 2048 + (state >> 33) % 30_000,
            _ => 32_768 + (state >> 33) % 200_000,
        };
        blocks.push(vec![1; bytes as usize]);
    }
    blocks
}

/// Allocates and frees as it is told, and says when it is done. Ends when nobody tells it any more: a
/// failed assertion must not leave threads that wait for ever.
fn work(number: usize, orders: &Receiver<Order>, done: &Sender<()>) {
    let mut blocks = Vec::new();
    while let Ok(order) = orders.recv() {
        match order {
            Order::Burst => blocks = burst(number, Instant::now() + Duration::from_millis(700)),
            Order::Free => {
                let mut number = 0;
                blocks.retain(|_| {
                    number += 1;
                    number % 16 == 0
                });
            }
        }
        if done.send(()).is_err() {
            return;
        }
    }
}

#[derive(Clone, Copy)]
enum Order {
    /// Allocate for a while, and hold all of it.
    Burst,
    /// Free all but a part that stays for the idle time.
    Free,
}

#[test]
fn the_parts_are_the_kernels_rss_over_bursts_and_idle_times() {
    let (say_done, done) = mpsc::channel();
    let workers: Vec<Sender<Order>> = (1..=THREADS)
        .map(|number| {
            let (tell, orders) = mpsc::channel();
            let say_done = say_done.clone();
            thread::spawn(move || work(number, &orders, &say_done));
            tell
        })
        .collect();
    let tell = |order| workers.iter().for_each(|worker| worker.send(order).expect("it listens"));
    let wait = || workers.iter().for_each(|_| done.recv().expect("it is at work"));
    let mut observations = 0;
    for _ in 0..CYCLES {
        tell(Order::Burst);
        for _ in 0..6 {
            check("burst");
            observations += 1;
            thread::sleep(Duration::from_millis(100));
        }
        wait();
        tell(Order::Free);
        wait();
        for _ in 0..10 {
            check("idle");
            observations += 1;
            thread::sleep(Duration::from_millis(100));
        }
        // What is not the heap is what the kernel counts in the other mappings. The books are near
        // what the kernel backs: blocks are claimed by the dozen, and not all are written to.
        let observation = check("rest");
        let parts = observation.breakdown().expect("Linux tells its side");
        let rss = parts.sum() as f64;
        let books = observation.snapshot.resident_bytes as f64;
        let backed = observation.residency.expect("readable").resident_bytes() as f64;
        assert!((books - backed).abs() < 0.05 * rss, "{books} in the books, {backed} backed");
        let stacks = parts.stacks.unwrap_or(0);
        let others = (stacks + parts.other_anon + parts.file + parts.shmem) as f64;
        let outside = rss_outside_the_heap();
        assert!((others - outside).abs() < 0.01 * rss, "{others}, and by mapping {outside}");
    }
    assert!(observations >= 48);

    slackwater::release_now();
    // Memory that nobody has written to is live, and no part of RSS.
    let untouched: Vec<u8> = Vec::with_capacity(64 << 20);
    let parts = check("untouched").breakdown().expect("Linux tells its side");
    assert!(parts.untouched >= 60 << 20, "{parts:?}");
    drop(untouched);
}
