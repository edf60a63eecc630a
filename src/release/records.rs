//! Segments that are not used any more: their records go back to the system, too, and so do their addresses, which
//! count towards limits.
//!
//! A record is a hundredth of what it is about. When every page of a segment is free and clean it says
//! nothing that a record of zeros would not say (see [`Segment`]), so its pages
//! are given back like any others, and the first use of the segment begins with fresh ones.
//!
//! # Who else may be there
//!
//! - Whoever holds the page heap's lock: the segment is in no set while the kernel has its record
//!   ([`PageHeap::hold_record`]), so nobody allocates there; and
//!   nobody frees there, for nothing is in use.
//! - A thread that was slow: it put the last block but one of a span back, or looked for a span in the
//!   index, and was not heard of since. It may still look at a descriptor, at a word of the index or at
//!   `touched`. What it reads is as it was or zero. A descriptor that is zero has no generation, so it is
//!   not the span that this thread served, nor will any later one be; in the index zero is "no span here".
//!   It may write `touched`, which says nothing of a segment without spans, and may take a bit out of the
//!   index that is not there: a page of zeros then stays until the segment is next used and left.
//! - A reader outside, of this process or another, without any lock: it looks at pages in use, dirty pages
//!   and descriptors of spans that the page map names (which has none of this segment). Whether it reads
//!   before or after, or both pages of a record at different times, it reads "free and clean".
//! - A fork: it waits for the ticking lock, under which all this happens.

use super::purge::{Purged, REFUSED_DELAY_EPOCHS};
use crate::base::units::{Epoch, PAGE_BYTES, SegmentIndex};
use crate::geometry::segment::Segment;
use crate::os::{AddressRange, Os, PURGE_BATCH};
use crate::pages::HeapPages;
use crate::pages::page_heap::{IDLE_RECORD, PageHeap};

/// Epochs for which a segment must have been left alone before its record goes: a second of the usual
/// ones. To use it again soon costs five faults, beside up to 512 of its own pages.
pub(super) const IDLE_EPOCHS: u64 = 20;

const RECORD_PAGES: u64 = (size_of::<Segment>() / PAGE_BYTES) as u64;

/// So many unused segments side by side, at least, are unmapped: each gap makes two mappings of one, and a process may
/// have some tens of thousands.
const UNMAPPED_TOGETHER: usize = 4;

/// Records in the hands of one call.
pub(super) struct RecordBatch {
    segments: [SegmentIndex; PURGE_BATCH],
    /// By segment: it was mapped when it was taken, and it has been unmapped.
    was_mapped: [bool; PURGE_BATCH],
    is_unmapped: [bool; PURGE_BATCH],
    count: usize,
    ranges: [AddressRange; PURGE_BATCH],
    range_count: usize,
}

/// How much may be done, and for how many epochs a segment must have been left alone.
#[derive(Clone, Copy)]
pub(super) struct RecordLimits {
    pub rest_epochs: u64,
    pub pages: u64,
    pub calls: u64,
}

/// All that there are, at once.
pub(super) const ALL_RECORDS: RecordLimits =
    RecordLimits { rest_epochs: 0, pages: u64::MAX, calls: u64::MAX };

/// Gives back the records of segments that have been free and clean for long enough. With the ticking
/// lock held.
pub(super) fn give_records_back(
    pages: &HeapPages,
    os: &impl Os,
    now: Epoch,
    limits: &RecordLimits,
    batch: &mut RecordBatch,
) -> Purged {
    let mut purged = Purged::default();
    let mut from = SegmentIndex(0);
    loop {
        let pages_left = limits.pages.saturating_sub(purged.pages.0 as u64);
        let is_spent = pages_left < RECORD_PAGES || purged.calls >= limits.calls;
        let mut page_heap = pages.page_heap.lock();
        if is_spent {
            purged.is_waiting |= page_heap.next_in(&pages.arena, IDLE_RECORD, from).is_some();
            return purged;
        }
        let most = PURGE_BATCH.min((pages_left / RECORD_PAGES) as usize);
        purged.is_waiting |=
            batch.hold(pages, &mut page_heap, now, limits.rest_epochs, &mut from, most);
        drop(page_heap);
        if batch.count == 0 {
            return purged;
        }
        batch.unmap(pages);
        let outcome = os.purge(&batch.ranges[..batch.range_count]);
        purged.calls += outcome.calls;
        let mut page_heap = pages.page_heap.lock();
        purged.pages.0 +=
            batch.settle(pages, &mut page_heap, now, outcome.refused) * RECORD_PAGES as u32;
        pages.totals.update(|figures| {
            figures.record_calls.add(outcome.calls);
            figures.errors.add(outcome.refused.count_ones() as u64);
        });
    }
}

