use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use super::tick_if_due;
use crate::bits::PageBits;
use crate::heap::Heap;
use crate::knobs::{Coverage, GateMode};
use crate::release::purge_everything;
use crate::snapshot::{GateState, Snapshot};
use crate::sys::{AddressRange, Linux, MemoryRoom, Nanos, Os, PurgeOutcome};
use crate::test_heap::{TestHeap, pages};
use crate::units::{Epoch, Pages, SEGMENT_PAGES};

/// Operations in one epoch that make a program busy beyond doubt.
const MUCH: u64 = 10_000;

fn ticks(test: &TestHeap) -> (u64, u64) {
    let figures = test.figures();
    (figures.idle_ticks, figures.busy_ticks)
}

#[test]
fn a_tick_is_due_once_per_epoch() {
    let test = TestHeap::new();
    test.set_knobs(|knobs| knobs.epoch_ms = 50);
    test.os.advance_millis(1000);
    let tick = || tick_if_due(&test.heap, &test.os, None);
    tick();
    assert_eq!((ticks(&test), test.heap.release.epoch()), ((1, 0), Epoch(1)));
    tick();
    test.os.advance_millis(49);
    tick();
    assert_eq!(ticks(&test), (1, 0), "not yet");
    test.os.advance_millis(1);
    tick();
    assert_eq!((ticks(&test), test.heap.release.epoch()), ((2, 0), Epoch(2)));
    // However long it was, it is one tick; the epochs have passed all the same.
    test.os.advance_millis(5000);
    tick();
    tick();
    assert_eq!((ticks(&test), test.heap.release.epoch()), ((3, 0), Epoch(102)));
}

/// Another thread comes while one is at it: it goes on its way.
#[test]
fn one_thread_ticks_at_a_time() {
    struct Reentrant<'a>(&'a TestHeap, Cell<u32>);
    impl Os for Reentrant<'_> {
        fn commit(&self, range: AddressRange) -> bool {
            self.0.os.commit(range)
        }
        fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
            self.1.set(self.1.get() + 1);
            self.0.tick();
            self.0.os.purge(ranges)
        }
        fn memory_room(&self, _: &mut [u8; crate::sys::TEXT_BYTES]) -> Option<MemoryRoom> {
            None
        }
        fn now(&self) -> Nanos {
            self.0.os.now()
        }
    }
    let test = TestHeap::new();
    test.free(test.take(10));
    let os = Reentrant(&test, Cell::new(0));
    test.os.advance_millis(1000);
    tick_if_due(&test.heap, &os, None);
    assert_eq!(os.1.get(), 1);
    assert_eq!(ticks(&test), (1, 0));
    test.tick();
    assert_eq!(ticks(&test), (2, 0), "the next one finds the way free");
}

#[test]
fn operations_make_a_tick_busy() {
    let test = TestHeap::new();
    test.tick();
    assert_eq!((ticks(&test), test.heap.release.gate_state()), ((1, 0), GateState::Idle));
    test.work(MUCH);
    test.tick();
    assert_eq!((ticks(&test), test.heap.release.gate_state()), ((1, 1), GateState::Busy));
    test.tick();
    assert_eq!(ticks(&test), (2, 1), "only operations since the last tick count");
    // As many over a long silence are few.
    test.work(MUCH);
    test.os.advance_millis(3_600_000);
    test.tick();
    assert_eq!((ticks(&test), test.heap.release.gate_state()), ((3, 1), GateState::Idle));
}

#[test]
fn operations_of_threads_count_as_well() {
    let test = TestHeap::new();
    test.tick();
    let word = crate::tls::ThreadWord::of_this_thread();
    let cache = test.heap.threads.attach(&test.heap.metadata, word).unwrap();
    cache.operations.add(MUCH);
    test.heap.threads.detach(cache);
    test.tick();
    assert_eq!(ticks(&test), (1, 1), "even of one that has ended");
}

