//! What release keeps between ticks: beside the heap, which is what it works on.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::delays::Delays;
use super::gate::GateState;
use super::interior::InteriorBatch;
use super::journal::Journal;
use super::lifecycle::Lifecycle;
use super::purge::{Batch, NOTHING, PurgeLimits};
use super::records::RecordBatch;
use crate::base::units::Epoch;
use crate::os::cgroup::Scratch;
#[cfg(test)]
use crate::os::lock::Guard;
use crate::os::lock::Lock;
use crate::os::raw_thread::RawThread;
use crate::os::{Linux, MemoryRoom, Nanos, Os};
use crate::pages::clock::Clock;

/// The one that works on the process's heap.
pub(crate) static RELEASE: Release = Release::new();

/// Who works on a heap to give its memory back: when the next tick is due, what the last one saw, the ticker,
/// and the journal of what was done.
///
/// # Invariants
/// `busy` and `next_tick` are written with `ticking` held, and with it alone a heap's [`Clock`] is advanced.
#[repr(C, align(64))]
pub(crate) struct Release {
    /// The time from which on a tick is due.
    pub(super) next_tick: AtomicU64,
    /// The gate's last decision.
    pub busy: AtomicBool,
    pub(super) ticking: Lock<LastTick>,
    pub ticker: Ticker,
    pub journal: Journal,
}

/// What the last tick saw and learned. One thread ticks at a time.
pub(crate) struct LastTick {
    pub(super) time: Nanos,
    /// When the current epoch began.
    epoch_began: Nanos,
    pub(super) operations: u64,
    pub(super) room: Option<MemoryRoom>,
    pub(super) room_seen: Nanos,
    pub(super) delays: Delays,
    pub(super) workspace: Workspace,
}

/// What a tick needs room for: too much for a stack that may be any thread's.
pub(super) struct Workspace {
    pub batch: Batch,
    pub interior: InteriorBatch,
    pub records: RecordBatch,
    pub room: Scratch,
}

impl LastTick {
    /// Lets the epochs begin that are due. A tick may come before one is.
    pub(super) fn advance(&mut self, clock: &Clock, now: Nanos, length: Nanos) -> Epoch {
        let passed = if self.epoch_began == Nanos(0) {
            self.epoch_began = now;
            1
        } else {
            let passed = now.since(self.epoch_began).0 / length.0;
            self.epoch_began.0 += passed * length.0;
            passed
        };
        clock.advance(passed)
    }
}

impl Release {
    pub const fn new() -> Release {
        Release {
            next_tick: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            ticking: Lock::new(LastTick {
                time: Nanos(0),
                epoch_began: Nanos(0),
                operations: 0,
                room: None,
                room_seen: Nanos(0),
                delays: Delays::new(),
                workspace: Workspace {
                    batch: Batch::new(),
                    interior: InteriorBatch::new(),
                    records: RecordBatch::new(),
                    room: Scratch::new(),
                },
            }),
            ticker: Ticker::new(),
            journal: Journal::new(),
        }
    }

    /// The gate's last decision.
    pub fn gate_state(&self) -> GateState {
        if self.busy.load(Ordering::Relaxed) { GateState::Busy } else { GateState::Idle }
    }

    /// Keeps ticks from happening until the guard is dropped.
    #[cfg(test)]
    pub fn hold(&self) -> Guard<'_, LastTick> {
        self.ticking.lock()
    }

    /// Takes the ticking lock for a fork, and gives it back.
    /// `false` if the calling thread ticks.
    pub fn lock_for_fork(&self) -> bool {
        self.ticking.lock_for_fork()
    }

    /// The next tick is due in an epoch of this length: a copy of a process whose tick took long need not make up for
    /// that at once. While nobody ticks.
    pub fn put_off_tick(&self, length: Nanos) {
        self.next_tick.store(Linux.now().0 + length.0, Ordering::Relaxed);
    }

    /// Is this a signal handler that interrupted a tick of its thread's?
    pub fn is_interrupted(&self) -> bool {
        self.ticking.is_mine()
    }

    /// Frees the locks from threads that are not there, for this process is a copy of theirs. Returns whether one of
    /// them ticked. What a tick keeps for the next one may be of before or after, each number for itself.
    ///
    /// # Safety
    /// As [`Lock::free_from_ghost`]; what the tick did to its heap is made whole by the caller.
    pub unsafe fn free_from_ghosts(&self) -> bool {
        // SAFETY: the caller says so; limits are set before each use.
        unsafe { self.ticker.assistant.limits.free_from_ghost() };
        // SAFETY: the caller says so.
        unsafe { self.ticking.free_from_ghost() }
    }

    /// # Safety
    /// As [`Lock::unlock_after_fork`].
    pub unsafe fn unlock_after_fork(&self) {
        // SAFETY: the caller says so.
        unsafe { self.ticking.unlock_after_fork() };
    }
}

/// Whether there is a ticker, and what it needs.
#[repr(align(64))]
pub(crate) struct Ticker {
    pub(super) lifecycle: Lifecycle,
    pub(super) thread: RawThread,
    pub(super) assistant: Assistant,
    /// Not to be started before this time.
    pub(super) retry: AtomicU64,
    /// Threads started, and attempts that failed.
    pub starts: AtomicU64,
    pub failures: AtomicU64,
}

impl Ticker {
    pub const fn new() -> Ticker {
        Ticker {
            lifecycle: Lifecycle::new(),
            thread: RawThread::new(),
            assistant: Assistant::new(),
            retry: AtomicU64::new(0),
            starts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Does it tick?
    pub fn is_running(&self) -> bool {
        self.lifecycle.is_running() && self.thread.is_alive()
    }

    /// In a forked child the thread is gone, and may be started.
    pub fn forget_in_child(&self) {
        self.retry.store(0, Ordering::Relaxed);
        self.lifecycle.forget_in_child();
        self.thread.forget_in_child();
        self.assistant.thread.forget_in_child();
    }
}

/// Started and waited for by the ticker, with the ticking lock held.
pub(crate) struct Assistant {
    pub(super) thread: RawThread,
    pub(super) limits: Lock<PurgeLimits>,
}

impl Assistant {
    const fn new() -> Assistant {
        Assistant { thread: RawThread::new(), limits: Lock::new(NOTHING) }
    }
}
