//! The seeded model test: random operations from many threads on the process's heap, against a
//! shadow of what each block must hold, with the checker after each round.
//!
//! A failure prints its seed; `SLACKWATER_MODEL_SEED=N cargo test model` runs that one again, and
//! `SLACKWATER_MODEL_STEPS=N` sets the number of steps (a million in CI).

use core::ffi::c_void;
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::api::{malloc, page_flags};
use crate::base::units::PAGE_BYTES;
use crate::figures::remote::tests::own_memory::Own;
use crate::figures::remote::{RemoteHeap, SegmentPages, own_root};
use crate::heap::HEAP;
use crate::heap::knobs::Knobs;
use crate::os::lock::Lock;
use crate::release::RELEASE;
use crate::testing::check::check;
use crate::testing::test_random::Random;

const THREADS: usize = 4;
const ROUNDS: usize = 8;

/// After so many rounds nothing is kept: every segment is left, and its record goes.
const ROUNDS_KEPT: usize = 3;

/// A live block, and what is in it: bytes derived from its tag.
struct Block {
    address: usize,
    bytes: usize,
    align: usize,
    tag: u8,
}

impl Block {
    fn content(&mut self) -> &mut [u8] {
        // SAFETY: the block is live, this long, and owned by this value.
        unsafe { slice::from_raw_parts_mut(self.address as *mut u8, self.bytes) }
    }

    /// The places that are written and checked: all of a small block; of a large one both ends and a
    /// byte on each page.
    fn places(bytes: usize) -> impl Iterator<Item = usize> {
        let step = if bytes <= 4096 { 1 } else { 1021 };
        (0..bytes).step_by(step).chain(bytes.checked_sub(1))
    }

    fn fill(&mut self) {
        let (tag, bytes) = (self.tag, self.bytes);
        let content = self.content();
        for i in Self::places(bytes) {
            content[i] = tag ^ i as u8;
        }
    }

    fn verify(&mut self, upto: usize) {
        let tag = self.tag;
        let places: Vec<usize> = Self::places(self.bytes).filter(|&i| i < upto).collect();
        let content = self.content();
        for i in places {
            assert_eq!(content[i], tag ^ i as u8, "byte {i} of a block was changed");
        }
    }
}

/// Where a number of threads wait for each other, once. Std's barrier and mutex are compiled without
/// the instrumentation of `scripts/sanitize`, which would report everything they order as a race.
struct Meeting {
    missing: AtomicUsize,
}

impl Meeting {
    fn of(threads: usize) -> Meeting {
        Meeting { missing: AtomicUsize::new(threads) }
    }

    fn wait(&self) {
        // Everything before a thread's arrival happens before every thread's departure.
        self.missing.fetch_sub(1, Ordering::AcqRel);
        while self.missing.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
    }
}

/// A thread that fails must not leave the others waiting for it.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn random_size(random: &mut Random) -> usize {
    let bound = match random.below(100) {
        0..60 => 512,
        60..85 => 8 << 10,
        85..96 => 80 << 10,
        96..99 => 600 << 10,
        _ => 7 << 20,
    };
    1 + random.below(bound) as usize
}

fn allocate(random: &mut Random) -> Option<Block> {
    let bytes = random_size(random);
    let align = match random.below(10) {
        0 => 16usize << random.below(11),
        1 => 1 << 22 >> random.below(8),
        _ => 16,
    };
    let zeroed = random.below(4) == 0;
    let block = if zeroed {
        malloc::allocate_zeroed(bytes, align)
    } else {
        malloc::allocate_aligned(bytes, align)
    };
    let address = block as usize;
    if address == 0 {
        return None;
    }
    assert!(address.is_multiple_of(align), "{address:#x} for alignment {align}");
    let mut block = Block { address, bytes, align, tag: random.next() as u8 };
    if zeroed {
        assert!(block.content().iter().all(|&byte| byte == 0), "calloc gives zeros");
    }
    // SAFETY: the block is live.
    let usable = unsafe { malloc::usable_bytes(address as *mut u8) };
    assert!(usable >= bytes, "{usable} usable of {bytes} at {address:#x}, alignment {align}");
    block.fill();
    if random.below(8) == 0 {
        keep_from_children(&block);
    }
    Some(block)
}

