//! What does a pair cost where many blocks of one size are alive?
//!
//! One thread, pinned; nanoseconds per pair. A row for each order, depth and size: `lifo_1000_16` is
//! 1,000 blocks of 16 bytes, freed last first. A cache of free blocks serves up to some depth, and
//! what is below it the rest. Run it by `scripts/bench depths`; `lifo`, or `lifo_1000`, is a family.

use std::hint::black_box;
use std::process::ExitCode;

use slackwater_benches::block::{Block, block};
use slackwater_benches::rows::{self, Measured, Row, timed};

const DEPTHS: [usize; 6] = [1, 10, 100, 1000, 10_000, 100_000];

const SIZES: [usize; 6] = [16, 64, 256, 1024, 4096, 32_768];

/// What a row does: so many pairs, so deep, of this size.
type Pattern = fn(u64, usize, usize) -> Measured;

fn main() -> ExitCode {
    let mut rows = Vec::new();
    for (name, pattern) in [("lifo", lifo as Pattern), ("fifo", fifo)] {
        for depth in DEPTHS {
            for size in SIZES {
                let operations = operations(depth, size);
                rows.push(Row::new(format!("{name}_{depth}_{size}"), operations, move |pairs| {
                    pattern(pairs, depth, size)
                }));
            }
        }
    }
    rows::main(&rows)
}

/// Fewer where a pair takes longer: beyond the processor's caches, and where blocks have pages of
/// their own.
fn operations(depth: usize, size: usize) -> u64 {
    match (depth, size) {
        (10..=1000, 4096..) => 2_000_000,
        (..=1000, _) => 20_000_000,
        (10_000, ..4096) => 8_000_000,
        (10_000, _) => 1_000_000,
        (_, ..4096) => 4_000_000,
        _ => 400_000,
    }
}

/// `depth` blocks allocated, then freed last first.
fn lifo(pairs: u64, depth: usize, size: usize) -> Measured {
    let (depth, size) = black_box((depth, size));
    let rounds = (pairs / depth as u64).max(1);
    let mut blocks: Vec<Block> = Vec::with_capacity(depth);
    let mut run = |rounds: u64| {
        timed(rounds * depth as u64, || {
            for _ in 0..rounds {
                blocks.extend((0..depth).map(|_| block(size)));
                while let Some(last) = blocks.pop() {
                    drop(last);
                }
            }
        })
    };
    // The first growth pays for fresh pages, whoever allocates.
    run(1);
    run(rounds)
}

/// A queue of `depth` blocks; each step frees the oldest and allocates a new one.
fn fifo(pairs: u64, depth: usize, size: usize) -> Measured {
    let (depth, size) = black_box((depth, size));
    let rounds = (pairs / depth as u64).max(1);
    let mut queue: Vec<_> = (0..depth).map(|_| Some(block(size))).collect();
    timed(rounds * depth as u64, || {
        for _ in 0..rounds {
            for oldest in &mut queue {
                *oldest = None;
                *oldest = Some(block(size));
            }
        }
    })
}
