//! How the threads of our own, the ticker and the assistant, part with the program's: libc does not know of them.

use crate::caches::thread_cache::DEAD;
use crate::os;
use crate::os::biased_lock::OwnerWord;
use crate::os::tls::ThreadWord;

/// The first thing that such a thread does.
pub(super) fn begin() {
    // It never allocates; if it did, it would be past the caches.
    ThreadWord::of_this_thread().set(DEAD);
    os::name_thread(c"slackwater");
    os::share_affinity_of_process();
    os::stand_apart();
    os::give_up_priority();
}
