//! The depot: blocks on their way from threads that free to threads that allocate.
//!
//! A block that goes back to its span costs a look at its span and its bit there, and one that comes out of a span the
//! same again. Where one thread frees what another one allocates, each block would pay that each time. So a bin that
//! runs over gives its oldest blocks to the depot as they are, an array of addresses, and a bin that runs empty takes
//! them from there, by one lock for all of them. It is the place of full magazines in J. Bonwick, J. Adams, "Magazines
//! and Vmem" (2001), and of the transfer cache in tcmalloc.
//!
//! To a span they are in use. So the depot is small, though it has more room where there are more threads that pass
//! blocks on at the same time, and a tick puts back what nobody needed for a while: as many of the oldest blocks as
//! there were at all times since. Whoever has blocks to give and finds the shelf locked goes to the spans; whoever
//! needs some waits, for they may be on their way back just then, and a block that one thread puts into its span must
//! not be handed out before the shelf forgets it (see [`mend`](super::mend)).

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use core::{ptr, slice};

use crate::base::atomics::compiler_barrier;
use crate::caches::bin::{MAX_BIN_SLOTS, array_bytes, larger_array};
use crate::geometry::size_class::{CLASS_COUNT, Kind, SizeClass};
use crate::os::lock::Lock;
use crate::pages::metadata::Metadata;

/// The bytes of blocks that a shelf may hold; but no fewer blocks, and no more, than these numbers.
const SHELF_BYTES: u64 = 64 << 10;
const FEWEST_BLOCKS: u32 = 8;
const MOST_BLOCKS: u32 = MAX_BIN_SLOTS;

/// Of small blocks it may hold so many bytes for each thread that there is, if that is more. More of these, and of
/// larger blocks, would show in the peaks of programs with many threads.
const THREAD_BYTES: u64 = 16 << 10;

/// A shelf for each class.
pub(crate) struct Depot {
    shelves: [Shelf; CLASS_COUNT],
}

/// The blocks of one class.
#[repr(align(64))]
struct Shelf {
    /// How many there are, and whether there is an array for them, for who has not locked it.
    len: AtomicU32,
    has_array: AtomicBool,
    blocks: Lock<Blocks>,
}

/// What the lock guards.
///
/// # Invariants
/// - `room` is 0 and `slots` null, or `slots` is an array from [`Metadata::allocate_array`] with room for `room`
///   blocks; in a copy of the process perhaps for more.
/// - `slots[..len]` are distinct free blocks of the class, whose bits are clear, and which are in no bin; the oldest
///   ones first.
/// - `least` is at most `len`.
struct Blocks {
    slots: *mut AtomicPtr<u8>,
    room: u32,
    len: u32,
    /// The fewest that there were for so many ticks.
    least: u32,
    ticks: u32,
}

// SAFETY: the array belongs to the shelf alone.
unsafe impl Send for Blocks {}

/// For how many blocks of a class there may be room with so many threads.
fn capacity(class: SizeClass, threads: u64) -> u32 {
    let is_small = class.kind() == Kind::Small;
    let of_threads = if is_small { threads.saturating_mul(THREAD_BYTES) } else { 0 };
    let blocks = of_threads.max(SHELF_BYTES) / class.block_bytes().get() as u64;
    blocks.clamp(FEWEST_BLOCKS as u64, MOST_BLOCKS as u64) as u32
}

impl Depot {
    pub const fn new() -> Depot {
        Depot { shelves: [const { Shelf::new() }; CLASS_COUNT] }
    }

    fn shelf(&self, class: SizeClass) -> &Shelf {
        &self.shelves[class.index()]
    }

