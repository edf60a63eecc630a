//! How a thread enters its cache, and leaves it.

use crate::caches::thread_cache::{DEAD, FREED_MANY, FREED_ONE, ThreadCache, UNSET};
use crate::os::biased_lock::{AT_REST, BUSY, BiasedLock, OwnerWord};
use crate::os::tls::ThreadWord;

/// The right to touch this thread's cache, until dropped.
pub(crate) struct Entered {
    pub cache: &'static ThreadCache,
    pub word: ThreadWord,
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        BiasedLock::leave(self.word);
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
            AT_REST => {
                // SAFETY: the word says that the thread has a cache.
                let cache = unsafe { &*(word.cache() as *const ThreadCache) };
                if cache.lock.enter(word) {
                    return Some(Entered { cache, word });
                }
                BiasedLock::leave(word);
                cache.lock.wait_until_unwanted();
            }
            value => return otherwise(word, value),
        }
    }
}

// A new thread's word is 0, and the values are different ones.
const _: () = assert!(UNSET == 0 && UNSET < BUSY && BUSY < AT_REST && AT_REST < DEAD);
const _: () = assert!(DEAD < FREED_ONE && FREED_ONE < FREED_MANY);
