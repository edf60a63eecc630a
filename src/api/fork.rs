//! fork: the child gets a heap whose locks are free, whose records are whole, and in which the
//! blocks that other threads had cached are free again.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::api::start;
use crate::caches::bin::Bins;
use crate::heap::HEAP;
use crate::heap::central;
use crate::hooks::sections;
use crate::os;
use crate::os::pin;
use crate::release::RELEASE;
use crate::sampling::observer;

/// The word of the thread that holds everything while it forks, or 0. The handlers around a fork from
/// inside malloc (a signal handler forks) do nothing: whatever the interrupted call holds stays held.
static HOLDER: AtomicUsize = AtomicUsize::new(0);

/// Was it this thread that took the locks? If so it has to give them back.
fn was_this_thread(word: usize) -> bool {
    HOLDER.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Before `main`, and before any fork: libc may allocate for its list of handlers, so this is not
/// done while the heap starts.
#[used]
#[unsafe(link_section = ".init_array")]
static REGISTER: extern "C" fn() = register;

extern "C" fn register() {
    pin::pin();
    // SAFETY: the handlers are functions of the right type that stay where they are.
    unsafe { libc::pthread_atfork(Some(before), Some(after_in_parent), Some(after_in_child)) };
}

/// Makes a child by `clone` that can allocate: with the heap's locks taken before it and given back after it, in
/// both processes, as around a `fork`, and nobody else's handlers run. Returns what `clone` does. For a child that
/// does a piece of work and ends; what `fork` does besides for the C library is not done.
///
/// Any thread that is not inside malloc. It waits for others to leave malloc, some microseconds, and they wait
/// for the clone.
///
/// # Safety
///
/// `clone` does nothing but a system call that copies this process with its memory, as `clone(2)` without
/// `CLONE_VM` does, and returns 0 in the child alone, on the copy of the calling thread.
pub unsafe fn around(clone: impl FnOnce() -> i64) -> i64 {
    // A child of a thread that waits for another one to start the heap would wait for ever.
    start::is_ready();
    before();
    let result = clone();
    if result == 0 {
        after_in_child();
    } else {
        after_in_parent();
    }
    result
}

extern "C" fn before() {
    let (word, inside) = os::this_thread();
    start::wait_for_start();
    // No tick is under way from here on. It fails where the calling thread ticks: a signal handler forks.
    if !inside && RELEASE.lock_for_fork() {
        HEAP.hold_for_fork(word);
        HOLDER.store(word, Ordering::Relaxed);
    }
}

extern "C" fn after_in_parent() {
    if was_this_thread(os::this_thread().0) {
        // SAFETY: `before` took the locks on this thread.
        unsafe { HEAP.unlock_after_fork() };
        // SAFETY: and this one.
        unsafe { RELEASE.unlock_after_fork() };
        // SAFETY: `before` held the caches on this thread.
        unsafe { HEAP.threads.resume_in_parent() };
    }
}

extern "C" fn after_in_child() {
    HEAP.belongs_to_this_process();
    RELEASE.ticker.is_gone_in_child();
    sections::forked();
    observer::forked();
    let (word, _) = os::this_thread();
    if was_this_thread(word) {
        // SAFETY: `before` took the locks on this thread, which is now the only one.
        unsafe { HEAP.unlock_after_fork() };
        // SAFETY: and this one.
        unsafe { RELEASE.unlock_after_fork() };
        let empty = |cache: &_| central::flush(&HEAP, cache, Bins::ALL);
        // SAFETY: `before` held the caches on this thread, which is now the only one.
        unsafe { HEAP.threads.resume_in_child(word, empty) };
    }
}
