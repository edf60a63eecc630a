//! The ticker: a thread that ticks while nobody allocates. A program whose threads are all blocked
//! reaches no slow path; without this it would keep what it freed last.
//!
//! # Its rules
//!
//! - It is started by slow paths, with no lock held, and only for a heap of [`START_PAGES`] or more.
//! - It ends when nothing moves any more and there is nothing to give back. Every cache has been flushed
//!   by then, so the first operation of any thread afterwards is a slow path, and may start it.
//! - It takes no signals, and libc does not know of it ([`crate::os::raw_thread`]): it can be started where libc
//!   holds locks, and the process ends with its last real thread.
//! - It stands in `/`, and has not the program's real-time priority.
//! - libc's `setuid` does not reach it either: it ends when it sees that the program's rights are not its own any
//!   more (users, groups, capabilities, filters; from Linux 5.9 on, where it has descriptors of its own to
//!   look with), and the next one, a second later at the earliest, has the program's.
//! - When the process ends, and its handlers of that have been called, none is started any more.
//! - If the program's last thread ends by the system call alone, and not as libc's threads do, it ends, too, at its
//!   next look, with the code that the process's first thread had: the process's is that of the thread that ends last.
//! - A forked child has none until it needs one itself.
//! - In a program that sets a filter of system calls it is not there any more before the filter is, and never again.
//!   Where there was a filter before the program, it does without what such filters forbid.
//! - A program of one thread has none when it forks, and for a while after: many that fork count threads first or
//!   afterwards (CPython warns where there are two). Its slow paths tick meanwhile. It ends, too, when somebody asks
//!   for a process of one thread, which some calls of the kernel's need.
//! - `SLACKWATER_TICKER=off` forbids it, for programs that must have one thread.

use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering;

use super::lifecycle::Lifecycle;
use super::own_thread;
use super::state::{RELEASE, Release};
use super::tick::tick;
use crate::heap::{HEAP, Heap};
use crate::hooks::sections;
use crate::os::identity::{self, Process};
use crate::os::{self, Linux, LinuxOfOwnThreads, Nanos, Os, leader, seccomp};

/// Pages in use or waiting from which on a heap is worth a ticker.
const START_PAGES: u64 = 1024;

/// Ticks at rest before the ticker ends, and the most epochs between two ticks while nothing can be
/// done about what keeps it from resting.
const REST_TICKS: u32 = 2;
const LONGEST_SLEEP_EPOCHS: u64 = 4;

/// While the program is busy the ticker looks for a pause so many times in an epoch, and takes so many
/// looks without an operation in between for one: then it ticks at once.
const LOOKS_PER_EPOCH: u64 = 4;
const LOOKS_PER_PAUSE: u32 = 2;

/// How long after a failure to start the thread, after the end of one with other rights, or of one that was not to
/// be seen, the next attempt is made.
const RETRY: Nanos = Nanos::from_millis(1000);

/// Starts the ticker if the heap needs one and has none. For slow paths, outside every lock. A few
/// loads, mostly. The heap is the process's.
#[inline]
pub(crate) fn start_if_needed(heap: &'static Heap, release: &'static Release) {
    let figures = heap.pages.totals.figures();
    if !release.ticker.is_running()
        && figures.used_pages.get() + figures.pending_pages.get() >= START_PAGES
    {
        start(heap, release);
    }
}

#[cold]
fn start(heap: &'static Heap, release: &'static Release) {
    let ticker = &release.ticker;
    let knobs = heap.knobs.get();
    let now = Linux.now();
    let is_unwanted = !knobs.ticker || !knobs.release || ticker.lifecycle.is_forbidden();
    if is_unwanted || now.0 < ticker.retry.load(Ordering::Relaxed) {
        return;
    }
    // A child of vfork would take it along.
    if !heap.is_of_this_process() {
        return;
    }
    let Some(attempt) = ticker.lifecycle.begin(|| ticker.thread.is_alive()) else { return };
    seccomp::look_for_inherited();
    // SAFETY: `run` ticks: it allocates nothing, and its calls are the kernel's.
    if unsafe { ticker.thread.start(run) } {
        ticker.starts.fetch_add(1, Ordering::Relaxed);
        ticker.lifecycle.set_running(attempt);
    } else {
        ticker.failures.fetch_add(1, Ordering::Relaxed);
        ticker.retry.store(now.0 + RETRY.0, Ordering::Relaxed);
        ticker.lifecycle.set_over();
    }
}

/// The process ends: none is started any more. What still frees blocks then, a debugger's tool after all else, would
/// leave a thread behind where nobody expects one.
pub(crate) fn start_no_more(release: &Release) {
    release.ticker.retry.store(u64::MAX, Ordering::Relaxed);
}

/// From now on there will be no ticker; one that is there ends when it is done with what it has in hand.
pub(crate) fn forbid_ticker(release: &Release) {
    release.ticker.lifecycle.forbid();
    os::futex_wake(&release.ticker.lifecycle.forbidden);
}

