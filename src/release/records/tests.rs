use core::cell::Cell;

use super::{ALL_RECORDS, IDLE_EPOCHS, RECORD_PAGES, RecordBatch, RecordLimits, give_records_back};
use crate::base::units::{Epoch, PAGE_BYTES, SEGMENT_PAGES, SegmentIndex};
use crate::geometry::size_class::SizeClass;
use crate::heap::knobs::GateMode;
use crate::os::{AddressRange, Linux, Mapped, MemoryRoom, Nanos, Os, PurgeOutcome};
use crate::pages::page_heap::LargeRun;
use crate::release::purge::REFUSED_DELAY_EPOCHS;
use crate::release::purge_everything;
use crate::testing::test_heap::{TestHeap, pages};

/// The kernel of a test, which does something with the records that it is to take, before or instead.
struct Kernel<'a, F: Fn(&[AddressRange]) -> PurgeOutcome> {
    test: &'a TestHeap,
    purge: F,
}

impl<F: Fn(&[AddressRange]) -> PurgeOutcome> Os for Kernel<'_, F> {
    fn map(&self, range: AddressRange) -> Mapped {
        self.test.os.map(range)
    }
    fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
        (self.purge)(ranges)
    }
    fn memory_room(&self, _: &mut crate::os::cgroup::Scratch) -> Option<MemoryRoom> {
        None
    }
    fn now(&self) -> Nanos {
        self.test.os.now()
    }
}

fn give_back(test: &TestHeap, os: &impl Os, limits: &RecordLimits) -> u64 {
    let epoch = test.heap.pages.clock.epoch();
    let given = give_records_back(&test.heap.pages, os, epoch, limits, &mut RecordBatch::new());
    test.check();
    given.pages.0 as u64 / RECORD_PAGES
}

fn record(test: &TestHeap, segment: u32) -> AddressRange {
    test.heap.pages.arena.record_range(SegmentIndex(segment))
}

/// How many of a record's pages the kernel backs. A page that was looked at since it was given back counts,
/// too: it is the one of zeros that all processes share.
fn backed_pages(test: &TestHeap, segment: u32) -> usize {
    let range = record(test, segment);
    let mut backed = [0u8; RECORD_PAGES as usize];
    assert_eq!(range.bytes, backed.len() * PAGE_BYTES);
    // SAFETY: the kernel writes a byte for each page of the range, which is mapped.
    let result = unsafe { libc::mincore(range.start as *mut _, range.bytes, backed.as_mut_ptr()) };
    assert_eq!(result, 0);
    backed.iter().filter(|&&page| page & 1 == 1).count()
}

/// Segments that were in use: of spans of all blocks, and of a large run.
fn used(test: &TestHeap, segments: u32) {
    let spans: Vec<_> =
        (0..32).map(|_| test.take_span(SizeClass::for_bytes(64)).unwrap().0).collect();
    let runs: Vec<_> = (1..segments).map(|_| test.take(SEGMENT_PAGES)).collect();
    assert_eq!(test.figures().records, segments as u64);
    spans.into_iter().for_each(|span| test.retire_span(span));
    runs.into_iter().for_each(|run| test.free(run));
    test.check();
}

/// The same, and their pages are gone.
fn clean(test: &TestHeap, segments: u32) {
    used(test, segments);
    purge_everything(&test.heap, &test.release, &test.os);
    test.os.purged.borrow_mut().clear();
    test.os.purge_calls.set(0);
    test.check();
}

#[test]
fn a_segment_that_was_never_used_has_no_record() {
    let test = TestHeap::new();
    let runs: Vec<_> = (0..17).map(|_| test.take(SEGMENT_PAGES)).collect();
    assert_eq!(test.heap.pages.arena.in_use(), 18, "it grows by an eighth");
    assert_eq!((test.figures().records, backed_pages(&test, 17)), (17, 0));
    runs.into_iter().for_each(|run| test.free(run));
}

#[test]
fn records_follow_their_pages_a_second_later() {
    let test = TestHeap::new();
    used(&test, 3);
    assert_eq!([0, 1, 2].map(|segment| backed_pages(&test, segment) > 0), [true; 3]);
    test.tick();
    assert_eq!(test.pending(), 0);
    test.os.purged.borrow_mut().clear();
    let before = test.figures();
    for _ in 1..IDLE_EPOCHS {
        assert_eq!(test.figures().records, 3);
        test.check();
        test.tick();
    }
    let figures = test.figures();
    assert_eq!((figures.records, figures.record_calls), (0, 1));
    let bytes = 3 * RECORD_PAGES as usize * PAGE_BYTES;
    let range = AddressRange { start: record(&test, 0).start, bytes };
    assert_eq!(*test.os.purged.borrow(), [range], "neighbours are one range");
    assert_eq!(
        [0, 1, 2].map(|segment| backed_pages(&test, segment)),
        [1, 0, 0],
        "one was looked at"
    );
    assert_eq!(figures.purged_pages, before.purged_pages, "pages of blocks are counted as such");
    assert_eq!(figures.madvise_calls, before.madvise_calls);
    test.tick();
    assert_eq!(test.figures().record_calls, 1, "once");
}

