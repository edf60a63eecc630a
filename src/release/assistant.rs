//! A second thread for a large purge: the kernel needs about 0.3 µs for a page, and two processors
//! give a gigabyte back in two thirds of the time of one.

use core::ffi::{c_int, c_void};

use super::own_thread;
use super::purge::{Batch, PurgeLimits, purge};
use super::state::{Assistant, RELEASE};
use crate::heap::HEAP;
use crate::hooks::sections;
use crate::os::LinuxOfOwnThreads;

/// Pending pages from which on help pays: 256 MiB, a tenth of a second's work.
pub(super) const WORTHWHILE_PAGES: u64 = 1 << 16;

impl Assistant {
    /// Purges the process's heap beside the caller. If the system refuses a thread, the caller does it
    /// alone.
    pub(super) fn start(&self, limits: PurgeLimits) {
        *self.limits.lock() = limits;
        // SAFETY: `run` purges: it allocates nothing, and its calls are the kernel's.
        unsafe { self.thread.start(run) };
    }

    /// Returns once it is done.
    pub(super) fn wait(&self) {
        self.thread.wait();
    }
}

extern "C" fn run(_: *mut c_void) -> c_int {
    own_thread::begin(&RELEASE.ticker.assistant.thread);
    let (pages, journal) = (&HEAP.pages, &RELEASE.journal);
    let limits = *RELEASE.ticker.assistant.limits.lock();
    purge(pages, journal, &LinuxOfOwnThreads, pages.clock.epoch(), limits, &mut Batch::new());
    sections::thread_ends();
    0
}
