use crate::base::bits::{PageBits, PageRun};
use crate::base::units::{Epoch, Pages, SEGMENT_PAGES, SegmentIndex};
use crate::geometry::reason::ReleaseReason;
use crate::geometry::size_class::SizeClass;
use crate::geometry::span::Put;
use crate::os::Nanos;
use crate::testing::test_heap::{TestHeap, assert_aborts, pages};

const LARGE: ReleaseReason = ReleaseReason::LargeFree;

#[test]
fn pages_of_a_segment_that_is_not_in_use_are_refused() {
    let test = TestHeap::new();
    test.take(1);
    let segment = test.heap.pages.arena.in_use();
    assert_aborts("release of pages in a segment that is not in use", || {
        test.release(segment, pages(0, 1), &PageBits::EMPTY, LARGE);
    });
}

#[test]
fn a_segment_beyond_the_arena_is_refused() {
    let test = TestHeap::new();
    test.take(1);
    assert_aborts("release of pages in a segment that is not in use", || {
        test.release(u32::MAX / SEGMENT_PAGES, pages(0, 1), &PageBits::EMPTY, LARGE);
    });
}

#[test]
fn pages_that_are_free_are_refused() {
    let test = TestHeap::new();
    let run = test.take(8);
    test.free(run);
    assert_aborts("release of pages that are free already", || {
        test.release(0, pages(0, 8), &PageBits::EMPTY, LARGE);
    });
}

#[test]
fn a_run_of_which_one_page_is_free_is_refused() {
    let test = TestHeap::new();
    test.take(8);
    assert_aborts("release of pages that are free already", || {
        test.release(0, pages(0, 9), &PageBits::EMPTY, LARGE);
    });
}

/// Free pages that are being purged are no less free.
#[test]
fn pages_in_the_hands_of_a_purge_are_refused() {
    let test = TestHeap::new();
    let run = test.take(8);
    test.free(run);
    test.heap
        .pages
        .page_heap
        .lock()
        .states(&test.heap.pages.arena, SegmentIndex(0))
        .claim(pages(0, 8));
    assert_aborts("release of pages that are free already", || {
        test.release(0, pages(3, 1), &PageBits::EMPTY, LARGE);
    });
}

#[test]
fn a_span_with_a_block_in_use_is_refused() {
    let test = TestHeap::new();
    let class = SizeClass::for_bytes(4096);
    let (chunk, _) = test.take_span(class).unwrap();
    // All blocks but one come back.
    assert_eq!(test.heap.pages.arena.span(chunk).put(16, 0, 0xfffe), Put::Held);
    assert_aborts("release of pages of a span in use", || {
        let run = PageRun::of_chunk(0);
        test.release(0, run, &PageBits::of(run), ReleaseReason::Sub4kRunRetire);
    });
}

#[test]
fn a_large_run_that_reaches_into_a_span_is_refused() {
    let test = TestHeap::new();
    test.take(16);
    let (chunk, _) = test.take_span(SizeClass::for_bytes(4096)).unwrap();
    assert_eq!(chunk.in_segment(), 1);
    assert_aborts("release of pages of a span in use", || {
        test.release(0, pages(0, 17), &PageBits::EMPTY, LARGE);
    });
}

/// Even one without live blocks: who frees it so has taken it for something else.
#[test]
fn an_empty_span_is_not_released_as_a_large_run() {
    let test = TestHeap::new();
    let (chunk, _) = test.take_span(SizeClass::for_bytes(4096)).unwrap();
    assert_eq!(test.heap.pages.arena.span(chunk).put(16, 0, 0xffff), Put::Held);
    assert_aborts("release of pages of a span in use", || {
        test.release(0, PageRun::of_chunk(0), &PageBits::EMPTY, LARGE);
    });
}

#[test]
fn part_of_an_empty_span_is_refused() {
    let test = TestHeap::new();
    let (chunk, _) = test.take_span(SizeClass::for_bytes(4096)).unwrap();
    assert_eq!(test.heap.pages.arena.span(chunk).put(16, 0, 0xffff), Put::Held);
    assert_aborts("release of pages of a span in use", || {
        test.release(0, pages(0, 15), &PageBits::EMPTY, ReleaseReason::Sub4kRunRetire);
    });
}

