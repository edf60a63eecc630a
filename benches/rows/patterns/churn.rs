//! Threads that come and go.

use std::thread;

use slackwater_benches::block::{Block, resident_block};
use slackwater_benches::cores::pin;
use slackwater_benches::random::{Random, Sizes};
use slackwater_benches::rows::{Measured, timed};

/// After the thread-test of Hoard with threads that do not stay: `at_once` threads start, each
/// allocates 100 blocks of mixed sizes, frees them, and ends; then the next ones. An operation is a
/// thread.
pub fn run(threads: u64, at_once: u64) -> Measured {
    let rounds = (threads / at_once).max(1);
    let run = |rounds: u64| {
        timed(rounds * at_once, || {
            for _ in 0..rounds {
                thread::scope(|scope| {
                    for index in 0..at_once {
                        scope.spawn(move || {
                            pin(index as usize);
                            a_short_life(index);
                        });
                    }
                });
            }
        })
    };
    run(1);
    run(rounds)
}

fn a_short_life(seed: u64) {
    const MIXED: Sizes = Sizes { from: 16, to: 2048 };
    let mut random = Random::new(seed + 1);
    let blocks: Vec<Block> = (0..100).map(|_| resident_block(random.size(MIXED))).collect();
    drop(blocks);
}
