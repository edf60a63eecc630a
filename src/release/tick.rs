//! The epoch tick: from time to time, one thread on a slow path sees to the release machinery.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::gate::{GateInput, decide};
use super::purge::{PurgeLimits, purge};
use crate::heap::Heap;
use crate::knobs::{Coverage, Knobs};
use crate::lock::Lock;
use crate::page_heap::PENDING;
use crate::snapshot::GateState;
use crate::sys::{Nanos, Os};
use crate::units::{Epoch, Pages, SegmentIndex};

/// A busy tick may give back this part of an idle tick's budget.
const BUSY_BUDGET_DIVISOR: u64 = 64;

/// The release machinery's clock and memory.
///
/// # Invariants
/// `epoch`, `busy` and `last_tick` are written with `ticking` held.
pub(crate) struct Release {
    epoch: AtomicU64,
    /// The time from which on a tick is due.
    next_tick: AtomicU64,
    /// The gate's last decision.
    busy: AtomicBool,
    /// Since when the oldest dirty page may have been waiting, as of the last tick.
    oldest: AtomicU64,
    ticking: Lock<LastTick>,
}

/// What the last tick saw. One thread ticks at a time.
struct LastTick {
    time: Nanos,
    operations: u64,
}

impl Release {
    pub const fn new() -> Release {
        Release {
            epoch: AtomicU64::new(0),
            next_tick: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            oldest: AtomicU64::new(0),
            ticking: Lock::new(LastTick { time: Nanos(0), operations: 0 }),
        }
    }

    /// The current epoch.
    pub fn epoch(&self) -> Epoch {
        // Relaxed: an epoch read late only delays a purge.
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    /// The gate's last decision.
    pub fn gate_state(&self) -> GateState {
        if self.busy.load(Ordering::Relaxed) { GateState::Busy } else { GateState::Idle }
    }

    /// Since when the oldest dirty page may have been waiting; means something only while there are
    /// any.
    pub fn oldest(&self) -> Nanos {
        Nanos(self.oldest.load(Ordering::Relaxed))
    }

    /// With the page heap's lock held.
    pub fn set_oldest(&self, since: Nanos) {
        self.oldest.store(since.0, Ordering::Relaxed);
    }

    /// Takes the ticking lock for a fork, and gives it back.
    pub fn lock_for_fork(&self) {
        self.ticking.lock_for_fork();
    }

    /// # Safety
    /// As [`Lock::unlock_after_fork`].
    pub unsafe fn unlock_after_fork(&self) {
        // SAFETY: the caller says so.
        unsafe { self.ticking.unlock_after_fork() };
    }
}

/// Ticks if an epoch has passed since the last tick and nobody else is at it.
pub(crate) fn tick_if_due(heap: &Heap, os: &impl Os) {
    let now = os.now();
    // Relaxed: a time read late only delays the tick to the next slow path.
    if now.0 < heap.release.next_tick.load(Ordering::Relaxed) {
        return;
    }
    let Some(mut last) = heap.release.ticking.try_lock() else { return };
    // Another thread may have ticked between the two lines above.
    if now.0 < heap.release.next_tick.load(Ordering::Relaxed) {
        return;
    }
    let knobs = heap.knobs.get();
    let epoch = Nanos::from_millis(knobs.epoch_ms);
    heap.release.next_tick.store(now.0 + epoch.0, Ordering::Relaxed);
    heap.release.epoch.fetch_add(1, Ordering::Relaxed);

    let operations = heap.operations();
    let gate = decide(GateInput {
        mode: knobs.gate,
        operations: operations.saturating_sub(last.operations),
        epochs: (now.since(last.time).0 / epoch.0.max(1)).max(1),
    });
    *last = LastTick { time: now, operations };
    heap.release.busy.store(gate == GateState::Busy, Ordering::Relaxed);
    {
        let _lock = heap.page_heap.lock();
        heap.totals.update(|figures| match gate {
            GateState::Idle => figures.idle_ticks.add(1),
            GateState::Busy => figures.busy_ticks.add(1),
        });
    }
    if knobs.release {
        let limits = limits_for(gate, &knobs);
        purge(&heap.page_heap, &heap.arena, os, &heap.totals, heap.release.epoch(), limits);
    }
    find_oldest(heap);
}

/// Looks which of the segments with dirty pages has had some for longest.
fn find_oldest(heap: &Heap) {
    let mut pages = heap.page_heap.lock();
    let mut oldest = None;
    let mut from = SegmentIndex(0);
    while let Some(segment) = pages.next_in(&heap.arena, PENDING, from) {
        let since = pages.states(&heap.arena, segment).dirty_since;
        oldest = Some(oldest.map_or(since, |before: Nanos| before.min(since)));
        from = SegmentIndex(segment.0 + 1);
    }
    if let Some(since) = oldest {
        heap.release.set_oldest(since);
    }
}

fn limits_for(gate: GateState, knobs: &Knobs) -> PurgeLimits {
    let (pages, delay_epochs) = match gate {
        GateState::Idle => (knobs.purge_budget_pages, knobs.delay_epochs_idle),
        GateState::Busy => {
            (knobs.purge_budget_pages.div_ceil(BUSY_BUDGET_DIVISOR), knobs.delay_epochs_busy)
        }
    };
    PurgeLimits { pages, delay_epochs, calls: knobs.purge_max_calls, coverage: knobs.coverage }
}

/// Gives back everything that is pending, whatever the gate and the knobs say; returns how many
/// pages.
pub(crate) fn purge_everything(heap: &Heap, os: &impl Os) -> Pages {
    let limits =
        PurgeLimits { pages: u64::MAX, calls: u64::MAX, delay_epochs: 0, coverage: Coverage::ALL };
    purge(&heap.page_heap, &heap.arena, os, &heap.totals, heap.release.epoch(), limits)
}

#[cfg(test)]
mod tests;
