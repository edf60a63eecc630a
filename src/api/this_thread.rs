//! The calling thread's cache: how a thread gets one, enters and leaves it, and parts with it.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::api::start;
use crate::caches::entered::{Entered, enter_or};
use crate::caches::thread_cache::{Bins, DEAD, FREED_ONE, LAST_SPECIAL, ThreadCache, UNSET};
use crate::heap::central;
use crate::heap::large;
use crate::heap::{HEAP, Heap};
use crate::hooks::sections;
use crate::os::Os;
use crate::os::biased_lock::{BUSY, OwnerWord};
use crate::os::tls::ThreadWord;
use crate::release::{RELEASE, start_if_needed, tick_if_due};

/// Slow paths of a thread between two looks at the clock. One stands for a batch of blocks.
const SLOW_PATHS_PER_CLOCK: u32 = 8;

/// The key whose destructor runs when a thread ends; [`NO_KEY`] where there is none to be had.
static EXIT_KEY: AtomicU32 = AtomicU32::new(NO_KEY);
const NO_KEY: u32 = u32::MAX;

/// Creates the key. When the heap starts: early keys need no memory of their own.
pub(crate) fn create_exit_key() {
    let mut key = 0;
    // SAFETY: `key` is a valid place, and `thread_ends` a destructor of the right type.
    let result = unsafe { libc::pthread_key_create(&mut key, Some(thread_ends)) };
    if result == 0 {
        EXIT_KEY.store(key, Ordering::Relaxed);
    }
}

/// Enters the calling thread's cache, giving it one if it has none yet. `None`: it is ending, is
/// inside its cache already (this is a signal handler), or there is no memory for a cache.
#[cold]
pub(crate) fn enter() -> Option<Entered> {
    enter_or(|word, _| attach(word))
}

/// The same for a free. The last frees of a thread come after its key destructors have run, when
/// nobody would take a cache back; so a thread that has none gets one only by many frees.
#[cold]
pub(crate) fn enter_to_free() -> Option<Entered> {
    enter_or(|word, value| match value {
        LAST_SPECIAL => attach(word),
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
    let Heap { threads, metadata, sampler, pages, .. } = &HEAP;
    let bound = pages.arena.sample_range().start;
    let Some(cache) = threads.attach(metadata, sampler.countdowns(), bound, word) else {
        word.set(UNSET);
        return None;
    };
    let key = EXIT_KEY.load(Ordering::Relaxed);
    let value = core::ptr::from_ref(cache).cast::<c_void>();
    // SAFETY: the key was created; the value is only handed back to `thread_ends`.
    if key == NO_KEY || unsafe { libc::pthread_setspecific(key, value) } != 0 {
        // Nobody would take the cache back when the thread ends.
        HEAP.threads.detach(cache);
        word.set(UNSET);
        return None;
    }
    Some(Entered { cache, word })
}

/// The thread ends: its blocks go back, its record is for the next thread. Frees that come after
/// this (of later destructors, of libc itself) are served without a cache.
extern "C" fn thread_ends(_cache: *mut c_void) {
    if let Some(entered) = enter() {
        let cache = entered.cache;
        central::put_away(&HEAP, cache, Bins::ALL);
        entered.word.set(DEAD);
        core::mem::forget(entered);
        HEAP.threads.detach(cache);
        sections::thread_ends();
    }
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
        RELEASE.ticker.note_credentials();
        if !heap.has_barrier() {
            // Nobody else can see to the bins.
            central::put_away(heap, cache, cache.unused_bins(1));
        }
    }
}
