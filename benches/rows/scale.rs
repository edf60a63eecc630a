//! What do threads do to lines that other threads use, as there are more and more of them?
//!
//! A row is a load with a number of threads. Every thread does the same amount of work whatever that number is, so a
//! count of an operation's share can be compared. `scripts/bench scale` counts; no time is asked for, so it does not
//! matter that there are more threads than cores.

#[path = "patterns/churn.rs"]
mod churn;
mod larson;
mod xmalloc;

use std::process::ExitCode;

use slackwater_benches::block::{Block, block};
use slackwater_benches::cores::{Work, side_by_side};
use slackwater_benches::random::{Random, Sizes};
use slackwater_benches::ring::ring;
use slackwater_benches::rows::{self, Measured, Row};

/// How many threads there may be.
const THREADS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Operations of each thread at scale 1. What a cache takes to learn a load is over in a fraction of these.
const EACH: u64 = 24_000;

/// Operations of a server before it ends.
const GENERATION: u64 = EACH / 8;

fn main() -> ExitCode {
    let mut rows = Vec::new();
    for threads in THREADS {
        let count = threads as u64;
        let mut add = |load: &str, each: u64, run: fn(u64, usize) -> Measured| {
            let name = format!("{load}_by_{threads}");
            rows.push(Row::new(name, each * count, move |operations| run(operations, threads)));
        };
        add("pair", EACH, pairs);
        add("random", EACH, |pairs, threads| random(pairs, threads, 400, SMALL));
        add("deep", EACH, |pairs, threads| deep(pairs, threads, 2000));
        add("larson", EACH, |pairs, threads| larson::run(pairs, threads, GENERATION));
        add("churn", 40 * CHURNED, churn);
        add("large", EACH / 8, |pairs, threads| random(pairs, threads, 16, LARGE));
        if threads > 1 {
            add("remote", EACH, remote);
            add("xmalloc", EACH, xmalloc::run);
        }
    }
    rows::main(&rows)
}

/// Sizes that spans have.
const SMALL: Sizes = Sizes { from: 16, to: 2048 };

/// Sizes that are runs of pages.
const LARGE: Sizes = Sizes { from: 33 << 10, to: 256 << 10 };

/// Runs the same on each thread, which is told its number and its share of the operations.
fn on_each(operations: u64, threads: usize, work: impl Fn(u64, u64) + Sync) -> Measured {
    let each = (operations / threads as u64).max(1);
    let work = &work;
    let all =
        (0..threads as u64).map(|thread| -> Work<'_> { Box::new(move || work(thread, each)) });
    Measured { operations: each * threads as u64, elapsed: side_by_side(all.collect()) }
}

/// Pairs of 64 bytes.
fn pairs(pairs: u64, threads: usize) -> Measured {
    on_each(pairs, threads, |_, pairs| (0..pairs).for_each(|_| drop(block(64))))
}

/// Each thread has a working set of `slots` blocks, of which it replaces a random one at a time.
fn random(pairs: u64, threads: usize, slots: usize, sizes: Sizes) -> Measured {
    on_each(pairs, threads, |thread, pairs| {
        let mut random = Random::new(thread);
        let mut held: Vec<_> = (0..slots).map(|_| Some(block(random.size(sizes)))).collect();
        for _ in 0..pairs {
            let (slot, size) = random.slot_and_size(slots, sizes);
            held[slot] = None;
            held[slot] = Some(block(size));
        }
    })
}

/// Each thread allocates `depth` blocks of mixed sizes and frees them all, again and again: more of each size than a
/// new cache has room for.
fn deep(pairs: u64, threads: usize, depth: usize) -> Measured {
    on_each(pairs, threads, |thread, pairs| {
        let mut random = Random::new(thread);
        let mut held = Vec::with_capacity(depth);
        for _ in 0..pairs / depth as u64 {
            held.extend((0..depth).map(|_| block(random.size(SMALL))));
            held.clear();
        }
    })
}

/// Pairs of a thread that comes and goes.
const CHURNED: u64 = 100;

/// Threads that come and go; an operation is a pair, as everywhere.
fn churn(pairs: u64, threads: usize) -> Measured {
    let measured = churn::run(pairs / CHURNED, threads as u64);
    Measured { operations: measured.operations * CHURNED, ..measured }
}

/// Half of the threads allocate, each for a thread of its own that frees.
fn remote(pairs: u64, threads: usize) -> Measured {
    let producers = threads / 2;
    let each = (pairs / producers as u64).max(1);
    let mut work: Vec<Work> = Vec::new();
    for producer in 0..producers as u64 {
        let (mut sender, mut receiver) = ring::<Block, 1024>(64);
        work.push(Box::new(move || {
            let mut random = Random::new(producer);
            (0..each).for_each(|_| sender.send(block(random.size(SMALL))));
        }));
        work.push(Box::new(move || (0..each).for_each(|_| drop(receiver.receive()))));
    }
    Measured { operations: each * producers as u64, elapsed: side_by_side(work) }
}
