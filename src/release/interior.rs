//! Pages inside spans in use: those on which no block is live. With survivors scattered over every
//! span, few spans become empty, and these pages are most of what there is to give back.
//!
//! A span is held while its pages are looked at and given back: nobody claims a block meanwhile, and
//! what comes back only adds free blocks. The span's record of resident pages keeps a page from
//! being given back twice; a claim enters it again.

use core::sync::atomic::Ordering;

use super::delays::INTERIOR;
use super::journal::Journal;
use super::purge::{PurgeLimits, Purged, event_of};
use crate::base::atomics::fence_after_rmw;
use crate::base::units::{CHUNK_PAGES, Epoch, PAGE_BYTES, Pages, SEGMENT_CHUNKS, SegmentIndex};
use crate::geometry::arena::ChunkIndex;
use crate::geometry::size_class::SizeClass;
use crate::geometry::span_index;
use crate::heap::Heap;
use crate::heap::central;
use crate::hooks::probes;
use crate::hooks::sections::{self, Section};
use crate::os::{AddressRange, Nanos, Os, PURGE_BATCH};
use crate::pages::totals::PurgedBatch;
use crate::pages::touched::mark;

/// A span in the hands of a purge, and which of its pages go.
#[derive(Clone, Copy)]
struct HeldSpan {
    class: SizeClass,
    chunk: ChunkIndex,
    pages: u16,
    /// The first of its ranges in the batch.
    first_range: usize,
}

/// Spans that are held until one call to the kernel has given their pages back.
pub(super) struct InteriorBatch {
    ranges: [AddressRange; PURGE_BATCH],
    range_count: usize,
    spans: [Option<HeldSpan>; PURGE_BATCH],
    span_count: usize,
    pages: u64,
}

/// Gives back pages inside spans of segments that have been left alone for long enough. With the
/// ticking lock held.
pub(super) fn purge_interiors(
    heap: &Heap,
    journal: &Journal,
    os: &impl Os,
    now: Epoch,
    limits: &PurgeLimits,
    batch: &mut InteriorBatch,
) -> Purged {
    let _section = sections::enter(Section::Purge);
    let began = os.exact_now();
    // In a copy of the process it may be another thread's, which was in the middle of this.
    batch.clear();
    let mut purge =
        Purge { heap, journal, os, limits, batch, pages: 0, calls: 0, counted_until: began };
    let mut is_waiting = false;
    let rows = heap.pages.arena.in_use().div_ceil(64);
    for row in 0..rows {
        let touched = heap.pages.arena.touched_word(row as usize);
        let mut segments = touched.load(Ordering::Relaxed);
        while segments != 0 {
            let bit = segments & segments.wrapping_neg();
            let segment = SegmentIndex(row * 64 + segments.trailing_zeros());
            segments &= segments - 1;
            let last = heap.pages.arena.segment(segment).touched.load(Ordering::Relaxed);
            let has_rested = now.since(Epoch(last)) >= limits.delay_epochs[INTERIOR].max(1);
            if !has_rested || purge.is_spent() {
                is_waiting = true;
                continue;
            }
            // Before the bitmaps are looked at: a block that comes back later sets it again.
            // AcqRel: partner of the fetch_or in `touch`.
            touched.fetch_and(!bit, Ordering::AcqRel);
            fence_after_rmw();
            if !purge.segment(segment) {
                mark(&heap.pages, segment);
                is_waiting |= purge.is_spent();
            }
        }
    }
    purge.flush();
    let (pages, took) = (Pages(purge.pages as u32), purge.counted_until.since(began));
    Purged { pages, calls: purge.calls, is_waiting, took }
}

impl InteriorBatch {
    pub const fn new() -> InteriorBatch {
        InteriorBatch {
            ranges: [AddressRange { start: 0, bytes: 0 }; PURGE_BATCH],
            range_count: 0,
            spans: [None; PURGE_BATCH],
            span_count: 0,
            pages: 0,
        }
    }

    fn clear(&mut self) {
        (self.range_count, self.span_count, self.pages) = (0, 0, 0);
    }
}

struct Purge<'a, O: Os> {
    heap: &'a Heap,
    journal: &'a Journal,
    os: &'a O,
    limits: &'a PurgeLimits,
    batch: &'a mut InteriorBatch,
    pages: u64,
    calls: u64,
    counted_until: Nanos,
}

