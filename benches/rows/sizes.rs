//! What does it cost to ask how large a block is?
//!
//! C's `malloc_usable_size`, which servers call for every block to count their memory. Rust has no
//! such call, so these rows mean something only with a shared object preloaded: run them by
//! `scripts/bench sizes --preload`. One thread, pinned.

use std::hint::black_box;
use std::process::ExitCode;

use slackwater_benches::random::{Random, Sizes};
use slackwater_benches::raw::RawBlock;
use slackwater_benches::rows::{self, Measured, Row, timed};

fn main() -> ExitCode {
    rows::main(&[
        Row::new("usable_64", 100_000_000, |queries| asked(queries, Sizes { from: 64, to: 64 })),
        Row::new("usable_mixed", 100_000_000, |queries| {
            asked(queries, Sizes { from: 16, to: 32_768 })
        }),
        Row::new("usable_large", 50_000_000, |queries| {
            asked(queries, Sizes { from: 1 << 20, to: 2 << 20 })
        }),
        Row::new("usable_pair", 30_000_000, counted),
    ])
}

fn usable(block: &RawBlock) -> usize {
    // SAFETY: with the system's allocator a block that Rust allocates is one of malloc's, and it is
    // alive while it is borrowed.
    unsafe { libc::malloc_usable_size(block.start().as_ptr().cast()) }
}

/// 100 blocks, asked in turn. An operation is a query.
fn asked(queries: u64, sizes: Sizes) -> Measured {
    let mut random = Random::new(1);
    let blocks: Vec<_> = (0..100).map(|_| RawBlock::new(random.size(sizes))).collect();
    let rounds = (queries / blocks.len() as u64).max(1);
    timed(rounds * blocks.len() as u64, || {
        for _ in 0..rounds {
            for block in &blocks {
                black_box(usable(block));
            }
        }
    })
}

/// A working set of 400 blocks, each asked when it is allocated and before it is freed, as redis
/// does. An operation is the pair with its two queries.
fn counted(pairs: u64) -> Measured {
    const SLOTS: usize = 400;
    const MIXED: Sizes = Sizes { from: 16, to: 2048 };
    let mut random = Random::new(1);
    let mut slots: Vec<_> = (0..SLOTS).map(|_| RawBlock::new(random.size(MIXED))).collect();
    let mut used = 0_usize;
    timed(pairs, || {
        for _ in 0..pairs {
            let (slot, size) = random.slot_and_size(SLOTS, MIXED);
            used = used.wrapping_sub(usable(&slots[slot]));
            slots[slot] = RawBlock::new(size);
            used = used.wrapping_add(usable(&slots[slot]));
        }
        black_box(used);
    })
}