/// Ends the ticker and its assistant, and returns once the kernel counts neither of them among the process's
/// threads; for a while none is started. What it has in hand it finishes: a batch of a purge at most, some
/// milliseconds. Any thread that holds no lock of the heap's.
pub(crate) fn end(release: &Release) {
    forbid_ticker(release);
    wait_for_its_end(release);
    release.ticker.retry.store(Linux.now().0 + RETRY.0, Ordering::Relaxed);
    release.ticker.lifecycle.allow();
}

/// Returns once the ticker that was forbidden is gone, and its assistant. Any thread that holds no lock of the heap's.
pub(crate) fn wait_for_its_end(release: &Release) {
    let ticker = &release.ticker;
    while ticker.lifecycle.is_being_started() {
        os::yield_now();
    }
    // The assistant is waited for by the ticker, but for its last moment.
    ticker.thread.wait_until_forgotten();
    ticker.assistant.thread.wait_until_forgotten();
}

/// The thread.
extern "C" fn run(_: *mut c_void) -> c_int {
    own_thread::begin(&RELEASE.ticker.thread);
    let (heap, release) = (&HEAP, &RELEASE);
    // SAFETY: this thread has opened no descriptor.
    let has_descriptors = unsafe { os::leave_descriptors() };
    heap.register_barrier();
    let own = if has_descriptors { identity::of_this_thread() } else { None };
    let mut rested = 0;
    let mut sleep_epochs = 1;
    loop {
        let is_quiet = wait_for_pause(heap, &release.ticker.lifecycle, sleep_epochs);
        let knobs = heap.knobs.get();
        let program = process_now(has_descriptors);
        // Where they cannot be read, nothing is known against it.
        let has_other_rights =
            matches!((own, program), (Some(own), Some(program)) if program.identity != own);
        if has_other_rights {
            release.ticker.retry.store(Linux.now().0 + RETRY.0, Ordering::Relaxed);
        }
        let is_forbidden = release.ticker.lifecycle.is_forbidden();
        let left_alone = code_where_alone(program);
        let is_over = is_forbidden || left_alone.is_some();
        if has_other_rights || is_over || !knobs.ticker || !knobs.release {
            sections::thread_ends();
            release.ticker.lifecycle.set_over();
            return left_alone.unwrap_or(0);
        }
        let Some(ticked) = tick(heap, release, &LinuxOfOwnThreads, is_quiet, has_descriptors)
        else {
            continue;
        };
        rested = if ticked.is_at_rest { rested + 1 } else { 0 };
        sleep_epochs =
            if ticked.has_worked { 1 } else { (sleep_epochs * 2).min(LONGEST_SLEEP_EPOCHS) };
        if rested >= REST_TICKS && ends(heap, release) {
            sections::thread_ends();
            return code_where_alone(process_now(has_descriptors)).unwrap_or(0);
        }
    }
}

/// What the kernel says of the process now, which only a thread that has descriptors of its own asks.
fn process_now(has_descriptors: bool) -> Option<Process> {
    if has_descriptors { identity::of_process() } else { None }
}

/// The code with which the process is to end, if none of the program's threads is left.
fn code_where_alone(program: Option<Process>) -> Option<c_int> {
    let has_ended = program.is_some_and(|program| program.has_ended);
    if has_ended { leader::code_if_only_this_is_left() } else { None }
}

/// Sleeps for so many epochs, until there was a pause after work, or until the ticker is forbidden. Returns whether
/// there was a pause.
fn wait_for_pause(heap: &Heap, lifecycle: &Lifecycle, epochs: u64) -> bool {
    let epoch = Nanos::from_millis(heap.knobs.epoch_ms());
    let look = Nanos(epoch.0 / LOOKS_PER_EPOCH);
    let (mut has_worked, mut quiet_looks) = (false, 0);
    let mut operations = heap.operations();
    // After an epoch in which nothing happened there is no work that could pause.
    let (looks, look) = if epochs == 1 { (LOOKS_PER_EPOCH, look) } else { (epochs, epoch) };
    for _ in 0..looks {
        os::futex_wait_for(&lifecycle.forbidden, 0, look);
        if lifecycle.is_forbidden() {
            return false;
        }
        let now = heap.operations();
        if now == operations {
            quiet_looks += 1;
        } else {
            (has_worked, quiet_looks, operations) = (true, 0, now);
        }
        if has_worked && quiet_looks == LOOKS_PER_PAUSE {
            return true;
        }
    }
    quiet_looks >= LOOKS_PER_PAUSE
}

/// Announces the end, and looks once more: a thread that did not see the announcement has done what it
/// did before the barrier, and is seen here. `false`: somebody did something, it goes on.
fn ends(heap: &Heap, release: &Release) -> bool {
    let operations = heap.operations();
    let announced = release.ticker.lifecycle.announce_end();
    if !heap.has_barrier() {
        return true;
    }
    heap.uncached.barriers.fetch_add(1, Ordering::Relaxed);
    let is_quiet = os::barrier_all_threads()
        && heap.operations() == operations
        && heap.threads.all_are_flushed()
        && heap.depot.is_flushed();
    is_quiet || !release.ticker.lifecycle.goes_on(announced)
}
