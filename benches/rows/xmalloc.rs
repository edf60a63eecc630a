//! Blocks that are all freed by another thread (after Lever and Boreham).

use std::collections::VecDeque;
use std::sync::Mutex;

use slackwater_benches::block::{Block, resident_block};
use slackwater_benches::cores::{Wait, Work, side_by_side};
use slackwater_benches::random::Random;
use slackwater_benches::rows::Measured;

/// Half of the threads fill batches, the other half empty them; as many batches are under way as
/// there are threads.
pub fn run(pairs: u64, threads: usize) -> Measured {
    const BATCH: usize = 1000;
    /// Powers of two and half-ways: so small blocks are the most frequent.
    const BLOCK_SIZES: [usize; 16] =
        [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048];

    let workers = threads / 2;
    let rounds = (pairs / (workers * BATCH) as u64).max(1);
    let (empty, full) = (Queue::default(), Queue::default());
    for _ in 0..threads {
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
