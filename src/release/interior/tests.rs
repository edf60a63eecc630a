use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use core::sync::atomic::Ordering;

use super::super::delays::{INTERIOR, KINDS};
use super::super::purge::PurgeLimits;
use super::{InteriorBatch, purge_interiors};
use crate::base::units::{Epoch, PAGE_BYTES, SEGMENT_BYTES, SPAN_BYTES};
use crate::caches::bin::Bins;
use crate::caches::thread_cache::ThreadCache;
use crate::geometry::arena::ChunkIndex;
use crate::geometry::size_class::SizeClass;
use crate::geometry::span_index;
use crate::heap::central;
use crate::heap::knobs::Coverage;
use crate::os::tls::ThreadWord;
use crate::os::{AddressRange, Mapped, MemoryRoom, Nanos, Os, PurgeOutcome};
use crate::testing::test_heap::TestHeap;
use crate::testing::test_random::Random;

const EVERYTHING: PurgeLimits = PurgeLimits {
    pages: u64::MAX,
    calls: u64::MAX,
    delay_epochs: [0; KINDS],
    coverage: Coverage::ALL,
    stop: None,
};

/// When every segment has rested for long enough.
const LATE: Epoch = Epoch(u64::MAX);

/// A program on a heap of its own, and what must be true of its pages: told from the addresses of its
/// blocks alone.
struct Program<'a> {
    test: &'a TestHeap,
    cache: &'a ThreadCache,
    live: BTreeMap<usize, SizeClass>,
    /// Pages of spans on which a block was handed out since they were last given back.
    resident: BTreeSet<usize>,
    /// Pages that were given back, and not handed out since.
    purged: BTreeSet<usize>,
    /// Pages of ended spans that may be resident: a new span inherits them.
    pending: BTreeSet<usize>,
    refaults: u64,
}

fn pages_of(address: usize, bytes: usize) -> impl Iterator<Item = usize> {
    address / PAGE_BYTES..=(address + bytes - 1) / PAGE_BYTES
}