#[test]
fn a_segment_whose_record_is_gone_is_used_as_any_other() {
    let test = TestHeap::new();
    for round in 1..4 {
        clean(&test, 3);
        assert_eq!(test.figures().refault_pages, (round - 1) * 3 * SEGMENT_PAGES as u64);
        assert_eq!(give_back(&test, &test.os, &ALL_RECORDS), 3);
        assert_eq!(test.unused(1).count().0, SEGMENT_PAGES);
        assert_eq!((test.figures().records, test.figures().record_calls), (0, round));
    }
    let (span, resident) = test.take_span(SizeClass::for_bytes(64)).unwrap();
    assert_eq!((span.0, resident), (0, 0), "the lowest one, and nothing is there");
    let long = test.take(SEGMENT_PAGES + 7);
    assert_eq!(long.segment, SegmentIndex(1));
    let taken = test.try_take(20, 1).unwrap();
    assert!(!taken.any_dirty);
    test.check();
    assert_eq!(test.figures().records, 3);
}

/// What keeps a segment's record: anything that is in use there, or pending.
#[test]
fn a_record_that_says_something_stays() {
    let test = TestHeap::new();
    let (block, rest) = (test.take(1), test.take(SEGMENT_PAGES - 1));
    let other = test.take(SEGMENT_PAGES);
    test.free(rest);
    test.free(other);
    assert_eq!(give_back(&test, &test.os, &ALL_RECORDS), 0, "pages are pending");
    purge_everything(&test.heap, &test.release, &test.os);
    assert_eq!(give_back(&test, &test.os, &ALL_RECORDS), 1);
    assert_eq!(test.figures().records, 1, "that of the segment with a page in use");
    test.free(block);
    purge_everything(&test.heap, &test.release, &test.os);
    assert_eq!(give_back(&test, &test.os, &ALL_RECORDS), 1);
    assert_eq!(test.figures().records, 0);
}

#[test]
fn a_busy_program_keeps_records_for_longer() {
    let test = TestHeap::new();
    test.set_knobs(|knobs| {
        knobs.gate = GateMode::Busy;
        knobs.delay_epochs_busy = 7;
    });
    used(&test, 2);
    let mut ticks = 0;
    while test.figures().records > 0 {
        test.tick();
        ticks += 1;
        assert!(ticks < 100);
    }
    assert_eq!(ticks, IDLE_EPOCHS + 7);
}

#[test]
fn a_segment_that_is_used_in_bursts_keeps_its_record() {
    let test = TestHeap::new();
    clean(&test, 1);
    for _ in 0..10 {
        test.free(test.take(SEGMENT_PAGES));
        for _ in 1..IDLE_EPOCHS {
            test.tick();
        }
    }
    assert_eq!((test.figures().records, test.figures().record_calls), (1, 0));
}

#[test]
fn the_budget_is_for_records_too() {
    let test = TestHeap::new();
    clean(&test, 5);
    let limits = RecordLimits { pages: 2 * RECORD_PAGES + 1, ..ALL_RECORDS };
    assert_eq!(give_back(&test, &test.os, &limits), 2);
    assert_eq!(give_back(&test, &test.os, &RecordLimits { calls: 0, ..ALL_RECORDS }), 0);
    let epoch = test.heap.pages.clock.epoch();
    let batch = &mut RecordBatch::new();
    let left = give_records_back(&test.heap.pages, &test.os, epoch, &limits, batch);
    assert!(left.is_waiting, "one is left");
    assert_eq!(give_back(&test, &test.os, &ALL_RECORDS), 1);
}

/// More records than fit into a call, with gaps.
#[test]
fn many_records_go_in_several_calls() {
    let test = TestHeap::with_segments(200);
    let runs: Vec<_> = (0..200).map(|_| test.take(SEGMENT_PAGES)).collect();
    let (kept, freed): (Vec<LargeRun>, _) =
        runs.into_iter().partition(|run| run.segment.0 % 5 == 2);
    freed.into_iter().for_each(|run| test.free(run));
    purge_everything(&test.heap, &test.release, &test.os);
    test.os.purged.borrow_mut().clear();
    let epoch = test.heap.pages.clock.epoch();
    give_records_back(&test.heap.pages, &test.os, epoch, &ALL_RECORDS, &mut RecordBatch::new());
    assert_eq!((test.figures().records, test.figures().record_calls), (kept.len() as u64, 3));
    let (kept, gone): (Vec<u32>, Vec<u32>) = (0..200).partition(|segment| segment % 5 == 2);
    let backed =
        |of: Vec<u32>| of.iter().map(|&segment| backed_pages(&test, segment)).sum::<usize>();
    assert_eq!(backed(kept), 40);
    assert_eq!(backed(gone), test.os.purged.borrow().len(), "one of each range was looked at");
    test.check();
}

