//! Whether the ticker is there: how it is started once, and ends without being missed.
//!
//! ```text
//!  a thread that did something            the ticker, at rest
//!  counts its operation                   says ABSENT
//!  (compiler barrier)                     membarrier: every thread passes a full barrier
//!  ABSENT? → starts a ticker              an operation since? → says RUNNING again, and goes on
//! ```
//!
//! After the barrier either the operation is visible to the ticker, or ABSENT to the thread.
//!
//! Somebody may forbid it, for a while or for good, and waits until it is gone. Who starts it looks for that once more
//! after having said so, and who forbids it looks whether it is being started after having said that: one sees the
//! other.

use crate::base::atomics::{AtomicU32, AtomicU64, Ordering, compiler_barrier, fence_after_rmw};

// What the low bits of the state say.

/// There is no such thread.
const ABSENT: u64 = 0;
/// Somebody starts it.
const STARTING: u64 = 1;
/// It ticks.
const RUNNING: u64 = 2;

/// The rest of the state counts attempts to start it, so that an old one is not taken for a new one.
const PHASE: u64 = 3;
const ATTEMPT: u64 = 4;

/// # Invariants
/// Who makes the state [`STARTING`], with a new number, starts the thread or puts it back; from then
/// on the thread alone makes it [`ABSENT`] again. If the thread was killed instead (by the `exec` of a
/// child of `vfork` that had started it), the state says [`RUNNING`] and the thread is not alive.
#[cfg_attr(all(test, loom), derive(Default))]
pub(crate) struct Lifecycle {
    state: AtomicU64,
    /// How many threads forbid it now. Where it sleeps, it waits for this to change.
    pub forbidden: AtomicU32,
}

/// The right to start the ticker.
pub(crate) struct Attempt(u64);

impl Lifecycle {
    #[cfg(not(all(test, loom)))]
    pub const fn new() -> Lifecycle {
        Lifecycle { state: AtomicU64::new(ABSENT), forbidden: AtomicU32::new(0) }
    }

    /// Does it tick, as far as it has said? For threads that have counted what they did.
    #[inline]
    pub fn is_running(&self) -> bool {
        compiler_barrier();
        self.state.load(Ordering::Relaxed) & PHASE == RUNNING
    }

    /// Until [`Lifecycle::allow`] nobody starts it, and it ends when it next looks. The caller wakes it, and waits
    /// until it is neither being started nor alive.
    pub fn forbid(&self) {
        self.forbidden.fetch_add(1, Ordering::SeqCst);
        fence_after_rmw();
    }

    /// It may be started again, as far as the caller of [`Lifecycle::forbid`] is concerned.
    pub fn allow(&self) {
        self.forbidden.fetch_sub(1, Ordering::Release);
    }

    /// Does somebody forbid it?
    pub fn is_forbidden(&self) -> bool {
        self.forbidden.load(Ordering::Relaxed) != 0
    }

    /// Is somebody at starting it?
    pub fn is_being_started(&self) -> bool {
        // Acquire: partner of the AcqRel in `set_running`; the thread is alive, if it is not over already.
        self.state.load(Ordering::Acquire) & PHASE == STARTING
    }

    /// `None` if somebody else is at starting it, forbids it, or it is there after all: it may have changed its
    /// mind since the caller looked.
    pub fn begin(&self, is_alive: impl Fn() -> bool) -> Option<Attempt> {
        let seen = self.state.load(Ordering::Acquire);
        let is_there = match seen & PHASE {
            ABSENT => false,
            RUNNING => is_alive(),
            _ => true,
        };
        let starting = (seen & !PHASE) + ATTEMPT + STARTING;
        let begun = !is_there
            && self
                .state
                .compare_exchange(seen, starting, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if !begun {
            return None;
        }
        fence_after_rmw();
        if self.is_forbidden() {
            self.set_over();
            return None;
        }
        Some(Attempt(starting))
    }

    /// The thread is there; it may have ended again already, and have said so.
    pub fn set_running(&self, attempt: Attempt) {
        let running = attempt.0 - STARTING + RUNNING;
        let _ =
            self.state.compare_exchange(attempt.0, running, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// There is no thread: the attempt has failed, or the thread ends whatever happens meanwhile.
    pub fn set_over(&self) {
        self.state.fetch_and(!PHASE, Ordering::Release);
    }

    /// This process is a copy: there is no such thread, and nobody forbids it.
    pub fn forget_in_child(&self) {
        self.forbidden.store(0, Ordering::Relaxed);
        self.set_over();
    }

    /// The thread would like to end. It then passes a barrier and looks whether anything happened; if
    /// so it calls [`Lifecycle::goes_on`].
    pub fn announce_end(&self) -> Attempt {
        Attempt(self.state.fetch_and(!PHASE, Ordering::AcqRel) & !PHASE)
    }

    /// `false`: another one is being started, and this one is not needed any more.
    pub fn goes_on(&self, announced: Attempt) -> bool {
        let running = announced.0 + RUNNING;
        self.state
            .compare_exchange(announced.0, running, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}