impl<'a> Program<'a> {
    fn new(test: &'a TestHeap) -> Program<'a> {
        let word = ThreadWord::of_this_thread();
        let cache = test.attach(word);
        let (live, resident, purged, pending) = Default::default();
        Program { test, cache, live, resident, purged, pending, refaults: 0 }
    }

    fn note(&mut self, block: *mut u8, class: SizeClass) -> usize {
        let address = block as usize;
        let span = address - address % SPAN_BYTES;
        if self.live.range(span..span + SPAN_BYTES).next().is_none() {
            self.resident
                .extend(pages_of(span, SPAN_BYTES).filter(|page| self.pending.remove(page)));
        }
        assert!(self.live.insert(address, class).is_none());
        for page in pages_of(address, class.block_bytes().get()) {
            self.resident.insert(page);
            self.refaults += self.purged.remove(&page) as u64;
        }
        address
    }

    fn allocate(&mut self, class: SizeClass) -> usize {
        let refilled = || central::refill(&self.test.heap, self.cache, class);
        let block = self.cache.bin(class).pop().or_else(refilled).expect("the arena has room");
        self.note(block, class)
    }

    /// Blocks until those of `spans` spans are handed out, none of them left in the cache.
    fn allocate_spans(&mut self, class: SizeClass, spans: u32) -> Vec<usize> {
        let wanted = spans * class.blocks_per_span();
        let mut blocks: Vec<_> = (0..wanted).map(|_| self.allocate(class)).collect();
        while let Some(block) = self.cache.bin(class).pop() {
            blocks.push(self.note(block, class));
        }
        blocks
    }

    /// Gives blocks back to their spans.
    fn free(&mut self, blocks: impl IntoIterator<Item = usize>) {
        for address in blocks {
            let class = self.live.remove(&address).expect("a live block");
            let bin = self.cache.bin(class);
            if !bin.push(address as *mut u8) {
                central::make_room(&self.test.heap, self.cache, class);
                assert!(bin.push(address as *mut u8));
            }
        }
        central::flush(&self.test.heap, self.cache, Bins::ALL);
        central::flush_depot(&self.test.heap, 0);
        // A span without a live block is none any more; its pages are the ledger's.
        let spans: BTreeSet<_> = self.live.keys().map(|address| address / SPAN_BYTES).collect();
        let in_span = |page: &usize| spans.contains(&(page * PAGE_BYTES / SPAN_BYTES));
        self.pending.extend(self.resident.iter().filter(|page| !in_span(page)));
        self.resident.retain(in_span);
        self.purged.retain(in_span);
    }

    /// The pages of spans in use that may be resident and hold no byte of a live block.
    fn purgeable(&self) -> BTreeSet<usize> {
        let blocks = self.live.iter();
        let live: BTreeSet<_> = blocks
            .flat_map(|(&address, class)| pages_of(address, class.block_bytes().get()))
            .collect();
        self.resident.difference(&live).copied().collect()
    }

    /// Purges, and sees that exactly the `expected` pages go, each once; returns whether there is
    /// something left.
    fn expect_purge(
        &mut self,
        now: Epoch,
        limits: PurgeLimits,
        expected: &BTreeSet<usize>,
    ) -> bool {
        let before = self.test.figures();
        let TestHeap { heap, release, os } = &self.test;
        let calls = os.purge_calls.get();
        os.purged.borrow_mut().clear();
        let super::Purged { pages, is_waiting, .. } =
            purge_interiors(heap, &release.journal, os, now, &limits, &mut InteriorBatch::new());
        let purged = purged_pages(&os.purged.borrow());
        assert_eq!(purged, *expected);
        assert_eq!(pages.0 as usize, purged.len());
        let figures = self.test.figures();
        let more = purged.len() as u64;
        assert_eq!(figures.interior_pages, before.interior_pages + more);
        assert_eq!(figures.span_pages_retired, before.span_pages_retired + more);
        assert_eq!(figures.madvise_calls - before.madvise_calls, os.purge_calls.get() - calls);
        assert_eq!(figures.purge_batch_pages_sum, before.purge_batch_pages_sum + more);
        for page in purged {
            assert!(self.resident.remove(&page));
            self.purged.insert(page);
        }
        self.check();
        is_waiting
    }

    fn expect_purge_of_all(&mut self) {
        let expected = self.purgeable();
        assert!(!self.expect_purge(LATE, EVERYTHING, &expected), "nothing is left");
    }

    /// The records and the counters agree with what the addresses say.
    fn check(&self) {
        self.test.check();
        let arena = &self.test.heap.pages.arena;
        let mut recorded = BTreeSet::new();
        for chunk in (0..arena.in_use() * SEGMENT_BYTES as u32 / SPAN_BYTES as u32).map(ChunkIndex)
        {
            if arena.class_at(chunk.byte_offset()) != SizeClass::NONE {
                let first = arena.chunk_address(chunk) / PAGE_BYTES;
                let pages = arena.span(chunk).resident_pages();
                recorded.extend((0..16).filter(|bit| pages >> bit & 1 == 1).map(|bit| first + bit));
            }
        }
        assert_eq!(recorded, self.resident);
        let figures = self.test.figures();
        assert_eq!(figures.pending_pages, self.pending.len() as u64);
        let gained = self.cache.resident_gained.get();
        let counted = figures.span_pages_inherited + gained - figures.span_pages_retired;
        assert_eq!(counted, recorded.len() as u64);
        assert_eq!(self.cache.interior_refaults.get(), self.refaults);
    }
}

fn purged_pages(ranges: &[AddressRange]) -> BTreeSet<usize> {
    let mut pages = BTreeSet::new();
    for range in ranges {
        assert!(range.start.is_multiple_of(PAGE_BYTES) && range.bytes.is_multiple_of(PAGE_BYTES));
        for page in pages_of(range.start, range.bytes) {
            assert!(pages.insert(page), "a page is given back once");
        }
    }
    pages
}

/// Splits blocks at random: those to free, and the `percent` to keep.
fn split(blocks: Vec<usize>, percent: u64, random: &mut Random) -> (Vec<usize>, Vec<usize>) {
    blocks.into_iter().partition(|_| random.below(100) >= percent)
}

/// A system that does something while a purge is in the kernel, once.
struct During<'a, F: Fn()> {
    test: &'a TestHeap,
    action: F,
    done: Cell<bool>,
}

