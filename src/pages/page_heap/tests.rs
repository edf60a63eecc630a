use crate::base::bits::{PageBits, PageRun};
use crate::base::units::{
    CHUNK_PAGES, PAGE_BYTES, PageIndex, Pages, SEGMENT_BYTES, SEGMENT_PAGES, SegmentIndex,
};
use crate::geometry::arena::{Arena, ChunkIndex};
use crate::geometry::size_class::SizeClass;
use crate::os::{Linux, Mapped, Os};
use crate::pages::HeapPages;
use crate::pages::page_heap::LargeRun;
use crate::testing::test_heap::{TestHeap, pages};
use crate::testing::test_random::Random;

fn run(segment: u32, first: u32, count: u32) -> LargeRun {
    LargeRun { segment: SegmentIndex(segment), first: PageIndex(first), pages: Pages(count) }
}

fn class() -> SizeClass {
    SizeClass::for_bytes(64)
}

/// The figures, for "nothing has changed".
fn state(test: &TestHeap) -> String {
    format!("{:?} in {}", test.figures(), test.heap.pages.arena.in_use())
}

fn chunk(segment: u32, chunk: u32) -> ChunkIndex {
    ChunkIndex::new(SegmentIndex(segment), chunk)
}

/// Makes the arena grow by so many segments.
fn grow(test: &TestHeap, segments: u32) {
    let HeapPages { arena, page_heap, totals, .. } = &test.heap.pages;
    let grown = page_heap.lock().grow(arena, &test.os, totals, segments);
    assert!(grown.is_some(), "the arena has room");
}

/// Maps something at a segment's addresses that is none of the heap's.
fn map_others(test: &TestHeap, segment: u32) {
    let page = test.address(segment, pages(100, 1));
    assert_eq!(Linux.map(page), Mapped::Here);
}

#[test]
fn nothing_is_allocated_where_others_are() {
    let test = TestHeap::with_segments(16);
    for segment in [0, 3, 9] {
        map_others(&test, segment);
    }
    let first = test.take(1);
    assert_eq!(first, run(1, 0, 1), "the first that is free");
    let long = test.take(4 * SEGMENT_PAGES);
    assert_eq!(long, run(4, 0, 4 * SEGMENT_PAGES), "where there is no gap");
    assert!(!test.extend(long, 6 * SEGMENT_PAGES), "segment 9 is in the way");
    test.check();
    while let Some(taken) = test.try_take(SEGMENT_PAGES, 1) {
        assert!(![0, 3, 9].contains(&taken.run.segment.0));
    }
    assert_eq!((test.heap.pages.arena.in_use(), test.heap.pages.arena.others()), (16, 3));
    assert!(test.try_take(SEGMENT_PAGES, 1).is_none());
    test.check();
    test.free(long);
    assert_eq!(test.take(4 * SEGMENT_PAGES), long);
    test.check();
}

#[test]
fn spans_come_from_the_lowest_address() {
    let test = TestHeap::new();
    for i in 0..70 {
        let (taken, resident) = test.take_span(class()).unwrap();
        assert_eq!((taken, resident), (ChunkIndex(i), 0), "a fresh page is clean");
        test.check();
    }
    assert_eq!(test.figures().spans[class().index()], 70);
    assert_eq!(test.figures().spans_created, 70);
}

#[test]
fn a_resident_chunk_is_preferred_to_a_lower_clean_one() {
    let test = TestHeap::new();
    let spans: Vec<_> = (0..64).map(|_| test.take_span(class()).unwrap().0).collect();
    // Clean and low; then dirty, in the same segment and in the next.
    test.retire_span(spans[3]);
    assert_eq!(
        crate::release::purge_everything(&test.heap, &test.release, &test.os),
        Pages(CHUNK_PAGES)
    );
    for dirty in [45, 40, 9] {
        test.retire_span(spans[dirty]);
    }
    test.check();
    for expected in [9, 40, 45] {
        assert_eq!(test.take_span(class()), Some((ChunkIndex(expected), 0xffff)));
        test.check();
    }
    assert_eq!(test.figures().reused_pages, 48);
    assert_eq!(test.figures().refault_pages, 0);
    assert_eq!(test.take_span(class()), Some((ChunkIndex(3), 0)));
    assert_eq!(test.figures().refault_pages, 16);
    assert_eq!(test.figures().reused_pages, 48);
    assert_eq!(test.take_span(class()), Some((ChunkIndex(64), 0)), "then what was never used");
    assert_eq!(test.pending(), 0);
    test.check();
}

