//! How the process's heap comes into being: once, when something is first asked of it. A process that never asks has
//! none, and most of what a start costs is saved.

use crate::api::fork_handlers;
use crate::api::thread_exit;
use crate::figures::root;
use crate::heap::{self, HEAP, knobs};
use crate::os::report::Line;
use crate::os::{self, Linux, Nanos, pin};
use crate::release::RELEASE;

/// Makes the heap usable if it is not yet; `false` if the system does not grant it addresses, or this is a
/// signal handler that interrupted the start. Mostly a load.
#[inline]
pub(crate) fn is_ready() -> bool {
    HEAP.is_ready() || start()
}

/// Before `main`: what later could not be had, would take memory, or would be something else.
#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

#[unsafe(link_section = "slackwater_start")]
extern "C" fn loaded() {
    pin::pin();
    heap::remember_process();
    thread_exit::create_exit_key();
    // Knobs hold as they were set when the process started.
    if knobs::are_set() {
        is_ready();
    }
    // For a program that does not allocate before its first fork, and for one whose first allocation was libc's own,
    // for its list of handlers.
    fork_handlers::register();
}

#[cold]
fn start() -> bool {
    let is_ready = HEAP.start_once(os::this_thread().0, || {
        // Readers from outside find the heap by what this brings into the program.
        core::hint::black_box(root::address());
        os::find_clock();
        let has_window = HEAP.choose_window(&Linux);
        if has_window {
            thread_exit::create_exit_key();
            // In a heap without a block there is nothing to be done yet.
            RELEASE.put_off_tick(Nanos::from_millis(HEAP.knobs.epoch_ms()));
        } else {
            Line::new().text("the system grants no address space for a heap").send();
        }
        has_window
    });
    if is_ready {
        fork_handlers::register();
    }
    is_ready
}
