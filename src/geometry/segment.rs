//! Segments: 2 MiB of addresses, and the out-of-line record of their 512 pages and 32 spans.

use core::cell::UnsafeCell;

use crate::base::atomics::{AtomicU64, compiler_barrier};
use crate::base::bits::{AtomicPageBits, PageBits, PageRun};
use crate::base::units::{
    CHUNK_PAGES, Epoch, PAGE_BYTES, PageIndex, Pages, SEGMENT_CHUNKS, SEGMENT_PAGES,
};
use crate::geometry::reason::ReleaseReason;
use crate::geometry::size_class::CLASS_COUNT;
use crate::geometry::slot::SlotIndex;
use crate::geometry::span::Span;
use crate::os::Nanos;

/// A page taken back into use within this time of its purge was purged too soon.
pub(crate) const SOON: Nanos = Nanos::from_millis(1000);

/// One segment's record. All-zero memory is that of a segment whose pages are all free and hold nothing:
/// one that was never used, or whose record was given back to the system (see `release::records`). So a
/// record needs no memory until its segment is used, and whoever reads one that is gone reads the truth.
#[repr(C, align(4096))]
pub(crate) struct Segment {
    /// Guarded by the page heap's lock.
    pub pages: UnsafeCell<PageStates>,
    /// Pages in use whose mapping is not the arena's ordinary one: the kernel moved them there, or the program gave
    /// them flags (`madvise`, `mlock`, `mprotect`, `mbind`). Fresh ones take their place before they are free (see
    /// `heap::altered`). A program that speaks of pages that are not its own may have free ones here.
    pub altered: AtomicPageBits,
    /// The epoch in which blocks of a span here last came back (see [`crate::pages::touched`]).
    pub touched: AtomicU64,
    /// By size class: which of the 32 chunks hold an available span (see [`crate::geometry::span_index`]).
    pub available: [AtomicU64; CLASS_COUNT],
    pub chunks: [Chunk; SEGMENT_CHUNKS as usize],
}

/// What there is to know of a chunk.
#[repr(C, align(64))]
pub(crate) struct Chunk {
    /// The descriptor of its span, in use or not.
    pub span: Span,
    /// By page: which sample the large run is that starts there, or 0. Guarded by the page heap's lock.
    pub samples: UnsafeCell<[SlotIndex; CHUNK_PAGES as usize]>,
}

const _: () = assert!(size_of::<Segment>() == 5 * PAGE_BYTES);

/// Stands for the length of a large run that is longer than its first segment.
const HUGE: u16 = u16::MAX;

/// What each page of a segment is. Guarded by the page heap's lock.
///
/// # Invariants
/// - No page in `dirty`, `claimed` or `purged` is in use; `claimed` is empty but while a purge is in the
///   kernel.
/// - `dirty` and `purged` exclude each other, except that a purge in flight leaves both as they were.
/// - A page in use belongs to one span (its chunk's page map byte is not 0) or to one
///   large run (that starts at a page with `run_pages != 0`, here or, for a run longer than a
///   segment, in a segment before).
/// - `dirty_since` and `dirty_last` mean something only while `dirty` is not empty.
/// - All zero is free and clean: what is said of pages is said of those that are or were in use.
#[repr(C)]
pub(crate) struct PageStates {
    /// Belongs to a span or a run. Cleared only by the release boundary; all others are free.
    used: PageBits,
    /// Free, and possibly resident: the ledger.
    dirty: PageBits,
    /// Free, but in the hands of a purge: not to be allocated.
    claimed: PageBits,
    /// Given back to the system and not allocated since.
    purged: PageBits,
    /// Why a free page was released: the reason's low and high bit.
    reason: [PageBits; 2],
    /// When the segment last had no dirty pages, and the epoch of the newest one's release.
    pub dirty_since: Nanos,
    pub dirty_last: Epoch,
    /// When the last purge here was.
    purged_last: Nanos,
    /// The kernel refused a purge here: no new attempt before this epoch.
    pub no_purge_before: Epoch,
    /// The kernel refused this record: likewise.
    pub no_record_purge_before: Epoch,
    /// When pages here were last freed.
    pub vacated_last: Epoch,
    /// Which of the page heap's sets this segment is in: bit `i` for set `i`, each the other way round
    /// where a segment that was never used is in the set.
    sets: u16,
    /// Pages of the large run that starts at a segment's first page and is longer than the segment.
    huge_pages: Pages,
    /// By first page of a large run: its length, [`HUGE`], or 0.
    run_pages: [u16; SEGMENT_PAGES as usize],
}