impl<F: Fn()> Os for During<'_, F> {
    fn map(&self, range: AddressRange) -> Mapped {
        self.test.os.map(range)
    }

    fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
        if !self.done.replace(true) {
            (self.action)();
        }
        self.test.os.purge(ranges)
    }

    fn memory_room(&self, _: &mut crate::os::cgroup::Scratch) -> Option<MemoryRoom> {
        None
    }

    fn now(&self) -> Nanos {
        self.test.os.now()
    }
}

#[test]
fn the_pages_without_a_live_block_go_and_no_others() {
    for class in SizeClass::all() {
        for percent in [2, 20, 70] {
            let test = TestHeap::with_segments(16);
            let mut random = Random::new(class.index() as u64 * 100 + percent);
            let mut program = Program::new(&test);
            let blocks = program.allocate_spans(class, 5);
            let (free, _) = split(blocks, percent, &mut random);
            program.free(free);
            program.expect_purge_of_all();
            program.expect_purge(LATE, EVERYTHING, &BTreeSet::new());
            assert_eq!(test.figures().errors, 0);
        }
    }
}

#[test]
fn spans_of_all_classes_share_calls() {
    let test = TestHeap::new();
    let mut random = Random::new(5);
    let mut program = Program::new(&test);
    let mut free = Vec::new();
    for class in SizeClass::all() {
        let blocks = program.allocate_spans(class, 2);
        free.extend(split(blocks, 20, &mut random).0);
    }
    program.free(free);
    program.expect_purge_of_all();
    let figures = test.figures();
    assert!(figures.purge_ranges > 100, "{}", figures.purge_ranges);
    // A span with room for its ranges waits for the next call rather than be cut.
    assert!(
        figures.madvise_calls <= figures.purge_ranges.div_ceil(57),
        "{}",
        figures.madvise_calls
    );
}

#[test]
fn pages_go_again_after_they_were_used_again() {
    let test = TestHeap::new();
    let mut random = Random::new(11);
    let mut program = Program::new(&test);
    let classes = [48, 640, 2048, 3072, 7168].map(SizeClass::for_bytes);
    for class in classes {
        program.allocate_spans(class, 8);
    }
    for _ in 0..30 {
        let percent = 10 + random.below(80);
        let (free, _) = split(program.live.keys().copied().collect(), percent, &mut random);
        program.free(free);
        program.expect_purge_of_all();
        for class in classes {
            for _ in 0..random.below(class.blocks_per_span() as u64 * 4) {
                program.allocate(class);
            }
            while let Some(block) = program.cache.bin(class).pop() {
                program.note(block, class);
            }
        }
        program.check();
    }
    assert!(program.refaults > 100, "{}", program.refaults);
}

/// Claims look at the system's clock: for it the purge is always a short while ago here.
#[test]
fn pages_that_come_back_soon_are_counted_as_such() {
    let test = TestHeap::new();
    test.os.time.set(crate::os::Linux.now());
    test.os.advance_millis(3_600_000);
    let mut program = Program::new(&test);
    let class = SizeClass::for_bytes(4096);
    let blocks = program.allocate_spans(class, 1);
    program.free(blocks[1..].iter().copied());
    test.tick();
    test.tick();
    assert_eq!(test.figures().interior_pages, 15);
    program.purged.extend((1..16).map(|page| blocks[0] / PAGE_BYTES + page));
    program.allocate(class);
    while let Some(block) = program.cache.bin(class).pop() {
        program.note(block, class);
    }
    assert!(program.refaults > 0);
    assert_eq!(test.heap.interior_refaults(), (program.refaults, program.refaults));
}

#[test]
fn refused_ranges_stay_resident() {
    let test = TestHeap::new();
    let mut program = Program::new(&test);
    let class = SizeClass::for_bytes(2048);
    let blocks = program.allocate_spans(class, 3);
    // Two live blocks cut each span in three: one of the middle parts is locked.
    let kept = |address: usize| matches!(address % SPAN_BYTES / 2048, 8 | 20);
    program.free(blocks.iter().copied().filter(|&block| !kept(block)));
    let base = *blocks.iter().min().unwrap();
    test.os.locked.borrow_mut().push(base + SPAN_BYTES + 7 * PAGE_BYTES);
    let mut expected = program.purgeable();
    let locked = (5..10).map(|page| (base + SPAN_BYTES) / PAGE_BYTES + page);
    let locked: BTreeSet<_> = locked.collect();
    assert!(expected.is_superset(&locked));
    expected.retain(|page| !locked.contains(page));
    program.expect_purge(LATE, EVERYTHING, &expected);
    assert_eq!((test.figures().errors, test.figures().purge_ranges), (1, 9));
    assert_eq!(program.purgeable(), locked, "and are known to be");
    program.expect_purge(LATE, EVERYTHING, &BTreeSet::new());
    assert_eq!(test.figures().errors, 1, "the kernel is not asked again and again");
    test.os.locked.borrow_mut().clear();
    // Something comes back there.
    program.free([base + 2 * SPAN_BYTES + 8 * 2048]);
    program.expect_purge_of_all();
}

