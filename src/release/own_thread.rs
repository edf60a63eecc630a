//! How the threads of our own, the ticker and the assistant, part with the program's: libc does not know of them.

use crate::caches::thread_cache::DEAD;
use crate::os;
use crate::os::biased_lock::OwnerWord;
use crate::os::raw_thread::RawThread;
use crate::os::tls::ThreadWord;

/// The first thing that such a thread does, which is `thread`.
pub(super) fn begin(thread: &RawThread) {
    thread.note_number();
    // It never allocates; if it did, it would be past the caches.
    ThreadWord::of_this_thread().set(DEAD);
    os::name_thread(c"slackwater");
    os::stand_apart();
    // Filters that are set for a program from outside often forbid to change what it may use.
    if !os::seccomp::is_inherited() {
        os::share_affinity_of_process();
        os::give_up_priority();
    }
}
