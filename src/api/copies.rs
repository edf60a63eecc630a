//! Children of which nobody has told the allocator: made by the system call alone, or by `_Fork`.

use crate::heap::{HEAP, mend};
use crate::hooks::sections;
use crate::os::biased_lock::{BUSY, OwnerWord};
use crate::os::tls::ThreadWord;
use crate::os::{self, Nanos};
use crate::release::RELEASE;
use crate::sampling::observer;

/// What every slow path begins with, before it holds anything: in such a child, makes the heap its own. Two loads.
#[inline]
pub(crate) fn see_to_copy() {
    if HEAP.is_copied() {
        make_whole();
    }
}

#[cold]
fn make_whole() {
    let (_, is_inside) = os::this_thread();
    // A signal handler: what it interrupted goes on with things as they are, and the next slow path comes here.
    if is_inside || HEAP.is_interrupted() || RELEASE.is_interrupted() {
        return;
    }
    if !HEAP.take_copy_in_hand() {
        return;
    }
    // Signal handlers that come meanwhile are served past the caches.
    let word = ThreadWord::of_this_thread();
    let before = word.get();
    word.set(BUSY);
    // SAFETY: all slow paths come here first, and wait until this is done. Those who were in the heap when the process
    // was copied are not in it: the calling thread is not, for its word and the locks say so, and no other was copied.
    let ghost_ticked = unsafe { RELEASE.free_from_ghosts() };
    // SAFETY: as above.
    unsafe { mend::mend(&HEAP, ghost_ticked) };
    RELEASE.put_off_tick(Nanos::from_millis(HEAP.knobs.epoch_ms()));
    adopt();
    word.set(before);
}

/// The heap is whole, and that of this process, which is a copy.
pub(crate) fn adopt() {
    os::forget_thread();
    RELEASE.ticker.forget_in_child();
    sections::forked();
    observer::forked();
    HEAP.adopt_in_this_process();
}
