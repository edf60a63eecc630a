//! Large blocks.

use slackwater_benches::block::{Block, resident_block};
use slackwater_benches::random::{Random, Sizes};
use slackwater_benches::rows::{Measured, timed};

/// After malloc-large of mimalloc-bench: 20 blocks of 5 to 25 MB, of which one by chance is replaced
/// at each step, every page of it written.
pub fn replaced(pairs: u64) -> Measured {
    const BLOCKS: usize = 20;
    const LARGE: Sizes = Sizes { from: 5_000_000, to: 25_000_000 };
    let mut random = Random::new(1);
    let mut blocks: Vec<Option<Block>> = (0..BLOCKS).map(|_| None).collect();
    timed(pairs, || {
        for _ in 0..pairs {
            let (slot, size) = random.slot_and_size(BLOCKS, LARGE);
            blocks[slot] = None;
            blocks[slot] = Some(resident_block(size));
        }
    })
}
