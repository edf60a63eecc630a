use crate::release::Release;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{ROOM_EPOCHS, Ticked, tick, tick_if_due};
use crate::base::bits::PageBits;
use crate::base::units::{Epoch, Pages, SEGMENT_PAGES};
use crate::caches::bin::Bins;
use crate::caches::thread_cache::ThreadCache;
use crate::figures::snapshot::{GateState, Snapshot};
use crate::geometry::size_class::SizeClass;
use crate::heap::Heap;
use crate::heap::central;
use crate::heap::knobs::{Coverage, GateMode};
use crate::os::biased_lock::OwnerWord;
use crate::os::tls::ThreadWord;
use crate::os::{
    AddressRange, Linux, LinuxOfOwnThreads, Mapped, MemoryRoom, Nanos, Os, PurgeOutcome,
};
use crate::release::journal::Event;
use crate::release::purge_everything;
use crate::release::records::IDLE_EPOCHS;
use crate::testing::test_heap::{TestHeap, pages};

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
    let tick = || tick_if_due(&test.heap, &test.release, &test.os, None);
    tick();
    assert_eq!((ticks(&test), test.heap.pages.clock.epoch()), ((1, 0), Epoch(1)));
    tick();
    test.os.advance_millis(49);
    tick();
    assert_eq!(ticks(&test), (1, 0), "not yet");
    test.os.advance_millis(1);
    tick();
    assert_eq!((ticks(&test), test.heap.pages.clock.epoch()), ((2, 0), Epoch(2)));
    // However long it was, it is one tick; the epochs have passed all the same.
    test.os.advance_millis(5000);
    tick();
    tick();
    assert_eq!((ticks(&test), test.heap.pages.clock.epoch()), ((3, 0), Epoch(102)));
}

/// Another thread comes while one is at it: it goes on its way.
#[test]
fn one_thread_ticks_at_a_time() {
    struct Reentrant<'a>(&'a TestHeap, Cell<u32>);
    impl Os for Reentrant<'_> {
        fn map(&self, range: AddressRange) -> Mapped {
            self.0.os.map(range)
        }
        fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
            self.1.set(self.1.get() + 1);
            self.0.tick();
            self.0.os.purge(ranges)
        }
        fn memory_room(&self, _: &mut crate::os::cgroup::Scratch) -> Option<MemoryRoom> {
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
    tick_if_due(&test.heap, &test.release, &os, None);
    assert_eq!(os.1.get(), 1);
    assert_eq!(ticks(&test), (1, 0));
    test.tick();
    assert_eq!(ticks(&test), (2, 0), "the next one finds the way free");
}

/// Every moment of a tick is counted once: as the purge's, as the take-over's, or as its own.
#[test]
fn the_parts_of_a_ticks_time_sum_to_it() {
    let test = TestHeap::new();
    test.free(test.take(10));
    test.os.advance_millis(1000);
    let began = test.os.exact_time.get();
    tick(&test.heap, &test.release, &test.os, false, false).expect("nobody else ticks");
    let took = test.os.exact_time.get().0 - began.0;
    let figures = test.figures();
    let purge: u64 = figures.kernel_nanos.iter().chain(&figures.purge_nanos).sum();
    assert_eq!(figures.kernel_nanos, [0, 0, 0, 1_000_000, 0]);
    let uncached = &test.heap.uncached;
    let takeover = uncached.takeover_nanos.load(Ordering::Relaxed);
    let tick = uncached.tick_nanos.load(Ordering::Relaxed);
    assert!(takeover > 0 && tick > 0, "{takeover} {tick}");
    // The first look at the clock is the beginning.
    assert_eq!(purge + takeover + tick, took - 1000);
}

/// What a tick did is in the journal, before the tick itself.
#[test]
fn a_tick_is_written_down_with_what_it_did() {
    let test = TestHeap::new();
    test.free(test.take(10));
    test.work(3);
    let room = MemoryRoom { limit_bytes: 100, used_bytes: 95, stalled_percent: 1 };
    test.os.room.set(Some(room));
    let began = test.os.exact_time.get().0;
    test.os.advance_millis(1000);
    tick(&test.heap, &test.release, &test.os, false, true).expect("nobody else ticks");
    let ended = test.os.exact_time.get().0;
    let events = test.release.journal.events();
    let [
        Event::Pressure {
            is_scarce: true,
            limit_bytes: 100,
            used_bytes: 95,
            stalled_percent: 1,
            ..
        },
        Event::Purge { period: purge, ranges: 1, pages: 10, calls: 1, is_interior: false },
        Event::Tick { period: whole, gate: GateState::Idle, operations: 3, pages: 10 },
    ] = events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(purge.took_nanos, 1_000_000);
    assert_eq!((whole.began_nanos, whole.ended_nanos()), (began + 1000, ended));
    assert!(whole.began_nanos < purge.began_nanos && purge.ended_nanos() < whole.ended_nanos());

    // Once more when it is over, and no more then.
    test.os.room.set(Some(MemoryRoom { used_bytes: 10, ..room }));
    for _ in 0..3 {
        test.os.advance_millis(1000);
        tick(&test.heap, &test.release, &test.os, false, true).expect("nobody else ticks");
    }
    let pressure = |event: &&Event| matches!(event, Event::Pressure { is_scarce: false, .. });
    assert_eq!(test.release.journal.events().iter().filter(pressure).count(), 1);
}

