//! How a thread enters its cache, and leaves it.

use crate::caches::thread_cache::{DEAD, FREED_ONE, LAST_SPECIAL, ThreadCache, UNSET};
use crate::os::biased_lock::{BUSY, BiasedLock, OwnerWord};
use crate::os::tls::ThreadWord;

/// The right to touch this thread's cache, until dropped.
pub(crate) struct Entered {
    pub cache: &'static ThreadCache,
    pub word: ThreadWord,
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        BiasedLock::leave(self.word, core::ptr::from_ref(self.cache) as usize);
    }
}

/// Enters the calling thread's cache, or does `otherwise` for a thread that has none yet, with its
/// word's value.
pub(crate) fn enter_or(
    otherwise: impl FnOnce(ThreadWord, usize) -> Option<Entered>,
) -> Option<Entered> {
    let word = ThreadWord::of_this_thread();
    loop {
        match word.get() {
            BUSY | DEAD => return None,
            value @ (UNSET | FREED_ONE..=LAST_SPECIAL) => return otherwise(word, value),
            address => {
                // SAFETY: a word above the special ones is the address of the thread's cache.
                let cache = unsafe { &*(address as *const ThreadCache) };
                if cache.lock.enter(word) {
                    return Some(Entered { cache, word });
                }
                BiasedLock::leave(word, address);
                cache.lock.wait_until_unwanted();
            }
        }
    }
}

const _: () = assert!(UNSET < BUSY && BUSY < DEAD && DEAD < FREED_ONE && FREED_ONE < LAST_SPECIAL);