#[test]
fn an_idle_tick_gives_all_back_and_a_busy_one_waits_and_gives_little() {
    let test = TestHeap::new();
    test.set_knobs(|knobs| {
        knobs.purge_budget_pages = 6400;
        knobs.delay_epochs_busy = 2;
    });
    test.tick();
    test.free(test.take(500));
    for _ in 0..2 {
        let busy_ticks = ticks(&test).1;
        test.work(MUCH);
        test.tick();
        assert_eq!(ticks(&test).1, busy_ticks + 1);
        let rested = test.heap.release.epoch().0 >= 3;
        assert_eq!(test.purged(), if rested { 100 } else { 0 }, "a 64th, once it has rested");
    }
    test.work(MUCH);
    test.tick();
    assert_eq!(test.purged(), 200);
    test.tick();
    assert_eq!((test.purged(), test.pending()), (500, 0), "idle");
}

#[test]
fn an_idle_tick_can_be_told_to_wait() {
    let test = TestHeap::new();
    test.set_knobs(|knobs| knobs.delay_epochs_idle = 2);
    test.free(test.take(10));
    test.tick();
    assert_eq!(test.purged(), 0);
    test.tick();
    assert_eq!(test.purged(), 10);
}

#[test]
fn without_release_a_tick_only_counts() {
    let test = TestHeap::new();
    test.set_knobs(|knobs| knobs.release = false);
    test.free(test.take(10));
    test.pass_epochs(5);
    test.tick();
    assert_eq!((ticks(&test), test.pending()), ((6, 0), 10));
    assert_eq!(test.os.purge_calls.get(), 0);
    test.set_knobs(|knobs| knobs.release = true);
    assert_eq!(test.os.purge_calls.get(), 0, "not before the next tick");
    test.tick();
    assert_eq!(test.pending(), 0);
}

#[test]
fn every_knob_takes_effect_at_the_next_tick() {
    let test = TestHeap::new();
    test.tick();
    for _ in 0..4 {
        test.take(SEGMENT_PAGES);
    }
    let free = |segment: u32, first: u32, count: u32| {
        let run = pages(first, count);
        test.release(segment, run, &PageBits::of(run), crate::ReleaseReason::LargeFree);
    };
    free(0, 0, 300);
    test.set_knobs(|knobs| knobs.purge_budget_pages = 70);
    test.tick();
    assert_eq!(test.purged(), 70);
    test.set_knobs(|knobs| {
        knobs.purge_budget_pages = 1000;
        knobs.coverage = Coverage { large: false, ..Coverage::ALL };
    });
    test.tick();
    assert_eq!(test.purged(), 70);
    test.set_knobs(|knobs| knobs.coverage = Coverage::ALL);
    test.tick();
    assert_eq!(test.purged(), 300);

    // 65 single pages need two calls.
    for page in 0..65 {
        free(1, 2 * page, 1);
    }
    test.set_knobs(|knobs| knobs.purge_max_calls = 1);
    test.tick();
    assert_eq!(test.purged(), 364);
    test.set_knobs(|knobs| knobs.purge_max_calls = 2);
    test.tick();
    assert_eq!(test.purged(), 365);

    free(2, 0, 10);
    test.set_knobs(|knobs| knobs.gate = GateMode::Busy);
    let before = ticks(&test);
    test.tick();
    assert_eq!((ticks(&test), test.purged()), ((before.0, before.1 + 1), 365));
    test.set_knobs(|knobs| knobs.delay_epochs_busy = 0);
    test.tick();
    assert_eq!(test.purged(), 375);
    test.set_knobs(|knobs| knobs.gate = GateMode::Idle);
    test.work(MUCH);
    test.tick();
    assert_eq!(ticks(&test), (before.0 + 1, before.1 + 2));

    // The epoch's length holds from the tick on that has read it.
    test.set_knobs(|knobs| knobs.epoch_ms = 400);
    test.os.advance_millis(50);
    tick_if_due(&test.heap, &test.os, None);
    let before = ticks(&test).0;
    test.os.advance_millis(399);
    tick_if_due(&test.heap, &test.os, None);
    assert_eq!(ticks(&test).0, before);
    test.os.advance_millis(1);
    tick_if_due(&test.heap, &test.os, None);
    assert_eq!(ticks(&test).0, before + 1);
}

