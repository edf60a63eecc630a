use super::*;
use crate::heap::HEAP;
use crate::malloc::{allocate, free};
use crate::test_random::Random;
use std::cell::RefCell;

/// This process's own memory, read as another's would be.
struct Own;

impl Memory for Own {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote =
            libc::iovec { iov_base: address as usize as *mut libc::c_void, iov_len: into.len() };
        let process = std::process::id() as libc::pid_t;
        // SAFETY: the kernel writes to `local`, which is `into`, and checks `remote`.
        let read = unsafe { libc::process_vm_readv(process, &local, 1, &remote, 1, 0) };
        read == into.len() as isize
    }
}

/// The same, but now and then something else is there.
struct Lying {
    random: RefCell<Random>,
    one_in: u64,
}

impl Memory for Lying {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let mut random = self.random.borrow_mut();
        if random.below(self.one_in * 4) == 0 || !Own.read(address, into) {
            return false;
        }
        if random.below(self.one_in) == 0 {
            let at = random.below(into.len() as u64) as usize;
            let end = (at + 8).min(into.len());
            let kind = random.below(3);
            for byte in &mut into[at..end] {
                *byte = if kind == 0 { 0xff } else { random.below(256) as u8 };
            }
        }
        true
    }
}

fn open() -> RemoteHeap {
    assert!(HEAP.is_ready(&Linux));
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
        let before = without_clock(&Snapshot::take(&HEAP, &Linux));
        let outside = heap.snapshot(&Own).expect("readable");
        let after = without_clock(&Snapshot::take(&HEAP, &Linux));
        let quiet = before == after;
        assert!(!quiet || without_clock(&outside) == before, "{outside:?}\n{before}");
        if !quiet {
            std::thread::yield_now();
        }
        quiet
    });
    assert!(agreed, "the heap was never quiet");
    assert_eq!(heap.knobs(&Own), Ok(HEAP.knobs.get()));
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
    assert_eq!((place.base, place.segments), (HEAP.arena.base() as u64, HEAP.arena.in_use()));
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

/// Nothing that a process may hold makes its reader panic, read on for ever, or read its own memory.
#[test]
fn a_process_that_lies_is_no_danger() {
    assert!(HEAP.is_ready(&Linux));
    let (mut read, mut refused) = (0, 0);
    for seed in 0..300 {
        let one_in = 1 + seed % 40;
        let lying = Lying { random: RefCell::new(Random::new(seed)), one_in };
        let outcome = RemoteHeap::open(&lying, own_root()).and_then(|heap| {
            heap.snapshot(&lying)?;
            heap.knobs(&lying)?;
            if let Some(place) = heap.place(&lying)? {
                heap.pages(&lying, &place, 0, &mut [SegmentPages::default(); 3])?;
                heap.spans(&lying, &place, 0)?;
            }
            Ok(())
        });
        *(if outcome.is_ok() { &mut read } else { &mut refused }) += 1;
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}

#[test]
fn what_is_no_root_is_refused() {
    assert_eq!(RemoteHeap::open(&Own, 8).err(), Some(RemoteError::NoRoot));
    let nothing = [0u64; 64];
    let address = nothing.as_ptr().addr() as u64;
    assert_eq!(RemoteHeap::open(&Own, address).err(), Some(RemoteError::NoRoot));
    let mut other = [0u64; 64];
    other[0] = MAGIC;
    other[1] = ROOT.layout_version as u64 + 1;
    let expected = ROOT.layout_version;
    let found = RemoteError::OtherLayout { found: expected + 1, expected };
    assert_eq!(RemoteHeap::open(&Own, other.as_ptr().addr() as u64).err(), Some(found));
    other[1] = ROOT.layout_version as u64 | (ROOT.root_bytes as u64) << 32;
    let found = RemoteError::OtherLayout { found: expected, expected };
    assert_eq!(RemoteHeap::open(&Own, other.as_ptr().addr() as u64).err(), Some(found));
}

/// A change here is a change of the layout: raise `LAYOUT_VERSION`, and then write down what is.
#[test]
fn the_layout_is_that_of_its_version() {
    let places = [
        size_of::<Root>(),
        size_of::<Totals>(),
        size_of::<Uncached>(),
        size_of::<ThreadCache>(),
        size_of::<KnobCells>(),
        size_of::<Segment>(),
        size_of::<Span>(),
        offset_of!(Totals, sequence),
        offset_of!(ThreadCache, drain_sequence),
        offset_of!(ThreadCache, bins),
        offset_of!(ThreadCache, operations),
        offset_of!(ThreadCache, classes),
        offset_of!(ThreadCache, histories),
        offset_of!(Arena, page_map),
        offset_of!(Arena, segments),
        offset_of!(Segment, spans),
        CLASS_COUNT,
    ];
    assert_eq!(
        (ROOT.layout_version, places),
        (1, [112, 936, 1936, 5248, 80, 20480, 576, 0, 48, 64, 1920, 1976, 3832, 16, 24, 1984, 58])
    );
}
