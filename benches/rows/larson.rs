//! Servers that hand their blocks over and end (after Larson and Krishnan).

use std::thread::{self, Scope};

use slackwater_benches::block::{Block, resident_block};
use slackwater_benches::cores::pin;
use slackwater_benches::random::{Random, Sizes};
use slackwater_benches::rows::{Measured, timed};

/// Each of `threads` server threads replaces random blocks among its 1,000, `generation_pairs` times, then starts its
/// successor, hands it the blocks, and ends; so most blocks are freed by a thread that did not
/// allocate them, often when the one that did is gone. The first blocks come from the main thread.
pub fn run(pairs: u64, threads: usize, generation_pairs: u64) -> Measured {
    const BLOCKS: usize = 1000;

    let mut random = Random::new(1);
    let mut slots: Vec<Vec<_>> = (0..threads).map(|_| Vec::with_capacity(BLOCKS)).collect();
    for _ in 0..BLOCKS {
        for slots in &mut slots {
            slots.push(Some(resident_block(random.size(SERVED))));
        }
    }
    let generations = (pairs / threads as u64 / generation_pairs).max(1);
    timed(generations * generation_pairs * threads as u64, || {
        thread::scope(|scope| {
            for (index, slots) in slots.into_iter().enumerate() {
                let server =
                    Server { index, generations, slots, random: Random::new(index as u64) };
                scope.spawn(move || server.run(scope, generation_pairs));
            }
        });
    })
}

/// The sizes of what the servers hold.
const SERVED: Sizes = Sizes { from: 8, to: 1000 };

/// A server, and what it hands to the next.
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
