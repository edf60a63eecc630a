//! Lifetimes and sizes by a power law.

use slackwater_benches::block::{Block, resident_block};
use slackwater_benches::cores::{Work, side_by_side};
use slackwater_benches::random::Random;
use slackwater_benches::rows::Measured;

/// Places for blocks of one thread.
const SLOTS: usize = 1 << 15;

/// After alloc-test of OLogN Technologies (Ignatchenko): in each step a place, chosen by a Pareto
/// distribution, gives up its block, or gets one if it has none; so most blocks live shortly and a
/// few long. Sizes up to 1 KiB are of such a distribution too. An operation is a pair: two steps.
pub fn run(pairs: u64, threads: usize) -> Measured {
    let steps = (pairs * 2 / threads as u64).max(1);
    let work =
        (0..threads).map(|index| -> Work { Box::new(move || one_thread(index as u64, steps)) });
    let elapsed = side_by_side(work.collect());
    Measured { operations: (steps * threads as u64 / 2).max(1), elapsed }
}

fn one_thread(seed: u64, steps: u64) {
    let mut random = Random::new(seed + 1);
    let mut slots: Vec<Option<Block>> = (0..SLOTS).map(|_| None).collect();
    for _ in 0..steps {
        let draw = random.draw();
        let slot = skewed(draw as u32, SLOTS);
        slots[slot] = match slots[slot].take() {
            Some(_) => None,
            None => Some(resident_block(8 + skewed((draw >> 32) as u32, 1016))),
        };
    }
}

/// Maps 32 random bits to a number below `bound`, such that a fifth of the numbers, the low ones,
/// get two thirds of the draws.
fn skewed(bits: u32, bound: usize) -> usize {
    let part = u64::from(bits);
    let squared = (part * part) >> 32;
    let fourth = (squared * squared) >> 32;
    ((fourth * bound as u64) >> 32) as usize
}
