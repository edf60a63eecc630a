//! Many threads, sizes over orders of magnitude, blocks freed by other threads.

use std::sync::Mutex;

use slackwater_benches::block::{Block, resident_block};
use slackwater_benches::cores::{Work, side_by_side};
use slackwater_benches::random::Random;
use slackwater_benches::rows::Measured;

/// Blocks that one thread holds.
const HELD: usize = 500;

/// Blocks that are replaced between two hand-overs, and how many are handed over.
const STEPS: u64 = 200;
const HANDED: usize = 50;

/// What others have left for a thread to free.
type Mailbox = Mutex<Vec<Block>>;

/// After rptest of Mattias Jansson's rpmalloc-benchmark: each of `threads` threads replaces blocks
/// among those it holds, and ever so often hands some to its neighbour, and frees what it was
/// handed. Sizes go from 16 bytes to 512 KiB, by the exponent, small ones the most frequent.
pub fn crossed(pairs: u64, threads: usize) -> Measured {
    let rounds = (pairs / threads as u64 / STEPS).max(1);
    let mailboxes: Vec<Mailbox> = (0..threads).map(|_| Mailbox::default()).collect();
    let mailboxes = &mailboxes;
    let work = (0..threads)
        .map(|index| -> Work { Box::new(move || one_thread(index, rounds, mailboxes)) });
    let elapsed = side_by_side(work.collect());
    Measured { operations: rounds * STEPS * threads as u64, elapsed }
}

fn one_thread(index: usize, rounds: u64, mailboxes: &[Mailbox]) {
    let mut random = Random::new(index as u64 + 1);
    let mut held: Vec<_> = (0..HELD).map(|_| resident_block(size(&mut random))).collect();
    let mut handed = Vec::with_capacity(HANDED);
    for _ in 0..rounds {
        for _ in 0..STEPS {
            let slot = random.below(HELD);
            held[slot] = resident_block(size(&mut random));
        }
        let first = random.below(HELD - HANDED);
        for block in &mut held[first..first + HANDED] {
            handed.push(std::mem::replace(block, resident_block(size(&mut random))));
        }
        mailboxes[(index + 1) % mailboxes.len()].lock().unwrap().append(&mut handed);
        let received = std::mem::take(&mut *mailboxes[index].lock().unwrap());
        drop(received);
    }
}

/// 16 bytes doubled up to fourteen times, and something on top; each doubling is two thirds as likely
/// as the last.
fn size(random: &mut Random) -> usize {
    let mut base = 16;
    while base < 256 << 10 && random.below(3) > 0 {
        base *= 2;
    }
    base + random.below(base)
}
