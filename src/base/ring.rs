//! A ring of entries that any thread writes without waiting, and whose readers count what they missed.
//!
//! An entry's number is its place in the order of all entries; it lies in slot `number % SLOTS`, over the
//! entry of a lap before. Each slot has a sequence (as in `os/sequence`), which says whose entry is
//! there and whether it is whole.

use crate::base::atomics::{AtomicU64, Ordering, fence};

/// # Invariants
/// - Who moves `head` on from `n` owns slot `n % SLOTS` until it has stored `whole(n)` there. Nobody
///   moves it on before the slot's entry of a lap ago is whole, so a slot has one writer at a time.
/// - A slot's sequence never goes back: 0, then `whole(n) - 1` (being written) and `whole(n)`, lap by lap.
pub(crate) struct Ring<const SLOTS: usize, const WORDS: usize> {
    head: AtomicU64,
    /// Entries that were given up: the slot's entry of a lap ago was still being written.
    missed: AtomicU64,
    slots: [Slot<WORDS>; SLOTS],
}

/// One entry, on a cache line of its own.
#[repr(align(64))]
struct Slot<const WORDS: usize> {
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// What a reader has seen of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    next: u64,
    lost: u64,
    missed: u64,
}

/// A slot's sequence when entry `number` is whole.
const fn whole(number: u64) -> u64 {
    2 * number + 2
}

