//! Who owns which pages: allocation of chunks for spans and of page runs, under one lock.
//!
//! What becomes free comes in through [`crate::pages::boundary`] alone; this file only takes.
//!
//! Segments stand in sets, so that one with room is found without looking at the others: a set for
//! each power of two of the longest free run, one for "has a free chunk", one for "has a free chunk
//! that is still resident", one for "has dirty pages", one for "is wholly free and clean, and has a
//! record all the same", and one for those at whose addresses others have something. Within a set the
//! lowest address comes first.

use crate::base::bits::{PageBits, PageRun};
use crate::base::counter::Counter;
use crate::base::units::{
    CHUNK_PAGES, PageIndex, Pages, SEGMENT_BYTES, SEGMENT_PAGES, SegmentIndex,
};
use crate::geometry::arena::{Arena, ChunkIndex, Growth, SEGMENT_SETS};
use crate::geometry::segment::{PageStates, Taken};
use crate::geometry::size_class::SizeClass;
use crate::geometry::slot::SlotIndex;
use crate::os::{AddressRange, Mapped, Os};
use crate::pages::totals::{PageCounters, Totals};

/// Sets 0 to 9: the longest free run has 2^i pages or more, but not 2^(i+1).
const RUN_SETS: usize = 10;
/// A chunk is free.
const FREE_CHUNK: usize = 10;
/// A chunk is free and some of it may be resident.
const DIRTY_CHUNK: usize = 11;
/// Dirty pages wait for their purge.
pub(crate) const PENDING: usize = 12;
/// Every page is free and clean, after some were in use: the record says nothing any more.
pub(crate) const IDLE_RECORD: usize = 13;

// Two sets that the segment's record does not know of.

/// The record was given back, and every page was purged before.
const LOST_RECORD: usize = 14;
/// The record is in the hands of whoever gives it back. The segment is in no other set meanwhile, and
/// nobody else looks at it.
const HELD_RECORD: usize = 15;

/// Others have mapped something there. The segment is in no other set, its record is empty, and nobody allocates
/// there.
const OTHERS: usize = 16;

/// All pages are free and clean, and their addresses unmapped: they are mapped before they are used.
const UNMAPPED: usize = 17;

const _: () = assert!(UNMAPPED < SEGMENT_SETS);

/// The sets of a segment that was never used: one free run, and every chunk free.
const FRESH_SETS: u16 = 1 << (RUN_SETS - 1) | 1 << FREE_CHUNK;
const _: () = assert!(SEGMENT_PAGES.ilog2() as usize == RUN_SETS - 1);

/// The arena grows by an eighth of itself, between these numbers of segments.
/// What a program has locked into memory, it has to its last page.
const GROW_MIN: u32 = 1;
const GROW_MAX: u32 = 4;

/// How many segments of one set to look into before trying the next larger set.
const MAX_TRIES: usize = 16;

/// Does a run take whole segments, from a segment's first page on?
fn is_of_segments(pages: Pages, align_pages: u32) -> bool {
    pages.0 > SEGMENT_PAGES || align_pages > SEGMENT_PAGES
}

/// A large page run. It lies in one segment, or starts at a segment's first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LargeRun {
    pub segment: SegmentIndex,
    pub first: PageIndex,
    pub pages: Pages,
}

impl LargeRun {
    /// The block's address.
    pub fn address(self, arena: &Arena) -> usize {
        arena.base() + self.segment.0 as usize * SEGMENT_BYTES + self.first.byte_offset()
    }

    /// Its addresses.
    pub fn range(self, arena: &Arena) -> AddressRange {
        AddressRange { start: self.address(arena), bytes: self.pages.bytes().get() }
    }

    /// The parts of the run by segment.
    pub fn parts(self) -> impl Iterator<Item = (SegmentIndex, PageRun)> {
        self.parts_from(Pages(0))
    }

    /// The parts by segment of what follows the first `skip` pages.
    pub fn parts_from(self, skip: Pages) -> impl Iterator<Item = (SegmentIndex, PageRun)> {
        let mut at = self.first.0 + skip.0;
        let end = self.first.0 + self.pages.0;
        core::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let segment = SegmentIndex(self.segment.0 + at / SEGMENT_PAGES);
            let first = at % SEGMENT_PAGES;
            let pages = (end - at).min(SEGMENT_PAGES - first);
            at += pages;
            Some((segment, PageRun::new(PageIndex(first), Pages(pages))))
        })
    }
}

