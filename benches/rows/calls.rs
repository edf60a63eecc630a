//! What do the calls cost that are neither a plain allocation nor a free?
//!
//! One thread, pinned; nanoseconds per operation, which is one resize in the rows of `realloc`, and
//! elsewhere a pair of one allocation and one free. Run it by `scripts/bench calls`.

use std::hint::black_box;
use std::process::ExitCode;

use slackwater_benches::random::{Random, Sizes};
use slackwater_benches::raw::RawBlock;
use slackwater_benches::rows::{self, Measured, Row, timed};

fn main() -> ExitCode {
    rows::main(&[
        Row::new("realloc_step", 20_000_000, |resizes| grown(resizes, 16, 8192, |size| size + 16)),
        Row::new("realloc_step_large", 1_000_000, |resizes| {
            grown(resizes, 64 << 10, 4 << 20, |size| size + (64 << 10))
        }),
        Row::new("realloc_double", 1_000_000, |resizes| {
            grown(resizes, 16, 1 << 20, |size| size * 2)
        }),
        Row::new("realloc_same", 50_000_000, same),
        Row::new("realloc_shrink", 10_000_000, shrunk),
        Row::new("realloc_many", 10_000_000, many),
        Row::new("every_size", 20_000_000, every_size),
        Row::new("calloc_64", 50_000_000, |pairs| zeroed(pairs, Sizes { from: 64, to: 64 })),
        Row::new("calloc_1024", 30_000_000, |pairs| zeroed(pairs, Sizes { from: 1024, to: 1024 })),
        Row::new("calloc_32768", 2_000_000, |pairs| {
            zeroed(pairs, Sizes { from: 32_768, to: 32_768 })
        }),
        Row::new("calloc_mixed", 20_000_000, |pairs| zeroed(pairs, Sizes { from: 16, to: 2048 })),
        Row::new("calloc_large", 20_000, |pairs| {
            zeroed(pairs, Sizes { from: 1 << 20, to: 1 << 20 })
        }),
        Row::new("aligned_64_64", 50_000_000, |pairs| aligned(pairs, 64, 64)),
        Row::new("aligned_64_4096", 20_000_000, |pairs| aligned(pairs, 64, 4096)),
        Row::new("aligned_4096_4096", 10_000_000, |pairs| aligned(pairs, 4096, 4096)),
        Row::new("aligned_mixed", 10_000_000, aligned_mixed),
    ])
}

/// A block that grows from size to size until it is of `to` bytes, is freed, and grows anew: the
/// buffer of a server, or a vector.
fn grown(resizes: u64, from: usize, to: usize, next: fn(usize) -> usize) -> Measured {
    let steps = std::iter::successors(Some(from), |size| Some(next(*size)));
    let steps = steps.skip(1).take_while(|size| *size <= to).count() as u64;
    let rounds = (resizes / steps).max(1);
    let run = |rounds: u64| {
        timed(rounds * steps, || {
            for _ in 0..rounds {
                let mut size = black_box(from);
                let mut block = RawBlock::new(size);
                while next(size) <= to {
                    size = next(size);
                    block.resize(size);
                }
            }
        })
    };
    run(1);
    run(rounds)
}

/// A block resized to what it is.
fn same(resizes: u64) -> Measured {
    let size = black_box(100);
    let mut block = RawBlock::new(size);
    timed(resizes, || {
        for _ in 0..resizes {
            block.resize(size);
        }
    })
}

/// A buffer of 4 KiB that is cut to what was read into it. An operation is the allocation, the cut
/// and the free.
fn shrunk(operations: u64) -> Measured {
    let (size, cut) = black_box((4096, 100));
    timed(operations, || {
        for _ in 0..operations {
            let mut block = RawBlock::new(size);
            block.resize(cut);
        }
    })
}

/// One of 1,000 blocks, by chance, resized to a size by chance.
fn many(resizes: u64) -> Measured {
    const BLOCKS: usize = 1000;
    const MIXED: Sizes = Sizes { from: 16, to: 2048 };
    let mut random = Random::new(1);
    let mut blocks: Vec<_> = (0..BLOCKS).map(|_| RawBlock::new(random.size(MIXED))).collect();
    let mut run = |resizes: u64| {
        timed(resizes, || {
            for _ in 0..resizes {
                let (slot, size) = random.slot_and_size(BLOCKS, MIXED);
                blocks[slot].resize(size);
            }
        })
    };
    run(BLOCKS as u64 * 3);
    run(resizes)
}

/// Pairs of each of 44 sizes from 16 bytes to 28 KiB in turn: hardly two are of one class.
fn every_size(pairs: u64) -> Measured {
    let sizes: Vec<usize> =
        (4..15).flat_map(|power| (4..8).map(move |quarters| (quarters << power) / 4)).collect();
    let sizes = black_box(&sizes[..]);
    timed(pairs, || {
        for &size in sizes.iter().cycle().take(pairs as usize) {
            drop(RawBlock::new(size));
        }
    })
}

/// Zeroed blocks, pair by pair.
fn zeroed(pairs: u64, sizes: Sizes) -> Measured {
    let sizes = black_box(sizes);
    let mut random = Random::new(1);
    timed(pairs, || {
        for _ in 0..pairs {
            drop(RawBlock::zeroed(random.size(sizes)));
        }
    })
}

/// Blocks at multiples of `alignment`, pair by pair.
fn aligned(pairs: u64, alignment: usize, size: usize) -> Measured {
    let (alignment, size) = black_box((alignment, size));
    timed(pairs, || {
        for _ in 0..pairs {
            drop(RawBlock::aligned(size, alignment));
        }
    })
}

/// A working set of 400 blocks of which each has an alignment of its own, 32 to 4,096.
fn aligned_mixed(pairs: u64) -> Measured {
    const SLOTS: usize = 400;
    const MIXED: Sizes = Sizes { from: 16, to: 2048 };
    let mut random = Random::new(1);
    let mut slots: Vec<Option<RawBlock>> = (0..SLOTS).map(|_| None).collect();
    let mut run = |pairs: u64| {
        timed(pairs, || {
            for _ in 0..pairs {
                let (slot, size) = random.slot_and_size(SLOTS, MIXED);
                slots[slot] = None;
                slots[slot] = Some(RawBlock::aligned(size, 32 << (slot % 8)));
            }
        })
    };
    run(SLOTS as u64 * 3);
    run(pairs)
}