    /// Takes over as many of these blocks as there is room for, the first ones; returns how many. The caller owns
    /// them, and they are free. `threads` is how many there are.
    pub fn give(
        &self,
        metadata: &Metadata,
        class: SizeClass,
        threads: u64,
        blocks: &[AtomicPtr<u8>],
    ) -> usize {
        let shelf = self.shelf(class);
        let Some(mut held) = shelf.blocks.try_lock() else { return 0 };
        if held.len as usize + blocks.len() > held.room as usize {
            held.grow(metadata, capacity(class, threads));
            shelf.has_array.store(!held.slots.is_null(), Ordering::Relaxed);
        }
        let count = blocks.len().min((held.room - held.len) as usize);
        if count == 0 {
            return 0;
        }
        // SAFETY: the array has room for `room` blocks.
        let free = unsafe { held.slots.add(held.len as usize) };
        // SAFETY: these are behind the first `len`, within it.
        let free = unsafe { slice::from_raw_parts(free, count) };
        copy(&blocks[..count], free);
        // In a copy of the process, too, there are as many blocks as it says.
        compiler_barrier();
        held.len += count as u32;
        shelf.len.store(held.len, Ordering::Relaxed);
        count
    }

    /// Moves blocks to the first of these places, as many as there are; returns how many. The caller owns them then.
    pub fn take(&self, class: SizeClass, places: &[AtomicPtr<u8>]) -> usize {
        let shelf = self.shelf(class);
        // Relaxed: a block that comes just now may be missed.
        if shelf.len.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let Some(mut held) = shelf.blocks.lock_unless_mine() else { return 0 };
        let count = places.len().min(held.len as usize);
        copy(&held.all()[held.len as usize - count..], places);
        held.len -= count as u32;
        held.least = held.least.min(held.len);
        shelf.len.store(held.len, Ordering::Relaxed);
        count
    }

    /// Has `put` put back those blocks that nobody needed for so many ticks; 0: all of them. A shelf that runs empty so
    /// gives its array up. What is in use just then stays.
    pub fn flush(
        &self,
        metadata: &Metadata,
        patience: u32,
        put: impl Fn(SizeClass, &[AtomicPtr<u8>]),
    ) {
        for class in SizeClass::all() {
            let shelf = self.shelf(class);
            if !shelf.has_array.load(Ordering::Relaxed) {
                continue;
            }
            let Some(mut held) = shelf.blocks.try_lock() else { continue };
            held.ticks += 1;
            if held.ticks < patience || held.slots.is_null() {
                continue;
            }
            let count = if patience == 0 { held.len } else { held.least };
            let (oldest, rest) = held.all().split_at(count as usize);
            put(class, oldest);
            // Until the length says so, the oldest ones are in the shelf and in their spans, and some of the rest may
            // be here twice: whoever finds a copy of the process puts all back but those that are.
            copy(rest, held.all());
            compiler_barrier();
            held.len -= count;
            (held.least, held.ticks) = (held.len, 0);
            shelf.len.store(held.len, Ordering::Relaxed);
            if held.len == 0 {
                let bytes = array_bytes(held.room);
                held.room = 0;
                compiler_barrier();
                let array = core::mem::replace(&mut held.slots, ptr::null_mut());
                shelf.has_array.store(false, Ordering::Relaxed);
                // SAFETY: it came from `allocate_array` with this size, and is the shelf's no more.
                unsafe { metadata.give_back(array.cast(), bytes) };
            }
        }
    }

    /// Has every shelf been flushed?
    pub fn is_flushed(&self) -> bool {
        !self.shelves.iter().any(|shelf| shelf.has_array.load(Ordering::Relaxed))
    }

    /// The arrays of shelves: addresses and bytes. While nobody is there.
    pub fn arrays(&self) -> impl Iterator<Item = (usize, usize)> {
        SizeClass::all().filter_map(|class| {
            let held = self.shelf(class).blocks.lock();
            (!held.slots.is_null()).then(|| (held.slots as usize, array_bytes(held.room)))
        })
    }

    /// In a copy of the process: frees the shelves that threads held which it does not have. What is in one that blocks
    /// were given to or taken from is whole: a length is written after what it says, and a ghost's bins are nobody's.
    ///
    /// # Safety
    /// As [`Lock::free_from_ghost`].
    pub unsafe fn free_from_ghosts(&self) {
        for shelf in &self.shelves {
            // SAFETY: the caller says so.
            if unsafe { shelf.blocks.free_from_ghost() } {
                let mut held = shelf.blocks.lock();
                if held.room == 0 {
                    // It was just being had, or given up.
                    held.slots = ptr::null_mut();
                }
                shelf.len.store(held.len, Ordering::Relaxed);
                shelf.has_array.store(!held.slots.is_null(), Ordering::Relaxed);
            }
        }
    }