/// Blocks of many segments, of which some are free on pages of their own.
fn over_segments<'a>(test: &'a TestHeap, segments: u32) -> Program<'a> {
    let mut program = Program::new(test);
    let class = SizeClass::for_bytes(4096);
    let blocks = program.allocate_spans(class, segments * 32);
    program.free(blocks.into_iter().filter(|block| block / PAGE_BYTES % 16 < 3));
    assert_eq!(program.purgeable().len() as u32, segments * 32 * 3);
    program
}

#[test]
fn without_a_budget_nothing_goes_and_all_waits() {
    let test = TestHeap::new();
    let mut program = over_segments(&test, 3);
    for limits in [PurgeLimits { pages: 0, ..EVERYTHING }, PurgeLimits { calls: 0, ..EVERYTHING }] {
        assert!(program.expect_purge(LATE, limits, &BTreeSet::new()));
    }
    program.expect_purge_of_all();
}

#[test]
fn what_one_budget_leaves_is_for_the_next() {
    let test = TestHeap::new();
    let mut program = over_segments(&test, 3);
    let limits = PurgeLimits { pages: 96, ..EVERYTHING };
    for left in (0..3).rev() {
        let mut expected = program.purgeable();
        let segment = |page: &usize| page * PAGE_BYTES / SEGMENT_BYTES;
        let lowest = segment(expected.first().unwrap());
        expected.retain(|page| segment(page) == lowest);
        assert_eq!(program.expect_purge(LATE, limits, &expected), left > 0);
    }
    assert!(program.purgeable().is_empty());
}

#[test]
fn what_few_calls_leave_is_for_the_next_purge() {
    let test = TestHeap::new();
    over_segments(&test, 12);
    let limits = PurgeLimits { calls: 1, ..EVERYTHING };
    let mut purges = 1;
    while purge_interiors(
        &test.heap,
        &test.release.journal,
        &test.os,
        LATE,
        &limits,
        &mut InteriorBatch::new(),
    )
    .is_waiting
    {
        purges += 1;
    }
    assert!(purges >= 4, "{purges}");
    assert_eq!(purged_pages(&test.os.purged.borrow()).len(), 12 * 32 * 3);
}

#[test]
fn the_budget_holds() {
    let test = TestHeap::new();
    let program = over_segments(&test, 2);
    let limits = PurgeLimits { pages: 10, ..EVERYTHING };
    let batch = &mut InteriorBatch::new();
    let pages =
        purge_interiors(&test.heap, &test.release.journal, &test.os, LATE, &limits, batch).pages;
    assert!(pages.0 <= 10, "{pages:?}");
    drop(program);
}

#[test]
fn the_limit_of_calls_holds() {
    let test = TestHeap::new();
    let mut program = Program::new(&test);
    let blocks = program.allocate_spans(SizeClass::for_bytes(4096), 32);
    program.free(blocks.into_iter().filter(|block| (block / PAGE_BYTES).is_multiple_of(2)));
    let limits = PurgeLimits { calls: 1, ..EVERYTHING };
    purge_interiors(
        &test.heap,
        &test.release.journal,
        &test.os,
        LATE,
        &limits,
        &mut InteriorBatch::new(),
    );
    assert_eq!(test.os.purge_calls.get(), 1);
}

