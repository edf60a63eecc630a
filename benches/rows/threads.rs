//! What does memory that goes through many threads cost, in time and in peak RSS?
//!
//! Four programs of allocator literature, written anew, each with a fixed amount of work, at 2, 8
//! and 32 threads which are pinned in turn to the cores. Run it by `scripts/bench threads`, against
//! other allocators.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread::{self, Scope};

use slackwater_benches::block::{Block, block, resident_block};
use slackwater_benches::cores::{Wait, Work, pin, side_by_side};
use slackwater_benches::random::{Random, Sizes};
use slackwater_benches::ring::{Receiver, Sender, ring};
use slackwater_benches::rows::{self, Measured, Row, timed};

fn main() -> ExitCode {
    rows::main(&[
        Row::new("larson_2", 32_000_000, larson::<2>),
        Row::new("larson_8", 32_000_000, larson::<8>),
        Row::new("larson_32", 32_000_000, larson::<32>),
        Row::new("xmalloc_2", 16_000_000, xmalloc::<2>),
        Row::new("xmalloc_8", 16_000_000, xmalloc::<8>),
        Row::new("xmalloc_32", 16_000_000, xmalloc::<32>),
        Row::new("mstress_2", 4_000_000, mstress::<2>),
        Row::new("mstress_8", 4_000_000, mstress::<8>),
        Row::new("mstress_32", 4_000_000, mstress::<32>),
        Row::new("pingpong_2", 24_000_000, pingpong::<2>),
        Row::new("pingpong_8", 24_000_000, pingpong::<8>),
        Row::new("pingpong_32", 24_000_000, pingpong::<32>),
    ])
}

/// Servers that hand over and end (after Larson and Krishnan).
///
/// Each of `THREADS` server threads replaces random blocks among its 1,000, then starts its
/// successor, hands it the blocks, and ends; so most blocks are freed by a thread that did not
/// allocate them, often when the one that did is gone. The first blocks come from the main thread.
fn larson<const THREADS: usize>(pairs: u64) -> Measured {
    const BLOCKS: usize = 1000;
    const GENERATION_PAIRS: u64 = 25_000;

    let mut random = Random::new(1);
    let mut slots: Vec<Vec<_>> = (0..THREADS).map(|_| Vec::with_capacity(BLOCKS)).collect();
    for _ in 0..BLOCKS {
        for slots in &mut slots {
            slots.push(Some(resident_block(random.size(SERVED))));
        }
    }
    let generations = (pairs / THREADS as u64 / GENERATION_PAIRS).max(1);
    timed(generations * GENERATION_PAIRS * THREADS as u64, || {
        thread::scope(|scope| {
            for (index, slots) in slots.into_iter().enumerate() {
                let server =
                    Server { index, generations, slots, random: Random::new(index as u64) };
                scope.spawn(move || server.run(scope, GENERATION_PAIRS));
            }
        });
    })
}

/// The sizes of what [`larson`]'s servers hold.
const SERVED: Sizes = Sizes { from: 8, to: 1000 };

/// One of [`larson`]'s servers, and what it hands to the next.
struct Server {
    index: usize,
    /// How many are to come, with this one.
    generations: u64,
    slots: Vec<Option<Block>>,
    random: Random,
}

impl Server {
    fn run<'scope>(mut self, scope: &'scope Scope<'scope, '_>, pairs: u64) {
        pin(self.index);
        for _ in 0..pairs {
            let (slot, size) = self.random.slot_and_size(self.slots.len(), SERVED);
            self.slots[slot] = None;
            self.slots[slot] = Some(resident_block(size));
        }
        self.generations -= 1;
        if self.generations > 0 {
            scope.spawn(move || self.run(scope, pairs));
        }
    }
}

/// Every block freed by another thread (after Lever and Boreham).
///
/// Half of the threads fill batches, the other half empty them; as many batches are under way as
/// there are threads.
fn xmalloc<const THREADS: usize>(pairs: u64) -> Measured {
    const BATCH: usize = 1000;
    /// Powers of two and half-ways: so small blocks are the most frequent.
    const BLOCK_SIZES: [usize; 16] =
        [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048];

    let workers = THREADS / 2;
    let rounds = (pairs / (workers * BATCH) as u64).max(1);
    let (empty, full) = (Queue::default(), Queue::default());
    for _ in 0..THREADS {
        empty.push(Vec::with_capacity(BATCH));
    }
    let (empty, full) = (&empty, &full);
    let mut work: Vec<Work> = Vec::new();
    for worker in 0..workers {
        work.push(Box::new(move || {
            let mut random = Random::new(worker as u64);
            for _ in 0..rounds {
                let mut batch = empty.pop();
                batch.extend(
                    (0..BATCH)
                        .map(|_| resident_block(BLOCK_SIZES[random.below(BLOCK_SIZES.len())])),
                );
                full.push(batch);
            }
        }));
    }
    for _ in 0..workers {
        work.push(Box::new(move || {
            for _ in 0..rounds {
                let mut batch: Vec<Block> = full.pop();
                batch.clear();
                empty.push(batch);
            }
        }));
    }
    Measured { operations: rounds * (workers * BATCH) as u64, elapsed: side_by_side(work) }
}

/// Batches on their way. Whoever finds none looks again, and does not sleep: waking it would cost
/// more than a batch does.
#[derive(Default)]
struct Queue(Mutex<VecDeque<Vec<Block>>>);

impl Queue {
    fn push(&self, batch: Vec<Block>) {
        self.0.lock().unwrap().push_back(batch);
    }

    fn pop(&self) -> Vec<Block> {
        let mut wait = Wait::default();
        loop {
            let next = self.0.lock().unwrap().pop_front();
            if let Some(batch) = next {
                return batch;
            }
            wait.again();
        }
    }
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
