//! Pages whose mapping is not the arena's ordinary one, and how they become ordinary before anybody else has them.
//!
//! What a program does to the pages of a block by the kernel (it keeps them from children or from core dumps, locks
//! or protects them, says on which node they are to be) lasts as long as the mapping, and the block's next owner
//! knows nothing of it. So such pages are marked, and where they become free a fresh mapping takes their place, as if
//! the block had been unmapped; where the kernel refuses that, what can be undone is undone.
//!
//! Pages that `mremap` has moved are marked for the same reason, and because their mapping is one of its own: a
//! fresh one is joined with its neighbours.

use core::ops::Range;
use core::sync::atomic::Ordering;

use crate::base::bits::PageRun;
use crate::base::units::{
    PAGE_BYTES, PageIndex, Pages, SEGMENT_BYTES, SEGMENT_PAGES, SegmentIndex,
};
use crate::geometry::arena::{Arena, ChunkIndex};
use crate::heap::Heap;
use crate::os::{self, AddressRange, Linux, Os};
use crate::pages::page_heap::LargeRun;

/// Marks those pages of `range` that lie in the heap. Any thread and any signal handler: takes no lock, and of ranges
/// elsewhere it costs a few comparisons.
pub(crate) fn mark(heap: &Heap, range: AddressRange) {
    mark_in_segments(&heap.pages.arena, range);
    heap.sampler.altered.mark(&heap.pages.arena, range);
}

fn mark_in_segments(arena: &Arena, range: AddressRange) {
    let base = arena.base();
    let start = range.start.max(base);
    let end = range.start.saturating_add(range.bytes);
    let end = end.min(base + arena.in_use() as usize * SEGMENT_BYTES);
    if start >= end {
        return;
    }
    let (first, end) = ((start - base) / PAGE_BYTES, (end - base).div_ceil(PAGE_BYTES));
    let pages = LargeRun {
        segment: SegmentIndex((first / SEGMENT_PAGES as usize) as u32),
        first: PageIndex((first % SEGMENT_PAGES as usize) as u32),
        pages: Pages((end - first) as u32),
    };
    for (segment, part) in pages.parts() {
        arena.segment(segment).altered.set(part);
    }
}

/// Is any page of a run marked that follows its first `keep`?
pub(super) fn is_any(arena: &Arena, run: LargeRun, keep: Pages) -> bool {
    hull(arena, run, keep).is_some()
}

/// From the first page that is marked to the last, as counted from the run's first; of those that follow `keep`.
fn hull(arena: &Arena, run: LargeRun, keep: Pages) -> Option<Range<u32>> {
    let mut hull: Option<Range<u32>> = None;
    let mut from = keep.0;
    for (segment, part) in run.parts_from(keep) {
        if let Some(marked) = arena.segment(segment).altered.within(part).hull() {
            let in_run = |page: u32| from + page - part.first.0;
            let start = hull.map_or(in_run(marked.first.0), |hull| hull.start);
            hull = Some(start..in_run(marked.end()));
        }
        from += part.pages.0;
    }
    hull
}

/// Makes the marked pages of a run ordinary, of those that follow its first `keep`, and all between two of them.
/// Returns those that are fresh now, and hold nothing, as counted from the run's first. `None`: the kernel refuses,
/// and nobody may have them. With no lock that `malloc` takes: the kernel has to free the old pages.
///
/// # Safety
/// The caller owns these pages and needs nothing of what they hold; nobody else touches them.
pub(super) unsafe fn renew(heap: &Heap, run: LargeRun, keep: Pages) -> Option<Range<u32>> {
    let Some(marked) = hull(&heap.pages.arena, run, keep) else { return Some(0..0) };
    let start = run.address(&heap.pages.arena) + marked.start as usize * PAGE_BYTES;
    let range = AddressRange { start, bytes: marked.len() * PAGE_BYTES };
    // SAFETY: the caller says so of these pages.
    let is_fresh = unsafe { make_ordinary(heap, range) }?;
    let pages = LargeRun { pages: Pages(marked.end), ..run };
    for (segment, part) in pages.parts_from(Pages(marked.start)) {
        heap.pages.arena.segment(segment).altered.clear(part);
    }
    Some(if is_fresh { marked } else { 0..0 })
}

