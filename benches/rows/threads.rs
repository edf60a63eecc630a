//! What does memory that goes through many threads cost, in time and in peak RSS?
//!
//! Four programs of allocator literature, written anew, each with a fixed amount of work, at 2, 8
//! and 32 threads which are pinned in turn to the cores. Run it by `scripts/bench threads`, against
//! other allocators.

mod larson;
mod xmalloc;

use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use slackwater_benches::block::{Block, block, resident_block};
use slackwater_benches::cores::{Wait, Work, pin, side_by_side};
use slackwater_benches::random::{Random, Sizes};
use slackwater_benches::ring::{Receiver, Sender, ring};
use slackwater_benches::rows::{self, Measured, Row, timed};

fn main() -> ExitCode {
    rows::main(&[
        Row::new("larson_2", 32_000_000, |pairs| larson::run(pairs, 2, 25_000)),
        Row::new("larson_8", 32_000_000, |pairs| larson::run(pairs, 8, 25_000)),
        Row::new("larson_32", 32_000_000, |pairs| larson::run(pairs, 32, 25_000)),
        Row::new("xmalloc_2", 16_000_000, |pairs| xmalloc::run(pairs, 2)),
        Row::new("xmalloc_8", 16_000_000, |pairs| xmalloc::run(pairs, 8)),
        Row::new("xmalloc_32", 16_000_000, |pairs| xmalloc::run(pairs, 32)),
        Row::new("mstress_2", 4_000_000, mstress::<2>),
        Row::new("mstress_8", 4_000_000, mstress::<8>),
        Row::new("mstress_32", 4_000_000, mstress::<32>),
        Row::new("pingpong_2", 24_000_000, pingpong::<2>),
        Row::new("pingpong_8", 24_000_000, pingpong::<8>),
        Row::new("pingpong_32", 24_000_000, pingpong::<32>),
    ])
}

/// Rounds of growth, hand-over and drop (after Leijen's stress test).
///
/// In each round `THREADS` new threads grow a heap of mixed sizes, up to half a MiB a block, drop
/// some blocks as they go, exchange some with other threads through shared places, and end, which
/// drops what they hold. Between the rounds the main thread empties half of the places; the rest
/// outlives the threads that allocated it.
fn mstress<const THREADS: usize>(pairs: u64) -> Measured {
    const ROUNDS: u64 = 40;
    const PLACES: usize = 1000;

    let places: Vec<Place> = (0..PLACES).map(|_| Place::default()).collect();
    let places = &places;
    let thread_pairs = (pairs / ROUNDS / THREADS as u64).max(1);
    timed(thread_pairs * ROUNDS * THREADS as u64, || {
        for round in 0..ROUNDS {
            thread::scope(|scope| {
                for index in 0..THREADS {
                    scope.spawn(move || {
                        pin(index);
                        grow_and_exchange(
                            round * THREADS as u64 + index as u64,
                            thread_pairs,
                            places,
                        );
                    });
                }
            });
            for place in &places[..PLACES / 2] {
                *place.lock().unwrap() = None;
            }
        }
    })
}

/// Where [`mstress`]'s threads leave blocks for each other.
type Place = Mutex<Option<Block>>;

/// What one thread of [`mstress`] does in one round: allocates `blocks` blocks.
fn grow_and_exchange(seed: u64, blocks: u64, places: &[Place]) {
    let mut random = Random::new(seed);
    let mut held: Vec<Option<Block>> = Vec::new();
    for _ in 0..blocks {
        let sizes = match random.below(2000) {
            0 => Sizes { from: 32 << 10, to: 512 << 10 },
            1..20 => Sizes { from: 4 << 10, to: 32 << 10 },
            20..200 => Sizes { from: 512, to: 4 << 10 },
            _ => Sizes { from: 16, to: 512 },
        };
        held.push(Some(resident_block(random.size(sizes))));
        let one_of_held = random.below(held.len());
        match random.below(4) {
            0 | 1 => drop(held.swap_remove(one_of_held)),
            2 => {
                let place = &places[random.below(places.len())];
                std::mem::swap(&mut held[one_of_held], &mut place.lock().unwrap());
            }
            _ => {}
        }
    }
}

/// Single blocks between the two threads of a pair, both ways at once: each thread allocates, hands
/// over, and frees what the other allocated. The two are pinned to different cores.
fn pingpong<const THREADS: usize>(pairs: u64) -> Measured {
    let blocks = (pairs / THREADS as u64).max(1);
    let mut work: Vec<Work> = Vec::new();
    for _ in 0..THREADS / 2 {
        let (to_other, from_one) = ring(1);
        let (to_one, from_other) = ring(1);
        work.push(Box::new(move || hand_over(blocks, to_other, from_other)));
        work.push(Box::new(move || hand_over(blocks, to_one, from_one)));
    }
    Measured { operations: blocks * THREADS as u64, elapsed: side_by_side(work) }
}

/// What one thread of [`pingpong`] does. Up to 64 blocks are under way, so that threads which share
/// a core do not switch for each.
fn hand_over(blocks: u64, mut sender: Sender<Block, 64>, mut receiver: Receiver<Block, 64>) {
    let mut random = Random::new(blocks);
    let (mut sent, mut received) = (0, 0);
    let mut refused = None;
    let mut wait = Wait::default();
    while sent < blocks || received < blocks {
        let mut moved = false;
        if let Some(block) = receiver.try_receive() {
            drop(block);
            received += 1;
            moved = true;
        }
        if sent < blocks {
            let next =
                refused.take().unwrap_or_else(|| block(random.size(Sizes { from: 16, to: 512 })));
            match sender.try_send(next) {
                Ok(()) => {
                    sent += 1;
                    moved = true;
                }
                Err(next) => refused = Some(next),
            }
        }
        if moved {
            wait = Wait::default();
        } else {
            wait.again();
        }
    }
}
