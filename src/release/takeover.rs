//! Caches that rest: their blocks are free, but no span can know while a bin holds them. Whoever
//! ticks puts away the bins that were not used for a while, its own and, by taking the cache over,
//! those of other threads: a thread that is blocked in a system call for ever does not keep its
//! cache for ever.

use core::sync::atomic::Ordering;

use crate::central;
use crate::current;
use crate::heap::Heap;
use crate::thread_cache::{Bins, Takeovers, ThreadCache};

/// Puts away the bins that rested for `patience` ticks. `own` is the calling thread's cache, if it
/// is inside. With the ticking lock held.
pub(super) fn put_unused_bins_away(heap: &Heap, own: Option<&ThreadCache>, patience: u32) {
    if let Some(cache) = own {
        central::put_away(heap, cache, cache.unused_bins(patience));
    }
    let unused = |cache: &ThreadCache| {
        if cache.is_put_away() { Bins::NONE } else { cache.unused_bins(patience) }
    };
    take_over(heap, unused);
}

/// Puts away every bin of every other thread that is not inside its cache just now.
pub(super) fn put_all_bins_away(heap: &Heap) {
    take_over(heap, |cache| if cache.is_put_away() { Bins::NONE } else { Bins::ALL });
}

fn take_over(heap: &Heap, wanted: impl Fn(&ThreadCache) -> Bins) {
    let (own_word, _) = current::this_thread();
    let done = if heap.has_barrier() {
        heap.threads.take_over(own_word, wanted, |cache, bins| central::put_away(heap, cache, bins))
    } else {
        Takeovers { unavailable: heap.threads.count_others(own_word), ..Takeovers::default() }
    };
    if done.is_refused {
        heap.lose_barrier();
    }
    let counters = &heap.uncached;
    counters.barriers.fetch_add(done.barriers, Ordering::Relaxed);
    counters.takeovers_taken.fetch_add(done.taken, Ordering::Relaxed);
    counters.takeovers_busy.fetch_add(done.busy, Ordering::Relaxed);
    counters.takeovers_unavailable.fetch_add(done.unavailable, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
