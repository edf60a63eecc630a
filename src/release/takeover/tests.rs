use crate::release::journal::Journal;
use core::sync::atomic::Ordering;

use super::{flush_all_bins, flush_own_bins, flush_unused_bins};
use crate::caches::thread_cache::ThreadCache;
use crate::geometry::size_class::SizeClass;
use crate::heap::Heap;
use crate::heap::central;
use crate::os::Linux;
use crate::os::biased_lock::{BUSY, OwnerWord};
use crate::os::tls::ThreadWord;
use crate::testing::filter::forbid;
use crate::testing::test_heap::TestHeap;

/// A cache of this thread, in which some blocks of each of `sizes` are.
fn cache_with<'a>(test: &'a TestHeap, sizes: &[usize]) -> &'a ThreadCache {
    let word = ThreadWord::of_this_thread();
    let cache = test.attach(word);
    for &bytes in sizes {
        fill(test, cache, bytes);
    }
    cache
}

fn fill(test: &TestHeap, cache: &ThreadCache, bytes: usize) {
    let class = SizeClass::for_bytes(bytes);
    let block = central::refill(&test.heap, cache, class).unwrap();
    assert!(cache.bin(class).push(block));
}

fn cached(cache: &ThreadCache, bytes: usize) -> u32 {
    cache.bin(SizeClass::for_bytes(bytes)).len.load(Ordering::Relaxed)
}

/// Uses the bin: an allocation and a free.
fn touch(cache: &ThreadCache, bytes: usize) {
    let bin = cache.bin(SizeClass::for_bytes(bytes));
    let block = bin.pop().unwrap();
    bin.count(bytes);
    assert!(bin.push(block));
}

/// On a thread that is not the caches' owner.
fn elsewhere(test: &TestHeap, work: impl FnOnce(&Heap, &Journal) + Send) {
    let (heap, journal) = (&test.heap, &test.release.journal);
    std::thread::scope(|scope| scope.spawn(|| work(heap, journal)).join().unwrap());
}

/// A tick's look at the caches, taken by another thread.
fn look(test: &TestHeap, patience: u32) {
    elsewhere(test, |heap, journal| {
        flush_unused_bins(heap, journal, &Linux, patience);
    });
    test.check();
}

/// Taken, busy, unavailable, barriers.
fn counters(heap: &Heap) -> [u64; 4] {
    let counters = &heap.uncached;
    [
        &counters.takeovers_taken,
        &counters.takeovers_busy,
        &counters.takeovers_unavailable,
        &counters.barriers,
    ]
    .map(|counter| counter.load(Ordering::Relaxed))
}

/// Where the kernel has no barrier there is nothing to test.
fn test_with_barrier() -> Option<TestHeap> {
    let test = TestHeap::new();
    test.heap.register_barrier().then_some(test)
}

/// A filter that comes later refuses it: nothing is taken over, which is said once, and nobody is kept out.
#[test]
fn a_barrier_that_is_refused_later_leaves_every_cache_alone() {
    let Some(test) = test_with_barrier() else { return };
    let cache = cache_with(&test, &[64, 3000]);
    let held = (cached(cache, 64), cached(cache, 3000));
    elsewhere(&test, |heap, journal| {
        forbid(libc::SYS_membarrier);
        flush_all_bins(heap, journal, &Linux);
        assert!(!heap.has_barrier());
        flush_all_bins(heap, journal, &Linux);
    });
    assert_eq!(counters(&test.heap), [0, 0, 2, 1], "it was asked once");
    assert!(test.release.journal.events().is_empty());
    assert_eq!((cached(cache, 64), cached(cache, 3000)), held);
    touch(cache, 64);
    test.check();
}

#[test]
fn bins_that_were_idle_long_enough_are_flushed() {
    for patience in [1, 2, 5] {
        let Some(test) = test_with_barrier() else { return };
        let cache = cache_with(&test, &[64, 3000, 20_000]);
        // The first look only takes note.
        for _ in 0..patience {
            look(&test, patience);
            assert!(cached(cache, 64) > 0 && cached(cache, 3000) > 0 && cached(cache, 20_000) > 0);
        }
        assert_eq!(counters(&test.heap), [0, 0, 0, 0], "nobody was disturbed");
        look(&test, patience);
        assert!(cache.is_flushed());
        assert_eq!((cached(cache, 64), cached(cache, 3000), cached(cache, 20_000)), (0, 0, 0));
        assert_eq!(
            test.figures().spans,
            [0; crate::geometry::size_class::CLASS_COUNT],
            "their spans ended"
        );
        assert_eq!(counters(&test.heap), [1, 0, 0, 2]);
        look(&test, patience);
        assert_eq!(counters(&test.heap), [1, 0, 0, 2], "there is nothing more to take");
    }
}

