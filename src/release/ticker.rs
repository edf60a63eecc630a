//! The ticker: a thread that ticks while nobody allocates. A program whose threads are all blocked
//! reaches no slow path; without this it would keep what it freed last.
//!
//! # Its rules
//!
//! - It is started by `malloc`, never by `free`: libc frees with locks held that starting a thread
//!   takes (`pthread_join` that trims the cache of stacks). No lock of ours is held, and the calling
//!   thread is outside its cache.
//! - Only a heap of [`START_PAGES`] or more is worth a thread.
//! - It takes no signals: the program's handlers run on the program's threads.
//! - When nothing moves any more and there is nothing to give back, it ends, if the heap is small;
//!   otherwise it sleeps until a slow path wakes it. It only rests when every cache has been put
//!   away, so the first operation of any thread afterwards is a slow path.
//! - A forked child has none until it allocates enough itself.
//! - `SLACKWATER_TICKER=off` forbids it, for programs that must have one thread.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::tick::tick;
use crate::biased_lock::OwnerWord;
use crate::heap::{HEAP, Heap};
use crate::sys::{self, Linux, Nanos, Os};
use crate::thread_cache::DEAD;
use crate::tls::ThreadWord;

/// Pages in use or waiting from which on a heap is worth a ticker, and below which its ticker ends.
const START_PAGES: u64 = 1024;
const END_PAGES: u64 = 512;

/// Epochs at rest before the ticker sleeps or ends, and the most epochs between two ticks while
/// nothing can be done about what keeps it from resting.
const REST_EPOCHS: u32 = 2;
const LONGEST_SLEEP_EPOCHS: u64 = 4;

/// How long after a failure to start the thread the next attempt is made.
const RETRY: Nanos = Nanos::from_millis(1000);

/// What [`Ticker::state`] says: there is no such thread,
const ABSENT: u32 = 0;
/// it ticks, or is about to,
const RUNNING: u32 = 1;
/// it sleeps until it is woken.
const ASLEEP: u32 = 2;

/// Whether there is a ticker.
///
/// # Invariants
/// Who makes `state` leave [`ABSENT`] starts the thread or puts it back; from then on the thread
/// alone makes it [`ASLEEP`] or [`ABSENT`].
pub(crate) struct Ticker {
    state: AtomicU32,
    /// Not to be started before this time.
    retry: AtomicU64,
    /// Threads started, and attempts that failed.
    pub starts: AtomicU64,
    pub failures: AtomicU64,
}

impl Ticker {
    pub const fn new() -> Ticker {
        Ticker {
            state: AtomicU32::new(ABSENT),
            retry: AtomicU64::new(0),
            starts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Does it tick?
    pub fn is_running(&self) -> bool {
        self.state.load(Ordering::Relaxed) == RUNNING
    }

    /// A slow path was taken: the ticker wakes up, if it sleeps. One load, mostly.
    #[inline]
    pub fn wake(&self) {
        if self.state.load(Ordering::Relaxed) == ASLEEP {
            let woken =
                self.state.compare_exchange(ASLEEP, RUNNING, Ordering::AcqRel, Ordering::Relaxed);
            if woken.is_ok() {
                sys::futex_wake(&self.state);
            }
        }
    }

    /// In a forked child the thread is gone.
    pub fn is_gone_in_child(&self) {
        self.state.store(ABSENT, Ordering::Relaxed);
    }
}

/// Pages that are in use or wait for their purge.
fn held_pages(heap: &Heap) -> u64 {
    let figures = heap.totals.figures();
    figures.used_pages.get() + figures.pending_pages.get()
}

/// Starts the ticker if the heap needs one and has none. For `malloc`, outside the cache and every
/// lock. Two loads, mostly.
#[inline]
pub(crate) fn start_if_needed() {
    if HEAP.ticker.state.load(Ordering::Relaxed) == ABSENT && held_pages(&HEAP) >= START_PAGES {
        start();
    }
}

#[cold]
fn start() {
    let ticker = &HEAP.ticker;
    let knobs = HEAP.knobs.get();
    let now = Linux.now();
    if !knobs.ticker || !knobs.release || now.0 < ticker.retry.load(Ordering::Relaxed) {
        return;
    }
    let first = ticker.state.compare_exchange(ABSENT, RUNNING, Ordering::AcqRel, Ordering::Relaxed);
    if first.is_err() {
        return;
    }
    if sys::start_thread(run) {
        ticker.starts.fetch_add(1, Ordering::Relaxed);
    } else {
        ticker.failures.fetch_add(1, Ordering::Relaxed);
        ticker.retry.store(now.0 + RETRY.0, Ordering::Relaxed);
        ticker.state.store(ABSENT, Ordering::Release);
    }
}

/// The thread.
extern "C" fn run(_: *mut c_void) -> *mut c_void {
    // What libc allocates or frees on this thread goes past the caches.
    ThreadWord::of_this_thread().set(DEAD);
    sys::name_thread(c"slackwater");
    let heap = &HEAP;
    let ticker = &heap.ticker;
    let mut rested = 0;
    let mut sleep_epochs = 1;
    loop {
        let epoch = Nanos::from_millis(heap.knobs.epoch_ms());
        sys::futex_wait_for(&ticker.state, RUNNING, Nanos(epoch.0 * sleep_epochs));
        let knobs = heap.knobs.get();
        if !knobs.ticker || !knobs.release {
            ticker.state.store(ABSENT, Ordering::Release);
            return core::ptr::null_mut();
        }
        let Some(ticked) = tick(heap, &Linux) else { continue };
        rested = if ticked.is_at_rest { rested + 1 } else { 0 };
        sleep_epochs =
            if ticked.has_worked { 1 } else { (sleep_epochs * 2).min(LONGEST_SLEEP_EPOCHS) };
        if rested >= REST_EPOCHS {
            rested = 0;
            sleep_epochs = 1;
            let is_small = held_pages(heap) < END_PAGES;
            if rest(heap, if is_small { ABSENT } else { ASLEEP }) && is_small {
                return core::ptr::null_mut();
            }
        }
    }
}

/// Announces the rest, and looks once more: a thread that did not see the announcement has done what
/// it did before the barrier, and is seen here. `false`: somebody did something, it goes on.
fn rest(heap: &Heap, state: u32) -> bool {
    let ticker = &heap.ticker;
    let operations = heap.operations();
    ticker.state.store(state, Ordering::Release);
    heap.uncached.barriers.fetch_add(1, Ordering::Relaxed);
    let is_quiet = sys::barrier_all_threads()
        && heap.operations() == operations
        && heap.threads.all_put_away();
    if !is_quiet {
        let back =
            ticker.state.compare_exchange(state, RUNNING, Ordering::AcqRel, Ordering::Relaxed);
        // If another ticker was started meanwhile, this one is not needed any more.
        return back.is_err() && state == ABSENT;
    }
    while state == ASLEEP && ticker.state.load(Ordering::Acquire) == ASLEEP {
        sys::futex_wait(&ticker.state, ASLEEP);
    }
    true
}