    /// The blocks of a class, for checkers. While nobody is there.
    #[cfg(test)]
    pub fn blocks(&self, class: SizeClass) -> Vec<usize> {
        let held = self.shelf(class).blocks.lock();
        assert!(held.len <= held.room, "a shelf is not longer than its array");
        assert_eq!(held.len, self.shelf(class).len.load(Ordering::Relaxed));
        held.all().iter().map(|block| block.load(Ordering::Relaxed) as usize).collect()
    }
}

impl Shelf {
    const fn new() -> Shelf {
        let blocks = Blocks { slots: ptr::null_mut(), room: 0, len: 0, least: 0, ticks: 0 };
        let (len, has_array) = (AtomicU32::new(0), AtomicBool::new(false));
        Shelf { len, has_array, blocks: Lock::new(blocks) }
    }
}

impl Blocks {
    /// Makes room for so many blocks, if there is none and there is memory for it.
    fn grow(&mut self, metadata: &Metadata, room: u32) {
        if room <= self.room {
            return;
        }
        let (old, old_room) = (self.slots, self.room);
        // SAFETY: the shelf's array has room for its blocks, and the new one for more.
        let Some(array) = (unsafe { larger_array(metadata, old, self.len, room) }) else { return };
        // In a copy of the process, too, the array has the room that it is said to have.
        compiler_barrier();
        self.slots = array;
        compiler_barrier();
        self.room = room;
        if !old.is_null() {
            // SAFETY: it came from `allocate_array` with this size, and is the shelf's no more.
            unsafe { metadata.give_back(old.cast(), array_bytes(old_room)) };
        }
    }

    fn all(&self) -> &[AtomicPtr<u8>] {
        if self.slots.is_null() {
            return &[];
        }
        // SAFETY: the array has so many.
        unsafe { slice::from_raw_parts(self.slots, self.len as usize) }
    }
}

