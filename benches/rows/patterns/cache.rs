//! Whether threads are handed blocks on one cache line, each of which writes its own.

use std::sync::atomic::{AtomicU8, Ordering};

use slackwater_benches::cores::{Work, side_by_side};
use slackwater_benches::raw::RawBlock;
use slackwater_benches::rows::Measured;

/// The size of a block, and how often a byte of it is written while it is held.
const BYTES: usize = 8;
const WRITES: usize = 100;

/// After cache-scratch of Emery Berger's Hoard: each thread is first given a block that the main
/// thread allocated beside the others' and frees it. Who then hands these places out to their
/// threads has them share a line for ever (passive false sharing).
pub fn scratch(pairs: u64, threads: usize) -> Measured {
    let given = (0..threads).map(|_| Some(RawBlock::new(BYTES))).collect();
    run(pairs, threads, given)
}

/// After cache-thrash, of the same source: each thread allocates and frees, and no place of another
/// thread's line must come to it (active false sharing).
pub fn thrash(pairs: u64, threads: usize) -> Measured {
    run(pairs, threads, (0..threads).map(|_| None).collect())
}

fn run(pairs: u64, threads: usize, given: Vec<Option<RawBlock>>) -> Measured {
    let steps = (pairs / threads as u64).max(1);
    let work = given.into_iter().map(|given| -> Work {
        Box::new(move || {
            drop(given);
            for _ in 0..steps {
                write_often(&RawBlock::new(BYTES));
            }
        })
    });
    let elapsed = side_by_side(work.collect());
    Measured { operations: steps * threads as u64, elapsed }
}

fn write_often(block: &RawBlock) {
    let byte = block.start().cast::<AtomicU8>();
    // SAFETY: the block has a byte, which an atomic of one byte fits, and it is alive while it is
    // borrowed.
    let byte = unsafe { byte.as_ref() };
    for turn in 0..WRITES {
        // A read and a write each time, as a program that counts would, and none left out.
        byte.store(byte.load(Ordering::Relaxed).wrapping_add(turn as u8), Ordering::Relaxed);
    }
}
