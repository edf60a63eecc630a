//! The calling thread's cache: how a thread gets one, enters it, and what each of its slow paths ends with.

use core::sync::atomic::Ordering;

use crate::api::copies::see_to_copy;
use crate::api::{start, thread_exit};
use crate::caches::entered::{Entered, enter_or};
use crate::caches::thread_cache::{FREED_MANY, FREED_ONE, ThreadCache, UNSET};
use crate::heap::central;
use crate::heap::large;
use crate::heap::{HEAP, Heap};
use crate::os::Os;
use crate::os::biased_lock::{BUSY, OwnerWord};
use crate::os::tls::ThreadWord;
use crate::release::{RELEASE, start_if_needed, tick_if_due};

/// Slow paths of a thread between two looks at the clock. One stands for a batch of blocks.
const SLOW_PATHS_PER_CLOCK: u32 = 8;

/// Enters the calling thread's cache, giving it one if it has none yet. `None`: it is ending, is
/// inside its cache already (this is a signal handler), or there is no memory for a cache.
#[cold]
pub(crate) fn enter() -> Option<Entered> {
    see_to_copy();
    enter_or(|word, _| attach(word))
}

/// The same for a free. The last frees of a thread come after its key destructors have run, when
/// nobody would take a cache back; so a thread that has none gets one only by many frees.
#[cold]
pub(crate) fn enter_to_free() -> Option<Entered> {
    see_to_copy();
    enter_or(|word, value| match value {
        FREED_MANY => attach(word),
        UNSET => {
            word.set(FREED_ONE);
            None
        }
        freed => {
            word.set(freed + 1);
            None
        }
    })
}

fn attach(word: ThreadWord) -> Option<Entered> {
    if !start::is_ready() {
        return None;
    }
    // What pthread_setspecific may allocate is served without a cache.
    word.set(BUSY);
    let Heap { threads, sampler, pages, .. } = &HEAP;
    let bound = pages.arena.samples();
    let Some(cache) = threads.attach(&pages.metadata, sampler.countdowns(), bound, word) else {
        word.set(UNSET);
        return None;
    };
    if !thread_exit::announce(cache) {
        // Nobody would take the cache back when the thread ends.
        HEAP.threads.detach(cache);
        word.set(UNSET);
        return None;
    }
    word.set_cache(core::ptr::from_ref(cache) as usize);
    Some(Entered { cache, word })
}

/// What every slow path ends with: counts, and now and then looks whether a tick is due. Owner only.
pub(crate) fn housekeeping(heap: &'static Heap, cache: &ThreadCache, os: &impl Os) {
    cache.operations.add(1);
    start_if_needed(heap, &RELEASE);
    let left = cache.until_clock.load(Ordering::Relaxed);
    if left > 0 {
        cache.until_clock.store(left - 1, Ordering::Relaxed);
        return;
    }
    cache.until_clock.store(SLOW_PATHS_PER_CLOCK, Ordering::Relaxed);
    large::free_deferred(heap);
    tick_if_due(heap, &RELEASE, os, Some(cache));
    let epoch = heap.pages.clock.epoch().0;
    if cache.seen_epoch.load(Ordering::Relaxed) != epoch {
        cache.seen_epoch.store(epoch, Ordering::Relaxed);
        if !heap.has_barrier() {
            // Nobody else can see to the bins.
            central::flush(heap, cache, cache.unused_bins(1));
        }
    }
}