#[test]
fn a_record_that_the_kernel_refuses_stays_whole() {
    let test = TestHeap::new();
    clean(&test, 4);
    test.pass_epochs(IDLE_EPOCHS);
    test.os.locked.borrow_mut().push(record(&test, 1).start);
    // All are one range. Nothing is lost, and nothing is tried again at each tick.
    for _ in 0..5 {
        test.tick();
        test.check();
    }
    let figures = test.figures();
    assert_eq!((figures.records, figures.record_calls, figures.errors), (4, 1, 1));
    assert_eq!(figures.refault_pages, 0);
    let run = test.take(SEGMENT_PAGES);
    assert_eq!(test.figures().refault_pages, SEGMENT_PAGES as u64, "it knows what it knew");
    test.free(run);
    test.os.locked.borrow_mut().clear();
    for _ in 0..REFUSED_DELAY_EPOCHS + IDLE_EPOCHS {
        test.tick();
    }
    test.check();
    assert_eq!(test.figures().records, 0);
}

/// The kernel takes some pages of a range and refuses the rest; or says that it has taken what it has
/// not. Whatever is left of a record, the heap goes on.
#[test]
fn a_record_of_which_a_part_is_gone_is_right() {
    for (part, gone, says_so) in [
        (0..0, 0, true),
        (0..0, 0, false),
        (0..1, 1, false),
        (1..5, 0, false),
        (0..7, 2, false),
        (3..11, 2, false),
        (0..15, 3, false),
    ] {
        let test = TestHeap::new();
        clean(&test, 3);
        let kernel = Kernel {
            test: &test,
            purge: |ranges| {
                let start = ranges[0].start + part.start * PAGE_BYTES;
                let range = AddressRange { start, bytes: part.len() * PAGE_BYTES };
                if !part.is_empty() {
                    assert_eq!(Linux.purge(&[range]).refused, 0);
                }
                PurgeOutcome { calls: 1, refused: !says_so as u64, ..PurgeOutcome::default() }
            },
        };
        assert_eq!(give_back(&test, &kernel, &ALL_RECORDS), gone, "{part:?}");
        assert_eq!(test.figures().records, 3 - gone);
        used(&test, 3);
        purge_everything(&test.heap, &test.release, &test.os);
        let later = Epoch(test.heap.pages.clock.epoch().0 + REFUSED_DELAY_EPOCHS);
        give_records_back(&test.heap.pages, &test.os, later, &ALL_RECORDS, &mut RecordBatch::new());
        test.check();
        assert_eq!(test.figures().records, 0);
    }
}

/// While the kernel has records, others allocate: elsewhere, before their record is gone and after.
#[test]
fn nobody_allocates_where_the_kernel_has_the_record() {
    let test = TestHeap::new();
    let first = test.take(SEGMENT_PAGES);
    let rest: Vec<_> = (0..31).map(|_| test.take(SEGMENT_PAGES)).collect();
    let tail = test.shrink(first, SEGMENT_PAGES - 16);
    rest.into_iter().for_each(|run| test.free(run));
    purge_everything(&test.heap, &test.release, &test.os);
    let calls = Cell::new(0);
    let kernel = Kernel {
        test: &test,
        purge: |ranges| {
            calls.set(calls.get() + 1);
            let look = || {
                assert!(test.try_take(SEGMENT_PAGES, 1).is_none(), "no whole segment is left");
                assert!(test.try_take(2 * SEGMENT_PAGES, 1).is_none());
                assert!(!test.extend(tail, SEGMENT_PAGES + 5), "nor is the next one to be had");
                let (span, _) = test.take_span(SizeClass::for_bytes(64)).expect("in the first");
                assert_eq!(span.segment(), SegmentIndex(0));
                test.retire_span(span);
                purge_everything(&test.heap, &test.release, &test.os);
                assert!(test.heap.pages.page_heap.lock().is_worth_waiting_for());
            };
            look();
            let outcome = test.os.purge(ranges);
            look();
            outcome
        },
    };
    assert_eq!(give_back(&test, &kernel, &ALL_RECORDS), 31);
    assert_eq!(calls.get(), 1);
    assert!(test.extend(tail, SEGMENT_PAGES + 5), "now it is");
    test.check();
    assert!(!test.heap.pages.page_heap.lock().is_worth_waiting_for());
    assert_eq!(test.unused(1), crate::base::bits::PageBits::of(pages(5, SEGMENT_PAGES - 5)));
}