#[test]
fn a_span_learns_which_of_its_pages_are_resident() {
    let test = TestHeap::new();
    let first = test.take(5);
    let whole = test.take(SEGMENT_PAGES - 5);
    test.free(first);
    crate::release::purge_everything(&test.heap, &test.release, &test.os);
    let rest = test.shrink(whole, SEGMENT_PAGES - 5 - 500);
    test.free(rest);
    // The first five pages are clean, all others dirty: so is the first chunk, in part.
    let (taken, resident) = test.take_span(class()).unwrap();
    assert_eq!((taken, resident), (ChunkIndex(0), 0xffe0));
    assert_eq!(test.figures().refault_pages, 5);
    assert_eq!(test.figures().reused_pages, 11);
    assert_eq!(test.figures().span_pages_inherited, 11);
    test.check();
}

#[test]
fn a_run_takes_the_lowest_place_of_the_tightest_segment() {
    let test = TestHeap::new();
    let whole: Vec<_> = (0..3).map(|_| test.take(SEGMENT_PAGES)).collect();
    // Free: 100 pages in segment 0, 20 and 10 in segment 2.
    let mut kept = Vec::new();
    for segment in whole {
        let first = segment.first;
        assert_eq!(first, PageIndex(0));
        test.free(segment);
    }
    for (segment, parts) in [(0, &[412, 100][..]), (1, &[512]), (2, &[10, 5, 20, 477])] {
        for &part in parts {
            let taken = test.take(part);
            assert_eq!(taken.segment.0, segment);
            kept.push(taken);
        }
    }
    for hole in [run(0, 412, 100), run(2, 0, 10), run(2, 15, 20)] {
        test.free(hole);
    }
    test.check();
    assert_eq!(test.take(8), run(2, 0, 8), "ten pages are enough, at the lowest place");
    assert_eq!(test.take(12), run(2, 15, 12));
    assert_eq!(test.take(12), run(0, 412, 12));
    assert_eq!(test.take(1), run(2, 8, 1));
    test.check();
}

#[test]
fn long_runs_start_at_a_segment_and_cover_the_next() {
    let test = TestHeap::new();
    let small = test.take(300);
    let three = test.take(768);
    assert_eq!(three, run(1, 0, 768), "3 MiB: a segment and a half");
    let ten = test.take(2560);
    assert_eq!(ten, run(3, 0, 2560), "10 MiB: five segments");
    assert_eq!(test.figures().large_pages, 300 + 768 + 2560);
    test.check();
    // The second half of segment 2 is free, and serves what fits.
    assert_eq!(test.unused(2), PageBits::of(pages(256, 256)));
    let half = test.take(256);
    assert_eq!(half, run(2, 256, 256));
    test.free(ten);
    test.check();
    assert_eq!(test.pending(), 2560);
    let again = test.try_take(2560, 1).unwrap();
    assert_eq!(again.run, ten);
    assert!(again.any_dirty);
    for all in [small, three, half, ten] {
        test.free(all);
        test.check();
    }
    assert_eq!(test.figures().large_pages, 0);
}