impl RecordBatch {
    pub const fn new() -> RecordBatch {
        RecordBatch {
            segments: [SegmentIndex(0); PURGE_BATCH],
            was_mapped: [false; PURGE_BATCH],
            is_unmapped: [false; PURGE_BATCH],
            count: 0,
            ranges: [AddressRange { start: 0, bytes: 0 }; PURGE_BATCH],
            range_count: 0,
        }
    }

    /// Takes the next records, `most` of them, those of neighbours as one range. Returns whether there
    /// were segments that have to rest longer.
    fn hold(
        &mut self,
        pages: &HeapPages,
        page_heap: &mut PageHeap,
        now: Epoch,
        rest_epochs: u64,
        from: &mut SegmentIndex,
        most: usize,
    ) -> bool {
        (self.count, self.range_count) = (0, 0);
        let mut is_waiting = false;
        while self.count < most
            && let Some(segment) = page_heap.next_in(&pages.arena, IDLE_RECORD, *from)
        {
            *from = SegmentIndex(segment.0 + 1);
            let states = page_heap.states(&pages.arena, segment);
            // Refused ones are not waited for.
            if now < states.no_record_purge_before {
                continue;
            }
            if now.since(states.vacated_last) < rest_epochs {
                is_waiting = true;
                continue;
            }
            page_heap.hold_record(&pages.arena, segment);
            self.segments[self.count] = segment;
            self.was_mapped[self.count] = !page_heap.is_unmapped(&pages.arena, segment);
            self.is_unmapped[self.count] = false;
            self.count += 1;
            let record = pages.arena.record_range(segment);
            let last = self.range_count.checked_sub(1).map(|last| &mut self.ranges[last]);
            match last {
                Some(last) if last.start + last.bytes == record.start => last.bytes += record.bytes,
                _ => {
                    self.ranges[self.range_count] = record;
                    self.range_count += 1;
                }
            }
        }
        is_waiting
    }

    /// Unmaps the segments, where enough are side by side or at the arena's end. One that is unmapped already may be
    /// others' by now.
    fn unmap(&mut self, pages: &HeapPages) {
        let mut first = 0;
        while first < self.count {
            let is_next = |&i: &usize| {
                self.was_mapped[i]
                    && self.segments[i].0 as usize == self.segments[first].0 as usize + i - first
            };
            let group = (first..self.count).take_while(is_next).count();
            let end = self.segments[first].0 + group as u32;
            if group >= UNMAPPED_TOGETHER || group > 0 && end == pages.arena.in_use() {
                // SAFETY: they are held, and have no page in use.
                unsafe { pages.arena.unmap(self.segments[first], group as u32) };
                self.is_unmapped[first..first + group].fill(true);
            }
            first += group.max(1);
        }
    }

    /// Lets go of the records; returns how many are gone. `refused`: which ranges the kernel says that it
    /// has not taken.
    fn settle(&self, pages: &HeapPages, page_heap: &mut PageHeap, now: Epoch, refused: u64) -> u32 {
        let (mut gone, mut index) = (0, 0);
        let mut segments = &self.segments[..self.count];
        for (i, range) in self.ranges[..self.range_count].iter().enumerate() {
            let (of_range, rest) = segments.split_at(range.bytes / size_of::<Segment>());
            segments = rest;
            // Some say that they have done what they have not, and of a range that is refused a part may
            // be gone. So the first of a range is looked at, and all of one that is not wholly gone; not
            // more, for a look is a page of zeros in the page table.
            let all_are_gone =
                refused >> i & 1 == 0 && page_heap.states(&pages.arena, of_range[0]).is_empty();
            for &segment in of_range {
                if self.is_unmapped[index] {
                    page_heap.set_unmapped(&pages.arena, segment);
                }
                index += 1;
                let is_gone = all_are_gone || page_heap.states(&pages.arena, segment).is_empty();
                page_heap.settle_record(&pages.arena, &pages.totals, segment, is_gone);
                gone += is_gone as u32;
                if !is_gone {
                    let before =
                        &mut page_heap.states(&pages.arena, segment).no_record_purge_before;
                    *before = Epoch(now.0 + REFUSED_DELAY_EPOCHS);
                }
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests;