/// What a program may do with its block, and forget; here with the pages that are the block's alone.
fn keep_from_children(block: &Block) {
    let start = block.address.next_multiple_of(PAGE_BYTES);
    let bytes = (block.address + block.bytes).saturating_sub(start) / PAGE_BYTES * PAGE_BYTES;
    if bytes > 0 {
        page_flags::will_change(start as *const u8, bytes);
        // SAFETY: the block's own pages, and no content changes.
        let result = unsafe { libc::madvise(start as *mut c_void, bytes, libc::MADV_DONTFORK) };
        assert_eq!(result, 0);
    }
}

fn free(mut block: Block, random: &mut Random) {
    block.verify(usize::MAX);
    let address = block.address as *mut u8;
    if random.below(2) == 0 {
        // SAFETY: the block is live and given up.
        unsafe { malloc::free(address) };
    } else {
        // SAFETY: the block is live, given up, and was allocated with this layout.
        unsafe { malloc::free_sized(address, block.bytes, block.align) };
    }
}

fn resize(block: &mut Block, random: &mut Random) {
    let bytes = match random.below(3) {
        0 => random_size(random),
        // Within the block's class, or beyond.
        1 => {
            let most = 10_000 >> random.below(14);
            block.bytes + random.below(most) as usize
        }
        _ => 1 + random.below(block.bytes as u64) as usize,
    };
    let address = block.address as *mut u8;
    let new = if random.below(2) == 0 {
        // SAFETY: the block is live and was allocated with this alignment.
        unsafe { malloc::reallocate(address, bytes, block.align) }
    } else {
        // SAFETY: the block is live and has this layout.
        unsafe { malloc::reallocate_sized(address, block.bytes, block.align, bytes) }
    };
    if new.is_null() {
        return;
    }
    assert!((new as usize).is_multiple_of(block.align));
    let kept = block.bytes.min(bytes);
    block.address = new as usize;
    // The places depend on the size: look at the old ones before the new ones are written.
    let old = core::mem::replace(&mut block.bytes, bytes);
    let tag = block.tag;
    for i in Block::places(old).filter(|&i| i < kept) {
        assert_eq!(block.content()[i], tag ^ i as u8, "realloc keeps byte {i}");
    }
    block.fill();
}

fn work(mine: &mut Vec<Block>, exchange: &Lock<Vec<Block>>, random: &mut Random, steps: usize) {
    for _ in 0..steps {
        match random.below(20) {
            0..8 if mine.len() < 1000 => mine.extend(allocate(random)),
            0..15 if !mine.is_empty() => {
                let i = random.below(mine.len() as u64) as usize;
                free(mine.swap_remove(i), random);
            }
            15 | 16 if !mine.is_empty() => {
                let i = random.below(mine.len() as u64) as usize;
                resize(&mut mine[i], random);
            }
            // Blocks change hands: freed, resized and checked by other threads than allocated them.
            17 => {
                let mut shared = exchange.lock();
                let count = mine.len().min(20);
                shared.extend(mine.drain(..count));
            }
            18 => {
                let mut shared = exchange.lock();
                let keep = shared.len().saturating_sub(20);
                mine.extend(shared.drain(keep..));
            }
            19 if random.below(2000) == 0 => {
                malloc::release_now();
            }
            _ => {}
        }
    }
}

/// Looks at all there is, as another process would, until told to end: whatever is allocated, freed and
/// given back meanwhile, what is read can be.
fn read_from_outside(ends: &AtomicBool) {
    let heap = RemoteHeap::open(&Own, own_root()).expect("this process's");
    while !ends.load(Ordering::Relaxed) {
        heap.snapshot(&Own).expect("readable");
        let Some(place) = heap.place(&Own).expect("readable") else { continue };
        let mut pages = vec![SegmentPages::default(); place.segments as usize];
        heap.pages(&Own, &place, 0, &mut pages).expect("readable");
        for segment in 0..place.segments {
            heap.spans(&Own, &place, segment).expect("readable");
        }
        thread::yield_now();
    }
}