#[test]
fn bins_that_move_stay() {
    let Some(test) = test_with_barrier() else { return };
    let cache = cache_with(&test, &[64, 3000, 8000]);
    let bin = cache.bin(SizeClass::for_bytes(8000));
    let mut taken = None;
    for _ in 0..10 {
        look(&test, 1);
        touch(cache, 3000);
        // An allocation counts, a free moves the length alone.
        match taken.take() {
            Some(block) => assert!(bin.push(block)),
            None => {
                taken = bin.pop();
                bin.count(8000);
            }
        }
    }
    assert_eq!(cached(cache, 64), 0, "this one did not");
    assert!(cached(cache, 3000) > 0 && cached(cache, 8000) > 0);
    assert_eq!(counters(&test.heap), [1, 0, 0, 2]);
    for _ in 0..3 {
        look(&test, 2);
    }
    assert!(cache.is_flushed());
}

#[test]
fn a_bin_that_moved_rests_anew() {
    let Some(test) = test_with_barrier() else { return };
    let cache = cache_with(&test, &[64]);
    for _ in 0..5 {
        look(&test, 3);
        look(&test, 3);
        look(&test, 3);
        touch(cache, 64);
    }
    assert!(cached(cache, 64) > 0);
    assert_eq!(counters(&test.heap)[0], 0);
}

#[test]
fn an_owner_that_is_inside_is_left_alone() {
    let Some(test) = test_with_barrier() else { return };
    let cache = cache_with(&test, &[64, 3000]);
    let word = ThreadWord::of_this_thread();
    let before = word.get();
    word.set(BUSY);
    let held = (cached(cache, 64), cached(cache, 3000));
    for _ in 0..4 {
        look(&test, 1);
    }
    elsewhere(&test, |heap, journal| flush_all_bins(heap, journal, &Linux));
    assert_eq!((cached(cache, 64), cached(cache, 3000)), held);
    assert!(!cache.lock.is_wanted(), "the owner need not wait");
    word.set(before);
    assert_eq!(counters(&test.heap), [0, 4, 0, 4], "tried each time but the first");
    look(&test, 1);
    assert!(cache.is_flushed() && !cache.lock.is_wanted());
    assert_eq!(counters(&test.heap), [1, 4, 0, 6]);
}

#[test]
fn whoever_ticks_sees_to_its_own_bins_without_a_barrier() {
    let Some(test) = test_with_barrier() else { return };
    let cache = cache_with(&test, &[64, 3000]);
    flush_own_bins(&test.heap, cache, 1);
    touch(cache, 64);
    flush_own_bins(&test.heap, cache, 1);
    assert!(cached(cache, 64) > 0 && cached(cache, 3000) == 0);
    flush_unused_bins(&test.heap, &test.release.journal, &Linux, 1);
    assert!(cached(cache, 64) > 0, "not inside its cache: it leaves it alone");
    assert_eq!(counters(&test.heap), [0; 4]);
}

#[test]
fn everything_can_be_put_away_at_once() {
    let Some(test) = test_with_barrier() else { return };
    let cache = cache_with(&test, &[16, 64, 3000, 20_000]);
    elsewhere(&test, |heap, journal| flush_all_bins(heap, journal, &Linux));
    assert!(cache.is_flushed());
    assert_eq!(counters(&test.heap), [1, 0, 0, 2]);
    test.check();
}

#[test]
fn many_caches_share_a_barrier() {
    let Some(test) = test_with_barrier() else { return };
    // All of this thread, as if of 70 threads.
    let caches: Vec<_> = (0..70).map(|_| cache_with(&test, &[64])).collect();
    elsewhere(&test, |heap, journal| flush_all_bins(heap, journal, &Linux));
    assert!(caches.iter().all(|cache| cache.is_flushed()));
    let [taken, busy, _, barriers] = counters(&test.heap);
    assert_eq!((taken, busy, barriers), (70, 0, 6), "32 at a time, with two");
    test.check();
}

#[test]
fn the_caches_of_ended_threads_are_nobodys() {
    let Some(test) = test_with_barrier() else { return };
    let cache = cache_with(&test, &[]);
    test.heap.threads.detach(cache);
    elsewhere(&test, |heap, journal| flush_all_bins(heap, journal, &Linux));
    assert_eq!(counters(&test.heap), [0; 4]);
}

#[test]
fn without_a_barrier_caches_stay_and_are_counted() {
    let test = TestHeap::new();
    assert!(!test.heap.has_barrier());
    let cache = cache_with(&test, &[64]);
    cache_with(&test, &[3000]);
    for _ in 0..3 {
        look(&test, 1);
    }
    assert!(cached(cache, 64) > 0);
    assert_eq!(counters(&test.heap), [0, 0, 6, 0]);
}
