//! What follows from the segments' records and the page map, made anew from them.
//!
//! In a copy of the process a thread that the copy does not have may have held the page heap's lock. Which page is in
//! use, which is dirty and which chunk is a span are base facts, each in a bit or a byte of its own, written in an
//! order in which any half of a change is true of the pages. Sets, rows and totals follow from them.

use super::{FRESH_SETS, HELD_RECORD, LOST_RECORD, OTHERS, PageHeap, UNMAPPED};
use crate::base::bits::PageRun;
use crate::base::units::{CHUNK_PAGES, PageIndex, SEGMENT_CHUNKS, SEGMENT_PAGES, SegmentIndex};
use crate::geometry::arena::{Arena, ChunkIndex, SEGMENT_SETS};
use crate::geometry::size_class::{CLASS_COUNT, SizeClass};
use crate::os::Linux;
use crate::pages::totals::Totals;

/// What is counted on the way.
struct Counted {
    spans: [u64; CLASS_COUNT],
    large_pages: u64,
    dirty_pages: u64,
    records: u64,
}

impl PageHeap {
    /// Ends the claims of purges, and makes sets and totals agree with the segments again. Before that a span whose
    /// pages were being freed may still be in the page map.
    pub fn rebuild(&mut self, arena: &Arena, totals: &Totals) {
        self.lowest_row = [0; SEGMENT_SETS];
        self.claimed_pages = 0;
        let mut counted =
            Counted { spans: [0; CLASS_COUNT], large_pages: 0, dirty_pages: 0, records: 0 };
        for segment in (0..arena.in_use()).map(SegmentIndex) {
            self.states(arena, segment).forget_ghosts();
            self.rebuild_page_map(arena, segment, &mut counted);
            self.rebuild_sets(arena, segment, &mut counted);
        }
        totals.sequence.end_ghosts_change();
        totals.update(|figures| {
            let purged: u64 = figures.purged_pages.iter().map(|figure| figure.get()).sum();
            let spans: u64 = counted.spans.iter().sum();
            for (figure, spans) in figures.spans.iter().zip(counted.spans) {
                figure.set(spans);
            }
            figures.large_pages.set(counted.large_pages);
            figures.used_pages.set(spans * CHUNK_PAGES as u64 + counted.large_pages);
            figures.records.set(counted.records);
            figures.pending_pages.set(counted.dirty_pages);
            figures.enqueued_pages.set(purged + figures.reused_pages.get() + counted.dirty_pages);
        });
    }

    /// A span whose pages are free is none any more. Counts those that are left, and the pages of large runs.
    fn rebuild_page_map(&mut self, arena: &Arena, segment: SegmentIndex, counted: &mut Counted) {
        let states = self.states(arena, segment);
        let used = states.used();
        for chunk in 0..SEGMENT_CHUNKS {
            let index = ChunkIndex::new(segment, chunk);
            let class = arena.class_at(index.byte_offset());
            if class != SizeClass::NONE && !used.all(PageRun::of_chunk(chunk)) {
                arena.set_class(index, SizeClass::NONE);
            } else if class != SizeClass::NONE {
                counted.spans[class.index()] += 1;
            }
        }
        for page in (0..SEGMENT_PAGES).map(PageIndex) {
            counted.large_pages += states.run_at(page).map_or(0, |pages| pages.0 as u64);
        }
    }

    fn rebuild_sets(&mut self, arena: &Arena, segment: SegmentIndex, counted: &mut Counted) {
        let was_lost = self.is_in(arena, LOST_RECORD, segment);
        let was_held = self.is_in(arena, HELD_RECORD, segment);
        if was_held && !self.is_unmapped(arena, segment) {
            // Whoever held it may have unmapped it. If it is there this changes nothing.
            arena.map_again(&Linux, segment);
        }
        let is_others = self.is_others(arena, segment);
        let states = self.states(arena, segment);
        counted.dirty_pages += states.dirty().count().0 as u64;
        let sets = if states.is_empty() {
            // A record that was held and reads as zero is with the system.
            FRESH_SETS | ((was_lost || was_held) as u16) << LOST_RECORD
        } else {
            let sets = Self::sets_of(states);
            states.set_sets(sets, FRESH_SETS);
            counted.records += 1;
            sets
        };
        // SAFETY: `&mut self` lives in the lock; the slice is gone at the end of this function.
        let words = &mut unsafe { arena.segment_sets() }[segment.0 as usize / 64];
        let bit = 1u64 << (segment.0 % 64);
        let sets = if is_others { 0 } else { sets };
        // What is said of the addresses is a base fact, and stays.
        for (set, word) in
            words.iter_mut().enumerate().filter(|(set, _)| ![OTHERS, UNMAPPED].contains(set))
        {
            *word = if sets >> set & 1 == 1 { *word | bit } else { *word & !bit };
        }
    }
}