/// Six runs of four pages each, side by side, freed in an order; returns ranges that joined.
fn joined(order: &[usize]) -> u64 {
    let test = TestHeap::new();
    let runs: Vec<_> = (0..6).map(|_| test.take(4)).collect();
    for &i in order {
        test.free(runs[i]);
        test.check();
    }
    let figures = test.figures();
    assert_eq!(figures.enqueued, [0, 0, 0, order.len() as u64]);
    assert_eq!(figures.enqueued_pages, 4 * order.len() as u64);
    assert_eq!(figures.pending_pages, 4 * order.len() as u64);
    figures.coalesced
}

#[test]
fn a_range_joins_a_neighbour_on_either_side() {
    assert_eq!(joined(&[0]), 0);
    assert_eq!(joined(&[0, 2]), 0, "neither");
    assert_eq!(joined(&[0, 1]), 1, "before");
    assert_eq!(joined(&[1, 0]), 1, "after");
    assert_eq!(joined(&[0, 2, 1]), 1, "both: one range that needs none of its own");
    assert_eq!(joined(&[0, 4, 2]), 0);
}

#[test]
fn what_merges_in_the_end_does_not_depend_on_the_order() {
    let mut results = Vec::new();
    for order in [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 3, 1, 4, 0, 5], [0, 2, 4, 5, 3, 1]] {
        let test = TestHeap::new();
        let runs: Vec<_> = (0..6).map(|_| test.take(4)).collect();
        for i in order {
            test.free(runs[i]);
        }
        results.push(test.dirty(0));
        let purged = crate::release::purge_everything(&test.heap, &test.release, &test.os);
        assert_eq!((purged, test.figures().purge_ranges), (Pages(24), 1));
        assert_eq!(*test.os.purged.borrow(), [test.address(0, pages(0, 24))]);
    }
    assert!(results.iter().all(|dirty| *dirty == PageBits::of(pages(0, 24))));
}

#[test]
fn segments_do_not_join() {
    let test = TestHeap::new();
    let runs: Vec<_> = (0..2).map(|_| test.take(SEGMENT_PAGES)).collect();
    for run in runs {
        test.free(run);
    }
    assert_eq!(test.figures().coalesced, 0);
    assert_eq!(test.figures().enqueued[LARGE as usize], 2);
}

#[test]
fn a_run_over_segments_is_a_range_in_each() {
    let test = TestHeap::new();
    let run = test.take(3 * SEGMENT_PAGES - 5);
    test.free(run);
    assert_eq!(test.figures().enqueued, [0, 0, 0, 3]);
    assert_eq!(test.figures().enqueued_pages, 3 * 512 - 5);
    test.check();
}

#[test]
fn clean_neighbours_are_not_joined() {
    let test = TestHeap::new();
    let runs: Vec<_> = (0..3).map(|_| test.take(4)).collect();
    test.free(runs[0]);
    crate::release::purge_everything(&test.heap, &test.release, &test.os);
    test.free(runs[1]);
    assert_eq!(test.figures().coalesced, 0, "what was purged is not pending");
    test.free(runs[2]);
    assert_eq!(test.figures().coalesced, 1);
}

/// Takes two chunks' worth of pages and frees both, the second with only some pages resident.
fn joined_with_resident(second: &PageBits) -> u64 {
    let test = TestHeap::new();
    let (first, other) = (test.take(16), test.take(16));
    test.free(first);
    test.release(0, pages(16, 16), second, LARGE);
    let mut heap = test.heap.pages.page_heap.lock();
    heap.states(&test.heap.pages.arena, other.segment).clear_run(other.first);
    drop(heap);
    assert_eq!(test.figures().enqueued_pages, 16 + second.count().0 as u64);
    assert_eq!(test.dirty(0), PageBits::of(pages(0, 16)).or(second));
    assert_eq!(test.unused(0), PageBits::of(PageRun::SEGMENT), "free, resident or not");
    test.figures().coalesced
}