/// Nothing is allocated, and nothing is kept: no block, no page, and no record of a segment.
fn check_nothing_is_left() {
    malloc::release_now();
    check(&HEAP, &RELEASE);
    let snapshot = crate::snapshot();
    assert_eq!(snapshot.release_dropped_total, 0);
    assert_eq!(snapshot.release_pending_bytes, 0, "everything was given back");
    assert_eq!(snapshot.memory_bytes.live, 0, "nothing is left: {snapshot:?}");
    assert_eq!(snapshot.memory_bytes.thread_cache, 0, "no block hides: {snapshot:?}");
    assert_eq!(HEAP.pages.totals.read().records, 0, "nor does a record");
}

fn run(seed: u64, steps: usize) {
    println!("SLACKWATER_MODEL_SEED={seed}");
    let exchange = Lock::new(Vec::new());
    let mut kept: Vec<Vec<Block>> = (0..THREADS).map(|_| Vec::new()).collect();
    let mut random = Random::new(seed);
    for round in 0..ROUNDS {
        // New threads each round: the old ones' caches are given up, their blocks live on.
        let (working, checked) = (Meeting::of(THREADS + 1), Meeting::of(THREADS + 1));
        thread::scope(|scope| {
            let mut handles = Vec::new();
            for (number, mine) in kept.iter_mut().enumerate() {
                let (exchange, working, checked) = (&exchange, &working, &checked);
                let seed = seed * 1000 + (round * THREADS + number) as u64;
                handles.push(scope.spawn(move || {
                    let _guard = AbortOnPanic;
                    let mut random = Random::new(seed);
                    work(mine, exchange, &mut random, steps / ROUNDS / THREADS);
                    // The checker looks at living caches, then again once their threads are gone.
                    working.wait();
                    checked.wait();
                }));
            }
            // The workers wait for what comes now.
            let _guard = AbortOnPanic;
            working.wait();
            check(&HEAP, &RELEASE);
            checked.wait();
            // The end of a scope does not wait for what threads do as they exit; joining does.
            for handle in handles {
                handle.join().unwrap();
            }
        });
        check(&HEAP, &RELEASE);
        assert!(HEAP.threads.threads() <= 1, "threads that ended gave their caches up");
        assert!(HEAP.threads.all().count() <= THREADS + 1, "and the next ones took those");
        if round % ROUNDS_KEPT == ROUNDS_KEPT - 1 {
            free_all(&mut kept, &exchange, &mut random);
            check_nothing_is_left();
        }
    }
    free_all(&mut kept, &exchange, &mut random);
    check_nothing_is_left();
}

fn free_all(kept: &mut [Vec<Block>], exchange: &Lock<Vec<Block>>, random: &mut Random) {
    for block in kept.iter_mut().flat_map(|of_thread| of_thread.drain(..)) {
        free(block, random);
    }
    for block in exchange.lock().drain(..) {
        free(block, random);
    }
}

/// The tests of one process share one heap, so this is one test and the only one that uses it while
/// it runs; std's own allocations are the system's.
#[test]
fn random_operations_keep_every_invariant() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect(name));
    let steps = number("SLACKWATER_MODEL_STEPS").unwrap_or(100_000) as usize;
    let seeds = match number("SLACKWATER_MODEL_SEED") {
        Some(seed) => vec![seed],
        None => vec![1u64, 2, 3, 4],
    };
    // A good part of the blocks are samples, on pages of their own.
    let knobs = crate::knobs();
    let (profile_rate_bytes, profile_epoch_samples) = (64 << 10, 1 << 32);
    let sampling = Knobs { profile_rate_bytes, profile_epoch_samples, ..knobs };
    crate::set_knobs(sampling).unwrap();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = AbortOnPanic;
            read_from_outside(&ends);
        });
        let _guard = AbortOnPanic;
        for seed in seeds {
            run(seed, steps);
        }
        ends.store(true, Ordering::Relaxed);
    });
    assert!(HEAP.pages.totals.read().record_calls > 0);
    assert!(crate::snapshot().profile_samples_total > 100);
}
