//! The number of the calling thread, for those who want it again and again: each sample has it.

use core::sync::atomic::Ordering;

use super::threads::thread;
use super::tls::ThreadWord;

/// What [`thread`] says, asked for once by each thread. A child of `vfork` has its parent's.
pub(crate) fn known_thread() -> u32 {
    let word = ThreadWord::of_this_thread();
    let known = word.number().load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let number = thread();
    word.number().store(number, Ordering::Relaxed);
    number
}

/// This process is a copy, in which the calling thread has another number.
pub(crate) fn forget_thread() {
    ThreadWord::of_this_thread().number().store(0, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_asks_for_its_number_once_and_again_in_a_copy() {
        std::thread::spawn(|| {
            assert_eq!(known_thread(), thread());
            let word = ThreadWord::of_this_thread();
            assert_eq!(word.number().load(Ordering::Relaxed), thread());
            // As a copy finds it.
            word.number().store(1, Ordering::Relaxed);
            assert_eq!(known_thread(), 1);
            forget_thread();
            assert_eq!(known_thread(), thread());
        })
        .join()
        .unwrap();
    }
}