#[test]
fn operations_make_a_tick_busy() {
    let test = TestHeap::new();
    test.tick();
    assert_eq!((ticks(&test), test.release.gate_state()), ((1, 0), GateState::Idle));
    test.work(MUCH);
    test.tick();
    assert_eq!((ticks(&test), test.release.gate_state()), ((1, 1), GateState::Busy));
    test.tick();
    assert_eq!(ticks(&test), (2, 1), "only operations since the last tick count");
    // As many over a long silence are few.
    test.work(MUCH);
    test.os.advance_millis(3_600_000);
    test.tick();
    assert_eq!((ticks(&test), test.release.gate_state()), ((3, 1), GateState::Idle));
}

#[test]
fn operations_of_threads_count_as_well() {
    let test = TestHeap::new();
    test.tick();
    let word = crate::os::tls::ThreadWord::of_this_thread();
    let cache = test.attach(word);
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
        let rested = test.heap.pages.clock.epoch().0 >= 3;
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
    tick_if_due(&test.heap, &test.release, &test.os, None);
    let before = ticks(&test).0;
    test.os.advance_millis(399);
    tick_if_due(&test.heap, &test.release, &test.os, None);
    assert_eq!(ticks(&test).0, before);
    test.os.advance_millis(1);
    tick_if_due(&test.heap, &test.release, &test.os, None);
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
    assert_eq!(purge_everything(&test.heap, &test.release, &test.os), Pages(700));
    assert_eq!(test.pending(), 0);
    assert_eq!(ticks(&test), (0, 0), "and is no tick");
    assert_eq!(purge_everything(&test.heap, &test.release, &test.os), Pages(0));
}

#[test]
fn the_oldest_age_is_that_of_the_first_page_still_waiting() {
    let test = TestHeap::new();
    test.set_knobs(|knobs| knobs.coverage = Coverage { large: false, ..Coverage::ALL });
    let age = || Snapshot::take(&test.heap, &test.release, &test.os).release_oldest_age_seconds;
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
        fn map(&self, range: AddressRange) -> Mapped {
            Linux.map(range)
        }
        fn purge(&self, _: &[AddressRange]) -> PurgeOutcome {
            PurgeOutcome::default()
        }
        fn memory_room(&self, _: &mut crate::os::cgroup::Scratch) -> Option<MemoryRoom> {
            None
        }
        fn now(&self) -> Nanos {
            Nanos::from_millis(50 * self.0.load(Ordering::Acquire))
        }
    }
    let (heap, release) = (Heap::new(), Release::new());
    heap.adopt_in_this_process();
    assert!(heap.pages.arena.choose_window(&Linux, 64 << 20));
    let clock = Clock(AtomicU64::new(1));
    let arrived = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for epoch in 1..=EPOCHS {
                    tick_if_due(&heap, &release, &clock, None);
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
    assert_eq!(heap.pages.totals.read().idle_ticks, EPOCHS);
}

const SCARCE: MemoryRoom = MemoryRoom { limit_bytes: 1000, used_bytes: 950, stalled_percent: 0 };
const AMPLE: MemoryRoom = MemoryRoom { limit_bytes: 1000, used_bytes: 500, stalled_percent: 0 };

#[test]
fn near_the_limit_a_busy_tick_gives_back_like_an_idle_one() {
    let test = TestHeap::new();
    test.set_knobs(|knobs| knobs.purge_budget_pages = 6400);
    // Waiting for memory counts like being near the limit.
    let stalled = MemoryRoom { stalled_percent: 20, ..AMPLE };
    let rooms = [Some(SCARCE), Some(AMPLE), Some(stalled), None];
    for (room, purged) in rooms.into_iter().zip([500, 0, 500, 0]) {
        purge_everything(&test.heap, &test.release, &test.os);
        test.os.room.set(room);
        let tick = |millis| {
            test.os.advance_millis(millis);
            test.work(MUCH * millis / 50);
            tick(&test.heap, &test.release, &test.os, false, true).expect("nobody else ticks");
        };
        tick(5000);
        let before = test.purged();
        test.free(test.take(500));
        tick(50);
        assert_eq!(test.release.gate_state(), GateState::Busy, "all the same");
        assert_eq!(test.purged() - before, purged, "{room:?}");
    }
}

