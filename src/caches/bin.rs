//! Bins: the free blocks that a thread has at hand, of one size class each, and what their policy remembers.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::base::observed::IS_OBSERVED;
use crate::geometry::size_class::{CLASS_COUNT, SizeClass};
use crate::pages::metadata::Metadata;
use crate::sampling::LONGEST;

/// The longest array of a bin.
pub(crate) const MAX_BIN_SLOTS: u32 = 16 << 10;

/// The bytes of an array of so many slots.
pub(crate) fn array_bytes(slots: u32) -> usize {
    slots as usize * size_of::<AtomicPtr<u8>>()
}

/// An array of so many slots that begins with the first `len` of another one; `None` where there is no memory for it.
///
/// # Safety
/// `old` has that many, or `len` is 0; and no more than `slots`.
pub(crate) unsafe fn larger_array(
    metadata: &Metadata,
    old: *const AtomicPtr<u8>,
    len: u32,
    slots: u32,
) -> Option<*mut AtomicPtr<u8>> {
    let array = metadata.allocate_array(array_bytes(slots))?.cast::<AtomicPtr<u8>>();
    if len > 0 {
        // SAFETY: the caller says that both have room for `len` pointers, and they are different ones.
        unsafe { array.copy_from_nonoverlapping(old, len as usize) };
    }
    Some(array)
}

/// The low bits of a tally count allocations, the rest their bytes plus their number.
const TALLY_COUNT_BITS: u32 = 24;

const TALLY_COUNT_MASK: u64 = (1 << TALLY_COUNT_BITS) - 1;

/// A tally that overflows when so many bytes have been added.
const fn tally_start(bytes: u32) -> u64 {
    ((1 << (64 - TALLY_COUNT_BITS)) - bytes as u64) << TALLY_COUNT_BITS
}

const _: () = assert!(LONGEST as u64 <= TALLY_COUNT_MASK, "each allocation counts one or more");

/// The free blocks of one class. All fields are written by whoever may touch the cache, and read by
/// anybody (for a snapshot).
///
/// `floor` and `ceiling` are what the fast paths compare the length with. They are a *gate*, too: closed, nothing is
/// above the floor or below the ceiling, so that the owner finds a bin that is neither empty nor full as it finds one
/// that is, and comes to the lock by its slow path. See [`BiasedLock`](crate::os::biased_lock::BiasedLock).
///
/// # Invariants
/// - `len <= capacity`; `slots[..len]` are distinct free blocks of the class, whose bits are clear.
/// - `floor` is 0 and `ceiling` is `capacity`; or the bin is closed.
/// - Class 0's bin has capacity 0, so that what is no span's goes to the slow path.
#[repr(C, align(32))]
pub(crate) struct Bin {
    pub slots: AtomicPtr<AtomicPtr<u8>>,
    pub len: AtomicU32,
    floor: AtomicU32,
    ceiling: AtomicU32,
    capacity: AtomicU32,
    /// Allocations and bytes since the last drain. It overflows when the countdown ends.
    pub(super) tally: AtomicU64,
}

impl Bin {
    /// Counts an allocation of `bytes`. `true`: the tally overflowed and has to be drained.
    #[inline(always)]
    pub fn count(&self, bytes: usize) -> bool {
        if !IS_OBSERVED {
            return false;
        }
        let one = (bytes as u64 + 1) << TALLY_COUNT_BITS | 1;
        let (sum, overflowed) = self.tally.load(Ordering::Relaxed).overflowing_add(one);
        self.tally.store(sum, Ordering::Relaxed);
        overflowed
    }

    /// Empties the tally for the next countdown, of so many bytes.
    pub(super) fn start(&self, countdown_bytes: u32) {
        self.tally.store(tally_start(countdown_bytes), Ordering::Relaxed);
    }

    /// What the tally has counted in a countdown of so many bytes: allocations, and their bytes plus their number.
    pub(super) fn counted(&self, countdown_bytes: u32) -> (u64, u64) {
        let tally = self.tally.load(Ordering::Relaxed);
        // An overflowed tally has wrapped around to the bytes beyond the countdown.
        let units = (tally >> TALLY_COUNT_BITS).wrapping_add(countdown_bytes as u64)
            & (u64::MAX >> TALLY_COUNT_BITS);
        (tally & TALLY_COUNT_MASK, units)
    }

    /// For how many blocks there is room.
    pub fn capacity(&self) -> u32 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Gives the bin another array, which has room for `capacity` blocks and begins with those that are in the bin.
    pub fn set_room(&self, slots: *mut AtomicPtr<u8>, capacity: u32) {
        self.slots.store(slots, Ordering::Relaxed);
        self.capacity.store(capacity, Ordering::Relaxed);
        self.open();
    }

    /// Lets the owner's fast paths in.
    pub fn open(&self) {
        // Release: partner of the Acquire in `pop` and `push`; what was done to the bin is visible to the owner.
        self.ceiling.store(self.capacity(), Ordering::Release);
        self.floor.store(0, Ordering::Release);
    }

    /// Keeps the owner's fast paths out, from the next barrier on.
    pub fn close(&self) {
        self.floor.store(u32::MAX, Ordering::Relaxed);
        self.ceiling.store(0, Ordering::Relaxed);
    }

