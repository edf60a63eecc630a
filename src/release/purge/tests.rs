use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{Batch, PurgeLimits, REFUSED_DELAY_EPOCHS, purge};
use crate::base::bits::{PageBits, PageRun};
use crate::base::units::{Epoch, PageIndex, Pages, SEGMENT_PAGES, SegmentIndex};
use crate::geometry::reason::ReleaseReason;
use crate::geometry::size_class::SizeClass;
use crate::heap::knobs::Coverage;
use crate::os::fake::FakeOs;
use crate::os::{AddressRange, Mapped, MemoryRoom, Nanos, Os, PURGE_BATCH, PurgeOutcome};
use crate::pages::page_heap::LargeRun;
use crate::release::purge_everything;
use crate::testing::test_heap::{TestHeap, pages};

const EVERYTHING: PurgeLimits = PurgeLimits {
    pages: u64::MAX,
    calls: u64::MAX,
    delay_epochs: [0; 5],
    coverage: Coverage::ALL,
    stop: None,
};

fn purge_with(test: &TestHeap, os: &impl Os, limits: PurgeLimits) -> u64 {
    let (heap_pages, journal) = (&test.heap.pages, &test.release.journal);
    let now = heap_pages.clock.epoch();
    let purged = purge(heap_pages, journal, os, now, limits, &mut Batch::new());
    let purged = purged.pages.0 as u64;
    test.check();
    purged
}

/// A segment in use of which every second page is dirty, `count` of them.
fn scatter(test: &TestHeap, count: usize) -> Vec<LargeRun> {
    assert!(count <= 256);
    let runs: Vec<_> = (0..SEGMENT_PAGES).map(|_| test.take(1)).collect();
    let (free, kept): (Vec<_>, Vec<_>) = runs.chunks(2).map(|pair| (pair[0], pair[1])).unzip();
    free.into_iter().take(count).for_each(|run| test.free(run));
    kept
}

/// Whole segments, all in use.
fn segments(test: &TestHeap, count: u32) -> Vec<LargeRun> {
    (0..count).map(|_| test.take(SEGMENT_PAGES)).collect()
}

/// A system that does something while a purge is in the kernel.
struct During<'a, F: Fn(&[AddressRange])> {
    os: &'a FakeOs,
    action: F,
}

impl<F: Fn(&[AddressRange])> Os for During<'_, F> {
    fn map(&self, range: AddressRange) -> Mapped {
        self.os.map(range)
    }

    fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
        (self.action)(ranges);
        self.os.purge(ranges)
    }

    fn memory_room(&self, _: &mut crate::os::cgroup::Scratch) -> Option<MemoryRoom> {
        None
    }

    fn now(&self) -> Nanos {
        self.os.now()
    }
}

