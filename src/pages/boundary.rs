//! The release boundary: the only place where pages become free.

use crate::base::bits::{PageBits, PageRun};
use crate::base::units::{CHUNK_PAGES, SEGMENT_BYTES, SegmentIndex};
use crate::geometry::arena::ChunkIndex;
use crate::geometry::reason::ReleaseReason;
use crate::geometry::size_class::SizeClass;
use crate::hooks::probes;
use crate::os::Os;
use crate::os::report;
use crate::pages::HeapPages;
use crate::pages::page_heap::PageHeap;

/// Marks `run` of a segment free, enters those of its pages that may be resident (`resident`) into
/// the ledger, and counts. `&mut PageHeap` proves that the page heap's lock is held.
///
/// Nothing else in Slackwater sets free bits, so nothing else can make pages purgeable; what a purge
/// may give back has passed these checks. A failed check ends the process with a message: a heap
/// that frees a page twice, or one that is in use, can only corrupt memory.
pub(crate) fn release_range_definitely_free(
    pages: &HeapPages,
    os: &impl Os,
    page_heap: &mut PageHeap,
    segment: SegmentIndex,
    run: PageRun,
    resident: &PageBits,
    reason: ReleaseReason,
) {
    let HeapPages { arena, totals, clock, .. } = pages;
    let address = arena.base() + segment.0 as usize * SEGMENT_BYTES + run.first.byte_offset();
    if segment.0 >= arena.in_use() {
        report::fail("release of pages in a segment that is not in use", address);
    }
    let states = page_heap.states(arena, segment);
    if states.free().any(run) {
        report::fail("release of pages that are free already", address);
    }
    let first = run.first.0 / CHUNK_PAGES;
    let last = (run.end() - 1) / CHUNK_PAGES;
    for chunk in first..=last {
        let chunk = ChunkIndex::new(segment, chunk);
        let class = arena.class_at(chunk.byte_offset());
        let of_span =
            reason != ReleaseReason::LargeFree && run == PageRun::of_chunk(chunk.in_segment());
        let empty = || arena.span(chunk).is_empty(class.blocks_per_span());
        if class != SizeClass::NONE && !(of_span && empty()) {
            report::fail("release of pages of a span in use", address);
        }
    }
    if states.dirty_is_empty() {
        let now = os.now();
        states.dirty_since = now;
        if totals.figures().pending_pages.get() == 0 {
            clock.set_oldest(now);
        }
    }
    let joins = states.vacate(run, resident, reason, clock.epoch());
    page_heap.refresh(arena, segment);
    let entered = resident.within(run).count().0 as u64;
    totals.update(|figures| {
        figures.enqueued[reason as usize].add(1);
        figures.enqueued_pages.add(entered);
        figures.coalesced.add(joins as u64);
        figures.used_pages.subtract(run.pages.0 as u64);
        figures.pending_pages.add(entered);
    });
    probes::release(reason as u64, address as u64, run.pages.0 as u64, entered);
}

#[cfg(test)]
mod tests;