impl<O: Os> Purge<'_, O> {
    /// Is there no budget for more?
    fn is_spent(&self) -> bool {
        let is_over = self.limits.is_over() || self.calls >= self.limits.calls;
        is_over || self.pages + self.batch.pages >= self.limits.pages
    }

    /// `false`: some spans were passed over and have to be looked at again.
    fn segment(&mut self, segment: SegmentIndex) -> bool {
        let mut is_done = true;
        for chunk in 0..SEGMENT_CHUNKS {
            let chunk = ChunkIndex::new(segment, chunk);
            let class = self.heap.pages.arena.class_at(chunk.byte_offset());
            // First without holding the span: most have nothing to give.
            if class != SizeClass::NONE
                && self.heap.pages.arena.span(chunk).purgeable_pages(class) != 0
            {
                is_done &= self.span(class, chunk);
            }
        }
        is_done
    }

    /// Takes a span's pages into the batch. `false`: not all of them.
    fn span(&mut self, class: SizeClass, chunk: ChunkIndex) -> bool {
        // A span has no more ranges than every second page.
        if self.batch.range_count + CHUNK_PAGES as usize / 2 > PURGE_BATCH {
            self.flush();
        }
        if self.is_spent()
            || !self.limits.coverage.includes_class(class)
            || !span_index::try_take(&self.heap.pages.arena, class, chunk)
        {
            return false;
        }
        let wanted = self.heap.pages.arena.span(chunk).purgeable_pages(class);
        let pages = lowest(wanted, self.limits.pages - self.pages - self.batch.pages);
        if pages == 0 {
            central::give_up_span(self.heap, class, chunk);
            return true;
        }
        let held = HeldSpan { class, chunk, pages, first_range: self.batch.range_count };
        let start = self.heap.pages.arena.chunk_address(chunk);
        for run in runs_of(pages) {
            let range = AddressRange {
                start: start + run.start as usize * PAGE_BYTES,
                bytes: run.len() * PAGE_BYTES,
            };
            self.batch.ranges[self.batch.range_count] = range;
            self.batch.range_count += 1;
        }
        self.batch.spans[self.batch.span_count] = Some(held);
        self.batch.span_count += 1;
        self.batch.pages += pages.count_ones() as u64;
        pages == wanted
    }

    /// Gives the batch back, and parts with its spans.
    fn flush(&mut self) {
        let (heap, batch) = (self.heap, &mut *self.batch);
        let mut purged = 0;
        if batch.range_count > 0 {
            probes::purge_begin(batch.range_count as u64, 1);
            let outcome = self.os.purge(&batch.ranges[..batch.range_count]);
            self.calls += outcome.calls;
            for held in batch.spans[..batch.span_count].iter().flatten() {
                let mut given_back = held.pages;
                for (i, run) in runs_of(held.pages).enumerate() {
                    if outcome.refused >> (held.first_range + i) & 1 == 1 {
                        given_back &= !(mask_below(run.end) & !mask_below(run.start));
                    }
                }
                heap.pages.arena.span(held.chunk).mark_purged(given_back);
                purged += given_back.count_ones() as u64;
            }
            let took = self.os.exact_now().since(self.counted_until);
            self.counted_until.0 += took.0;
            let (ranges, wanted) = (batch.range_count as u64, [0, 0, 0, 0, batch.pages]);
            probes::purge_end(ranges, purged, outcome.calls, outcome.took.micros(), 1);
            let batch = PurgedBatch { outcome, ranges, wanted, pages: purged, took };
            self.journal.record(event_of(&batch));
            let _page_heap = heap.pages.page_heap.lock();
            heap.pages.totals.update(|figures| {
                figures.interior_pages.add(purged);
                figures.span_pages_retired.add(purged);
                figures.count_purge(&batch);
            });
        }
        self.pages += purged;
        for held in batch.spans[..batch.span_count].iter().flatten() {
            central::give_up_span(heap, held.class, held.chunk);
        }
        batch.clear();
    }
}

/// The lowest `count` set bits, or all.
fn lowest(pages: u16, count: u64) -> u16 {
    let mut rest = pages;
    for _ in 0..count.min(CHUNK_PAGES as u64) {
        rest &= rest.wrapping_sub(1);
    }
    pages & !rest
}

fn mask_below(bit: u32) -> u16 {
    ((1u32 << bit) - 1) as u16
}

/// The maximal runs of set bits, lowest first.
fn runs_of(pages: u16) -> impl Iterator<Item = core::ops::Range<u32>> {
    let mut rest = pages as u32;
    core::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let start = rest.trailing_zeros();
        let end = start + (!(rest >> start)).trailing_zeros();
        rest &= !((1 << end) - 1);
        Some(start..end)
    })
}

#[cfg(test)]
mod tests;
