//! Purge: pending ranges out of the ledger, into as few system calls as possible.
//!
//! A range is claimed under the page heap's lock, so that nobody can allocate it; the kernel is
//! called without the lock; then the range is settled: free and clean.

use core::sync::atomic::{AtomicU32, Ordering};

use super::delays::{INTERIOR, KINDS};
use crate::base::bits::{PageBits, PageRun};
use crate::base::units::{Epoch, PageIndex, Pages, SEGMENT_BYTES, SegmentIndex};
use crate::geometry::arena::Arena;
use crate::geometry::reason::ReleaseReason;
use crate::geometry::segment::PageStates;
use crate::heap::knobs::Coverage;
use crate::hooks::probes;
use crate::hooks::sections::{self, Section};
use crate::os::{AddressRange, Nanos, Os, PURGE_BATCH};
use crate::pages::HeapPages;
use crate::pages::page_heap::{PENDING, PageHeap};
use crate::pages::totals::{PurgedBatch, Totals};
use crate::release::journal::{Event, Journal, Period};

/// After the kernel refused a range (or did not act on it), epochs until the next attempt there.
pub(super) const REFUSED_DELAY_EPOCHS: u64 = 64;

/// How much one purge may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PurgeLimits {
    pub pages: u64,
    pub calls: u64,
    /// Epochs for which a segment must have been left alone, by kind of page.
    pub delay_epochs: [u64; KINDS],
    pub coverage: Coverage,
    /// Where this is not 0 any more, the purge ends with the batch in hand.
    pub stop: Option<&'static AtomicU32>,
}

impl PurgeLimits {
    /// Those of each of two that share the work.
    pub(super) fn half(self) -> PurgeLimits {
        PurgeLimits { pages: self.pages.div_ceil(2), calls: self.calls.div_ceil(2), ..self }
    }

    /// Is the purge to end?
    pub(super) fn is_over(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed) != 0)
    }
}

/// Limits that let nothing be done.
pub(super) const NOTHING: PurgeLimits = PurgeLimits {
    pages: 0,
    calls: 0,
    delay_epochs: [0; KINDS],
    coverage: Coverage::NONE,
    stop: None,
};

/// No limit: whatever waits, and whatever the knobs say.
pub(super) const EVERYTHING: PurgeLimits = PurgeLimits {
    pages: u64::MAX,
    calls: u64::MAX,
    delay_epochs: [0; KINDS],
    coverage: Coverage::ALL,
    stop: None,
};

/// Ranges in the hands of a purge. With its 1.8 KiB it lives where the purge's lock is, not on a stack that may
/// be any thread's; a thread of our own has it on its stack.
pub(crate) struct Batch {
    ranges: [AddressRange; PURGE_BATCH],
    places: [(SegmentIndex, PageIndex, Pages); PURGE_BATCH],
    len: usize,
}

/// What a purge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Purged {
    pub pages: Pages,
    pub calls: u64,
    /// There are pages that have to rest longer, or for which there was no budget.
    pub is_waiting: bool,
    /// The part of the time that is in a batch's figures; the tick subtracts it from its own.
    pub took: Nanos,
}

impl Batch {
    pub const fn new() -> Batch {
        Batch {
            ranges: [AddressRange { start: 0, bytes: 0 }; PURGE_BATCH],
            places: [(SegmentIndex(0), PageIndex(0), Pages(0)); PURGE_BATCH],
            len: 0,
        }
    }
}

/// Gives pending pages back, within the limits.
pub(crate) fn purge(
    pages: &HeapPages,
    journal: &Journal,
    os: &impl Os,
    now: Epoch,
    limits: PurgeLimits,
    batch: &mut Batch,
) -> Purged {
    let _section = sections::enter(Section::Purge);
    let HeapPages { arena, page_heap, totals, .. } = pages;
    let began = os.exact_now();
    let mut counted_until = began;
    let mut is_waiting = false;
    let mut left = limits.pages;
    let mut calls = 0;
    let mut purged = 0;
    let mut scan = Scan::new(page_heap.lock().purge_from);
    while left > 0 && calls < limits.calls && !limits.is_over() {
        let mut locked = page_heap.lock();
        is_waiting |= claim_batch(&mut locked, arena, now, &limits, left, &mut scan, batch);
        drop(locked);
        if batch.len == 0 {
            break;
        }
        probes::purge_begin(batch.len as u64, 0);
        let outcome = os.purge(&batch.ranges[..batch.len]);
        calls += outcome.calls;
        let (mut wanted, mut given_by_batch) = ([0; KINDS], 0);
        let mut locked = page_heap.lock();
        for (i, &(segment, first, pages)) in batch.places[..batch.len].iter().enumerate() {
            let run = PageRun::new(first, pages);
            let given_back = outcome.refused >> i & 1 == 0;
            let by_reason =
                settle(&mut locked, arena, totals, (now, os.now()), segment, run, given_back);
            for (wanted, pages) in wanted.iter_mut().zip(by_reason) {
                *wanted += pages;
            }
            let given = if given_back { by_reason.iter().sum() } else { 0 };
            given_by_batch += given;
            left = left.saturating_sub(given);
        }
        purged += given_by_batch;
        locked.purge_from = scan.next;
        let took = os.exact_now().since(counted_until);
        counted_until.0 += took.0;
        let (ranges, pages) = (batch.len as u64, given_by_batch);
        probes::purge_end(ranges, pages, outcome.calls, outcome.took.micros(), 0);
        let done = PurgedBatch { outcome, ranges, wanted, pages, took };
        journal.record(event_of(&done));
        // With the lock held, as every change of the totals.
        totals.update(|figures| figures.count_purge(&done));
        drop(locked);
    }
    is_waiting |= left == 0 || calls >= limits.calls || limits.is_over();
    Purged { pages: Pages(purged as u32), calls, is_waiting, took: counted_until.since(began) }
}