fn copy(from: &[AtomicPtr<u8>], to: &[AtomicPtr<u8>]) {
    for (from, to) in from.iter().zip(to) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn slots(blocks: impl IntoIterator<Item = usize>) -> Vec<AtomicPtr<u8>> {
        blocks.into_iter().map(|block| AtomicPtr::new(block as *mut u8)).collect()
    }

    fn addresses(slots: &[AtomicPtr<u8>]) -> Vec<usize> {
        slots.iter().map(|slot| slot.load(Ordering::Relaxed) as usize).collect()
    }

    /// What `flush` puts back.
    fn flushed(depot: &Depot, metadata: &Metadata, patience: u32) -> Vec<usize> {
        let all = RefCell::new(Vec::new());
        depot.flush(metadata, patience, |_, blocks| all.borrow_mut().extend(addresses(blocks)));
        all.into_inner()
    }

    #[test]
    fn blocks_come_out_as_often_as_they_went_in_the_last_ones_first() {
        let (depot, metadata) = (Depot::new(), Metadata::new());
        let class = SizeClass::for_bytes(64);
        let places = slots([0; 3]);
        assert_eq!(depot.take(class, &places), 0);
        assert_eq!(depot.give(&metadata, class, 2, &slots([16, 32])), 2);
        assert_eq!(depot.give(&metadata, class, 2, &slots([48, 64])), 2);
        assert_eq!(
            depot.take(SizeClass::for_bytes(16), &places),
            0,
            "of this class there are none"
        );
        assert_eq!(depot.take(class, &places), 3);
        assert_eq!(addresses(&places), [32, 48, 64]);
        assert_eq!(depot.take(class, &places), 1);
        assert_eq!(addresses(&places)[0], 16);
        assert_eq!(depot.take(class, &places), 0);
        assert!(!depot.is_flushed(), "its array is there");
        for _ in 0..2 {
            assert!(flushed(&depot, &metadata, 1).is_empty());
        }
        assert!(depot.is_flushed() && depot.arrays().next().is_none());
    }

    #[test]
    fn what_there_is_no_room_for_stays_with_the_giver() {
        let (depot, metadata) = (Depot::new(), Metadata::new());
        for bytes in [16, 1000, 32_768] {
            let class = SizeClass::for_bytes(bytes);
            let room = capacity(class, 1) as usize;
            assert!(room * class.block_bytes().get() <= (64 << 10).max(16 * bytes));
            let more = slots((1..=room + 5).map(|i| i * 16));
            assert_eq!(depot.give(&metadata, class, 2, &more), room);
            assert_eq!(depot.give(&metadata, class, 2, &more[..1]), 0);
        }
    }

    #[test]
    fn with_more_threads_there_is_more_room_and_what_was_there_stays() {
        let (depot, metadata) = (Depot::new(), Metadata::new());
        let class = SizeClass::for_bytes(1024);
        let blocks = slots((1..=100).map(|i| i * 1024));
        assert_eq!(depot.give(&metadata, class, 2, &blocks[..60]), 60);
        assert_eq!(depot.give(&metadata, class, 4, &blocks[60..]), 4, "four threads' blocks");
        assert_eq!(depot.give(&metadata, class, 6, &blocks[64..]), 32);
        assert_eq!(depot.give(&metadata, class, 1, &blocks[96..]), 0, "and no less with fewer");
        assert_eq!(depot.arrays().count(), 1);
        let medium = SizeClass::for_bytes(20_000);
        assert_eq!(capacity(medium, 100), capacity(medium, 1), "but for small blocks alone");
        let places = slots([0; 100]);
        assert_eq!(depot.take(class, &places), 96);
        assert_eq!(addresses(&places)[..96], addresses(&blocks)[..96]);
        assert_eq!(flushed(&depot, &metadata, 0), [0; 0]);
        assert!(depot.is_flushed(), "the array went back");
    }

    #[test]
    fn what_nobody_moves_goes_back_after_so_many_ticks() {
        let (depot, metadata) = (Depot::new(), Metadata::new());
        let class = SizeClass::for_bytes(64);
        depot.give(&metadata, class, 2, &slots([16, 32]));
        for _ in 0..3 {
            assert!(flushed(&depot, &metadata, 2).is_empty());
        }
        assert_eq!(depot.take(class, &slots([0])), 1);
        assert_eq!(flushed(&depot, &metadata, 2), [16]);
        assert!(depot.is_flushed() && depot.arrays().next().is_none());
        depot.give(&metadata, class, 2, &slots([48]));
        assert_eq!(flushed(&depot, &metadata, 0), [48], "all of it");
    }

    /// Traffic at the other end keeps none of them.
    #[test]
    fn the_oldest_blocks_go_back_though_others_move() {
        let (depot, metadata) = (Depot::new(), Metadata::new());
        let class = SizeClass::for_bytes(64);
        let places = slots([0; 10]);
        depot.give(&metadata, class, 2, &slots((1..=100).map(|i| i * 16)));
        assert!(flushed(&depot, &metadata, 1).is_empty());
        assert_eq!(depot.take(class, &places), 10);
        depot.give(&metadata, class, 2, &places);
        assert_eq!(flushed(&depot, &metadata, 1), (1..=90).map(|i| i * 16).collect::<Vec<_>>());
        assert_eq!(depot.take(class, &places), 10);
        assert_eq!(addresses(&places), (91..=100).map(|i| i * 16).collect::<Vec<_>>());
        assert_eq!(depot.take(class, &places), 0);
    }

    #[test]
    fn a_shelf_in_use_is_left_alone() {
        let (depot, metadata) = (Depot::new(), Metadata::new());
        let class = SizeClass::for_bytes(64);
        depot.give(&metadata, class, 2, &slots([16]));
        let held = depot.shelf(class).blocks.lock();
        assert_eq!(depot.give(&metadata, class, 2, &slots([32])), 0);
        assert!(flushed(&depot, &metadata, 0).is_empty());
        drop(held);
        assert_eq!(flushed(&depot, &metadata, 0), [16]);
    }
}
