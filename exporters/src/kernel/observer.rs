//! What observing costs: CPU time spent on collecting, rendering and serving figures, and the memory that this
//! takes meanwhile, which has a name of its own in profiles ([`slackwater::observer`]).

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use slackwater::observer::observe;

use crate::kernel::clock::thread_cpu_nanos;

static CPU_NANOS: AtomicU64 = AtomicU64::new(0);

/// Events of the journal that were told too late, or [`NOBODY_TELLS`].
static LOST_EVENTS: AtomicU64 = AtomicU64::new(NOBODY_TELLS);
const NOBODY_TELLS: u64 = u64::MAX;

thread_local! {
    /// Up to where the thread's CPU time has been counted; `None` while it does something else.
    static COUNTED_UNTIL: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Does `work`, and counts the CPU time that it takes; what it allocates is the observer's. Costs two reads of
/// the thread's clock, some 300 ns each, and a system call; where counted work does counted work, nothing.
pub fn count<T>(work: impl FnOnce() -> T) -> T {
    if COUNTED_UNTIL.get().is_some() {
        return work();
    }
    COUNTED_UNTIL.set(Some(thread_cpu_nanos()));
    let result = observe(work);
    settle();
    COUNTED_UNTIL.set(None);
    result
}

/// Counts what the counted work around this call has cost so far: for work that lasts, such as a
/// thread that serves.
pub fn settle() {
    let Some(until) = COUNTED_UNTIL.get() else { return };
    let now = thread_cpu_nanos();
    CPU_NANOS.fetch_add(now.saturating_sub(until), Ordering::Relaxed);
    COUNTED_UNTIL.set(Some(now));
}

/// What has been counted so far, in seconds; of the work around this call, all of it.
pub fn cpu_seconds() -> f64 {
    settle();
    CPU_NANOS.load(Ordering::Relaxed) as f64 / 1e9
}

/// Counts events of the allocator's journal that were overwritten before they could be told. The first
/// call says that somebody tells them.
pub fn lost_events(more: u64) {
    let sum = |lost| Some(if lost == NOBODY_TELLS { more } else { lost + more });
    // Never an error: the sum is there.
    let _ = LOST_EVENTS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
}

/// How many events were lost so far; `None` where nobody tells them.
pub fn events_lost() -> Option<u64> {
    Some(LOST_EVENTS.load(Ordering::Relaxed)).filter(|&lost| lost != NOBODY_TELLS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(nanos: u64) -> u64 {
        let start = thread_cpu_nanos();
        while thread_cpu_nanos() - start < nanos {}
        thread_cpu_nanos() - start
    }

    #[test]
    fn work_is_counted_once_and_while_it_lasts() {
        let before = cpu_seconds();
        let (inside, midway) = count(|| {
            let first = count(|| spend(2_000_000));
            assert!(COUNTED_UNTIL.get().is_some(), "counting ended with what was inside");
            let midway = cpu_seconds();
            (first + spend(2_000_000), midway)
        });
        assert!(midway - before >= 2e-3, "what lasts is not counted: {midway}");
        let counted = cpu_seconds() - before;
        assert!(counted >= inside as f64 / 1e9, "{counted} s of {inside} ns");
        assert_eq!(COUNTED_UNTIL.get(), None);
    }
}