#[test]
fn kinds_that_are_not_covered_stay() {
    let kinds = [(100, "small"), (3000, "sub4k"), (9000, "medium")];
    for (bytes, kind) in kinds {
        let test = TestHeap::new();
        let mut random = Random::new(bytes as u64);
        let mut program = Program::new(&test);
        let mut of_kind = BTreeMap::new();
        let mut free = Vec::new();
        for (bytes, kind) in kinds {
            let blocks = program.allocate_spans(SizeClass::for_bytes(bytes), 8);
            free.extend(split(blocks.clone(), 10, &mut random).0);
            of_kind.insert(kind, blocks);
        }
        program.free(free);
        let spans: BTreeSet<_> = of_kind[kind].iter().map(|block| block / SPAN_BYTES).collect();
        let mut expected = program.purgeable();
        expected.retain(|page| spans.contains(&(page * PAGE_BYTES / SPAN_BYTES)));
        assert!(!expected.is_empty());
        let none = Coverage::NONE;
        let coverage = match kind {
            "small" => Coverage { small: true, ..none },
            "sub4k" => Coverage { sub4k: true, ..none },
            _ => Coverage { medium: true, ..none },
        };
        program.expect_purge(LATE, PurgeLimits { coverage, ..EVERYTHING }, &expected);
    }
}

#[test]
fn what_was_not_covered_goes_once_it_is() {
    let test = TestHeap::new();
    let mut program = over_segments(&test, 1);
    let limits = PurgeLimits { coverage: Coverage::NONE, ..EVERYTHING };
    program.expect_purge(LATE, limits, &BTreeSet::new());
    program.expect_purge_of_all();
}

#[test]
fn what_was_held_by_a_refill_goes_at_the_next_purge() {
    let test = TestHeap::new();
    let mut program = over_segments(&test, 1);
    let (class, chunk) = (SizeClass::for_bytes(4096), ChunkIndex(3));
    assert!(span_index::try_take(&test.heap.pages.arena, class, chunk), "as a refill does");
    purge_interiors(
        &test.heap,
        &test.release.journal,
        &test.os,
        LATE,
        &EVERYTHING,
        &mut InteriorBatch::new(),
    );
    let done = purged_pages(&test.os.purged.borrow());
    central::give_up_span(&test.heap, class, chunk);
    program.resident.retain(|page| !done.contains(page));
    assert_eq!(program.purgeable().len(), 3);
    program.purged.extend(done);
    program.expect_purge_of_all();
}

#[test]
fn a_segment_rests_before_its_pages_go() {
    let test = TestHeap::new();
    test.set_knobs(|knobs| knobs.release = false);
    let mut program = Program::new(&test);
    let blocks = program.allocate_spans(SizeClass::for_bytes(4096), 2);
    test.pass_epochs(10);
    let epoch = |more: u64| Epoch(10 + more);
    let nothing = BTreeSet::new();
    program.free(blocks[..3].iter().copied());
    assert!(program.expect_purge(epoch(0), EVERYTHING, &nothing), "one epoch at the least");
    let mut limits = EVERYTHING;
    limits.delay_epochs = [0, 0, 0, 0, 3];
    assert_eq!(INTERIOR, 4);
    assert!(program.expect_purge(epoch(2), limits, &nothing));
    // What comes back meanwhile starts the time anew.
    test.pass_epochs(2);
    program.free(blocks[3..5].iter().copied());
    assert!(program.expect_purge(epoch(4), limits, &nothing));
    let expected = program.purgeable();
    assert_eq!(expected.len(), 5);
    assert!(!program.expect_purge(epoch(5), limits, &expected));
    // Other kinds' delays are none of its business.
    program.free([blocks[5]]);
    limits.delay_epochs = [9, 9, 9, 9, 1];
    let expected = program.purgeable();
    assert!(!program.expect_purge(epoch(3), limits, &expected));
}

#[test]
fn a_block_that_comes_back_during_the_purge_is_for_the_next_one() {
    let test = TestHeap::new();
    let mut program = Program::new(&test);
    let class = SizeClass::for_bytes(4096);
    let blocks = program.allocate_spans(class, 2);
    program.free(blocks.iter().copied().filter(|block| block / PAGE_BYTES % 16 < 4));
    let before = program.purgeable();
    let late: Vec<_> =
        blocks.iter().copied().filter(|block| block / PAGE_BYTES % 16 == 9).collect();
    assert_eq!(late.len(), 2);
    let cell = std::cell::RefCell::new(program);
    let action = || cell.borrow_mut().free(late.iter().copied());
    let os = During { test: &test, action, done: Cell::new(false) };
    let batch = &mut InteriorBatch::new();
    let pages =
        purge_interiors(&test.heap, &test.release.journal, &os, LATE, &EVERYTHING, batch).pages;
    let mut program = cell.into_inner();
    assert_eq!(purged_pages(&test.os.purged.borrow()), before);
    assert_eq!(pages.0 as usize, before.len());
    program.resident.retain(|page| !before.contains(page));
    program.purged.extend(before);
    program.check();
    assert_eq!(program.purgeable().len(), 2);
    program.expect_purge_of_all();
}