/// What the pages of a freshly allocated run were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Pages that may hold old content; all others read as zero.
    pub dirty: PageBits,
    /// Pages that had been purged, by the reason of their release: touching one is a fault that the
    /// purge caused.
    pub refaults: [Pages; 4],
    /// The last purge here was a short while ago: these pages should have been left alone.
    pub is_soon: bool,
}

impl PageStates {
    /// Where readers from outside find the pages in use and the dirty ones.
    pub const USED_OFFSET: usize = core::mem::offset_of!(PageStates, used);
    pub const DIRTY_OFFSET: usize = core::mem::offset_of!(PageStates, dirty);

    /// Which of the page heap's sets this segment is in, where one that was never used is in `fresh`.
    pub fn sets(&self, fresh: u16) -> u16 {
        self.sets ^ fresh
    }

    pub fn set_sets(&mut self, sets: u16, fresh: u16) {
        self.sets = sets ^ fresh;
    }

    /// Is this record that of a segment that was never used, or one that was given back?
    pub fn is_empty(&self) -> bool {
        self.sets == 0
    }

    /// Before pages are taken of a segment whose record was given back: they had all been purged. Of
    /// what nobody remembers any more, the reasons of their release, nothing is said.
    pub fn recall_purge(&mut self) {
        debug_assert!(self.is_empty());
        self.purged.set(PageRun::SEGMENT);
    }

    /// Pages that can be allocated.
    pub fn allocatable(&self) -> PageBits {
        self.free().and_not(&self.claimed)
    }

    /// Free pages that may be resident and are not being purged just now.
    pub fn dirty(&self) -> PageBits {
        self.dirty.and_not(&self.claimed)
    }

    /// Is no page dirty, not even one that a purge has in hand?
    pub fn dirty_is_empty(&self) -> bool {
        self.dirty.is_empty()
    }

    /// All free pages, the claimed ones included.
    pub fn free(&self) -> PageBits {
        PageBits::of(PageRun::SEGMENT).and_not(&self.used)
    }

    /// Allocates `run`, whose pages the caller found allocatable.
    pub fn occupy(&mut self, run: PageRun, now: Nanos) -> Taken {
        debug_assert!(self.allocatable().all(run));
        let purged = self.purged.within(run);
        let taken = Taken {
            dirty: self.dirty.within(run),
            refaults: ReleaseReason::ALL.map(|reason| self.with_reason(&purged, reason).count()),
            is_soon: now.since(self.purged_last) <= SOON,
        };
        self.used.set(run);
        self.dirty.clear(run);
        self.purged.clear(run);
        taken
    }

    /// Frees `run`; those of its pages in `resident` become dirty. Only the release boundary calls
    /// this. Returns whether they join a range that was pending before.
    pub fn vacate(
        &mut self,
        run: PageRun,
        resident: &PageBits,
        reason: ReleaseReason,
        now: Epoch,
    ) -> bool {
        let new = resident.within(run);
        let pending = self.dirty();
        let before = run.first.0.checked_sub(1).is_some_and(|page| pending.get(page));
        let joins =
            new.get(run.first.0) && before || new.get(run.end() - 1) && pending.get(run.end());
        if !new.is_empty() {
            self.dirty_last = now;
        }
        self.vacated_last = now;
        self.dirty = self.dirty.or(&new);
        self.set_reason(&PageBits::of(run), reason);
        // A copy of the process may find this half done: a page that is free and not dirty reads as zero.
        compiler_barrier();
        self.used.clear(run);
        joins
    }