#[test]
fn a_dirty_page_anywhere_in_a_long_run_is_told() {
    for dirty_segment in 0..3 {
        let test = TestHeap::new();
        let all = test.take(3 * SEGMENT_PAGES);
        test.free(all);
        crate::release::purge_everything(&test.heap, &test.release, &test.os);
        // One segment of the three is used, and its first page purged again.
        let parts: Vec<_> = (0..3).map(|_| test.take(SEGMENT_PAGES)).collect();
        test.free(parts[dirty_segment]);
        let none = PageBits::EMPTY;
        for (i, part) in parts.iter().enumerate().filter(|&(i, _)| i != dirty_segment) {
            test.heap
                .pages
                .page_heap
                .lock()
                .states(&test.heap.pages.arena, part.segment)
                .clear_run(PageIndex(0));
            let reason = crate::geometry::reason::ReleaseReason::LargeFree;
            test.release(i as u32, pages(0, SEGMENT_PAGES), &none, reason);
            test.heap.pages.totals.update(|figures| figures.large_pages.subtract(512));
        }
        test.check();
        let taken = test.try_take(3 * SEGMENT_PAGES, 1).unwrap();
        assert_eq!(taken.run, all);
        assert!(taken.any_dirty, "in segment {dirty_segment}");
        assert_eq!(test.figures().reused_pages, 512);
    }
}

#[test]
fn runs_are_aligned_as_asked() {
    let test = TestHeap::with_segments(64);
    let first_segment = test.heap.pages.arena.base() / SEGMENT_BYTES;
    let mut runs = Vec::new();
    for count in [1, 3, 17, 512, 600] {
        for shift in 0..=12 {
            let align = 1u32 << shift;
            let taken = test.try_take(count, align).expect("room").run;
            let page = (first_segment + taken.segment.0 as usize) * SEGMENT_PAGES as usize;
            let page = page + taken.first.0 as usize;
            assert!(page.is_multiple_of(align as usize), "{count} pages aligned to {align}");
            assert_eq!(taken.pages.0, count);
            runs.push(taken);
            test.check();
            // Not all stay, so that a 128 MiB arena has room for all of them.
            if runs.len() > 4 {
                test.free(runs.remove(0));
                test.check();
            }
        }
    }
}

#[test]
fn a_run_grows_into_free_pages_behind_it() {
    let test = TestHeap::new();
    let first = test.take(10);
    assert!(test.extend(first, 30));
    assert_eq!(test.unused(0), PageBits::of(pages(30, 482)));
    assert_eq!(test.figures().large_pages, 30);
    test.check();
    let second = test.take(5);
    assert_eq!(second, run(0, 30, 5));
    let first = run(0, 0, 30);
    let before = state(&test);
    assert!(!test.extend(first, 31), "the page behind it is in use");
    assert!(!test.extend(first, 200));
    assert_eq!(state(&test), before);
    test.check();
    test.free(second);
    assert!(test.extend(first, 32), "dirty pages do as well");
    assert_eq!((test.pending(), test.figures().reused_pages), (3, 2));
    crate::release::purge_everything(&test.heap, &test.release, &test.os);
    assert!(test.extend(run(0, 0, 32), SEGMENT_PAGES));
    assert_eq!(test.figures().refault_pages, 3);
    assert_eq!(test.figures().large_pages, 512);
    test.check();
}

#[test]
fn a_run_grows_across_segments_only_from_a_segments_start() {
    let test = TestHeap::new();
    grow(&test, 4);
    let low = test.take(1);
    let inside = test.take(511);
    assert!(!test.extend(inside, 512), "would cross into segment 1, which is free");
    test.check();
    test.free(low);
    test.free(inside);
    let whole = test.take(512);
    assert!(test.extend(whole, 1000));
    assert!(test.extend(run(0, 0, 1000), 1600), "and further");
    assert_eq!(test.unused(3), PageBits::of(pages(64, 448)));
    assert_eq!(test.figures().large_pages, 1600);
    test.check();
    let end = test.heap.pages.arena.in_use() * SEGMENT_PAGES;
    assert!(test.extend(run(0, 0, 1600), end));
    assert!(test.extend(run(0, 0, end), end + 1), "at its end the arena grows");
    assert_eq!(test.heap.pages.arena.in_use() * SEGMENT_PAGES, end + SEGMENT_PAGES);
    test.check();
    test.os.out_of_memory.set(true);
    assert!(!test.extend(run(0, 0, end + 1), end + SEGMENT_PAGES + 1));
    test.check();
    test.free(run(0, 0, end + 1));
    test.check();
}