#[test]
fn ranges_share_calls() {
    let test = TestHeap::new();
    scatter(&test, 200);
    let sizes = core::cell::RefCell::new(Vec::new());
    let os = During { os: &test.os, action: |ranges| sizes.borrow_mut().push(ranges.len()) };
    assert_eq!(purge_with(&test, &os, EVERYTHING), 200);
    assert_eq!(*sizes.borrow(), [PURGE_BATCH, PURGE_BATCH, PURGE_BATCH, 200 - 3 * PURGE_BATCH]);
    let figures = test.figures();
    assert_eq!((figures.madvise_calls, figures.purge_ranges, figures.errors), (4, 200, 0));
    assert_eq!((figures.pending_pages, figures.purged_pages), (0, [0, 0, 0, 200]));
    // Three purges of 64 pages and one of 8, of a millisecond each.
    assert_eq!(figures.purge_batch_pages, [0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(figures.purge_micros, [0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0]);
    assert_eq!(
        (figures.purge_batch_pages_sum, figures.kernel_nanos),
        (200, [0, 0, 0, 4_000_000, 0])
    );
    let expected: Vec<_> = (0..200).map(|i| test.address(0, pages(2 * i, 1))).collect();
    assert_eq!(*test.os.purged.borrow(), expected, "each once, lowest first");
}

/// A batch's time is divided as its pages are, whether the kernel took them or not; nothing is lost.
#[test]
fn time_is_divided_among_reasons() {
    let test = TestHeap::new();
    let small = test.take_span(SizeClass::for_bytes(16)).unwrap().0;
    let medium = test.take_span(SizeClass::for_bytes(8192)).unwrap().0;
    let large = test.take(32);
    test.retire_span(medium);
    test.free(large);
    test.retire_span(small);
    let purged = purge(
        &test.heap.pages,
        &test.release.journal,
        &test.os,
        Epoch(9),
        EVERYTHING,
        &mut Batch::new(),
    );
    let figures = test.figures();
    assert_eq!(figures.kernel_nanos, [250_000, 0, 250_000, 500_000, 0]);
    // Two looks at the clock before the kernel's part and one after it, of a microsecond each.
    let around = figures.purge_nanos;
    assert_eq!(around.map(|nanos| nanos > 0), [true, false, true, true, false]);
    let all: u64 = figures.kernel_nanos.iter().chain(&around).sum();
    assert_eq!(purged.took, Nanos(all));
    // Nothing to purge takes time as well, but nobody's.
    assert_eq!(
        purge(
            &test.heap.pages,
            &test.release.journal,
            &test.os,
            Epoch(9),
            EVERYTHING,
            &mut Batch::new()
        )
        .took,
        Nanos(0)
    );

    let large = test.take(8);
    test.free(large);
    test.os.locked.borrow_mut().push(test.address(0, pages(0, 1)).start);
    purge_with(&test, &test.os, EVERYTHING);
    assert_eq!(test.figures().errors, 1);
    assert_eq!(test.figures().kernel_nanos, [250_000, 0, 250_000, 1_500_000, 0]);
}

#[test]
fn a_call_reaches_over_segments() {
    let test = TestHeap::new();
    for segment in segments(&test, 5) {
        test.shrink(segment, 500);
    }
    assert_eq!(purge_with(&test, &test.os, EVERYTHING), 60);
    assert_eq!((test.figures().madvise_calls, test.figures().purge_ranges), (1, 5));
    assert_eq!(test.os.purged_bytes(), 60 * 4096);
}

#[test]
fn neighbours_are_one_range_whatever_they_held() {
    let test = TestHeap::new();
    let small = test.take_span(SizeClass::for_bytes(16)).unwrap().0;
    let medium = test.take_span(SizeClass::for_bytes(8192)).unwrap().0;
    let large = test.take(40);
    test.retire_span(medium);
    test.free(large);
    test.retire_span(small);
    assert_eq!(purge_with(&test, &test.os, EVERYTHING), 72);
    assert_eq!(*test.os.purged.borrow(), [test.address(0, pages(0, 72))]);
    assert_eq!(test.figures().purged_pages, [16, 0, 16, 40]);
    assert_eq!(test.figures().purge_ranges, 1);
}

#[test]
fn the_budget_cuts_a_long_range() {
    let test = TestHeap::new();
    test.free(test.take(SEGMENT_PAGES));
    let limits = PurgeLimits { pages: 100, ..EVERYTHING };
    assert_eq!(purge_with(&test, &test.os, limits), 100);
    assert_eq!(*test.os.purged.borrow(), [test.address(0, pages(0, 100))]);
    assert_eq!(test.dirty(0), PageBits::of(pages(100, 412)));
    assert_eq!((test.pending(), test.figures().purge_ranges), (412, 1));
    for left in [312, 212, 112, 12, 0] {
        purge_with(&test, &test.os, limits);
        assert_eq!(test.pending(), left);
    }
    assert_eq!(test.os.purged_bytes(), 512 * 4096);
    assert_eq!(purge_with(&test, &test.os, limits), 0, "nothing is purged twice");
    assert_eq!(test.os.purge_calls.get(), 6);
}

#[test]
fn the_budget_holds_over_ranges_segments_and_calls() {
    let test = TestHeap::new();
    scatter(&test, 256);
    for segment in segments(&test, 3) {
        test.shrink(segment, 500);
    }
    for (budget, purged) in [(70, 70), (1, 1), (190, 190), (50, 31), (50, 0)] {
        let limits = PurgeLimits { pages: budget, ..EVERYTHING };
        assert_eq!(purge_with(&test, &test.os, limits), purged);
    }
    assert_eq!(test.os.purged_bytes(), (256 + 36) * 4096);
}

/// Somebody waits for the end of who purges: it is done with the batch in hand, and the rest is as it was.
#[test]
fn a_purge_that_is_to_end_leaves_the_rest() {
    static STOP: AtomicU32 = AtomicU32::new(0);
    let test = TestHeap::new();
    scatter(&test, 200);
    let limits = PurgeLimits { stop: Some(&STOP), ..EVERYTHING };
    let stopping =
        During { os: &test.os, action: |_: &[AddressRange]| STOP.store(1, Ordering::Relaxed) };
    assert_eq!(purge_with(&test, &stopping, limits), PURGE_BATCH as u64);
    assert_eq!(purge_with(&test, &test.os, limits), 0);
    test.check();
    STOP.store(0, Ordering::Relaxed);
    assert_eq!(purge_with(&test, &test.os, limits), 200 - PURGE_BATCH as u64);
}

#[test]
fn no_more_calls_than_allowed() {
    let test = TestHeap::new();
    scatter(&test, 200);
    let limits = PurgeLimits { calls: 2, ..EVERYTHING };
    assert_eq!(purge_with(&test, &test.os, limits), 2 * PURGE_BATCH as u64);
    assert_eq!((test.os.purge_calls.get(), test.figures().madvise_calls), (2, 2));
    let limits = PurgeLimits { calls: 1, ..EVERYTHING };
    assert_eq!(purge_with(&test, &test.os, limits), PURGE_BATCH as u64);
    assert_eq!(purge_with(&test, &test.os, limits), 8);
    assert_eq!(test.figures().madvise_calls, 4);
}

#[test]
fn a_segment_is_left_alone_until_it_has_rested() {
    let test = TestHeap::new();
    let runs = segments(&test, 2);
    test.free(runs[0]);
    test.pass_epochs(2);
    let rest = test.shrink(runs[1], 256);
    let limits = PurgeLimits { delay_epochs: [3; 5], ..EVERYTHING };
    assert_eq!(purge_with(&test, &test.os, limits), 0);
    test.pass_epochs(1);
    assert_eq!(purge_with(&test, &test.os, limits), 512, "the first has, the second has not");
    test.pass_epochs(1);
    // What is freed into a segment starts its rest anew.
    test.shrink(rest, 100);
    test.pass_epochs(2);
    assert_eq!(purge_with(&test, &test.os, limits), 0);
    test.pass_epochs(1);
    assert_eq!(purge_with(&test, &test.os, limits), 412);
}

#[test]
fn only_covered_reasons_are_purged() {
    let kinds = [16, 4096, 32768];
    let only = |i: usize| Coverage { small: i == 0, sub4k: i == 1, medium: i == 2, large: i == 3 };
    for covered in 0..4 {
        let test = TestHeap::new();
        let spans = kinds.map(|bytes| test.take_span(SizeClass::for_bytes(bytes)).unwrap().0);
        let run = test.take(16);
        test.free(run);
        spans.into_iter().for_each(|span| test.retire_span(span));
        let limits = PurgeLimits { coverage: Coverage::NONE, ..EVERYTHING };
        assert_eq!(purge_with(&test, &test.os, limits), 0);
        assert_eq!(test.os.purge_calls.get(), 0);
        let limits = PurgeLimits { coverage: only(covered), ..EVERYTHING };
        assert_eq!(purge_with(&test, &test.os, limits), 16);
        let expected = test.address(0, pages(16 * covered as u32, 16));
        assert_eq!(*test.os.purged.borrow(), [expected]);
        let mut purged = [0; 4];
        purged[covered] = 16;
        assert_eq!(test.figures().purged_pages, purged);
        assert_eq!(test.pending(), 48, "the others stay in the ledger");
        assert_eq!(purge_with(&test, &test.os, EVERYTHING), 48);
    }
}

#[test]
fn a_refused_range_stays_dirty_and_is_tried_again_after_a_while() {
    let test = TestHeap::new();
    let runs = segments(&test, 2);
    for run in runs {
        test.shrink(run, 500);
    }
    let locked = test.address(0, pages(505, 1)).start;
    test.os.locked.borrow_mut().push(locked);
    assert_eq!(purge_with(&test, &test.os, EVERYTHING), 12, "the other segment's");
    let figures = test.figures();
    assert_eq!((figures.errors, figures.purge_ranges, figures.madvise_calls), (1, 2, 1));
    assert_eq!((figures.pending_pages, figures.purged_pages[3]), (12, 12));
    assert_eq!(test.dirty(0), PageBits::of(pages(500, 12)));
    test.pass_epochs(REFUSED_DELAY_EPOCHS - 1);
    assert_eq!(purge_with(&test, &test.os, EVERYTHING), 0);
    assert_eq!(test.figures().errors, 1, "not tried");
    test.pass_epochs(1);
    assert_eq!(purge_with(&test, &test.os, EVERYTHING), 0);
    assert_eq!(test.figures().errors, 2, "tried");
    test.os.locked.borrow_mut().clear();
    test.pass_epochs(REFUSED_DELAY_EPOCHS);
    assert_eq!(purge_with(&test, &test.os, EVERYTHING), 12);
    assert_eq!((test.figures().errors, test.pending()), (2, 0));
}

#[test]
fn refused_pages_cost_no_budget_and_can_be_used() {
    let test = TestHeap::new();
    let runs = segments(&test, 2);
    for run in runs {
        test.shrink(run, 500);
    }
    test.os.locked.borrow_mut().push(test.address(0, pages(500, 1)).start);
    let limits = PurgeLimits { pages: 12, ..EVERYTHING };
    assert_eq!(purge_with(&test, &test.os, limits), 12);
    assert_eq!(test.dirty(1).count(), Pages(0));
    let taken = test.try_take(12, 1).unwrap();
    assert_eq!((taken.run.segment, taken.dirty.count()), (SegmentIndex(0), Pages(12)));
    assert_eq!(test.figures().reused_pages, 12);
}

#[test]
fn one_refusal_in_a_batch_leaves_the_others_alone() {
    let test = TestHeap::new();
    scatter(&test, 20);
    test.os.locked.borrow_mut().push(test.address(0, pages(14, 1)).start);
    assert_eq!(purge_with(&test, &test.os, EVERYTHING), 19);
    assert_eq!(test.dirty(0), PageBits::of(pages(14, 1)));
    assert_eq!((test.figures().errors, test.figures().madvise_calls), (1, 1));
}

#[test]
fn a_small_budget_reaches_every_segment_in_turn() {
    let test = TestHeap::new();
    let runs = segments(&test, 6).into_iter().map(|run| test.shrink(run, 500));
    let runs: Vec<_> = runs.collect();
    let limits = PurgeLimits { pages: 12, ..EVERYTHING };
    for turn in 0..6 {
        assert_eq!(purge_with(&test, &test.os, limits), 12);
        assert_eq!(test.os.purged.borrow().last(), Some(&test.address(turn, pages(500, 12))));
        // It gets dirty again behind the purge's back, but the others are first.
        test.shrink(runs[turn as usize], 488);
    }
    assert_eq!(test.pending(), 72);
    assert_eq!(purge_with(&test, &test.os, limits), 12);
    assert_eq!(test.os.purged.borrow().last(), Some(&test.address(0, pages(488, 12))), "around");
}

/// A segment that gets more pages in each round than the budget must not hold up the others.
#[test]
fn a_segment_that_is_always_dirty_does_not_starve_the_next() {
    let test = TestHeap::new();
    let runs = segments(&test, 2);
    test.shrink(runs[1], 500);
    test.shrink(runs[0], 412);
    let limits = PurgeLimits { pages: 50, ..EVERYTHING };
    for _ in 0..10 {
        purge_with(&test, &test.os, limits);
        // All that segment 0 has, used and freed again.
        let again = LargeRun { segment: SegmentIndex(0), first: PageIndex(412), pages: Pages(100) };
        assert_eq!(test.take(100), again);
        test.free(again);
    }
    assert_eq!(test.dirty(1).count(), Pages(0));
}

#[test]
fn pages_in_the_kernel_cannot_be_allocated() {
    let test = TestHeap::new();
    let spans: Vec<_> =
        (0..40).map(|_| test.take_span(SizeClass::for_bytes(64)).unwrap()).collect();
    spans.iter().for_each(|&(span, _)| test.retire_span(span));
    let seen = Cell::new(0);
    let os = During {
        os: &test.os,
        action: |ranges| {
            seen.set(seen.get() + ranges.len());
            let outside = |run: LargeRun| {
                let part = PageRun::new(run.first, run.pages);
                let at = test.address(run.segment.0, part);
                let apart = |range: &AddressRange| {
                    at.start + at.bytes <= range.start || range.start + range.bytes <= at.start
                };
                assert!(ranges.iter().all(apart), "{run:?} is being purged");
                part.end() <= SEGMENT_PAGES
            };
            // A span, small and long runs, all while the ranges are claimed.
            let (chunk, resident) = test.take_span(SizeClass::for_bytes(64)).unwrap();
            let first = PageIndex(chunk.in_segment() * 16);
            let segment = chunk.segment();
            assert!(outside(LargeRun { segment, first, pages: Pages(16) }));
            assert_eq!(resident, 0, "every dirty page is claimed");
            for count in [1, 20, 400] {
                assert!(outside(test.take(count)));
            }
            assert!(test.pending() > 0, "pending until the kernel is done");
        },
    };
    assert_eq!(purge_with(&test, &os, EVERYTHING), 640);
    assert_eq!(seen.get(), 2);
    assert_eq!(test.figures().reused_pages, 0);
}

#[test]
fn what_is_freed_meanwhile_waits_for_its_own_purge() {
    let test = TestHeap::new();
    let (first, second) = (test.take(4), test.take(4));
    test.free(first);
    let freed = Cell::new(false);
    let os = During {
        os: &test.os,
        action: |_| {
            if !freed.replace(true) {
                test.free(second);
            }
        },
    };
    // One call only, so that the second range is not found by the same purge.
    let limits = PurgeLimits { calls: 1, ..EVERYTHING };
    assert_eq!(purge_with(&test, &os, limits), 4);
    assert_eq!(test.dirty(0), PageBits::of(pages(4, 4)));
    assert_eq!(purge_with(&test, &test.os, EVERYTHING), 4);
    assert_eq!(test.figures().purge_ranges, 2);
}

/// Two purges at a time share the work.
#[test]
fn a_purge_during_a_purge_gives_nothing_back_twice() {
    let test = TestHeap::new();
    scatter(&test, 100);
    let inner = Cell::new(0);
    let os = During {
        os: &test.os,
        action: |_| {
            if inner.get() == 0 {
                inner.set(purge_everything(&test.heap, &test.release, &test.os).0);
            }
        },
    };
    assert_eq!(purge_with(&test, &os, EVERYTHING), PURGE_BATCH as u64);
    assert_eq!(inner.get(), 100 - PURGE_BATCH as u32);
    assert_eq!(test.os.purged_bytes(), 100 * 4096);
    assert_eq!((test.purged(), test.pending()), (100, 0));
}

#[test]
fn purged_pages_are_clean_and_their_reuse_is_a_refault() {
    let test = TestHeap::new();
    test.free(test.take(100));
    let limits = PurgeLimits { pages: 60, ..EVERYTHING };
    assert_eq!(purge_with(&test, &test.os, limits), 60);
    let taken = test.try_take(80, 1).unwrap();
    assert_eq!((taken.run.first, taken.any_dirty), (PageIndex(0), true));
    assert_eq!(taken.dirty, PageBits::of(pages(60, 20)));
    assert_eq!((test.figures().refault_pages, test.figures().reused_pages), (60, 20));
    test.free(taken.run);
    assert_eq!(purge_with(&test, &test.os, EVERYTHING), 100);
    let taken = test.try_take(100, 1).unwrap();
    assert!(!taken.any_dirty && taken.dirty.is_empty());
    assert_eq!((test.figures().refault_pages, test.figures().reused_pages), (160, 20));
    // In use, then freed: neither purged nor clean any more.
    test.free(taken.run);
    assert_eq!(test.dirty(0), PageBits::of(pages(0, 100)));
    test.check();
}

#[test]
fn a_refused_segment_does_not_rest_before_its_time() {
    let test = TestHeap::new();
    test.free(test.take(8));
    test.os.locked.borrow_mut().push(test.address(0, pages(0, 1)).start);
    test.pass_epochs(7);
    purge_with(&test, &test.os, EVERYTHING);
    let mut heap = test.heap.pages.page_heap.lock();
    let states = heap.states(&test.heap.pages.arena, SegmentIndex(0));
    assert_eq!(states.no_purge_before, Epoch(7 + REFUSED_DELAY_EPOCHS));
    assert_eq!(states.dirty_last, Epoch(0), "nothing was freed");
    let large = states.with_reason(&states.dirty(), ReleaseReason::LargeFree);
    assert_eq!(large.count(), Pages(8), "and why is not forgotten");
}