#[test]
fn resident_pages_at_the_seam_join() {
    assert_eq!(joined_with_resident(&PageBits::of(pages(16, 1))), 1);
    assert_eq!(joined_with_resident(&PageBits::of(pages(16, 16))), 1);
}

#[test]
fn resident_pages_away_from_the_seam_do_not_join() {
    assert_eq!(joined_with_resident(&PageBits::of(pages(20, 4))), 0, "needs a range of its own");
    assert_eq!(joined_with_resident(&PageBits::EMPTY), 0, "nothing is there to join");
}

/// The neighbour's range is on its way to the kernel without these pages.
#[test]
fn a_range_in_the_hands_of_a_purge_cannot_be_joined() {
    let test = TestHeap::new();
    let (first, second) = (test.take(4), test.take(4));
    test.free(first);
    test.heap
        .pages
        .page_heap
        .lock()
        .states(&test.heap.pages.arena, SegmentIndex(0))
        .claim(pages(0, 4));
    test.free(second);
    assert_eq!(test.figures().coalesced, 0);
}

#[test]
fn each_reason_is_counted_as_itself() {
    let test = TestHeap::new();
    for (bytes, i) in [(16, 0), (2048, 0), (2049, 1), (4096, 1), (4097, 2), (32768, 2)] {
        let before = test.figures();
        let class = SizeClass::for_bytes(bytes);
        let (chunk, _) = test.take_span(class).unwrap();
        test.retire_span(chunk);
        test.check();
        let after = test.figures();
        for reason in 0..4 {
            let more = after.enqueued[reason] - before.enqueued[reason];
            assert_eq!(more, (reason == i) as u64, "{bytes} bytes");
        }
        let resident = class.block_pages().0 as u64;
        assert_eq!(after.enqueued_pages - before.enqueued_pages, resident);
        crate::release::purge_everything(&test.heap, &test.release, &test.os);
        let purged = test.figures().purged_pages;
        assert_eq!(purged[i] - after.purged_pages[i], resident, "{bytes} bytes");
    }
}

/// A page's reason is that of its last release.
#[test]
fn a_page_forgets_its_earlier_reasons() {
    for last in ReleaseReason::ALL {
        let test = TestHeap::new();
        for reason in ReleaseReason::ALL.into_iter().filter(|&r| r != last).chain([last]) {
            let run = test.take(16);
            let mut heap = test.heap.pages.page_heap.lock();
            heap.states(&test.heap.pages.arena, run.segment).clear_run(run.first);
            drop(heap);
            test.heap.pages.totals.update(|figures| figures.large_pages.subtract(16));
            test.release(0, pages(0, 16), &PageBits::of(pages(0, 16)), reason);
        }
        crate::release::purge_everything(&test.heap, &test.release, &test.os);
        let mut expected = [0; 4];
        expected[last as usize] = 16;
        assert_eq!(test.figures().purged_pages, expected);
        test.check();
    }
}

#[test]
fn the_ledger_remembers_since_when_and_until_when() {
    let test = TestHeap::new();
    let runs: Vec<_> = (0..3).map(|_| test.take(4)).collect();
    let states = |test: &TestHeap| {
        let mut heap = test.heap.pages.page_heap.lock();
        let states = heap.states(&test.heap.pages.arena, SegmentIndex(0));
        (states.dirty_since, states.dirty_last)
    };
    test.pass_epochs(2);
    let start = test.os.time.get();
    test.free(runs[0]);
    assert_eq!(states(&test), (start, Epoch(2)));
    test.pass_epochs(3);
    test.free(runs[1]);
    assert_eq!(states(&test), (start, Epoch(5)), "still waiting since then, touched now");
    test.pass_epochs(1);
    test.release(0, pages(8, 4), &PageBits::EMPTY, LARGE);
    assert_eq!(states(&test), (start, Epoch(5)), "nothing entered the ledger");
    assert_eq!(test.heap.pages.clock.oldest(), start);
    assert!(start > Nanos(0));
}
