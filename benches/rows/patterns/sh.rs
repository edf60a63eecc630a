//! Bulks of many sizes, some freed in the order of their allocation and some the other way round.

use std::sync::Mutex;

use slackwater_benches::block::{Block, block};
use slackwater_benches::cores::{Work, side_by_side};
use slackwater_benches::rows::Measured;

/// The sizes go up to this, small ones in larger numbers: of size 8 there are 64 in a bulk.
const LARGEST: usize = 1000;

/// After sh6bench of MicroQuill's SmartHeap, by its description in mimalloc-bench: bulks of many
/// sizes, of which some are freed last first and others in reverse. Threads have nothing to do with
/// each other.
pub fn sh6bench(pairs: u64, threads: usize) -> Measured {
    run(pairs, threads, |_| None)
}

/// After sh8bench, of the same source: in addition, some are freed by other threads.
pub fn sh8bench(pairs: u64, threads: usize) -> Measured {
    let places: Vec<Place> = (0..threads).map(|_| Place::default()).collect();
    run(pairs, threads, |index| Some([&places[index], &places[(index + 1) % threads]]))
}

/// A bulk left by one thread for another.
type Place = Mutex<Vec<Block>>;

fn run<'a>(
    pairs: u64,
    threads: usize,
    places: impl Fn(usize) -> Option<[&'a Place; 2]>,
) -> Measured {
    let bulk_blocks = fill(&mut Vec::new()) as u64;
    let bulks = (pairs / threads as u64 / bulk_blocks).max(4);
    let work = (0..threads).map(|index| -> Work {
        let places = places(index);
        Box::new(move || one_thread(bulks, places))
    });
    let elapsed = side_by_side(work.collect());
    Measured { operations: bulks * bulk_blocks * threads as u64, elapsed }
}

/// Fills bulks, of which a third outlives the next one.
fn one_thread(bulks: u64, places: Option<[&Place; 2]>) {
    let mut bulk = Vec::new();
    let mut kept = Vec::new();
    for round in 0..bulks {
        fill(&mut bulk);
        // Every third block is freed a bulk later.
        let mut older = std::mem::take(&mut kept);
        let mut index = 0;
        kept.extend(bulk.extract_if(.., |_| {
            index += 1;
            index % 3 == 0
        }));
        if round % 2 == 0 {
            while let Some(last) = bulk.pop() {
                drop(last);
            }
        } else {
            bulk.clear();
        }
        match places {
            None => older.clear(),
            Some([own, other]) => {
                std::mem::swap(&mut *other.lock().unwrap(), &mut older);
                older.clear();
                own.lock().unwrap().clear();
            }
        }
    }
}

/// Adds a bulk; how many blocks it has.
fn fill(bulk: &mut Vec<Block>) -> usize {
    let before = bulk.len();
    let mut size = 8;
    while size <= LARGEST {
        for _ in 0..(512 / size).max(1) {
            bulk.push(block(size));
        }
        size += 8 + size / 8;
    }
    bulk.len() - before
}