/// The last blocks come back while the span's pages are in the kernel's hands: the purge retires it.
#[test]
fn a_span_that_becomes_empty_during_its_purge_is_retired_with_what_was_purged() {
    let test = TestHeap::new();
    let mut program = Program::new(&test);
    let class = SizeClass::for_bytes(4096);
    let blocks = program.allocate_spans(class, 1);
    program.free(blocks[..10].iter().copied());
    let rest = blocks[10..].to_vec();
    let cell = std::cell::RefCell::new(program);
    let action = || cell.borrow_mut().free(rest.iter().copied());
    let os = During { test: &test, action, done: Cell::new(false) };
    purge_interiors(
        &test.heap,
        &test.release.journal,
        &os,
        LATE,
        &EVERYTHING,
        &mut InteriorBatch::new(),
    );
    let mut program = cell.into_inner();
    let done = purged_pages(&test.os.purged.borrow());
    assert_eq!(done, blocks[..10].iter().map(|block| block / PAGE_BYTES).collect());
    program.pending.retain(|page| !done.contains(page));
    program.check();
    expect_retired_with_ten_purged(&test, class);
}

#[test]
fn a_span_that_becomes_empty_after_a_purge_is_retired_with_what_was_purged() {
    let test = TestHeap::new();
    let mut program = Program::new(&test);
    let class = SizeClass::for_bytes(4096);
    let blocks = program.allocate_spans(class, 1);
    program.free(blocks[..10].iter().copied());
    program.expect_purge_of_all();
    program.free(blocks[10..].iter().copied());
    program.check();
    expect_retired_with_ten_purged(&test, class);
}

/// The first ten pages of the only span were purged before it was retired, six wait in the ledger.
fn expect_retired_with_ten_purged(test: &TestHeap, class: SizeClass) {
    let figures = test.figures();
    assert_eq!(figures.spans[class.index()], 0);
    assert_eq!((figures.pending_pages, figures.interior_pages), (6, 10));
    assert_eq!(figures.span_pages_retired, 16);
    assert_eq!((figures.refault_pages, figures.reused_pages), (0, 0));
    // They are known to be clean: what uses them again refaults.
    let taken = test.try_take(16, 16).expect("the arena has room");
    assert_eq!((taken.run.segment.0, taken.run.first.0), (0, 0));
    assert_eq!(taken.dirty.count().0, 6);
    let figures = test.figures();
    assert_eq!((figures.refault_pages, figures.reused_pages), (10, 6));
    test.check();
}

/// A retired span's pages are not purged again with the ledger's.
#[test]
fn pages_purged_inside_a_span_are_not_purged_again_after_it() {
    let test = TestHeap::new();
    let mut program = Program::new(&test);
    let blocks = program.allocate_spans(SizeClass::for_bytes(4096), 1);
    program.free(blocks[..10].iter().copied());
    program.expect_purge_of_all();
    program.free(blocks[10..].iter().copied());
    test.os.purged.borrow_mut().clear();
    crate::release::purge_everything(&test.heap, &test.release, &test.os);
    let purged = purged_pages(&test.os.purged.borrow());
    assert_eq!(purged, blocks[10..].iter().map(|block| block / PAGE_BYTES).collect());
}

/// Callers without a cache count for themselves.
#[test]
fn the_segments_bit_is_set_again_by_every_return() {
    let test = TestHeap::new();
    let mut program = over_segments(&test, 2);
    program.expect_purge_of_all();
    assert_eq!(test.heap.pages.arena.touched_word(0).load(Ordering::Relaxed), 0);
    let block = *program.live.keys().last().unwrap();
    program.free([block]);
    let word = test.heap.pages.arena.touched_word(0).load(Ordering::Relaxed);
    assert_eq!(word, 0b10, "the block's segment only");
    program.expect_purge_of_all();
}
