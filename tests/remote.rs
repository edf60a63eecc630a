//! A heap read as another process's would be. The processes that are really others are read in
//! exporters/tests/attach.rs.

#[path = "../src/figures/remote/tests/own_memory.rs"]
mod own_memory;

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use own_memory::Own;

use slackwater::Snapshot;
use slackwater::malloc::{allocate, free};
use slackwater::remote::{Memory, RemoteError, RemoteHeap, SegmentPages, own_root};
use slackwater::sections::{self, PerfEvent, Section};
use slackwater::units::{PAGE_BYTES, SEGMENT_BYTES};

/// This process's own memory, but now and then something else is there.
struct Lying {
    random: RefCell<u64>,
    one_in: u64,
}

impl Memory for Lying {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        if self.below(self.one_in * 4) == 0 || !Own.read(address, into) {
            return false;
        }
        if self.below(self.one_in) == 0 {
            let at = self.below(into.len() as u64) as usize;
            let end = (at + 8).min(into.len());
            let kind = self.below(3);
            for byte in &mut into[at..end] {
                *byte = if kind == 0 { 0xff } else { self.below(256) as u8 };
            }
        }
        true
    }
}

impl Lying {
    /// A number below `bound`, by xorshift64*.
    fn below(&self, bound: u64) -> u64 {
        let mut state = self.random.borrow_mut();
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        ((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) * bound) >> 32
    }
}

/// Held by tests that allocate much, or mind that others do.
static MUCH: Mutex<()> = Mutex::new(());

fn open() -> RemoteHeap {
    slackwater::knobs(); // The heap is there from here on.
    RemoteHeap::open(&Own, own_root()).expect("this process has a heap")
}

/// What two snapshots of the same state agree in: everything but the clock.
fn without_clock(snapshot: &Snapshot) -> String {
    let mut snapshot = snapshot.clone();
    snapshot.release_oldest_age_seconds = 0.0;
    format!("{snapshot:?}")
}

#[test]
fn a_heap_read_from_outside_has_the_figures_it_has_inside() {
    let heap = open();
    let blocks: Vec<usize> = (0..2000).map(|i| allocate(16 + i * 37 % 40_000) as usize).collect();
    // Other tests use this heap beside this one: until nobody moved while it was read.
    let agreed = (0..10_000).any(|_| {
        let before = without_clock(&slackwater::snapshot());
        let outside = heap.snapshot(&Own).expect("readable");
        let after = without_clock(&slackwater::snapshot());
        let quiet = before == after;
        assert!(!quiet || without_clock(&outside) == before, "{outside:?}\n{before}");
        if !quiet {
            std::thread::yield_now();
        }
        quiet
    });
    assert!(agreed, "the heap was never quiet");
    assert_eq!(heap.knobs(&Own), Ok(slackwater::knobs()));
    sections::announce(PerfEvent::Cycles);
    sections::add(Section::Purge, PerfEvent::Cycles, 7);
    assert_eq!(heap.sections(&Own), Ok(sections::counts()));
    for block in blocks {
        // SAFETY: allocated above.
        unsafe { free(block as *mut u8) };
    }
}

#[test]
fn every_page_and_span_is_what_it_is() {
    let heap = open();
    let (block, run) = (allocate(100) as u64, allocate(300 << 10) as u64);
    let place = heap.place(&Own).expect("readable").expect("it has an arena");
    assert_eq!(place.segments as u64 * SEGMENT_BYTES as u64, slackwater::snapshot().mapped_bytes);
    assert!((place.base..place.end()).contains(&block));
    let mut pages = vec![SegmentPages::default(); place.segments as usize];
    heap.pages(&Own, &place, 0, &mut pages).expect("readable");
    let bits = |address: u64| {
        let page = ((address - place.base) / PAGE_BYTES as u64) as usize;
        let of = &pages[page / 512];
        [of.span, of.large, of.dirty, of.clean].map(|bits| bits[page % 512 / 64] >> (page % 64) & 1)
    };
    assert_eq!(bits(block), [1, 0, 0, 0]);
    assert_eq!(bits(run), [0, 1, 0, 0]);
    assert_eq!(bits(run + (300 << 10) - 1), [0, 1, 0, 0]);
    for pages in &pages {
        for word in 0..8 {
            let all = [pages.span, pages.large, pages.dirty, pages.clean].map(|bits| bits[word]);
            assert_eq!(all.iter().fold(0, |or, bits| or | bits), u64::MAX, "cover all");
            assert_eq!(all.iter().map(|bits| bits.count_ones()).sum::<u32>(), 64, "exclude");
        }
    }
    let offset = block - place.base;
    let segment = (offset / SEGMENT_BYTES as u64) as u32;
    let spans = heap.spans(&Own, &place, segment).expect("readable");
    let span = spans[(offset % SEGMENT_BYTES as u64 / (64 << 10)) as usize].expect("a span");
    assert_eq!((span.block_bytes, span.blocks), (112, 585));
    assert!(span.free < 585);
    assert_eq!(
        heap.spans(&Own, &place, place.segments).unwrap_err(),
        RemoteError::Nonsense("segments")
    );
    let beyond = heap.pages(&Own, &place, place.segments - 1, &mut pages[..2]);
    assert!(place.segments < 2 || beyond == Err(RemoteError::Nonsense("segments")));
    for address in [block, run] {
        // SAFETY: allocated above.
        unsafe { free(address as usize as *mut u8) };
    }
}