#[test]
fn the_limit_is_looked_at_every_few_epochs() {
    struct Counting<'a>(&'a TestHeap, Cell<u64>);
    impl Os for Counting<'_> {
        fn map(&self, range: AddressRange) -> Mapped {
            self.0.os.map(range)
        }
        fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
            self.0.os.purge(ranges)
        }
        fn memory_room(&self, _: &mut crate::os::cgroup::Scratch) -> Option<MemoryRoom> {
            self.1.set(self.1.get() + 1);
            None
        }
        fn now(&self) -> Nanos {
            self.0.os.now()
        }
    }
    let test = TestHeap::new();
    let os = Counting(&test, Cell::new(0));
    test.os.advance_millis(10_000);
    for _ in 0..1 + 10 * ROOM_EPOCHS {
        test.os.advance_millis(50);
        tick(&test.heap, &test.release, &os, false, true).expect("nobody else ticks");
        tick_if_due(&test.heap, &test.release, &os, None);
    }
    assert_eq!(os.1.get(), 11);
}

/// A cache of this thread, with blocks of one page in its bin.
fn cache_with_a_bin(test: &TestHeap) -> &ThreadCache {
    let word = ThreadWord::of_this_thread();
    let cache = test.attach(word);
    fill_bin(test, cache);
    cache
}

fn fill_bin(test: &TestHeap, cache: &ThreadCache) {
    let class = SizeClass::for_bytes(4096);
    let block = central::refill(&test.heap, cache, class).unwrap();
    assert!(cache.bin(class).push(block));
}

/// On a thread that owns no cache, as the ticker is.
fn tick_elsewhere(test: &TestHeap, os: &(impl Os + Sync), is_quiet: bool) -> Ticked {
    let (heap, release) = (&test.heap, &test.release);
    let ticked = || tick(heap, release, os, is_quiet, true).expect("nobody else ticks");
    std::thread::scope(|scope| scope.spawn(ticked).join().unwrap())
}

/// The kernel of [`TestHeap`] for ticks of other threads: a clock that goes on an epoch at each look.
struct Epochs(AtomicU64);

impl Os for Epochs {
    fn map(&self, range: AddressRange) -> Mapped {
        Linux.map(range)
    }
    fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
        LinuxOfOwnThreads.purge(ranges)
    }
    fn memory_room(&self, _: &mut crate::os::cgroup::Scratch) -> Option<MemoryRoom> {
        None
    }
    fn now(&self) -> Nanos {
        Nanos::from_millis(50 * self.0.load(Ordering::Relaxed))
    }
}

impl Epochs {
    fn tick(&self, test: &TestHeap) -> Ticked {
        self.0.fetch_add(1, Ordering::Relaxed);
        let ticked = tick_elsewhere(test, self, false);
        test.check();
        ticked
    }
}

const AT_REST: Ticked = Ticked { is_at_rest: true, has_worked: false };
const WAITING: Ticked = Ticked { is_at_rest: false, has_worked: false };