#[test]
fn a_refused_extension_over_segments_changes_nothing() {
    let test = TestHeap::new();
    grow(&test, 4);
    let long = test.take(600);
    let behind = test.take(400);
    assert_eq!(behind, run(1, 88, 400));
    let before = state(&test);
    // Free pages follow in segment 1, then the neighbour.
    assert!(!test.extend(long, 1100));
    assert_eq!(state(&test), before);
    test.check();
    test.free(behind);
    assert!(test.extend(long, 1100));
    test.check();
}

#[test]
fn claimed_pages_are_nobodys() {
    let test = TestHeap::new();
    let first = test.take(10);
    let second = test.take(502);
    test.free(second);
    let claim = |on: bool| {
        let mut heap = test.heap.pages.page_heap.lock();
        let segment = SegmentIndex(0);
        let states = heap.states(&test.heap.pages.arena, segment);
        if on {
            states.claim(pages(10, 502));
        } else {
            states.settle(pages(10, 502), false, crate::os::Nanos(0));
        }
        heap.refresh(&test.heap.pages.arena, segment);
    };
    claim(true);
    assert!(!test.extend(first, 11));
    assert_eq!(test.take(1).segment, SegmentIndex(1));
    assert_eq!(test.take_span(class()).unwrap().0.segment(), SegmentIndex(1));
    assert!(test.dirty(0).is_empty(), "nor another purge's");
    claim(false);
    test.check();
    assert!(test.extend(first, 11));
    assert_eq!(test.take_span(class()).unwrap().0, chunk(0, 1));
    test.check();
}

#[test]
fn the_arena_grows_by_what_is_needed_and_not_beyond_its_end() {
    let test = TestHeap::with_segments(16);
    assert_eq!(test.heap.pages.arena.in_use(), 0);
    let first = test.take(1);
    assert_eq!((test.heap.pages.arena.in_use(), test.figures().arena_grows), (1, 1));
    grow(&test, 3);
    let eight = test.take(8 * SEGMENT_PAGES);
    assert_eq!(eight, run(1, 0, 8 * SEGMENT_PAGES), "free segments at the end are part of it");
    assert_eq!(test.heap.pages.arena.in_use(), 9);
    test.check();
    let seven = test.take(7 * SEGMENT_PAGES);
    assert_eq!(test.heap.pages.arena.in_use(), 16);
    let before = state(&test);
    assert!(test.try_take(SEGMENT_PAGES, 1).is_none());
    assert!(test.try_take(1, SEGMENT_PAGES).is_none());
    assert!(test.try_take(17 * SEGMENT_PAGES, 1).is_none());
    assert_eq!(state(&test), before);
    assert_eq!(test.take(511), run(0, 1, 511), "what is left is still to be had");
    assert!(test.take_span(class()).is_none());
    for all in [first, eight, seven, run(0, 1, 511)] {
        test.free(all);
    }
    test.check();
    assert_eq!(test.take(16 * SEGMENT_PAGES), run(0, 0, 16 * SEGMENT_PAGES));
    test.check();
}

#[test]
fn without_memory_nothing_changes_and_later_everything_works() {
    let test = TestHeap::new();
    test.take(4 * SEGMENT_PAGES - 16);
    test.os.out_of_memory.set(true);
    let before = state(&test);
    assert!(test.try_take(17, 1).is_none());
    assert!(test.try_take(600, 1).is_none());
    assert!(test.try_take(1, 4 * SEGMENT_PAGES).is_none());
    assert_eq!(state(&test), before);
    test.check();
    assert!(test.take_span(class()).is_some(), "what is there needs no system");
    let before = state(&test);
    assert!(test.take_span(class()).is_none());
    assert_eq!(state(&test), before);
    test.os.out_of_memory.set(false);
    assert_eq!(test.take_span(class()).unwrap().0.segment(), SegmentIndex(4));
    test.take(17);
    test.check();
}