#[test]
fn purging_everything_heeds_no_knob() {
    let test = TestHeap::new();
    test.set_knobs(|knobs| {
        knobs.release = false;
        knobs.gate = GateMode::Busy;
        knobs.coverage = Coverage::NONE;
        knobs.purge_budget_pages = 1;
        knobs.purge_max_calls = 1;
        knobs.delay_epochs_busy = 1000;
    });
    test.free(test.take(700));
    assert_eq!(purge_everything(&test.heap, &test.os), Pages(700));
    assert_eq!(test.pending(), 0);
    assert_eq!(ticks(&test), (0, 0), "and is no tick");
    assert_eq!(purge_everything(&test.heap, &test.os), Pages(0));
}

#[test]
fn the_oldest_age_is_that_of_the_first_page_still_waiting() {
    let test = TestHeap::new();
    test.set_knobs(|knobs| knobs.coverage = Coverage { large: false, ..Coverage::ALL });
    let age = || Snapshot::take(&test.heap, &test.os).release_oldest_age_seconds;
    let runs: Vec<_> = (0..3).map(|_| test.take(SEGMENT_PAGES)).collect();
    test.os.advance_millis(10_000);
    assert_eq!(age(), 0.0, "nothing waits");
    test.free(runs[1]);
    test.os.advance_millis(1_000);
    test.free(runs[0]);
    test.os.advance_millis(1_000);
    test.free(runs[2]);
    assert_eq!(age(), 2.0, "known without a tick");
    test.tick();
    assert_eq!(age(), 2.05, "the tick has looked at all segments");
    // The oldest is used again; who is next is found at the next tick.
    assert_eq!(test.take(SEGMENT_PAGES).segment.0, 0);
    assert_eq!(test.take(SEGMENT_PAGES).segment.0, 1);
    test.tick();
    assert_eq!(age(), 0.1);
    test.set_knobs(|knobs| knobs.coverage = Coverage::ALL);
    test.tick();
    assert_eq!((age(), test.pending()), (0.0, 0));
}

/// Threads that all find a tick due at the same moment: one of them ticks. A second tick would see an
/// epoch without operations and take a busy program for idle.
#[test]
fn an_epoch_has_one_tick_however_many_threads_find_it_due() {
    const THREADS: u64 = 4;
    const EPOCHS: u64 = 20_000;
    struct Clock(AtomicU64);
    impl Os for Clock {
        fn commit(&self, range: AddressRange) -> bool {
            Linux.commit(range)
        }
        fn purge(&self, _: &[AddressRange]) -> PurgeOutcome {
            PurgeOutcome::default()
        }
        fn memory_room(&self, _: &mut [u8; crate::sys::TEXT_BYTES]) -> Option<MemoryRoom> {
            None
        }
        fn now(&self) -> Nanos {
            Nanos::from_millis(50 * self.0.load(Ordering::Acquire))
        }
    }
    let heap = Heap::new();
    heap.belongs_to_this_process();
    assert!(heap.arena.reserve(&Linux, 64 << 20));
    let clock = Clock(AtomicU64::new(1));
    let arrived = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for epoch in 1..=EPOCHS {
                    tick_if_due(&heap, &clock, None);
                    // The last to have looked lets the next epoch begin.
                    if arrived.fetch_add(1, Ordering::AcqRel) + 1 == epoch * THREADS {
                        clock.0.store(epoch + 1, Ordering::Release);
                    }
                    while clock.0.load(Ordering::Acquire) == epoch {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    assert_eq!(heap.totals.read().idle_ticks, EPOCHS);
}
