//! Threads that observe: what they allocate to look at the program is not the program's.
//!
//! A sample that is taken while its thread [`observe`]s has no call stack but [`FRAME`]: a profile has it under one
//! name, is as large as the heap, and the program's own call sites are as if nobody looked. The threads
//! are kept in a short table which is read for samples alone, so allocations cost what they did.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::os;

/// Stands for the observer in a stack: the only frame there. No program has code at this address.
pub const FRAME: u64 = 2;

/// Threads that can observe at the same time. What more of them allocate is booked as the program's.
pub const MAX_THREADS: usize = 64;

/// The kernel's numbers of the threads that observe; 0 in places that are free.
static THREADS: [AtomicU32; MAX_THREADS] = [const { AtomicU32::new(0) }; MAX_THREADS];

/// How many places are taken.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Does `work`, whose allocations are the observer's. On this thread: what it has others do is theirs.
///
/// Any thread, also while it observes already. Costs a system call or two of some 100 ns each.
pub fn observe<T>(work: impl FnOnce() -> T) -> T {
    let _observing = Observing::begin(os::thread());
    work()
}

/// Does the calling thread observe? For the sampler.
pub(crate) fn is_this_thread() -> bool {
    COUNT.load(Ordering::Relaxed) > 0 && place_of(os::known_thread()).is_some()
}

/// In a forked child the threads are gone, and their numbers may be others'.
pub(crate) fn forked() {
    THREADS.iter().for_each(|place| place.store(0, Ordering::Relaxed));
    COUNT.store(0, Ordering::Relaxed);
}

/// Relaxed: a thread looks for its own number, which nobody else writes.
fn place_of(thread: u32) -> Option<usize> {
    THREADS.iter().position(|place| place.load(Ordering::Relaxed) == thread)
}

/// A thread observes until this is dropped.
struct Observing {
    thread: u32,
    /// Its place, if this is what took it.
    place: Option<usize>,
}

impl Observing {
    fn begin(thread: u32) -> Observing {
        if place_of(thread).is_some() {
            return Observing { thread, place: None };
        }
        let take = |place: &AtomicU32| {
            place.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        let place = THREADS.iter().position(take);
        if place.is_some() {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
        Observing { thread, place }
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        // In a forked child it is free already, or another's.
        let (relaxed, place) = (Ordering::Relaxed, &THREADS[place]);
        if place.compare_exchange(self.thread, 0, relaxed, relaxed).is_ok() {
            COUNT.fetch_sub(1, relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, PoisonError};

    /// The tests share the places: one at a time.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn a_thread_observes_until_its_outermost_work_ends_also_by_a_panic() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(!is_this_thread());
        observe(|| {
            assert!(observe(is_this_thread));
            assert!(is_this_thread(), "what is inside does not end what is outside");
            let elsewhere = std::thread::scope(|scope| scope.spawn(is_this_thread).join());
            assert!(!elsewhere.expect("no panic"), "another thread does not observe");
        });
        assert!(!is_this_thread());
        let panics = || observe(|| panic!("on purpose"));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert!(!is_this_thread());
    }

    #[test]
    fn more_threads_than_there_are_places_for_are_the_programs() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let begun: Vec<Observing> =
            (0..MAX_THREADS as u32 + 9).map(|i| Observing::begin(1 << 30 | i)).collect();
        assert!(begun.iter().any(|one| one.place.is_none()));
        drop(begun);
        assert!((0..MAX_THREADS as u32 + 9).all(|i| place_of(1 << 30 | i).is_none()));
        assert!(observe(is_this_thread), "there is room again");
    }
}