impl<const SLOTS: usize, const WORDS: usize> Ring<SLOTS, WORDS> {
    #[cfg(not(all(test, loom)))]
    pub const fn new() -> Self {
        let slots = [const {
            Slot { sequence: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; WORDS] }
        }; SLOTS];
        Ring { head: AtomicU64::new(0), missed: AtomicU64::new(0), slots }
    }

    #[cfg(all(test, loom))]
    pub fn new() -> Self {
        let slots = core::array::from_fn(|_| Slot {
            sequence: AtomicU64::new(0),
            words: core::array::from_fn(|_| AtomicU64::new(0)),
        });
        Ring { head: AtomicU64::new(0), missed: AtomicU64::new(0), slots }
    }

    fn slot(&self, number: u64) -> &Slot<WORDS> {
        &self.slots[(number % SLOTS as u64) as usize]
    }

    /// Adds an entry, over the oldest one. Any thread, signal handlers too; waits for nobody. Some
    /// 15 ns.
    pub fn write(&self, words: [u64; WORDS]) {
        let mut number = self.head.load(Ordering::Relaxed);
        loop {
            let a_lap_ago = number.checked_sub(SLOTS as u64).map_or(0, whole);
            // Acquire: partner of the Release below. What the slot's last owner wrote is before this.
            let seen = self.slot(number).sequence.load(Ordering::Acquire);
            if seen < a_lap_ago {
                self.missed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if seen > a_lap_ago {
                // Somebody else's already.
                number += 1;
                continue;
            }
            // Relaxed: all that follows from it is who owns the slot.
            let claim = (Ordering::Relaxed, Ordering::Relaxed);
            match self.head.compare_exchange(number, number + 1, claim.0, claim.1) {
                Ok(_) => break,
                Err(head) => number = head,
            }
        }
        let slot = self.slot(number);
        slot.sequence.store(whole(number) - 1, Ordering::Relaxed);
        // Release: a reader that sees a word stored below also sees that it is being written.
        fence(Ordering::Release);
        for (to, word) in slot.words.iter().zip(words) {
            to.store(word, Ordering::Relaxed);
        }
        // Release: partner of the Acquires above and in `read`.
        slot.sequence.store(whole(number), Ordering::Release);
    }

    /// Where a reader begins: with the oldest entry there is.
    pub fn oldest(&self) -> Cursor {
        let head = self.head.load(Ordering::Relaxed);
        let next = head.saturating_sub(SLOTS as u64);
        Cursor { next, lost: 0, missed: self.missed.load(Ordering::Relaxed) }
    }

    /// The next whole entry; `None` if there is none yet.
    pub fn read(&self, cursor: &mut Cursor) -> Option<[u64; WORDS]> {
        loop {
            let head = self.head.load(Ordering::Relaxed);
            let oldest = head.saturating_sub(SLOTS as u64).max(cursor.next);
            cursor.lost += oldest - cursor.next;
            cursor.next = oldest;
            let slot = self.slot(cursor.next);
            // Acquire: partner of the Release in `write`.
            let before = slot.sequence.load(Ordering::Acquire);
            if before < whole(cursor.next) {
                return None;
            }
            let words = core::array::from_fn(|i| slot.words[i].load(Ordering::Relaxed));
            // Acquire: the words were read before the sequence is read again.
            fence(Ordering::Acquire);
            let is_whole =
                before == whole(cursor.next) && slot.sequence.load(Ordering::Relaxed) == before;
            cursor.next += 1;
            if is_whole {
                return Some(words);
            }
            cursor.lost += 1;
        }
    }

    /// How many entries the reader will never see: those overwritten before it came, and those given up
    /// by their writers since it began.
    pub fn lost(&self, cursor: &Cursor) -> u64 {
        cursor.lost + self.missed.load(Ordering::Relaxed) - cursor.missed
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicBool;

    #[test]
    fn a_reader_sees_what_was_written_in_order() {
        let ring = Ring::<4, 2>::new();
        let mut cursor = ring.oldest();
        assert_eq!(ring.read(&mut cursor), None);
        for i in 0..20 {
            ring.write([i, 100 + i]);
            ring.write([i, 200 + i]);
            assert_eq!(ring.read(&mut cursor), Some([i, 100 + i]));
            assert_eq!(ring.read(&mut cursor), Some([i, 200 + i]));
            assert_eq!(ring.read(&mut cursor), None);
        }
        assert_eq!(ring.lost(&cursor), 0);
    }

    #[test]
    fn what_was_overwritten_is_counted() {
        let ring = Ring::<4, 1>::new();
        let mut cursor = ring.oldest();
        for i in 0..11 {
            ring.write([i]);
        }
        let read: Vec<_> = core::iter::from_fn(|| ring.read(&mut cursor)).collect();
        assert_eq!(read, [[7], [8], [9], [10]]);
        assert_eq!(ring.lost(&cursor), 7);
        let mut late = ring.oldest();
        assert_eq!((ring.read(&mut late), ring.lost(&late)), (Some([7]), 0));
    }

    /// Writers beside a reader that is too slow for them: each entry is read whole, or counted.
    #[test]
    fn every_entry_is_read_or_counted() {
        const WRITERS: u64 = 3;
        const ENTRIES: u64 = 200_000;
        let ring = Ring::<8, 7>::new();
        let done = AtomicBool::new(false);
        let mut cursor = ring.oldest();
        let mut last = [None; WRITERS as usize];
        let mut read = 0;
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let ring = &ring;
                    scope.spawn(move || {
                        (0..ENTRIES).for_each(|i| ring.write([writer, i, i, i, i, i, i]))
                    })
                })
                .collect();
            scope.spawn(|| {
                writers.into_iter().for_each(|writer| writer.join().unwrap());
                done.store(true, Ordering::Release);
            });
            loop {
                let is_last = done.load(Ordering::Acquire);
                while let Some(words) = ring.read(&mut cursor) {
                    read += 1;
                    assert!(words[2..].iter().all(|&word| word == words[1]), "torn: {words:?}");
                    let last = &mut last[words[0] as usize];
                    assert!(*last < Some(words[1]), "{last:?} {words:?}");
                    *last = Some(words[1]);
                }
                if is_last {
                    break;
                }
            }
        });
        assert_eq!(read + ring.lost(&cursor), WRITERS * ENTRIES);
        assert!(read > 0);
    }
}