#[test]
fn a_tick_says_whether_there_is_something_left() {
    let test = TestHeap::new();
    let os = Epochs(AtomicU64::new(1));
    assert_eq!(os.tick(&test), AT_REST, "without a barrier nobody waits for caches");
    if !test.heap.register_barrier() {
        return;
    }
    assert_eq!(os.tick(&test), AT_REST);
    test.work(1);
    assert_eq!(os.tick(&test), Ticked { is_at_rest: false, has_worked: true });
    assert_eq!(os.tick(&test), AT_REST);

    // The ledger. A page that is in use keeps the segment's record, an array that of others.
    let kept = test.take(1);
    let array = test.heap.pages.metadata.allocate_array(64).unwrap();
    test.set_knobs(|knobs| knobs.delay_epochs_idle = 5);
    test.free(test.take(10));
    for _ in 0..4 {
        assert_eq!(os.tick(&test), WAITING);
    }
    assert_eq!(os.tick(&test), Ticked { is_at_rest: true, has_worked: true });
    assert_eq!(os.tick(&test), AT_REST);
    test.set_knobs(|knobs| knobs.delay_epochs_idle = 0);

    // A cache.
    let cache = cache_with_a_bin(&test);
    assert_eq!(os.tick(&test), WAITING);
    assert_eq!(os.tick(&test), Ticked { is_at_rest: true, has_worked: true });
    assert!(cache.is_flushed());
    assert_eq!(os.tick(&test), AT_REST);

    // The inside of a span.
    let class = SizeClass::for_bytes(4096);
    let live = central::refill(&test.heap, cache, class).unwrap();
    central::flush(&test.heap, cache, Bins::ALL);
    assert_eq!(tick_elsewhere(&test, &os, true), WAITING, "it rests for an epoch");
    assert_eq!(os.tick(&test), Ticked { is_at_rest: true, has_worked: true });
    assert!(cache.bin(class).capacity() == 0);
    assert_eq!(os.tick(&test), AT_REST, "live blocks are no work");
    assert!(!live.is_null());
    test.free(kept);
    assert_eq!(os.tick(&test), Ticked { is_at_rest: true, has_worked: true });

    // A record of which nothing is in use.
    test.free(test.take(SEGMENT_PAGES));
    assert_eq!(os.tick(&test), Ticked { is_at_rest: false, has_worked: true });
    for _ in 2..IDLE_EPOCHS {
        assert_eq!(os.tick(&test), WAITING);
    }
    assert_eq!(test.figures().records, 2);
    assert_eq!(os.tick(&test), AT_REST);
    assert_eq!(test.figures().records, 1);

    // Memory for arrays of bins, of which none is in use.
    // SAFETY: allocated above, with this size.
    unsafe { test.heap.pages.metadata.give_back(array, 64) };
    let touched = test.heap.pages.metadata.used_bytes();
    for _ in 0..IDLE_EPOCHS {
        assert_eq!(os.tick(&test), WAITING);
    }
    assert_eq!(test.heap.pages.metadata.used_bytes(), touched);
    assert_eq!(os.tick(&test), AT_REST);
    assert!(test.heap.pages.metadata.used_bytes() < touched);
    assert_eq!(test.figures().record_calls, 2);

    // With nothing to do there is nothing left.
    test.set_knobs(|knobs| knobs.release = false);
    test.free(test.take(10));
    assert_eq!(os.tick(&test), AT_REST);
}

#[test]
fn a_cache_whose_owner_is_inside_keeps_the_heap_from_rest() {
    let test = TestHeap::new();
    if !test.heap.register_barrier() {
        return;
    }
    // Its segment stays in use, and an array.
    test.take(1);
    test.heap.pages.metadata.allocate_array(64).unwrap();
    let os = Epochs(AtomicU64::new(1));
    let cache = cache_with_a_bin(&test);
    let word = ThreadWord::of_this_thread();
    let before = word.get();
    word.set(crate::os::biased_lock::BUSY);
    for _ in 0..5 {
        assert_eq!(os.tick(&test), WAITING);
    }
    word.set(before);
    assert!(os.tick(&test).is_at_rest);
    assert!(cache.is_flushed());
}

/// What a bin hides becomes free, then pending, and goes in one and the same tick.
#[test]
fn a_tick_looks_into_caches_then_at_the_ledger() {
    let test = TestHeap::new();
    if !test.heap.register_barrier() {
        return;
    }
    let os = Epochs(AtomicU64::new(1));
    cache_with_a_bin(&test);
    os.tick(&test);
    assert_eq!((test.purged(), test.pending()), (0, 0));
    os.tick(&test);
    assert!(test.purged() > 0);
    assert_eq!(test.pending(), 0);
}

/// What the ledger leaves of the budget is for the pages inside spans.
#[test]
fn the_ledger_comes_before_the_inside_of_spans() {
    let test = TestHeap::new();
    let word = ThreadWord::of_this_thread();
    let cache = test.attach(word);
    let _live = central::refill(&test.heap, cache, SizeClass::for_bytes(4096)).unwrap();
    central::flush(&test.heap, cache, Bins::ALL);
    test.free(test.take(100));
    test.set_knobs(|knobs| knobs.purge_budget_pages = 50);
    let purged = || (test.purged(), test.figures().interior_pages > 0);
    test.tick();
    assert_eq!(purged(), (50, false));
    test.tick();
    assert_eq!(purged(), (100, false));
    test.tick();
    assert_eq!(purged(), (100, true));
}

