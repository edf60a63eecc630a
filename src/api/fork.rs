//! Children that can allocate: made by libc's `fork`, for which nothing has to be done, or by [`around`].

use crate::api::fork_handlers;
use crate::api::start;

/// Registers the allocator's handlers around `fork`, if they are not yet: the first allocation does. libc calls the
/// handlers that were registered first last before a fork; so whoever lets libraries register theirs before that
/// calls this before. Any thread; a load, mostly.
#[unsafe(link_section = "slackwater_start")]
pub fn register() {
    fork_handlers::register();
}

/// Ends the allocator's own threads, and returns once the kernel does not count them among the process's any more;
/// for a second none is started, and slow paths do their work. For calls that the kernel refuses to a process of
/// several threads, such as `unshare` and `setns` of a user namespace, and for whoever counts them.
///
/// Any thread. Some 100 µs where there is one, some milliseconds while it gives memory back, else less than one.
pub fn end_own_threads() {
    fork_handlers::end_ticker();
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
    let is_held = fork_handlers::hold();
    let result = clone();
    if result == 0 {
        fork_handlers::let_go_in_child(is_held);
    } else if is_held {
        fork_handlers::let_go_in_parent();
    }
    result
}