/// A run just taken, and what its pages hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TakenRun {
    pub run: LargeRun,
    /// Whether any page may hold old content, and which ones for a run inside one segment.
    pub any_dirty: bool,
    pub dirty: PageBits,
}

/// The page heap. Lives in a lock; `&mut` proves that it is held, and with it the [`PageStates`] of
/// every segment.
///
/// # Invariants
/// - A segment's bit in each set, its `sets` mask and its page states agree; but where it is in
///   [`HELD_RECORD`], it is in no set that its record knows of.
/// - Of a segment in [`UNMAPPED`] no page is in use, dirty or claimed.
/// - A segment in [`LOST_RECORD`] has an empty record. `records` in the totals counts those that are not.
/// - No set has a segment below the row that `lowest_row` names for it.
pub(crate) struct PageHeap {
    lowest_row: [u32; SEGMENT_SETS],
    /// Where the last purge stopped looking, so that a small budget reaches every segment.
    pub purge_from: SegmentIndex,
    /// Pages in the hands of purges, and those of segments whose record is.
    pub claimed_pages: u64,
}

impl PageHeap {
    pub const fn new() -> PageHeap {
        PageHeap { lowest_row: [0; SEGMENT_SETS], purge_from: SegmentIndex(0), claimed_pages: 0 }
    }

    /// Might a take that failed succeed once purges have given back what they have in hand?
    pub fn is_worth_waiting_for(&self) -> bool {
        self.claimed_pages > 0
    }

    /// The page states of a segment in use.
    pub fn states<'a>(&'a mut self, arena: &'a Arena, segment: SegmentIndex) -> &'a mut PageStates {
        let pages = arena.segment(segment).pages.get();
        // SAFETY: page states are guarded by the lock that `self` lives in, and `&mut self` is the
        // only way here, so this is the only reference.
        unsafe { &mut *pages }
    }

