//! A second thread for a large purge: the kernel needs about 0.3 µs for a page, and two processors
//! give a gigabyte back in two thirds of the time of one.

use core::ffi::{c_int, c_void};

use super::purge::{Batch, EVERYTHING, PurgeLimits, purge};
use crate::caches::thread_cache::DEAD;
use crate::heap::HEAP;
use crate::hooks::sections;
use crate::os::biased_lock::OwnerWord;
use crate::os::lock::Lock;
use crate::os::raw_thread::RawThread;
use crate::os::tls::ThreadWord;
use crate::os::{self, Linux};

/// Pending pages from which on help pays: 256 MiB, a tenth of a second's work.
pub(super) const WORTHWHILE_PAGES: u64 = 1 << 16;

/// Started and waited for by the ticker, with the ticking lock held.
pub(crate) struct Assistant {
    thread: RawThread,
    limits: Lock<PurgeLimits>,
}

impl Assistant {
    pub const fn new() -> Assistant {
        Assistant { thread: RawThread::new(), limits: Lock::new(EVERYTHING) }
    }

    /// Purges the process's heap beside the caller. If the system refuses a thread, the caller does it
    /// alone.
    pub(super) fn start(&self, limits: PurgeLimits) {
        *self.limits.lock() = limits;
        self.thread.start(run);
    }

    /// Returns once it is done.
    pub(super) fn wait(&self) {
        self.thread.wait();
    }

    /// In a forked child the thread is gone.
    pub fn is_gone_in_child(&self) {
        self.thread.is_gone_in_child();
    }
}

extern "C" fn run(_: *mut c_void) -> c_int {
    ThreadWord::of_this_thread().set(DEAD);
    os::name_thread(c"slackwater");
    os::share_affinity_of_process();
    let heap = &HEAP;
    let limits = *heap.ticker.assistant.limits.lock();
    let (epoch, mut batch) = (heap.release.epoch(), Batch::new());
    purge(heap, &Linux, epoch, limits, &mut batch);
    sections::thread_ends();
    0
}
