//! fork: the child gets a heap whose locks are free, whose records are whole, and in which the
//! blocks that other threads had cached are free again.
//!
//! libc calls the handlers that were registered first last before a fork, and first after it. Ours are registered
//! by the first allocation or, under the preload library, before anybody else's: so what others do in theirs finds
//! a heap whose locks nobody holds. They may allocate and free, start threads and join them, and take a lock
//! under which another thread allocates.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::api::copies;
use crate::caches::bin::Bins;
use crate::heap::HEAP;
use crate::heap::central;
use crate::os;
use crate::os::streams;
use crate::release::{self, RELEASE};

/// The word of the thread that holds everything while it forks, or 0. The handlers around a fork from
/// inside malloc (a signal handler forks) do nothing: whatever the interrupted call holds stays held.
static HOLDER: AtomicUsize = AtomicUsize::new(0);

#[unsafe(link_section = ".data.slackwater_start")]
static IS_REGISTERED: AtomicBool = AtomicBool::new(false);

/// Registers the handlers, once. When the heap has been started, outside of it: libc may allocate for its list.
#[unsafe(link_section = "slackwater_start")]
pub(crate) fn register() {
    if IS_REGISTERED.load(Ordering::Relaxed) || IS_REGISTERED.swap(true, Ordering::Relaxed) {
        return;
    }
    // SAFETY: the handlers are functions of the right type that stay where they are.
    let refused =
        unsafe { libc::pthread_atfork(Some(before), Some(after_in_parent), Some(after_in_child)) };
    if refused != 0 {
        IS_REGISTERED.store(false, Ordering::Relaxed);
    }
}

/// Was it this thread that took the locks before the fork? If so it has to give them back.
fn was_this_thread() -> bool {
    let (word, _) = os::this_thread();
    HOLDER.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Ends the ticker, unless the calling thread holds what the ticker may wait for: this is a signal handler that
/// interrupted malloc.
pub(crate) fn end_ticker() {
    copies::see_to_copy();
    let (_, is_inside) = os::this_thread();
    if !is_inside && !HEAP.pages.page_heap.is_mine() {
        release::end_ticker(&RELEASE);
    }
}

extern "C" fn before() {
    streams::lock();
    // A program of one thread may look whether it has one: see `release::ticker`.
    if HEAP.threads.threads() <= 1 {
        end_ticker();
    }
    if hold() {
        let (word, _) = os::this_thread();
        HOLDER.store(word, Ordering::Relaxed);
    } else {
        streams::unlock();
    }
}

extern "C" fn after_in_parent() {
    if was_this_thread() {
        let_go_in_parent();
        streams::unlock();
    }
}

extern "C" fn after_in_child() {
    let was_held = was_this_thread();
    if was_held {
        streams::reset_in_child();
    }
    let_go_in_child(was_held);
}

/// Takes every lock of the heap, and keeps other threads out of their caches. `false`, and nothing is taken, if the
/// calling thread is inside malloc or ticks: a signal handler is at it.
pub(crate) fn hold() -> bool {
    copies::see_to_copy();
    let (word, is_inside) = os::this_thread();
    HEAP.wait_for_start(word);
    // No tick is under way from here on.
    if is_inside || HEAP.is_interrupted() || !RELEASE.lock_for_fork() {
        return false;
    }
    HEAP.hold_for_fork(word);
    true
}

/// Gives back what [`hold`] took, in the process that took it.
pub(crate) fn let_go_in_parent() {
    // SAFETY: the calling thread took the locks.
    unsafe { HEAP.unlock_after_fork() };
    // SAFETY: and this one.
    unsafe { RELEASE.unlock_after_fork() };
    // SAFETY: it held the caches.
    unsafe { HEAP.threads.resume_in_parent() };
}

/// Makes the heap that of the process that the fork has made; and gives back, if `was_held`, what [`hold`] took.
pub(crate) fn let_go_in_child(was_held: bool) {
    if was_held || !HEAP.is_copied() {
        copies::adopt();
    }
    if was_held {
        let (word, _) = os::this_thread();
        // SAFETY: the calling thread took the locks, and is now the only one.
        unsafe { HEAP.unlock_after_fork() };
        // SAFETY: and this one.
        unsafe { RELEASE.unlock_after_fork() };
        // SAFETY: likewise; a thread that did not leave malloc in time may have held some of it.
        unsafe { HEAP.depot.free_from_ghosts() };
        let empty = |cache: &_| central::flush(&HEAP, cache, Bins::ALL);
        // SAFETY: it held the caches, and is now the only thread.
        unsafe { HEAP.threads.resume_in_child(word, empty) };
    }
}