#[test]
fn the_limit_of_calls_is_for_the_whole_tick() {
    let test = TestHeap::new();
    let word = ThreadWord::of_this_thread();
    let cache = test.attach(word);
    let _live = central::refill(&test.heap, cache, SizeClass::for_bytes(4096)).unwrap();
    central::flush(&test.heap, cache, Bins::ALL);
    test.pass_epochs(1);
    test.free(test.take(100));
    test.set_knobs(|knobs| knobs.purge_max_calls = 1);
    test.tick();
    assert_eq!(test.os.purge_calls.get(), 1);
}

#[test]
fn a_busy_tick_leaves_bins_alone_for_as_long_as_pages() {
    let test = TestHeap::new();
    if !test.heap.register_barrier() {
        return;
    }
    test.set_knobs(|knobs| {
        knobs.gate = GateMode::Busy;
        knobs.delay_epochs_busy = 6;
    });
    let os = Epochs(AtomicU64::new(1));
    let cache = cache_with_a_bin(&test);
    for _ in 0..6 {
        os.tick(&test);
        assert!(!cache.is_flushed());
    }
    os.tick(&test);
    assert!(cache.is_flushed());
}

/// Ticks until what was freed before is gone; returns after how many.
fn ticks_until_purged(test: &TestHeap) -> u64 {
    for ticks in 1..100 {
        test.tick();
        if test.pending() == 0 {
            return ticks;
        }
    }
    panic!("nothing goes");
}

#[test]
fn pages_that_are_wanted_again_at_once_rest_longer_and_longer() {
    let test = TestHeap::new();
    test.os.advance_millis(1000);
    let mut seen = Vec::new();
    for _ in 0..6 {
        test.free(test.take(100));
        seen.push(ticks_until_purged(&test));
    }
    assert_eq!(seen, [1, 2, 4, 8, 10, 10], "up to half a second");
    assert_eq!(test.figures().soon_refaults, [0, 0, 0, 500]);
    // Other kinds go as before.
    let (chunk, _) = test.take_span(SizeClass::for_bytes(64)).unwrap();
    test.retire_span(chunk);
    let before = test.figures().purged_pages[0];
    test.tick();
    assert!(test.figures().purged_pages[0] > before);
    // Left in peace it forgets, a step every ten seconds.
    for _ in 0..5 * 200 {
        test.tick();
    }
    test.os.advance_millis(10_000);
    test.free(test.take(100));
    assert_eq!(ticks_until_purged(&test), 1);
}

#[test]
fn pages_that_come_back_much_later_are_purged_as_early_as_ever() {
    let test = TestHeap::new();
    test.os.advance_millis(1000);
    for _ in 0..10 {
        test.free(test.take(100));
        assert_eq!(ticks_until_purged(&test), 1);
        test.os.advance_millis(2000);
    }
    assert_eq!(test.figures().soon_refaults, [0; 4]);
    assert_eq!(test.figures().refault_pages, 900);
}

/// The same for pages inside spans, of which the threads count what comes back.
#[test]
fn pages_inside_spans_that_are_wanted_again_at_once_rest_longer() {
    let test = TestHeap::new();
    let word = ThreadWord::of_this_thread();
    let cache = test.attach(word);
    let class = SizeClass::for_bytes(4096);
    let _live = central::refill(&test.heap, cache, class).unwrap();
    // Claims look at the system's clock: for it every purge is a short while ago.
    test.os.time.set(Linux.now());
    test.os.advance_millis(3_600_000);
    test.tick();
    let mut seen = Vec::new();
    for _ in 0..6 {
        central::flush(&test.heap, cache, Bins::ALL);
        let before = test.figures().interior_pages;
        let mut ticks = 0;
        while test.figures().interior_pages == before {
            test.tick();
            ticks += 1;
            assert!(ticks < 100);
        }
        seen.push(ticks);
        fill_bin(&test, cache);
    }
    assert_eq!(seen, [1, 2, 4, 8, 10, 10]);
    test.check();
}

/// A pause in busy work, which the ticker sees, is idle at once.
#[test]
fn a_quiet_tick_is_idle_whatever_came_before() {
    let test = TestHeap::new();
    let os = Epochs(AtomicU64::new(1));
    os.tick(&test);
    test.free(test.take(100));
    test.work(MUCH);
    os.tick(&test);
    assert_eq!((test.release.gate_state(), test.purged()), (GateState::Busy, 0));
    test.work(MUCH);
    // Within the same epoch.
    let epoch = test.heap.pages.clock.epoch();
    let ticked = tick_elsewhere(&test, &os, true);
    assert_eq!(ticked, Ticked { is_at_rest: false, has_worked: true });
    assert_eq!((test.release.gate_state(), test.purged()), (GateState::Idle, 100));
    assert_eq!(test.heap.pages.clock.epoch(), epoch);
}
