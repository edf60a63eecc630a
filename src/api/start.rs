//! How the process's heap comes into being: once, when something is first asked of it.

use crate::api::fork_handlers;
use crate::api::thread_exit;
use crate::figures::root;
use crate::heap::HEAP;
use crate::os::report::Line;
use crate::os::{self, Linux};

/// Makes the heap usable if it is not yet; `false` if the system does not grant it addresses, or this is a
/// signal handler that interrupted the start. Mostly a load.
#[inline]
pub(crate) fn is_ready() -> bool {
    HEAP.is_ready() || start()
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
