//! The epoch tick: from time to time, one thread on a slow path sees to the release machinery.

use core::sync::atomic::Ordering;

use super::assistant::WORTHWHILE_PAGES;
use super::delays::{Delays, Experience, INTERIOR, KINDS};
use super::gate::{Decision, GateInput, GateState, decide};
use super::interior::purge_interiors;
use super::purge::{Batch, EVERYTHING, PurgeLimits, purge};
use super::records::{ALL_RECORDS, IDLE_EPOCHS, RecordLimits, give_records_back};
use super::state::{Assistant, LastTick, RELEASE, Release, Workspace};
use super::takeover::{flush_all_bins, flush_own_bins, flush_unused_bins};
use crate::base::units::{Epoch, Pages, SegmentIndex};
use crate::caches::bin::Bins;
use crate::caches::entered::Entered;
use crate::caches::thread_cache::ThreadCache;
use crate::heap::Heap;
use crate::heap::central;
use crate::heap::knobs::Knobs;
use crate::hooks::probes;
use crate::hooks::sections::{self, Section};
use crate::os::lock::Guard;
use crate::os::{MemoryRoom, Nanos, Os, seccomp};
use crate::pages::HeapPages;
use crate::pages::metadata::GivenBack;
use crate::pages::page_heap::PENDING;
use crate::release::journal::{Event, Journal, Period};

/// A busy tick may give back this part of an idle tick's budget.
const BUSY_BUDGET_DIVISOR: u64 = 64;

/// Epochs for which a bin must have been left alone before an idle tick flushes it. A busy tick
/// waits as long as for pages.
const IDLE_BIN_EPOCHS: u32 = 1;

/// Epochs for which blocks must have lain in the depot before they go back, whatever the gate says: each may be the
/// last one of its span.
const DEPOT_EPOCHS: u32 = 1;

/// Epochs between two looks at the limit on the program's memory: they cost some system calls.
const ROOM_EPOCHS: u64 = 4;

/// By how many epochs a slow path may find a tick overdue before it ticks itself, while the ticker is
/// there to do it.
const TICKER_GRACE_EPOCHS: u64 = 2;

/// What a tick left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticked {
    /// Nothing moved since the tick before, and there is nothing that the next one could give back
    /// if nothing moves.
    pub is_at_rest: bool,
    /// It had something to do.
    pub has_worked: bool,
}

/// Ticks if an epoch has passed since the last tick and nobody else is at it. `own` is the calling
/// thread's cache, if it is inside. For slow paths; while the ticker runs it is left to that.
pub(crate) fn tick_if_due(heap: &Heap, release: &Release, os: &impl Os, own: Option<&ThreadCache>) {
    // Nothing that a tick does is worth the process.
    if seccomp::is_strict() {
        return;
    }
    let now = os.now();
    let due = release.next_tick.load(Ordering::Relaxed);
    let grace = if release.ticker.is_running() {
        Nanos::from_millis(TICKER_GRACE_EPOCHS * heap.knobs.epoch_ms()).0
    } else {
        0
    };
    // Relaxed: a time read late only delays the tick to the next slow path.
    if now.0 < due.saturating_add(grace) {
        return;
    }
    // Not in a child of vfork, which may leave the memory at any moment.
    if !heap.is_of_this_process() {
        return;
    }
    let Some(last) = release.ticking.try_lock() else { return };
    // Another thread may have ticked between the lines above.
    if now.0 >= release.next_tick.load(Ordering::Relaxed) {
        tick_locked(heap, release, os, own, last, now, None);
    }
}

/// Ticks, if nobody else is at it. For the ticker, which may have seen that there was no operation
/// lately.
pub(super) fn tick(
    heap: &Heap,
    release: &Release,
    os: &impl Os,
    is_quiet: bool,
    has_descriptors: bool,
) -> Option<Ticked> {
    let last = release.ticking.try_lock()?;
    let by_ticker = ByTicker { is_quiet, has_descriptors, assistant: &release.ticker.assistant };
    Some(tick_locked(heap, release, os, None, last, os.now(), Some(by_ticker)))
}