/// What the journal says of a batch.
pub(super) fn event_of(batch: &PurgedBatch) -> Event {
    let PurgedBatch { ranges, pages, .. } = *batch;
    Event::Purge {
        period: Period::new(batch.outcome.began, batch.outcome.took),
        ranges,
        pages,
        calls: batch.outcome.calls,
        is_interior: batch.wanted[INTERIOR] > 0,
    }
}

/// A walk over the pending segments: from where the last purge stopped, around, to there again.
struct Scan {
    next: SegmentIndex,
    stop: SegmentIndex,
    wrapped: bool,
}

impl Scan {
    fn new(from: SegmentIndex) -> Scan {
        Scan { next: from, stop: from, wrapped: false }
    }

    /// The segment to look at, which may be the same as before.
    fn current(&mut self, pages: &mut PageHeap, arena: &Arena) -> Option<SegmentIndex> {
        loop {
            match pages.next_in(arena, PENDING, self.next) {
                Some(segment) if !self.wrapped || segment < self.stop => {
                    self.next = segment;
                    return Some(segment);
                }
                None if !self.wrapped => {
                    self.wrapped = true;
                    self.next = SegmentIndex(0);
                }
                _ => return None,
            }
        }
    }
}

/// The dirty pages of a segment, left alone for `rested` epochs, that may go; and whether there are others,
/// which have to rest longer.
fn rested_pages(states: &PageStates, limits: &PurgeLimits, rested: u64) -> (PageBits, bool) {
    let (mut wanted, mut is_resting) = (PageBits::EMPTY, false);
    for reason in ReleaseReason::ALL {
        if !limits.coverage.includes(reason) {
            continue;
        }
        let pages = states.with_reason(&states.dirty(), reason);
        if rested >= limits.delay_epochs[reason as usize] {
            wanted = wanted.or(&pages);
        } else {
            is_resting |= !pages.is_empty();
        }
    }
    (wanted, is_resting)
}

/// Claims the next ranges. Returns whether there were pages that have to rest longer.
fn claim_batch(
    pages: &mut PageHeap,
    arena: &Arena,
    now: Epoch,
    limits: &PurgeLimits,
    budget: u64,
    scan: &mut Scan,
    batch: &mut Batch,
) -> bool {
    batch.len = 0;
    let mut is_waiting = false;
    let mut left = budget;
    let mut claimed = 0;
    while left > 0
        && let Some(segment) = scan.current(pages, arena)
    {
        let states = pages.states(arena, segment);
        let rested = now.since(states.dirty_last);
        if now >= states.no_purge_before {
            let (wanted, is_resting) = rested_pages(states, limits, rested);
            is_waiting |= is_resting;
            let clean = states.clean();
            let mut from = 0;
            while let Some(run) = wanted.next_run(from) {
                if batch.len == PURGE_BATCH {
                    pages.claimed_pages += claimed;
                    pages.refresh(arena, segment);
                    return is_waiting;
                }
                let mut run = PageRun::new(run.first, Pages((run.pages.0 as u64).min(left) as u32));
                let mut wanted_pages = run.pages.0 as u64;
                // Free pages that are clean already cost less in the middle of a range than another
                // range does: spans whose blocks leave their last pages over have them everywhere.
                while let Some(next) = wanted.next_run(run.end())
                    && next.pages.0 as u64 <= left - wanted_pages
                    && clean.all(PageRun::between(run.end(), next.first.0))
                {
                    wanted_pages += next.pages.0 as u64;
                    run = PageRun::between(run.first.0, next.end());
                }
                let offset = segment.0 as usize * SEGMENT_BYTES + run.first.byte_offset();
                states.claim(run);
                claimed += run.pages.0 as u64;
                batch.places[batch.len] = (segment, run.first, run.pages);
                batch.ranges[batch.len] =
                    AddressRange { start: arena.base() + offset, bytes: run.pages.bytes().get() };
                batch.len += 1;
                left -= wanted_pages;
                from = run.end();
                if left == 0 {
                    // What is left of this segment waits for its next turn, after all others.
                    break;
                }
            }
            pages.refresh(arena, segment);
        }
        scan.next = SegmentIndex(segment.0 + 1);
    }
    pages.claimed_pages += claimed;
    is_waiting
}

/// Ends a claim. Returns how many dirty pages it was for, by reason.
fn settle(
    pages: &mut PageHeap,
    arena: &Arena,
    totals: &Totals,
    (epoch, now): (Epoch, Nanos),
    segment: SegmentIndex,
    run: PageRun,
    given_back: bool,
) -> [u64; 4] {
    let states = pages.states(arena, segment);
    let bits = states.dirty_in(run);
    let by_reason =
        ReleaseReason::ALL.map(|reason| states.with_reason(&bits, reason).count().0 as u64);
    if given_back {
        totals.update(|figures| {
            for (figure, pages) in figures.purged_pages.iter().zip(by_reason) {
                figure.add(pages);
            }
            figures.pending_pages.subtract(by_reason.iter().sum());
        });
    } else {
        states.no_purge_before = Epoch(epoch.0 + REFUSED_DELAY_EPOCHS);
    }
    states.settle(run, given_back, now);
    pages.claimed_pages -= run.pages.0 as u64;
    pages.refresh(arena, segment);
    by_reason
}

#[cfg(test)]
mod tests;
