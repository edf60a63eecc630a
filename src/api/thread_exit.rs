//! What happens to a thread's cache when the thread ends.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::api::copies::see_to_copy;
use crate::caches::entered::enter_or;
use crate::caches::thread_cache::{DEAD, ThreadCache};
use crate::heap::HEAP;
use crate::heap::central;
use crate::hooks::sections;
use crate::os::biased_lock::OwnerWord;

/// The key whose destructor runs when a thread ends, and 1 more; [`NO_KEY`] where there is none to be had.
#[unsafe(link_section = ".data.slackwater_start")]
static EXIT_KEY: AtomicU32 = AtomicU32::new(NO_KEY);
const NO_KEY: u32 = 0;

/// Somebody has created the key, or tried to.
#[unsafe(link_section = ".data.slackwater_start")]
static IS_CREATED: AtomicBool = AtomicBool::new(false);

/// Creates the key, once. Before the program has many of its own: early keys need no memory of their own.
pub(crate) fn create_exit_key() {
    if IS_CREATED.swap(true, Ordering::Relaxed) {
        return;
    }
    let mut key = 0;
    // SAFETY: `key` is a valid place, and `thread_ends` a destructor of the right type.
    let result = unsafe { libc::pthread_key_create(&mut key, Some(thread_ends)) };
    if result == 0 {
        EXIT_KEY.store(key + 1, Ordering::Relaxed);
    }
}

/// Has the calling thread's cache given back when it ends. Returns whether it will be.
pub(crate) fn announce(cache: &'static ThreadCache) -> bool {
    let key = EXIT_KEY.load(Ordering::Relaxed);
    let value = core::ptr::from_ref(cache).cast::<c_void>();
    // SAFETY: the key was created; the value is only handed back to `thread_ends`.
    key != NO_KEY && unsafe { libc::pthread_setspecific(key - 1, value) } == 0
}

/// The thread ends: its blocks go back, its record is for the next thread. Frees that come after
/// this (of later destructors, of libc itself) are served without a cache.
extern "C" fn thread_ends(_cache: *mut c_void) {
    see_to_copy();
    if let Some(entered) = enter_or(|_, _| None) {
        let cache = entered.cache;
        central::hand_on(&HEAP, cache);
        entered.word.set(DEAD);
        core::mem::forget(entered);
        HEAP.threads.detach(cache);
        sections::thread_ends();
    }
}