/// While records of segments are given back and come again: a page that is free is never taken for one in
/// use, whichever moment the reader meets, and the books are those of the pages.
#[test]
fn records_that_go_and_come_read_as_what_is_true() {
    const BLOCK: usize = 8 << 20;
    const ROUNDS: usize = 300;
    let _alone = MUCH.lock().unwrap_or_else(PoisonError::into_inner);
    let heap = open();
    // Others use this heap, too, but not so much of it.
    let others = 64 << 20;
    let free_now = |blocks: Vec<usize>| {
        for block in blocks {
            // SAFETY: allocated by `allocate`, and not freed before.
            unsafe { free(block as *mut u8) };
        }
        slackwater::malloc::release_now();
    };
    free_now((0..24).map(|_| allocate(BLOCK) as usize).collect());
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            for _ in 0..ROUNDS {
                let blocks: Vec<usize> = (0..4).map(|_| allocate(BLOCK) as usize).collect();
                free_now(blocks);
            }
        });
        let mut looks = 0;
        while !churn.is_finished() || looks == 0 {
            let place = heap.place(&Own).expect("readable").expect("it has an arena");
            let mut pages = vec![SegmentPages::default(); place.segments as usize];
            heap.pages(&Own, &place, 0, &mut pages).expect("readable");
            let used: u32 = pages
                .iter()
                .flat_map(|pages| pages.large.iter().chain(&pages.span).chain(&pages.dirty))
                .map(|bits| bits.count_ones())
                .sum();
            // One set of blocks, and the next one if the reader was slow.
            let most = 2 * 4 * BLOCK + others;
            assert!(used as usize * PAGE_BYTES <= most, "{used} pages in use of {most} bytes");
            looks += 1;
        }
    });
}

/// Nothing that a process may hold makes its reader panic, read on for ever, or read its own memory.
#[test]
fn a_process_that_lies_is_no_danger() {
    let _alone = MUCH.lock().unwrap_or_else(PoisonError::into_inner);
    // So large that each is a sample.
    let blocks = [(); 20].map(|()| allocate(64 << 20) as usize);
    let taken = slackwater::snapshot().profile_samples_total;
    assert!(taken > 0);
    let (mut read, mut refused) = (0, 0);
    for seed in 0..3000 {
        let one_in = 1 + seed % 40;
        let lying = Lying { random: RefCell::new(seed + 1), one_in };
        let outcome = RemoteHeap::open(&lying, own_root()).and_then(|heap| {
            heap.snapshot(&lying)?;
            heap.knobs(&lying)?;
            heap.sections(&lying)?;
            if let Some(place) = heap.place(&lying)? {
                heap.pages(&lying, &place, 0, &mut [SegmentPages::default(); 3])?;
                heap.spans(&lying, &place, 0)?;
            }
            heap.profile_head(&lying)?;
            let mut stacks = 0;
            heap.each_stack(&lying, &mut |_, frames, _| {
                assert!(frames.len() <= 128);
                stacks += 1;
            })?;
            let mut samples = 0;
            heap.each_live_sample(&lying, &mut |_| samples += 1)?;
            assert!(stacks <= 1 << 14 && samples < 1 << 16, "{stacks} stacks, {samples} samples");
            Ok(())
        });
        *(if outcome.is_ok() { &mut read } else { &mut refused }) += 1;
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
    for block in blocks {
        // SAFETY: allocated above.
        unsafe { free(block as *mut u8) };
    }
}