/// Half of a step may be had where a whole one is refused.
#[test]
fn growth_falls_back_to_what_is_needed() {
    struct Stingy(crate::os::fake::FakeOs, usize);
    impl crate::os::Os for Stingy {
        fn map(&self, range: crate::os::AddressRange) -> crate::os::Mapped {
            if range.bytes > self.1 {
                return crate::os::Mapped::Refused;
            }
            self.0.map(range)
        }
        fn purge(&self, ranges: &[crate::os::AddressRange]) -> crate::os::PurgeOutcome {
            self.0.purge(ranges)
        }
        fn memory_room(&self, _: &mut crate::os::cgroup::Scratch) -> Option<crate::os::MemoryRoom> {
            None
        }
        fn now(&self) -> crate::os::Nanos {
            self.0.now()
        }
    }
    let test = TestHeap::new();
    let os = Stingy(crate::os::fake::FakeOs::default(), SEGMENT_BYTES);
    let (arena, totals) = (&test.heap.pages.arena, &test.heap.pages.totals);
    let taken = test.heap.pages.page_heap.lock().take_run(arena, &os, totals, Pages(3), 1);
    assert_eq!(taken.unwrap().run, run(0, 0, 3));
    assert_eq!(arena.in_use(), 1);
    test.check();
}

/// More segments than one search looks into have a free run that is almost long enough.
#[test]
fn a_full_arena_still_finds_its_last_fitting_run() {
    let test = TestHeap::new();
    let whole: Vec<_> = (0..32).map(|_| test.take(SEGMENT_PAGES)).collect();
    for (i, segment) in whole.into_iter().enumerate() {
        test.shrink(segment, SEGMENT_PAGES - if i == 20 { 7 } else { 5 });
    }
    assert_eq!(test.try_take(7, 1).map(|taken| taken.run), Some(run(20, 505, 7)));
}

/// What a page is, as a test that does nothing cleverly sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    InUse,
    Fresh,
    Dirty,
    Purged,
}

/// A heap and its pages one by one.
struct Shadow {
    test: TestHeap,
    pages: Vec<Page>,
    runs: Vec<LargeRun>,
    spans: Vec<ChunkIndex>,
    reused: u64,
    refaults: u64,
    coalesced: u64,
    enqueued: u64,
    purged: u64,
}

impl Shadow {
    fn new(segments: usize) -> Shadow {
        Shadow {
            test: TestHeap::with_segments(segments),
            pages: vec![Page::Fresh; segments * SEGMENT_PAGES as usize],
            runs: Vec::new(),
            spans: Vec::new(),
            reused: 0,
            refaults: 0,
            coalesced: 0,
            enqueued: 0,
            purged: 0,
        }
    }

    fn start(run: LargeRun) -> usize {
        (run.segment.0 * SEGMENT_PAGES + run.first.0) as usize
    }

    /// Returns the pages that were dirty.
    fn occupy(&mut self, start: usize, count: usize) -> Vec<usize> {
        let mut dirty = Vec::new();
        for (i, page) in self.pages[start..start + count].iter_mut().enumerate() {
            match *page {
                Page::InUse => panic!("page {} is given out twice", start + i),
                Page::Fresh => {}
                Page::Dirty => dirty.push(i),
                Page::Purged => self.refaults += 1,
            }
            *page = Page::InUse;
        }
        self.reused += dirty.len() as u64;
        dirty
    }

    /// Frees pages of one segment, all resident.
    fn vacate(&mut self, start: usize, count: usize) {
        let segment = SEGMENT_PAGES as usize;
        let end = start + count;
        let before = !start.is_multiple_of(segment) && self.pages[start - 1] == Page::Dirty;
        let after = !end.is_multiple_of(segment) && self.pages[end] == Page::Dirty;
        self.coalesced += (before || after) as u64;
        self.enqueued += 1;
        self.pages[start..end].fill(Page::Dirty);
    }