    /// In a copy of the process: pages that a purge had in hand are in nobody's any more, and are as it left them;
    /// of those that were just being freed nothing is said but that they are in use.
    pub fn forget_ghosts(&mut self) {
        self.claimed = PageBits::EMPTY;
        self.dirty = self.dirty.and_not(&self.used);
        self.purged = self.purged.and_not(&self.used.or(&self.dirty));
    }

    /// All pages in use.
    pub fn used(&self) -> PageBits {
        self.used
    }

    /// Records that free pages were purged while a span still held them.
    pub fn add_purged(&mut self, pages: &PageBits) {
        debug_assert!(pages.and(&self.used).is_empty());
        self.purged = self.purged.or(pages);
    }

    fn set_reason(&mut self, pages: &PageBits, reason: ReleaseReason) {
        for (bit, plane) in self.reason.iter_mut().enumerate() {
            let set = reason as usize >> bit & 1 == 1;
            *plane = if set { plane.or(pages) } else { plane.and_not(pages) };
        }
    }

    /// Those of `pages` that were released for `reason`.
    pub fn with_reason(&self, pages: &PageBits, reason: ReleaseReason) -> PageBits {
        let mut result = *pages;
        for (bit, plane) in self.reason.iter().enumerate() {
            let wanted = reason as usize >> bit & 1 == 1;
            result = if wanted { result.and(plane) } else { result.and_not(plane) };
        }
        result
    }

    /// Free pages that hold nothing.
    pub fn clean(&self) -> PageBits {
        self.allocatable().and_not(&self.dirty)
    }

    /// The dirty pages of a run that a purge has in hand.
    pub fn dirty_in(&self, run: PageRun) -> PageBits {
        self.dirty.within(run)
    }

    /// A purge takes `run`: nobody can allocate it until it is settled.
    pub fn claim(&mut self, run: PageRun) {
        debug_assert!(self.allocatable().all(run));
        self.claimed.set(run);
    }

    /// The purge of `run` has returned: its pages are clean, or as they were.
    pub fn settle(&mut self, run: PageRun, purged: bool, now: Nanos) {
        debug_assert!(self.claimed.all(run));
        self.claimed.clear(run);
        if purged {
            // Those that were clean are what they were: purged before, or never used.
            self.purged = self.purged.or(&self.dirty.within(run));
            self.dirty.clear(run);
            self.purged_last = now;
        }
    }

    /// The length of the large run that starts at `page`.
    pub fn run_at(&self, page: PageIndex) -> Option<Pages> {
        match self.run_pages[page.0 as usize] {
            0 => None,
            HUGE => Some(self.huge_pages),
            pages => Some(Pages(pages as u32)),
        }
    }

    /// Records that a large run of `pages` starts at `page`.
    pub fn set_run(&mut self, page: PageIndex, pages: Pages) {
        if pages.0 <= SEGMENT_PAGES {
            self.run_pages[page.0 as usize] = pages.0 as u16;
        } else {
            debug_assert_eq!(page.0, 0);
            self.run_pages[0] = HUGE;
            self.huge_pages = pages;
        }
    }

    /// Forgets the large run that starts at `page`.
    pub fn clear_run(&mut self, page: PageIndex) {
        self.run_pages[page.0 as usize] = 0;
    }

    /// Walks the invariants that concern this segment alone.
    #[cfg(test)]
    pub fn check(&self) {
        assert!(self.dirty.and(&self.used).is_empty(), "dirty pages are free");
        assert!(self.claimed.and(&self.used).is_empty(), "claimed pages are free");
        assert!(self.purged.and(&self.used).is_empty(), "purged pages are free");
        assert!(self.dirty.and(&self.purged).is_empty(), "a page is dirty or purged");
        for page in 0..SEGMENT_PAGES {
            if self.run_pages[page as usize] != 0 {
                assert!(self.used.get(page), "a run starts on a page in use");
            }
        }
    }
}