/// What the ticker adds to a tick.
struct ByTicker<'a> {
    is_quiet: bool,
    /// It has descriptors of its own, so it may open files.
    has_descriptors: bool,
    assistant: &'a Assistant,
}

fn tick_locked(
    heap: &Heap,
    release: &Release,
    os: &impl Os,
    own: Option<&ThreadCache>,
    mut last: Guard<'_, LastTick>,
    now: Nanos,
    by_ticker: Option<ByTicker<'_>>,
) -> Ticked {
    let _section = sections::enter(Section::Tick);
    let began = os.exact_now();
    let knobs = heap.knobs.get();
    let length = Nanos::from_millis(knobs.epoch_ms);
    release.next_tick.store(now.0 + length.0, Ordering::Relaxed);
    let epoch = last.advance(&heap.pages.clock, now, length);
    let operations = heap.operations();
    let done = operations.saturating_sub(last.operations);
    let may_look = by_ticker.as_ref().is_some_and(|ticker| ticker.has_descriptors);
    if may_look && now.since(last.room_seen).0 >= ROOM_EPOCHS * length.0 {
        let was_scarce = last.room.is_some_and(MemoryRoom::is_scarce);
        last.room = os.memory_room(&mut last.workspace.room);
        record_pressure(&release.journal, now, last.room, was_scarce);
        last.room_seen = now;
    }
    let epochs = (now.since(last.time).0 / length.0).max(1);
    let gate = decide(GateInput {
        mode: knobs.gate,
        was: release.gate_state(),
        operations: done,
        epochs,
        is_quiet: by_ticker.as_ref().is_some_and(|ticker| ticker.is_quiet),
        is_pressed: last.room.is_some_and(MemoryRoom::is_scarce),
    });
    let (rate, budget) = (knobs.profile_rate_bytes, knobs.profile_epoch_samples);
    heap.sampler.pace(&heap.pages.arena, rate, budget, epochs);
    last.time = now;
    last.operations = operations;
    release.busy.store(gate.state == GateState::Busy, Ordering::Relaxed);
    {
        let _lock = heap.pages.page_heap.lock();
        heap.pages.totals.update(|figures| match gate.state {
            GateState::Idle => figures.idle_ticks.add(1),
            GateState::Busy => figures.busy_ticks.add(1),
        });
    }
    let released = if knobs.release {
        let mut limits = Limits {
            takes_over: by_ticker.is_some(),
            ..learn(heap, &mut last.delays, gate, &knobs, epoch)
        };
        // The process's ticker may be told to end.
        limits.purge.stop = by_ticker.as_ref().map(|_| &RELEASE.ticker.lifecycle.forbidden);
        let assistant = by_ticker.map(|ticker| ticker.assistant);
        release_pages(heap, &release.journal, os, own, assistant, &limits, &mut last.workspace)
    } else {
        Released { is_at_rest: true, pages: 0, counted: Nanos(0) }
    };
    find_oldest(&heap.pages);
    let took = os.exact_now().since(began);
    heap.uncached.tick_nanos.fetch_add(took.since(released.counted).0, Ordering::Relaxed);
    let (period, gate_state, pages) = (Period::new(began, took), gate.state, released.pages);
    release.journal.record(Event::Tick { period, gate: gate_state, operations: done, pages });
    probes::tick(gate.state as u64, done, released.pages, took.micros());
    Ticked {
        is_at_rest: released.is_at_rest && done == 0,
        has_worked: released.pages > 0 || done > 0,
    }
}

/// Writes down that memory is scarce, and that it is so no longer.
fn record_pressure(journal: &Journal, now: Nanos, room: Option<MemoryRoom>, was_scarce: bool) {
    let Some(room) = room else { return };
    if room.is_scarce() || was_scarce {
        let MemoryRoom { limit_bytes, used_bytes, stalled_percent } = room;
        let (at_nanos, is_scarce) = (now.0, room.is_scarce());
        journal.record(Event::Pressure {
            at_nanos,
            is_scarce,
            limit_bytes,
            used_bytes,
            stalled_percent,
        });
    }
}