    fn vacate_run(&mut self, run: LargeRun, keep: u32) {
        let parts: Vec<(SegmentIndex, PageRun)> = run.parts_from(Pages(keep)).collect();
        for (segment, part) in parts {
            let start = (segment.0 * SEGMENT_PAGES + part.first.0) as usize;
            self.vacate(start, part.pages.0 as usize);
        }
    }

    /// Could any free pages serve this?
    fn fits(&self, count: usize, align: usize, arena: &Arena) -> bool {
        let segment = SEGMENT_PAGES as usize;
        let first_page = arena.base() / PAGE_BYTES;
        let inside = count <= segment && align <= segment;
        let step = if inside { align } else { align.max(segment) };
        (0..self.pages.len()).any(|start| {
            let end = start + count;
            // A run that does not fit a segment gets whole ones.
            let whole_end = if inside { end } else { end.next_multiple_of(segment) };
            (first_page + start).is_multiple_of(step)
                && whole_end <= self.pages.len()
                && (!inside || start / segment == (end - 1) / segment)
                && self.pages[start..whole_end].iter().all(|&page| page != Page::InUse)
        })
    }

    fn step(&mut self, random: &mut Random) {
        let pick = |random: &mut Random, len: usize| random.below(len as u64) as usize;
        match random.below(100) {
            0..30 => {
                let bound = [8, 40, 520, 2000][pick(random, 4)];
                let count = 1 + random.below(bound) as u32;
                let align = if random.below(3) == 0 { 1 << random.below(11) } else { 1 };
                match self.test.try_take(count, align) {
                    Some(taken) => {
                        let start = Self::start(taken.run);
                        let page = self.test.heap.pages.arena.base() / PAGE_BYTES + start;
                        assert!(page.is_multiple_of(align as usize));
                        let dirty = self.occupy(start, count as usize);
                        assert_eq!(taken.any_dirty, !dirty.is_empty());
                        if start % 512 + count as usize <= 512 {
                            let told = taken.dirty.runs().flat_map(|run| run.first.0..run.end());
                            let told: Vec<_> = told.map(|page| page as usize).collect();
                            let dirty: Vec<_> =
                                dirty.iter().map(|page| page + start % 512).collect();
                            assert_eq!(told, dirty);
                        }
                        self.runs.push(taken.run);
                    }
                    None => {
                        let arena = &self.test.heap.pages.arena;
                        assert!(!self.fits(count as usize, align as usize, arena));
                    }
                }
            }
            30..50 => {
                if let Some((chunk, resident)) = self.test.take_span(class()) {
                    let start = chunk.0 as usize * 16;
                    let dirty = self.occupy(start, 16);
                    assert_eq!(resident, dirty.iter().map(|page| 1 << page).sum::<u16>());
                    self.spans.push(chunk);
                } else {
                    let chunks = self.pages.chunks(16);
                    let used = |pages: &[Page]| pages.contains(&Page::InUse);
                    assert!({ chunks }.all(used), "no chunk is free");
                }
            }
            50..60 if !self.runs.is_empty() => {
                let i = pick(random, self.runs.len());
                let old = self.runs[i];
                let count = old.pages.0 + 1 + random.below(60) as u32;
                let (start, end) = (Self::start(old), Self::start(old) + old.pages.0 as usize);
                let new_end = start + count as usize;
                let crosses = start % 512 + count as usize > 512 && old.first.0 != 0;
                let in_use = self.test.heap.pages.arena.in_use() as usize * 512;
                let free = !crosses
                    && new_end <= in_use
                    && self.pages[end..new_end].iter().all(|&page| page != Page::InUse);
                assert_eq!(self.test.extend(old, count), free);
                if free {
                    self.occupy(end, new_end - end);
                    self.runs[i].pages = Pages(count);
                }
            }
            60..65 if !self.runs.is_empty() => {
                let i = pick(random, self.runs.len());
                let old = self.runs[i];
                let keep = 1 + random.below(old.pages.0 as u64) as u32;
                if keep < old.pages.0 {
                    self.vacate_run(old, keep);
                    self.runs[i] = self.test.shrink(old, keep);
                }
            }
            65..80 if !self.runs.is_empty() => {
                let i = pick(random, self.runs.len());
                let run = self.runs.swap_remove(i);
                self.vacate_run(run, 0);
                self.test.free(run);
            }
            80..97 if !self.spans.is_empty() => {
                let i = pick(random, self.spans.len());
                let chunk = self.spans.swap_remove(i);
                self.vacate(chunk.0 as usize * 16, 16);
                self.test.retire_span(chunk);
            }
            97 => {
                crate::release::purge_everything(
                    &self.test.heap,
                    &self.test.release,
                    &self.test.os,
                );
            }
            98 => {
                let budget = 1 + random.below(200);
                self.test.set_knobs(|knobs| knobs.purge_budget_pages = budget);
                self.test.tick();
            }
            _ => {}
        }
        self.follow_purges();
    }