/// The same for a chunk. Returns the pages that are fresh.
///
/// # Safety
/// As [`renew`].
pub(super) unsafe fn renew_chunk(heap: &Heap, chunk: ChunkIndex) -> Option<u16> {
    let run = PageRun::of_chunk(chunk.in_segment());
    let altered = &heap.pages.arena.segment(chunk.segment()).altered;
    let Some(marked) = altered.within(run).hull() else { return Some(0) };
    let page = marked.first.0 - run.first.0;
    let start = heap.pages.arena.chunk_address(chunk) + page as usize * PAGE_BYTES;
    let range = AddressRange { start, bytes: marked.pages.bytes().get() };
    // SAFETY: the caller says so of these pages.
    let is_fresh = unsafe { make_ordinary(heap, range) }?;
    altered.clear(marked);
    Some(if is_fresh { (((1u32 << marked.pages.0) - 1) << page) as u16 } else { 0 })
}

/// Makes pages ordinary. Returns whether they hold nothing now; `None` if the kernel refuses.
///
/// # Safety
/// As [`renew`].
#[cold]
unsafe fn make_ordinary(heap: &Heap, range: AddressRange) -> Option<bool> {
    heap.pages.metadata.map_calls.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller says so of these pages.
    if !unsafe { os::renew(range) } {
        // SAFETY: as above.
        return unsafe { os::undo_flags(range) }.then_some(false);
    }
    // Of a program that has locked all that it maps the fresh pages have memory already.
    let outcome = Linux.purge(&[range]);
    heap.uncached.zeroing_calls.fetch_add(outcome.calls, Ordering::Relaxed);
    Some(outcome.refused == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test_heap::TestHeap;
    use crate::testing::test_random::Random;

    /// Every range marks the pages that it touches, and none beside them; those outside of the arena do no harm.
    #[test]
    fn the_pages_of_a_range_are_marked() {
        const SEGMENTS: usize = 3;
        let test = TestHeap::new();
        let arena = &test.heap.pages.arena;
        test.take(SEGMENTS as u32 * SEGMENT_PAGES);
        const MARGIN: usize = 1 << 20;
        let all = SEGMENTS * SEGMENT_BYTES;
        let mut random = Random::new(5);
        for _ in 0..500 {
            let place = random.below((MARGIN + all) as u64) as usize;
            let start = arena.base() - MARGIN + place;
            let bytes = random.below((MARGIN + all - place) as u64) as usize;
            mark(&test.heap, AddressRange { start, bytes });
            for page in 0..all / PAGE_BYTES {
                let (segment, in_segment) =
                    (page as u32 / SEGMENT_PAGES, page as u32 % SEGMENT_PAGES);
                let altered = &arena.segment(SegmentIndex(segment)).altered;
                let from = arena.base() + page * PAGE_BYTES;
                let expected = bytes > 0 && from < start + bytes && from + PAGE_BYTES > start;
                assert_eq!(altered.within(PageRun::SEGMENT).get(in_segment), expected);
            }
            for segment in 0..SEGMENTS as u32 {
                arena.segment(SegmentIndex(segment)).altered.clear(PageRun::SEGMENT);
            }
        }
        for (start, bytes) in [(0, usize::MAX), (usize::MAX, usize::MAX), (0, 4096), (1 << 12, 0)] {
            mark(&test.heap, AddressRange { start, bytes });
        }
    }

    #[test]
    fn all_between_the_first_and_the_last_marked_page_is_fresh() {
        let test = TestHeap::new();
        let arena = &test.heap.pages.arena;
        let run = test.take(3 * SEGMENT_PAGES);
        let address = run.address(arena);
        let page = |page: usize| AddressRange { start: address + page * PAGE_BYTES, bytes: 1 };
        mark(&test.heap, page(2));
        mark(&test.heap, page(700));
        assert!(is_any(arena, run, Pages(2)) && !is_any(arena, run, Pages(701)));
        // SAFETY: the run is this test's, and nobody touches it.
        assert_eq!(unsafe { renew(&test.heap, run, Pages(701)) }, Some(0..0));
        // SAFETY: as above.
        assert_eq!(unsafe { renew(&test.heap, run, Pages(3)) }, Some(700..701));
        mark(&test.heap, page(700));
        // SAFETY: as above.
        assert_eq!(unsafe { renew(&test.heap, run, Pages(0)) }, Some(2..701));
        assert!(!is_any(arena, run, Pages(0)));
    }
}