    /// Which sample the large run is that starts at `page` of a segment in use; 0 if none.
    pub fn sample_at<'a>(
        &'a mut self,
        arena: &'a Arena,
        segment: SegmentIndex,
        page: PageIndex,
    ) -> &'a mut SlotIndex {
        let chunk = &arena.segment(segment).chunks[(page.0 / CHUNK_PAGES) as usize];
        // SAFETY: these, too, are guarded by the lock that `self` lives in, and `&mut self` is the only
        // way here.
        let samples = unsafe { &mut *chunk.samples.get() };
        &mut samples[(page.0 % CHUNK_PAGES) as usize]
    }

    /// Puts the segment into the sets that its page states call for. After every change of them.
    pub fn refresh(&mut self, arena: &Arena, segment: SegmentIndex) {
        let states = self.states(arena, segment);
        let sets = Self::sets_of(states);
        let changed = states.sets(FRESH_SETS) ^ sets;
        if changed != 0 {
            states.set_sets(sets, FRESH_SETS);
            self.change_sets(arena, segment, changed.into());
        }
    }

    /// The sets that a segment's page states call for.
    fn sets_of(states: &PageStates) -> u16 {
        let allocatable = states.allocatable();
        let dirty = states.dirty();
        let mut sets = 0u16;
        let longest = allocatable.longest_run();
        if longest.0 > 0 {
            sets |= 1 << longest.0.ilog2();
        }
        let chunks = allocatable.full_chunks();
        if chunks != 0 {
            sets |= 1 << FREE_CHUNK;
        }
        if !dirty.is_empty() {
            sets |= 1 << PENDING;
            if chunks & dirty.nonempty_chunks() != 0 {
                sets |= 1 << DIRTY_CHUNK;
            }
        } else if longest.0 == SEGMENT_PAGES {
            sets |= 1 << IDLE_RECORD;
        }
        sets
    }

    /// Takes the segment out of those of the sets `changed` in which it is, and puts it into the others.
    fn change_sets(&mut self, arena: &Arena, segment: SegmentIndex, changed: u32) {
        let row = segment.0 / 64;
        // SAFETY: `&mut self` lives in the lock; the slice is gone at the end of this function.
        let words = &mut unsafe { arena.segment_sets() }[row as usize];
        let mut rest = changed;
        while rest != 0 {
            let set = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            words[set] ^= 1 << (segment.0 % 64);
            if words[set] >> (segment.0 % 64) & 1 == 1 {
                self.lowest_row[set] = self.lowest_row[set].min(row);
            }
        }
    }

    /// Walks the invariants of a segment's sets.
    #[cfg(test)]
    pub fn check_sets(&mut self, arena: &Arena, segment: SegmentIndex) {
        let is_held = self.is_in(arena, HELD_RECORD, segment);
        let is_lost = self.is_in(arena, LOST_RECORD, segment);
        let states = self.states(arena, segment);
        let (sets, is_empty) = (states.sets(FRESH_SETS), states.is_empty());
        assert!(!is_lost || is_empty, "a record that was given back is empty");
        if is_empty {
            let all = PageBits::of(PageRun::SEGMENT);
            assert_eq!(states.clean(), all, "an empty record is that of free and clean pages");
            for page in 0..SEGMENT_PAGES {
                assert_eq!(
                    self.states(arena, segment).run_at(PageIndex(page)),
                    None,
                    "with no run"
                );
                assert_eq!(*self.sample_at(arena, segment, PageIndex(page)), 0, "nor a sample");
            }
        }
        let is_others = self.is_others(arena, segment);
        assert!(!is_others || !is_lost && !is_held, "nobody allocates where others are");
        if is_others || self.is_unmapped(arena, segment) {
            let all = PageBits::of(PageRun::SEGMENT);
            let clean = self.states(arena, segment).clean();
            assert_eq!(clean, all, "no page is in use or dirty that is not there");
        }
        for set in 0..LOST_RECORD {
            let expected = !is_held && !is_others && sets >> set & 1 == 1;
            assert_eq!(self.is_in(arena, set, segment), expected, "set {set} and the record agree");
        }
    }

    /// Is the segment in this set?
    fn is_in(&mut self, arena: &Arena, set: usize, segment: SegmentIndex) -> bool {
        // SAFETY: `&mut self` lives in the lock; the slice is gone at the end of this function.
        let rows = unsafe { arena.segment_sets() };
        rows[segment.0 as usize / 64][set] >> (segment.0 % 64) & 1 == 1
    }

    /// Have others mapped something at the addresses of this segment in use?
    pub fn is_others(&mut self, arena: &Arena, segment: SegmentIndex) -> bool {
        self.is_in(arena, OTHERS, segment)
    }

    /// The caller has unmapped a segment that is held ([`PageHeap::hold_record`]).
    pub fn set_unmapped(&mut self, arena: &Arena, segment: SegmentIndex) {
        debug_assert!(self.is_in(arena, HELD_RECORD, segment));
        self.change_sets(arena, segment, 1 << UNMAPPED);
        arena.count_unmapped(1);
    }

    /// Is it so?
    pub fn is_unmapped(&mut self, arena: &Arena, segment: SegmentIndex) -> bool {
        self.is_in(arena, UNMAPPED, segment)
    }

    /// Before pages of a segment are used: maps it, if it is not. If others have been quicker it is theirs from now on.
    fn make_mapped(&mut self, arena: &Arena, os: &impl Os, segment: SegmentIndex) -> Mapped {
        if !self.is_in(arena, UNMAPPED, segment) {
            return Mapped::Here;
        }
        let outcome = arena.map_again(os, segment);
        let mut changed = 1 << UNMAPPED;
        match outcome {
            Mapped::Refused => return outcome,
            Mapped::Here => {}
            Mapped::Taken => {
                let is_lost = self.is_in(arena, LOST_RECORD, segment);
                let sets = self.states(arena, segment).sets(FRESH_SETS);
                changed |= u32::from(sets) | (is_lost as u32) << LOST_RECORD | 1 << OTHERS;
                arena.count_others(1);
            }
        }
        self.change_sets(arena, segment, changed);
        arena.count_unmapped(-1);
        outcome
    }

    /// The same for all segments of a run.
    fn make_run_mapped(&mut self, arena: &Arena, os: &impl Os, run: LargeRun) -> Mapped {
        let outcomes = run.parts().map(|(segment, _)| self.make_mapped(arena, os, segment));
        outcomes.into_iter().find(|&outcome| outcome != Mapped::Here).unwrap_or(Mapped::Here)
    }

    /// Takes `run` of a segment, whose pages the caller found allocatable, and counts.
    fn occupy(
        &mut self,
        arena: &Arena,
        os: &impl Os,
        totals: &Totals,
        segment: SegmentIndex,
        run: PageRun,
    ) -> Taken {
        let is_lost = self.is_in(arena, LOST_RECORD, segment);
        if is_lost {
            self.change_sets(arena, segment, 1 << LOST_RECORD);
        }
        let states = self.states(arena, segment);
        let is_new = states.is_empty();
        if is_lost {
            states.recall_purge();
        }
        let taken = states.occupy(run, os.now());
        self.refresh(arena, segment);
        totals.update(|figures| {
            Self::count_taken(figures, &taken);
            figures.records.add(is_new as u64);
        });
        taken
    }

    /// Takes the record of a segment in [`IDLE_RECORD`] into the caller's hands, to give it back. Nobody
    /// allocates there or looks at it until [`PageHeap::settle_record`].
    pub fn hold_record(&mut self, arena: &Arena, segment: SegmentIndex) {
        debug_assert!(self.is_in(arena, IDLE_RECORD, segment));
        let sets = self.states(arena, segment).sets(FRESH_SETS);
        self.change_sets(arena, segment, (sets | 1 << HELD_RECORD).into());
        self.claimed_pages += SEGMENT_PAGES as u64;
    }

    /// The caller has done with the record, and it is gone or not: the segment is again in the sets that
    /// its record names.
    pub fn settle_record(
        &mut self,
        arena: &Arena,
        totals: &Totals,
        segment: SegmentIndex,
        is_gone: bool,
    ) {
        let sets = if is_gone {
            totals.update(|figures| figures.records.subtract(1));
            FRESH_SETS | 1 << LOST_RECORD
        } else {
            self.states(arena, segment).sets(FRESH_SETS)
        };
        self.change_sets(arena, segment, (sets | 1 << HELD_RECORD).into());
        self.claimed_pages -= SEGMENT_PAGES as u64;
    }

    /// The first segment of a set at or after `from`.
    pub fn next_in(
        &mut self,
        arena: &Arena,
        set: usize,
        from: SegmentIndex,
    ) -> Option<SegmentIndex> {
        // SAFETY: `&mut self` lives in the lock; the slice is gone at the end of this function.
        let rows = unsafe { arena.segment_sets() };
        let end = arena.in_use().div_ceil(64);
        let mut row = (from.0 / 64).max(self.lowest_row[set]);
        let mut mask = if row == from.0 / 64 { u64::MAX << (from.0 % 64) } else { u64::MAX };
        while row < end {
            let word = rows[row as usize][set];
            if word & mask != 0 {
                return Some(SegmentIndex(row * 64 + (word & mask).trailing_zeros()));
            }
            // Nothing below was skipped by the mask, so the next search can start above.
            if word == 0 && row == self.lowest_row[set] {
                self.lowest_row[set] = row + 1;
            }
            mask = u64::MAX;
            row += 1;
        }
        None
    }

    /// Takes pages for a span of `class`: the chunk, and which of its pages may be resident. Prefers
    /// a chunk that is still resident (a fault costs more than anything saved by a better place),
    /// then the lowest address.
    pub fn take_span(
        &mut self,
        arena: &Arena,
        os: &impl Os,
        totals: &Totals,
        class: SizeClass,
    ) -> Option<(ChunkIndex, u16)> {
        let (mut start, mut may_map) = (SegmentIndex(0), true);
        let dirty = self.next_in(arena, DIRTY_CHUNK, start);
        let segment = loop {
            let free = dirty.or_else(|| self.next_in(arena, FREE_CHUNK, start));
            let Some(segment) = free else {
                if !may_map {
                    return None;
                }
                self.grow(arena, os, totals, 1)?;
                continue;
            };
            if !may_map && self.is_unmapped(arena, segment) {
                start = SegmentIndex(segment.0 + 1);
                continue;
            }
            match self.make_mapped(arena, os, segment) {
                Mapped::Here => break segment,
                Mapped::Taken => {}
                Mapped::Refused => may_map = false,
            }
        };
        let states = self.states(arena, segment);
        let mut chunks = states.allocatable().full_chunks();
        if dirty.is_some() {
            chunks &= states.dirty().nonempty_chunks();
        }
        let chunk = chunks.trailing_zeros();
        let taken = self.occupy(arena, os, totals, segment, PageRun::of_chunk(chunk));
        let resident = taken.dirty.chunk(chunk);
        totals.update(|figures| {
            figures.used_pages.add(CHUNK_PAGES as u64);
            figures.spans[class.index()].add(1);
            figures.spans_created.add(1);
            figures.span_pages_inherited.add(resident.count_ones() as u64);
        });
        Some((ChunkIndex::new(segment, chunk), resident))
    }

    /// Takes a run of `pages` that starts at a multiple of `align_pages` (a power of two).
    pub fn take_run(
        &mut self,
        arena: &Arena,
        os: &impl Os,
        totals: &Totals,
        pages: Pages,
        align_pages: u32,
    ) -> Option<TakenRun> {
        let mut may_map = true;
        let run = loop {
            let run = if may_map {
                self.find_run(arena, os, totals, pages, align_pages)
            } else {
                self.find_mapped_run(arena, pages, align_pages)
            }?;
            match self.make_run_mapped(arena, os, run) {
                Mapped::Here => break run,
                Mapped::Taken => {}
                Mapped::Refused => may_map = false,
            }
        };
        let mut result = TakenRun { run, any_dirty: false, dirty: PageBits::EMPTY };
        for (segment, part) in run.parts() {
            let taken = self.occupy(arena, os, totals, segment, part);
            result.any_dirty |= !taken.dirty.is_empty();
            result.dirty = taken.dirty;
        }
        self.states(arena, run.segment).set_run(run.first, pages);
        totals.update(|figures| {
            figures.large_pages.add(pages.0 as u64);
            figures.used_pages.add(pages.0 as u64);
        });
        Some(result)
    }

    /// A run of free pages where nothing has to be mapped: what the kernel refused for one segment it would refuse
    /// for the next.
    fn find_mapped_run(
        &mut self,
        arena: &Arena,
        pages: Pages,
        align_pages: u32,
    ) -> Option<LargeRun> {
        if is_of_segments(pages, align_pages) {
            let (start, missing) = self.next_segments(arena, pages, align_pages, false)?;
            return (missing == 0).then_some(LargeRun {
                segment: start,
                first: PageIndex(0),
                pages,
            });
        }
        self.find_in_segment(arena, pages, align_pages, usize::MAX, false)
    }

    /// A run of free pages.
    fn find_run(
        &mut self,
        arena: &Arena,
        os: &impl Os,
        totals: &Totals,
        pages: Pages,
        align_pages: u32,
    ) -> Option<LargeRun> {
        if is_of_segments(pages, align_pages) {
            return self.find_segments(arena, os, totals, pages, align_pages);
        }
        self.find_in_segment(arena, pages, align_pages, MAX_TRIES, true).or_else(|| {
            // A fresh segment has room for every run that fits a segment. Where there is none to
            // be had, the search may take its time.
            let grown = self.grow(arena, os, totals, 1).is_some();
            let tries = if grown { MAX_TRIES } else { usize::MAX };
            self.find_in_segment(arena, pages, align_pages, tries, true)
        })
    }

    /// Extends a run in place to `pages`, if the pages behind it are free. The new pages' content is
    /// whatever was there.
    pub fn extend_run(
        &mut self,
        arena: &Arena,
        os: &impl Os,
        totals: &Totals,
        run: LargeRun,
        pages: Pages,
    ) -> bool {
        let longer = LargeRun { pages, ..run };
        let last = (run.first.0 + pages.0 - 1) / SEGMENT_PAGES;
        // A run that crosses into another segment must start at the first page of its own.
        if last > 0 && run.first.0 != 0 {
            return false;
        }
        // Where the pages up to the arena's end are free it grows: a second run would need all of them again.
        let missing = (run.segment.0 + last + 1).saturating_sub(arena.in_use());
        let more = || longer.parts_from(run.pages);
        if !self.are_free(arena, more())
            || missing > 0
                && (self.grow(arena, os, totals, missing).is_none()
                    || run.segment.0 + last >= arena.in_use()
                    || !self.are_free(arena, more()))
        {
            return false;
        }
        if self.make_run_mapped(arena, os, longer) != Mapped::Here {
            return false;
        }
        for (segment, part) in more() {
            self.occupy(arena, os, totals, segment, part);
        }
        self.states(arena, run.segment).set_run(run.first, pages);
        totals.update(|figures| {
            let more = (pages.0 - run.pages.0) as u64;
            figures.large_pages.add(more);
            figures.used_pages.add(more);
        });
        true
    }

    /// May the pages of these parts be allocated, as far as the arena reaches?
    fn are_free(
        &mut self,
        arena: &Arena,
        mut parts: impl Iterator<Item = (SegmentIndex, PageRun)>,
    ) -> bool {
        parts.all(|(segment, part)| {
            segment.0 >= arena.in_use()
                || !self.is_in(arena, HELD_RECORD, segment)
                    && !self.is_others(arena, segment)
                    && self.states(arena, segment).allocatable().all(part)
        })
    }

    fn count_taken(figures: &PageCounters<Counter>, taken: &Taken) {
        let reused = taken.dirty.count().0 as u64;
        figures.reused_pages.add(reused);
        figures.pending_pages.subtract(reused);
        for (pages, soon) in taken.refaults.iter().zip(&figures.soon_refaults) {
            figures.refault_pages.add(pages.0 as u64);
            soon.add(if taken.is_soon { pages.0 as u64 } else { 0 });
        }
    }

    /// The lowest fitting run of the segments whose longest run is the shortest that will do, after a
    /// look into up to `tries` segments of each set; into those that are mapped, or all.
    fn find_in_segment(
        &mut self,
        arena: &Arena,
        pages: Pages,
        align_pages: u32,
        tries: usize,
        may_map: bool,
    ) -> Option<LargeRun> {
        for set in pages.0.ilog2() as usize..RUN_SETS {
            let mut from = SegmentIndex(0);
            for _ in 0..tries {
                let Some(segment) = self.next_in(arena, set, from) else { break };
                let is_there = may_map || !self.is_unmapped(arena, segment);
                let allocatable = self.states(arena, segment).allocatable();
                let run = allocatable.find_run(pages, align_pages).filter(|_| is_there);
                if let Some(run) = run {
                    return Some(LargeRun { segment, first: run.first, pages });
                }
                from = SegmentIndex(segment.0 + 1);
            }
        }
        None
    }

    /// The lowest row of wholly free segments for `pages`, or new ones at the arena's end.
    fn find_segments(
        &mut self,
        arena: &Arena,
        os: &impl Os,
        totals: &Totals,
        pages: Pages,
        align_pages: u32,
    ) -> Option<LargeRun> {
        loop {
            let (segment, missing) = self.next_segments(arena, pages, align_pages, true)?;
            if missing == 0 {
                return Some(LargeRun { segment, first: PageIndex(0), pages });
            }
            // There may be others' in between: then it is fewer, and the search goes on.
            self.grow(arena, os, totals, missing)?;
        }
    }

    /// The first segment of the lowest row of wholly free ones for `pages`, of those that are mapped or of all; and
    /// how many of them the arena does not have yet.
    fn next_segments(
        &mut self,
        arena: &Arena,
        pages: Pages,
        align_pages: u32,
        may_map: bool,
    ) -> Option<(SegmentIndex, u32)> {
        const WHOLE: usize = RUN_SETS - 1;
        let want = pages.0.div_ceil(SEGMENT_PAGES);
        // Alignment is of addresses, not of indices.
        let align = align_pages.div_ceil(SEGMENT_PAGES);
        let first_segment = (arena.base() / SEGMENT_BYTES) as u64;
        let aligned = |segment: u32| {
            let address = (first_segment + segment as u64).next_multiple_of(align as u64);
            u32::try_from(address - first_segment).unwrap_or(u32::MAX)
        };
        let (mut start, mut end) = (aligned(0), aligned(0));
        while end < arena.in_use() && end - start < want {
            let next = self.next_in(arena, WHOLE, SegmentIndex(end));
            let next = next.map_or(arena.in_use(), |segment| segment.0);
            let is_unmapped = |heap: &mut PageHeap| heap.is_unmapped(arena, SegmentIndex(end));
            if next > end {
                (start, end) = (aligned(next), aligned(next));
            } else if !may_map && is_unmapped(self) {
                (start, end) = (aligned(end + 1), aligned(end + 1));
            } else {
                end += 1;
            }
        }
        let missing = start.checked_add(want)?.saturating_sub(arena.in_use());
        Some((SegmentIndex(start), missing))
    }

    /// Makes more segments available: `need` of them, a few more where there is room, or fewer where others are
    /// in the way.
    #[cold]
    fn grow(&mut self, arena: &Arena, os: &impl Os, totals: &Totals, need: u32) -> Option<()> {
        loop {
            let in_use = arena.in_use();
            let room = arena.capacity() - in_use;
            if need > room {
                return None;
            }
            let step = (in_use / 8).clamp(GROW_MIN, GROW_MAX).max(need).min(room);
            let mut grown = arena.extend(os, step);
            if grown.is_none() && need < step {
                grown = arena.extend(os, need);
            }
            let Growth { first, segments, are_others } = grown?;
            // Their records are zero, and stay so until they are used.
            let sets = if are_others { 1 << OTHERS } else { FRESH_SETS.into() };
            for segment in first.0..first.0 + segments {
                self.change_sets(arena, SegmentIndex(segment), sets);
            }
            totals.update(|figures| figures.arena_grows.add(1));
            if !are_others {
                return Some(());
            }
        }
    }
}

mod rebuild;
#[cfg(test)]
mod tests;