    /// Takes over what purges did, by what reached the system.
    fn follow_purges(&mut self) {
        let base = self.test.heap.pages.arena.base();
        for range in self.test.os.purged.borrow_mut().drain(..) {
            let start = (range.start - base) / PAGE_BYTES;
            let pages = &mut self.pages[start..start + range.bytes / PAGE_BYTES];
            let ends = [pages.first(), pages.last()];
            assert!(ends.iter().all(|&end| end == Some(&Page::Dirty)), "no more than it takes");
            for page in pages {
                assert_ne!(*page, Page::InUse, "only free pages are given back");
                if *page == Page::Dirty {
                    *page = Page::Purged;
                    self.purged += 1;
                }
            }
        }
    }

    fn compare(&self) {
        let in_use = self.test.heap.pages.arena.in_use();
        for segment in 0..in_use {
            let (free, dirty) = (self.test.unused(segment), self.test.dirty(segment));
            let mut expected = (PageBits::EMPTY, PageBits::EMPTY);
            for page in 0..SEGMENT_PAGES {
                let shadow = self.pages[(segment * SEGMENT_PAGES + page) as usize];
                if shadow != Page::InUse {
                    expected.0.set(pages(page, 1));
                }
                if shadow == Page::Dirty {
                    expected.1.set(pages(page, 1));
                }
            }
            assert_eq!((free, dirty), expected, "segment {segment}");
            let mut heap = self.test.heap.pages.page_heap.lock();
            heap.states(&self.test.heap.pages.arena, SegmentIndex(segment)).check();
        }
        let count = |kind| self.pages.iter().filter(|&&page| page == kind).count() as u64;
        let figures = self.test.figures();
        assert_eq!(figures.pending_pages, count(Page::Dirty));
        assert_eq!(self.test.purged(), self.purged);
        assert_eq!(figures.reused_pages, self.reused);
        assert_eq!(figures.refault_pages, self.refaults);
        assert_eq!(figures.coalesced, self.coalesced);
        assert_eq!(figures.enqueued.iter().sum::<u64>(), self.enqueued);
        let spans = self.spans.len() as u64 * CHUNK_PAGES as u64;
        assert_eq!(figures.large_pages, count(Page::InUse) - spans);
    }
}

#[test]
fn random_takes_and_frees_agree_with_a_map_of_single_pages() {
    for seed in 1..=4 {
        let mut random = Random::new(seed);
        let mut shadow = Shadow::new(16);
        for step in 0..600 {
            shadow.step(&mut random);
            shadow.compare();
            if step % 50 == 0 {
                shadow.test.check();
            }
        }
        assert!(shadow.purged > 0 && shadow.reused > 0 && shadow.refaults > 0, "seed {seed}");
        assert!(shadow.coalesced > 0, "seed {seed}");
        shadow.test.check();
    }
}
