//! A word before a filter of system calls (seccomp(2)), which kills a program for a call that it does not know.
//!
//! The allocator's calls on the program's threads are those of any malloc: `mmap`, `munmap`, `mremap`, `mprotect`,
//! `madvise`, `futex`, `getpid`, `gettid`, and the clock, mostly without a call. But it starts a thread of its own
//! that makes others, and that thread is not to be there when the filter is: so the allocator must know of it before.
//!
//! The preload library hears of filters by itself, where they are set through libc's `prctl` and `syscall`. A program
//! in Rust, and one that makes its system calls itself, calls [`expect_filter`]:
//!
//! ```no_run
//! # fn set_filter() {}
//! slackwater::seccomp::expect_filter();
//! set_filter();
//! ```
//!
//! What it costs: memory that is freed while every thread sleeps goes back when one of them allocates or frees again,
//! and what other threads have in their caches when they do themselves. There is no way back: a filter stays, too, and
//! so does what was said here if the kernel then refuses it.

use crate::api::start;
use crate::heap::HEAP;
use crate::os::{self, seccomp};
use crate::release::{RELEASE, forbid_ticker, wait_for_its_end};

/// The program is about to set a filter. Returns when the allocator's own threads are gone, some milliseconds at most;
/// none is started from then on. Children and what they execute begin with the filter, and know of it.
///
/// Any thread. Other threads may use the heap meanwhile.
pub fn expect_filter() {
    expect(false);
}

/// The same before `SECCOMP_MODE_STRICT`, which leaves a thread `read`, `write` and its end. There is no call at all
/// then, but for memory that is not there yet: nothing is given back.
pub fn expect_strict_mode() {
    expect(true);
}

fn expect(is_strict: bool) {
    // A child of vfork speaks for itself, and has the memory of the program.
    let is_known = seccomp::is_announced();
    if HEAP.is_ready() && !is_known && !HEAP.is_of_this_process() {
        return;
    }
    // What the heap's start calls is called before.
    start::is_ready();
    seccomp::announce(is_strict);
    if !is_known {
        forbid_ticker(&RELEASE);
    }
    // A signal handler that interrupted malloc may hold what the ticker waits for.
    let (_, is_inside) = os::this_thread();
    if !is_inside && !HEAP.pages.page_heap.is_mine() {
        wait_for_its_end(&RELEASE);
    }
}
