//! Idle caches. A block in an idle cache is free, but its span counts it as used, for no span can see into a bin.
//! Each tick flushes the bins that nobody used for a while: those of the thread that ticks or, by taking
//! caches over, those of all threads, so that a thread which is blocked in a system call for ever does not
//! keep its blocks for ever. It takes a system call that no other malloc makes, so our own threads alone do it,
//! and whoever asks for everything back.

use core::sync::atomic::Ordering;

use crate::caches::bin::Bins;
use crate::caches::registry::Takeovers;
use crate::caches::thread_cache::ThreadCache;
use crate::heap::Heap;
use crate::heap::central;
use crate::hooks::probes;
use crate::os::{self, Nanos, Os};
use crate::release::journal::{Event, Journal, Period};

/// Puts away the bins of the calling thread's cache, in which it is, that rested for `patience` ticks. With the
/// ticking lock held.
pub(super) fn flush_own_bins(heap: &Heap, cache: &ThreadCache, patience: u32) {
    central::flush(heap, cache, cache.unused_bins(patience));
}

/// The same for those of other threads. With the ticking lock held, on a thread of our own. Returns how long it
/// took.
pub(super) fn flush_unused_bins(
    heap: &Heap,
    journal: &Journal,
    os: &impl Os,
    patience: u32,
) -> Nanos {
    let began = os.exact_now();
    let unused = |cache: &ThreadCache| {
        if cache.is_flushed() { Bins::NONE } else { cache.unused_bins(patience) }
    };
    take_over(heap, journal, os, began, unused)
}

/// Flushes every bin of every other thread that is not inside its cache just now.
pub(super) fn flush_all_bins(heap: &Heap, journal: &Journal, os: &impl Os) {
    let began = os.exact_now();
    let all = |cache: &ThreadCache| if cache.is_flushed() { Bins::NONE } else { Bins::ALL };
    take_over(heap, journal, os, began, all);
}

/// Returns the time since `began`, which is counted.
fn take_over(
    heap: &Heap,
    journal: &Journal,
    os: &impl Os,
    began: Nanos,
    wanted: impl Fn(&ThreadCache) -> Bins,
) -> Nanos {
    let (own_word, _) = os::this_thread();
    let done = if heap.has_barrier() {
        heap.threads.take_over(own_word, wanted, |cache, bins| central::flush(heap, cache, bins))
    } else {
        Takeovers { unavailable: heap.threads.count_others(own_word), ..Takeovers::default() }
    };
    if done.is_refused {
        heap.lose_barrier();
    }
    probes::takeover(done.taken, done.busy);
    let counters = &heap.uncached;
    counters.barriers.fetch_add(done.barriers, Ordering::Relaxed);
    counters.takeovers_taken.fetch_add(done.taken, Ordering::Relaxed);
    counters.takeovers_busy.fetch_add(done.busy, Ordering::Relaxed);
    counters.takeovers_unavailable.fetch_add(done.unavailable, Ordering::Relaxed);
    let took = os.exact_now().since(began);
    counters.takeover_nanos.fetch_add(took.0, Ordering::Relaxed);
    if done.taken + done.busy > 0 {
        let period = Period::new(began, took);
        journal.record(Event::Takeover { period, taken: done.taken, busy: done.busy });
    }
    took
}

#[cfg(test)]
mod tests;
