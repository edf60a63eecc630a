//! What does a pair of one allocation and one free cost?
//!
//! One thread or two, each pinned to a core of its own; nanoseconds per pair. Run it by
//! `scripts/bench pair`, against other allocators.

use std::hint::black_box;
use std::process::ExitCode;

use slackwater_benches::block::{Block, block};
use slackwater_benches::cores::side_by_side;
use slackwater_benches::random::{Random, Sizes};
use slackwater_benches::ring::{Receiver, Sender, ring};
use slackwater_benches::rows::{self, Measured, Row, timed};

/// The sizes of most rows that mix sizes.
const MIXED: Sizes = Sizes { from: 16, to: 2048 };

fn main() -> ExitCode {
    rows::main(&[
        Row::new("pair_64", 100_000_000, pair),
        Row::new("random_400", 20_000_000, random::<400, 16, 2048>),
        Row::new("random_400_medium", 20_000_000, random::<400, 4096, 32768>),
        Row::new("random_400_all", 20_000_000, random::<400, 16, 32768>),
        Row::new("random_10000", 15_000_000, random::<10_000, 16, 2048>),
        Row::new("random_100000", 5_000_000, random::<100_000, 16, 2048>),
        Row::new("all_100000", 4_000_000, all::<100_000>),
        Row::new("lifo_1", 50_000_000, lifo_one),
        Row::new("remote_64", 30_000_000, remote::<64, 64>),
        Row::new("remote_mixed", 10_000_000, remote::<16, 2048>),
        Row::new("swap_1000_64", 30_000_000, swap::<1000, 64, 64>),
        Row::new("swap_1000_mixed", 10_000_000, swap::<1000, 16, 2048>),
    ])
}

/// 64 bytes, pair by pair.
fn pair(pairs: u64) -> Measured {
    // Not a constant to the compiler: nobody's size class is looked up at compile time.
    let size = black_box(64);
    timed(pairs, || {
        for _ in 0..pairs {
            drop(block(size));
        }
    })
}

/// A working set of `SLOTS` blocks; each step frees a random one and allocates another of random
/// size in its place.
fn random<const SLOTS: usize, const FROM: u32, const TO: u32>(pairs: u64) -> Measured {
    let sizes = Sizes { from: FROM, to: TO };
    let mut random = Random::new(1);
    let mut slots: Vec<_> = (0..SLOTS).map(|_| Some(block(random.size(sizes)))).collect();
    let mut run = |pairs| {
        timed(pairs, || {
            for _ in 0..pairs {
                let (slot, size) = random.slot_and_size(SLOTS, sizes);
                slots[slot] = None;
                slots[slot] = Some(block(size));
            }
        })
    };
    // The heap is not in its steady state until every block has been replaced a few times.
    run(SLOTS as u64 * 3);
    run(pairs)
}

/// `BLOCKS` blocks of random sizes allocated, then all freed in the same order.
fn all<const BLOCKS: usize>(pairs: u64) -> Measured {
    let rounds = (pairs / BLOCKS as u64).max(1);
    let mut random = Random::new(1);
    let mut blocks = Vec::with_capacity(BLOCKS);
    let mut run = |rounds: u64| {
        timed(rounds * BLOCKS as u64, || {
            for _ in 0..rounds {
                blocks.extend((0..BLOCKS).map(|_| block(random.size(MIXED))));
                blocks.clear();
            }
        })
    };
    // The first growth pays for fresh pages, whoever allocates.
    run(1);
    run(rounds)
}

/// One block of 16 to 1,024 bytes at a time.
fn lifo_one(pairs: u64) -> Measured {
    let mut random = Random::new(1);
    timed(pairs, || {
        for _ in 0..pairs {
            drop(block(random.size(Sizes { from: 16, to: 1024 })));
        }
    })
}

/// One thread allocates, another frees.
fn remote<const FROM: u32, const TO: u32>(pairs: u64) -> Measured {
    let sizes = black_box(Sizes { from: FROM, to: TO });
    let (mut sender, mut receiver) = ring::<Block, 1024>(64);
    let elapsed = side_by_side(vec![
        Box::new(move || {
            let mut random = Random::new(1);
            for _ in 0..pairs {
                sender.send(block(random.size(sizes)));
            }
        }),
        Box::new(move || {
            for _ in 0..pairs {
                drop(receiver.receive());
            }
        }),
    ]);
    Measured { operations: pairs, elapsed }
}

/// Two threads each allocate `BATCH` blocks, swap them, and free the other's. The time is that of a
/// pair in each of the threads, which work at the same time.
fn swap<const BATCH: usize, const FROM: u32, const TO: u32>(pairs: u64) -> Measured {
    let sizes = black_box(Sizes { from: FROM, to: TO });
    let rounds = (pairs / BATCH as u64).max(1);
    let (to_other, from_one) = ring(1);
    let (to_one, from_other) = ring(1);
    let half = |seed, mut sender: Sender<Vec<Block>, 2>, mut receiver: Receiver<Vec<Block>, 2>| {
        move || {
            let mut random = Random::new(seed);
            let mut batch = Vec::with_capacity(BATCH);
            for _ in 0..rounds {
                batch.extend((0..BATCH).map(|_| block(random.size(sizes))));
                sender.send(batch);
                // The other's list, once emptied, serves the next batch: lists are not allocated.
                batch = receiver.receive();
                batch.clear();
            }
        }
    };
    let elapsed = side_by_side(vec![
        Box::new(half(1, to_other, from_other)),
        Box::new(half(2, to_one, from_one)),
    ]);
    Measured { operations: rounds * BATCH as u64, elapsed }
}