/// What a tick gave back.
struct Released {
    is_at_rest: bool,
    pages: u64,
    /// The time that is counted as that of what was done, or not at all.
    counted: Nanos,
}

/// How much this tick may do, and how long things must have rested for it.
struct Limits {
    bin_epochs: u32,
    /// For records of segments. A busy program waits for them as for pages, and then as an idle one does.
    record_epochs: u64,
    purge: PurgeLimits,
    /// Nothing else wants the processors.
    is_idle: bool,
    /// Other threads' bins are seen to, as well.
    takes_over: bool,
}

fn learn(heap: &Heap, delays: &mut Delays, gate: Decision, knobs: &Knobs, epoch: Epoch) -> Limits {
    delays.learn(epoch, experience(heap));
    let is_eager = gate.state == GateState::Idle || gate.is_urgent;
    let extra_epochs = if is_eager { 0 } else { knobs.delay_epochs_busy };
    Limits {
        bin_epochs: u32::try_from(extra_epochs).unwrap_or(u32::MAX).max(IDLE_BIN_EPOCHS),
        record_epochs: extra_epochs.saturating_add(IDLE_EPOCHS),
        purge: limits_for(is_eager, knobs, delays),
        is_idle: gate.state == GateState::Idle,
        takes_over: false,
    }
}

fn release_pages(
    heap: &Heap,
    journal: &Journal,
    os: &impl Os,
    own: Option<&ThreadCache>,
    assistant: Option<&Assistant>,
    limits: &Limits,
    workspace: &mut Workspace,
) -> Released {
    let epoch = heap.pages.clock.epoch();
    if let Some(cache) = own {
        flush_own_bins(heap, cache, limits.bin_epochs);
    }
    central::flush_depot(heap, DEPOT_EPOCHS);
    let mut counted = Nanos(0);
    if limits.takes_over {
        counted = flush_unused_bins(heap, journal, os, limits.bin_epochs);
    }
    let pending = heap.pages.totals.figures().pending_pages.get();
    let assistant = assistant.filter(|_| limits.is_idle && pending >= WORTHWHILE_PAGES);
    // With an assistant each of the two has half of the budget.
    let share = if assistant.is_some() { limits.purge.half() } else { limits.purge };
    if let Some(assistant) = assistant {
        assistant.start(share);
    }
    let batch = &mut workspace.batch;
    let given = purge(&heap.pages, journal, os, epoch, share, batch);
    counted.0 += given.took.0;
    if let Some(assistant) = assistant {
        let began = os.exact_now();
        assistant.wait();
        counted.0 += os.exact_now().since(began).0;
    }
    let pages = share.pages.saturating_sub(given.pages.0.into());
    let calls = share.calls.saturating_sub(given.calls);
    let left = PurgeLimits { pages, calls, ..share };
    let inside = purge_interiors(heap, journal, os, epoch, &left, &mut workspace.interior);
    counted.0 += inside.took.0;
    if inside.pages.0 > 0 {
        heap.pages.clock.set_interiors_purged(os.now());
    }
    let record_limits = RecordLimits {
        rest_epochs: limits.record_epochs,
        pages: left.pages.saturating_sub(inside.pages.0.into()),
        calls: left.calls.saturating_sub(inside.calls),
    };
    let records = give_records_back(&heap.pages, os, epoch, &record_limits, &mut workspace.records);
    let left = (
        record_limits.pages.saturating_sub(records.pages.0.into()),
        record_limits.calls.saturating_sub(records.calls),
    );
    let arrays = heap.pages.metadata.give_arrays_back(os, epoch, limits.record_epochs, left);
    count_array_calls(heap, &arrays);
    // Without the barrier nobody can flush other threads' bins, so nobody waits for it.
    let caches_are_flushed = !heap.has_barrier() || heap.threads.all_are_flushed();
    Released {
        is_at_rest: !given.is_waiting
            && !inside.is_waiting
            && !records.is_waiting
            && !arrays.is_waiting
            && caches_are_flushed
            && heap.depot.is_flushed(),
        pages: given.pages.0 as u64 + inside.pages.0 as u64,
        counted,
    }
}