#[test]
fn addresses_of_unused_segments_go_and_come_back() {
    let test = TestHeap::new();
    let arena = &test.heap.pages.arena;
    clean(&test, 6);
    let all = arena.in_use();
    assert_eq!(arena.mapped_segments(), all);
    assert_eq!(give_back(&test, &test.os, &ALL_RECORDS), 6);
    assert_eq!(arena.mapped_segments(), all - 6, "nobody has a use for them");
    test.take_span(SizeClass::for_bytes(64)).unwrap();
    assert_eq!(arena.mapped_segments(), all - 5);
    let run = test.take(2 * SEGMENT_PAGES);
    assert_eq!((run.segment, arena.mapped_segments()), (SegmentIndex(1), all - 3));
    assert!(test.extend(run, 3 * SEGMENT_PAGES));
    assert_eq!(arena.mapped_segments(), all - 2);
    test.check();
}

#[test]
fn a_few_unused_segments_between_others_keep_their_addresses() {
    let test = TestHeap::new();
    let runs: Vec<_> = (0..9).map(|_| test.take(SEGMENT_PAGES)).collect();
    let all = test.heap.pages.arena.in_use();
    for number in [1, 2, 3, 5] {
        test.free(runs[number]);
    }
    purge_everything(&test.heap, &test.release, &test.os);
    assert_eq!(give_back(&test, &test.os, &ALL_RECORDS), 4);
    assert_eq!(test.heap.pages.arena.mapped_segments(), all);
}

/// Between the end of one use and the next somebody may map something there.
#[test]
fn what_others_map_at_unused_addresses_stays_theirs() {
    let test = TestHeap::new();
    let arena = &test.heap.pages.arena;
    clean(&test, 6);
    give_back(&test, &test.os, &ALL_RECORDS);
    let theirs = test.address(2, pages(7, 1));
    assert_eq!(Linux.map(theirs), Mapped::Here);
    // Nor does a second look unmap it.
    give_back(&test, &test.os, &ALL_RECORDS);
    assert_eq!(Linux.map(theirs), Mapped::Taken);
    let run = test.take(3 * SEGMENT_PAGES);
    assert_eq!((run.segment, arena.others()), (SegmentIndex(3), 1));
    assert_eq!(test.take(SEGMENT_PAGES).segment, SegmentIndex(0));
    test.check();
}

#[test]
fn addresses_that_do_not_come_back_are_no_memory() {
    let test = TestHeap::new();
    clean(&test, 6);
    give_back(&test, &test.os, &ALL_RECORDS);
    test.os.out_of_memory.set(true);
    assert!(test.try_take(1, 1).is_none() && test.try_take(600, 1).is_none());
    assert!(test.take_span(SizeClass::for_bytes(64)).is_none());
    test.check();
    test.os.out_of_memory.set(false);
    assert_eq!(test.take(600).segment, SegmentIndex(0));
    test.check();
}

/// What the kernel refuses to map is no reason to refuse what is there.
#[test]
fn what_is_mapped_serves_where_addresses_do_not_come_back() {
    let test = TestHeap::new();
    let runs: Vec<_> = (0..13).map(|_| test.take(SEGMENT_PAGES)).collect();
    for &run in &runs[..8] {
        test.free(run);
    }
    purge_everything(&test.heap, &test.release, &test.os);
    give_back(&test, &test.os, &ALL_RECORDS);
    for &run in &runs[9..12] {
        test.free(run);
    }
    test.os.out_of_memory.set(true);
    purge_everything(&test.heap, &test.release, &test.os);
    let mapped = test.heap.pages.arena.mapped_segments();
    assert_eq!(test.take(SEGMENT_PAGES + 1).segment, SegmentIndex(9));
    assert_eq!(test.take(5).segment, SegmentIndex(10));
    let (chunk, _) = test.take_span(SizeClass::for_bytes(64)).unwrap();
    assert_eq!(chunk.segment(), SegmentIndex(10));
    assert_eq!(test.take(SEGMENT_PAGES).segment, SegmentIndex(11));
    assert!(test.try_take(SEGMENT_PAGES, 1).is_none());
    assert_eq!(test.heap.pages.arena.mapped_segments(), mapped);
    test.check();
    test.os.out_of_memory.set(false);
    assert_eq!(test.take(SEGMENT_PAGES).segment, SegmentIndex(0));
    test.check();
}