    /// Takes the last block, if there is one and the bin is open. Owner only.
    #[inline(always)]
    pub fn pop(&self) -> Option<*mut u8> {
        // Acquire: partner of the Release in `open`. Before the length, which a taker may have changed until then.
        let floor = self.floor.load(Ordering::Acquire);
        let len = self.len.load(Ordering::Relaxed);
        if len <= floor {
            return None;
        }
        let slots = self.slots.load(Ordering::Relaxed);
        // SAFETY: `slots` has room for `capacity >= len` pointers.
        let slot = unsafe { slots.add(len as usize - 1) };
        // SAFETY: as above.
        let block = unsafe { &*slot }.load(Ordering::Relaxed);
        self.len.store(len - 1, Ordering::Relaxed);
        // SAFETY: no block is at address 0.
        unsafe { core::hint::assert_unchecked(!block.is_null()) };
        Some(block)
    }

    /// Adds a block, if there is room and the bin is open. Owner only.
    #[inline(always)]
    pub fn push(&self, block: *mut u8) -> bool {
        // Acquire: as in `pop`.
        let ceiling = self.ceiling.load(Ordering::Acquire);
        let len = self.len.load(Ordering::Relaxed);
        if len >= ceiling {
            return false;
        }
        let slots = self.slots.load(Ordering::Relaxed);
        // SAFETY: `slots` has room for `capacity > len` pointers.
        let slot = unsafe { slots.add(len as usize) };
        // SAFETY: as above.
        unsafe { &*slot }.store(block, Ordering::Relaxed);
        self.len.store(len + 1, Ordering::Relaxed);
        true
    }

    /// The first `count` slots.
    ///
    /// # Safety
    /// `count <= capacity`, and the caller may touch the cache.
    #[inline]
    pub unsafe fn slots(&self, count: u32) -> &[AtomicPtr<u8>] {
        if count == 0 {
            return &[];
        }
        let slots = self.slots.load(Ordering::Relaxed);
        // SAFETY: the caller says that there are so many.
        unsafe { core::slice::from_raw_parts(slots, count as usize) }
    }
}

/// What a bin's policy remembers.
#[derive(Default)]
#[repr(C)]
pub(crate) struct BinHistory {
    /// The [`Countdown`](crate::sampling::Countdown) under way: its bytes and its rate.
    pub(super) countdown: AtomicU32,
    pub(super) rate: AtomicU32,
    /// Set by a refill, cleared when the bin is full. Full while set: the bin alternates between full and
    /// empty, so a larger one is worth it. Refilled while set: the thread only allocates. Owner only.
    pub refilled: AtomicU32,
    /// What [`unused_bins`](super::thread_cache::ThreadCache::unused_bins) saw the last time, and how often
    /// it saw the same in a row. For its caller only.
    pub(super) rested: AtomicU32,
    pub(super) seen_len: AtomicU32,
    pub(super) seen_tally: AtomicU64,
}

/// A set of bins, by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bins(u64);

const _: () = assert!(CLASS_COUNT <= 64);

impl Bins {
    pub const NONE: Bins = Bins(0);
    pub const ALL: Bins = Bins(((1 << (CLASS_COUNT - 1)) - 1) << 1);

    pub(super) fn add(&mut self, class: SizeClass) {
        self.0 |= 1 << class.index();
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn classes(self) -> impl Iterator<Item = SizeClass> {
        SizeClass::all().filter(move |class| self.0 >> class.index() & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_gives_back_what_it_was_given_last_first() {
        let room = [const { AtomicPtr::new(core::ptr::null_mut()) }; 3];
        let bin = bin_of(&room);
        let blocks = [16, 32, 48].map(|address: usize| address as *mut u8);
        assert!(blocks.iter().all(|&block| bin.push(block)));
        assert!(!bin.push(64 as *mut u8), "full");
        let popped: Vec<_> = core::iter::from_fn(|| bin.pop()).collect();
        assert_eq!(popped, [blocks[2], blocks[1], blocks[0]]);
    }

    #[test]
    fn a_closed_bin_looks_empty_and_full() {
        let room = [const { AtomicPtr::new(core::ptr::null_mut()) }; 3];
        let bin = bin_of(&room);
        let [first, second] = [16, 32].map(|address: usize| address as *mut u8);
        assert!(bin.push(first));
        bin.close();
        assert_eq!(bin.pop(), None);
        assert!(!bin.push(second));
        bin.open();
        assert!(bin.push(second));
        assert_eq!((bin.pop(), bin.pop(), bin.pop()), (Some(second), Some(first), None));
    }

    fn bin_of(room: &[AtomicPtr<u8>]) -> Bin {
        let bin = Bin {
            slots: AtomicPtr::new(room.as_ptr().cast_mut()),
            len: AtomicU32::new(0),
            floor: AtomicU32::new(0),
            ceiling: AtomicU32::new(0),
            capacity: AtomicU32::new(room.len() as u32),
            tally: AtomicU64::new(0),
        };
        bin.open();
        bin
    }

    #[test]
    fn a_tally_counts_until_the_countdown_ends() {
        let bin = bin_of(&[]);
        let mut random = crate::testing::test_random::Random::new(3);
        for _ in 0..200 {
            let bytes_left = 1 + random.below(LONGEST as u64);
            bin.start(bytes_left as u32);
            let (mut count, mut bytes) = (0, 0);
            loop {
                let size = random.below(if count % 2 == 0 { 32_768 } else { 64 });
                let has_ended = bin.count(size as usize);
                count += 1;
                bytes += size;
                assert_eq!(bin.counted(bytes_left as u32), (count, bytes + count));
                assert_eq!(has_ended, bytes + count >= bytes_left);
                if has_ended {
                    break;
                }
            }
        }
    }
}
