//! Tiny objects that live for moments.

use slackwater_benches::block::{Block, block};
use slackwater_benches::random::{Random, Sizes};
use slackwater_benches::rows::{Measured, timed};

/// The profile of a theorem prover (as z3 and Lean in mimalloc-bench): terms of two to eight words
/// that are built up and given up like a stack, and one in 64 of which is kept for long among 20,000.
pub fn prover(pairs: u64) -> Measured {
    const KEPT: usize = 20_000;
    const TERM: Sizes = Sizes { from: 16, to: 64 };
    let mut random = Random::new(1);
    let mut kept: Vec<Option<Block>> = (0..KEPT).map(|_| None).collect();
    let mut stack: Vec<Block> = Vec::with_capacity(64);
    timed(pairs, || {
        for step in 0..pairs {
            let (place, size) = random.slot_and_size(KEPT, TERM);
            let term = block(size);
            if step.is_multiple_of(64) {
                kept[place] = Some(term);
                continue;
            }
            stack.push(term);
            // A branch is given up: as deep as the draw says.
            if stack.len() == 64 {
                stack.truncate(place % 64);
            }
        }
    })
}

/// The profile of arithmetic of any precision (as cfrac in Zorn's programs and mimalloc-bench):
/// numbers of a few words, of which each is the result of an operation on two others and soon gone.
pub fn bignum(pairs: u64) -> Measured {
    const NUMBERS: usize = 16;
    const WORDS: Sizes = Sizes { from: 1, to: 5 };
    let mut random = Random::new(1);
    let mut numbers: Vec<_> = (0..NUMBERS).map(|_| block(16)).collect();
    timed(pairs, || {
        for _ in 0..pairs {
            let (place, words) = random.slot_and_size(NUMBERS, WORDS);
            // The result is there before the old number goes.
            numbers[place] = block(words * 8);
        }
    })
}