fn count_array_calls(heap: &Heap, given: &GivenBack) {
    if given.calls > 0 {
        let _page_heap = heap.pages.page_heap.lock();
        heap.pages.totals.update(|figures| figures.record_calls.add(given.calls));
    }
}

/// What became of purged pages so far.
fn experience(heap: &Heap) -> Experience {
    let figures = heap.pages.totals.read();
    let mut experience = Experience::default();
    experience.purged[..KINDS - 1].copy_from_slice(&figures.purged_pages);
    experience.purged[INTERIOR] = figures.interior_pages;
    experience.soon[..KINDS - 1].copy_from_slice(&figures.soon_refaults);
    experience.soon[INTERIOR] = heap.interior_refaults().1;
    experience
}

/// Looks which of the segments with dirty pages has had some for longest.
fn find_oldest(pages: &HeapPages) {
    let HeapPages { arena, page_heap, clock, .. } = pages;
    let mut page_heap = page_heap.lock();
    let mut oldest = None;
    let mut from = SegmentIndex(0);
    while let Some(segment) = page_heap.next_in(arena, PENDING, from) {
        let since = page_heap.states(arena, segment).dirty_since;
        oldest = Some(oldest.map_or(since, |before: Nanos| before.min(since)));
        from = SegmentIndex(segment.0 + 1);
    }
    if let Some(since) = oldest {
        clock.set_oldest(since);
    }
}

fn limits_for(is_eager: bool, knobs: &Knobs, delays: &Delays) -> PurgeLimits {
    let (pages, epochs) = if is_eager {
        (knobs.purge_budget_pages, knobs.delay_epochs_idle)
    } else {
        (knobs.purge_budget_pages.div_ceil(BUSY_BUDGET_DIVISOR), knobs.delay_epochs_busy)
    };
    PurgeLimits {
        pages,
        delay_epochs: delays.added_to(epochs),
        calls: knobs.purge_max_calls,
        coverage: knobs.coverage,
        stop: None,
    }
}

/// Gives back everything that is pending, whatever the gate and the knobs say; returns how many
/// pages.
fn purge_everything_with(heap: &Heap, journal: &Journal, os: &impl Os, batch: &mut Batch) -> Pages {
    let epoch = heap.pages.clock.epoch();
    purge(&heap.pages, journal, os, epoch, EVERYTHING, batch).pages
}

/// The same, for tests.
#[cfg(test)]
pub(crate) fn purge_everything(heap: &Heap, release: &Release, os: &impl Os) -> Pages {
    purge_everything_with(heap, &release.journal, os, &mut Batch::new())
}

/// The same, with what caches hide, other threads' and the calling one's (which `enter` enters), and
/// what lies inside spans. Nothing if this is a signal handler that interrupted a tick or malloc.
pub(crate) fn release_everything(
    heap: &Heap,
    release: &Release,
    os: &impl Os,
    enter: impl FnOnce() -> Option<Entered>,
) -> Pages {
    // Before the cache: a fork takes this lock first and then waits for caches.
    let Some(mut last) = release.ticking.lock_unless_mine() else { return Pages(0) };
    let Some(entered) = enter() else { return Pages(0) };
    central::flush(heap, entered.cache, Bins::ALL);
    flush_all_bins(heap, &release.journal, os);
    central::flush_depot(heap, 0);
    let Workspace { batch, interior, records, .. } = &mut last.workspace;
    let pages = purge_everything_with(heap, &release.journal, os, batch);
    // As if all segments had rested for long.
    let inside =
        purge_interiors(heap, &release.journal, os, Epoch(u64::MAX), &EVERYTHING, interior);
    let epoch = heap.pages.clock.epoch();
    give_records_back(&heap.pages, os, epoch, &ALL_RECORDS, records);
    count_array_calls(
        heap,
        &heap.pages.metadata.give_arrays_back(os, epoch, 0, (u64::MAX, u64::MAX)),
    );
    Pages(pages.0 + inside.pages.0)
}

#[cfg(test)]
mod tests;
