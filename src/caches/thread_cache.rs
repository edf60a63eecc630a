//! Thread caches: per thread and size class an array of free blocks (a *bin*), and the thread's
//! counters.
//!
//! A bin holds pointers, not links through the blocks, so a free block's content never matters. The
//! record of a thread that has ended is handed to the next new thread and keeps its counters, so
//! that sums over all records never go back.
//!
//! # Who may touch a cache
//!
//! Its owner, between its [word](crate::os::tls::ThreadWord) saying [`BUSY`](crate::os::biased_lock::BUSY) and
//! saying [`AT_REST`](crate::os::biased_lock::AT_REST) again; or a *taker*, by the [`BiasedLock`]. A word that says
//! BUSY when malloc is entered means re-entrance (a signal handler interrupted the owner): such a call is served
//! without the cache.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::bin::{Bin, BinHistory, Bins};
use crate::base::counter::Counter;
use crate::base::observed::IS_OBSERVED;
use crate::geometry::size_class::{CLASS_COUNT, SizeClass};
use crate::geometry::span::Gained;
use crate::os::Linux;
use crate::os::biased_lock::BiasedLock;
use crate::os::sequence::Sequence;
use crate::pages::clock::Clock;
use crate::sampling::{Chance, Countdown, Countdowns};

// What the word of a thread without a cache says. That of one with a cache is the owner's word of its lock.

/// The thread has no cache yet.
pub(crate) const UNSET: usize = 0;

/// The thread is ending, and its cache is gone.
pub(crate) const DEAD: usize = 3;

/// The thread has no cache yet, and has freed one block; a word between this and [`FREED_MANY`] counts on.
pub(crate) const FREED_ONE: usize = 4;

/// The thread has freed so many blocks that it gets a cache with the next one.
pub(crate) const FREED_MANY: usize = 35;

/// Counters of one class, with one writer.
#[repr(C)]
pub(crate) struct ClassCounters {
    /// Blocks claimed from spans into the bin, and given back.
    pub claimed: Counter,
    pub spilled: Counter,
    /// Allocations drained from the tally, and their bytes.
    allocations: Counter,
    bytes: Counter,
}

/// One thread's cache and counters. All-zero memory is a cache without capacity.
///
/// # Invariants
/// - `word_address` is the address of the owner's word, and the owner has not ended; or 0.
/// - `capacity_bytes` is the sum over the bins of capacity times block size.
#[repr(C, align(64))]
pub(crate) struct ThreadCache {
    /// First, so that a bin's address is that of the cache and a multiple of the class.
    pub bins: [Bin; CLASS_COUNT],

    /// Blocks from this address on are samples. Written once.
    pub(super) samples: AtomicUsize,
    pub lock: BiasedLock,
    /// Slow paths until the owner next looks at the clock.
    pub until_clock: AtomicU32,
    /// The epoch in which the owner last saw to its bins.
    pub seen_epoch: AtomicU64,
    pub capacity_bytes: AtomicU64,
    pub(super) word_address: AtomicUsize,
    /// The record before this one in the list of all. Written once.
    pub(super) next: AtomicPtr<ThreadCache>,
    /// The next unused record.
    pub(super) next_unused: AtomicPtr<ThreadCache>,
    /// Odd while a tally is being drained.
    pub drain_sequence: Sequence,

    /// Slow-path operations: what the gate goes by.
    pub operations: Counter,
    pub refills: Counter,
    pub spills: Counter,
    /// Pages of spans that a claim of this thread made possibly resident.
    pub resident_gained: Counter,
    /// Of those, pages that had been given back while their span was in use; and of those, the ones
    /// that had been a short while ago.
    pub interior_refaults: Counter,
    pub soon_interior_refaults: Counter,
    pub classes: [ClassCounters; CLASS_COUNT],
    pub histories: [BinHistory; CLASS_COUNT],
}

impl ThreadCache {
    #[inline(always)]
    pub fn bin(&self, class: SizeClass) -> &Bin {
        // SAFETY: a SizeClass is below CLASS_COUNT, the number of bins.
        unsafe { self.bins.get_unchecked(class.index()) }
    }

    /// An allocation of `class` has ended its countdown: moves the tally into the counters and begins
    /// the next one. Returns the rate at which the allocation is sampled, if it is. Owner only.
    pub fn end_countdown(&self, class: SizeClass, countdowns: &Countdowns) -> Option<u32> {
        let counters = &self.classes[class.index()];
        let history = &self.histories[class.index()];
        let ended = Countdown {
            bytes: history.countdown.load(Ordering::Relaxed),
            rate: history.rate.load(Ordering::Relaxed),
        };
        let (count, units) = self.bin(class).counted(ended.bytes);
        let mut chance = self.chance(class.index(), countdowns, count);
        let next = countdowns.begin(&mut chance);
        self.drain_sequence.write(|| {
            counters.allocations.add(count);
            counters.bytes.add(units - count);
            self.start_countdown(class.index(), next);
        });
        countdowns.end(chance, ended, units - ended.bytes as u64)
    }

    /// What a class's next countdown is drawn by, after `count` more allocations than it has counted.
    fn chance(&self, class: usize, countdowns: &Countdowns, count: u64) -> Chance {
        let counters = &self.classes[class];
        // Each countdown ends by an allocation, so none is drawn like another one.
        let drawn = counters.allocations.get().wrapping_add(count);
        countdowns.chance_at(ptr::from_ref(counters).addr(), drawn)
    }

    /// Draws the first countdown of each class. Before anybody else knows of the cache.
    pub(super) fn start_countdowns(&self, countdowns: &Countdowns) {
        for class in 0..self.bins.len() {
            let mut chance = self.chance(class, countdowns, 0);
            self.start_countdown(class, countdowns.begin(&mut chance));
        }
    }

    /// Begins a class's next countdown, with an empty tally. Whoever may touch the cache.
    fn start_countdown(&self, class: usize, countdown: Countdown) {
        let history = &self.histories[class];
        history.countdown.store(countdown.bytes, Ordering::Relaxed);
        history.rate.store(countdown.rate, Ordering::Relaxed);
        self.bins[class].start(countdown.bytes);
    }

    /// Is there an ordinary block at `address`, and no sample?
    #[inline(always)]
    pub fn is_ordinary(&self, address: usize) -> bool {
        !IS_OBSERVED || address < self.samples.load(Ordering::Relaxed)
    }

    /// Lets the owner's fast paths in again. For whoever has closed bins, while it keeps the owner's slow paths out.
    pub(super) fn open_bins(&self) {
        self.bins.iter().for_each(Bin::open);
    }

    /// Keeps them out.
    pub(super) fn close_bins(&self) {
        self.bins.iter().for_each(Bin::close);
    }

    /// How many allocations of `class` this record has counted, and their bytes. Any thread.
    pub fn allocations(&self, class: SizeClass) -> (u64, u64) {
        self.drain_sequence.read(|| self.allocations_unlocked(class))
    }

    /// The same, as it is: whole only in a copy, or while no tally is being drained.
    pub fn allocations_unlocked(&self, class: SizeClass) -> (u64, u64) {
        let counters = &self.classes[class.index()];
        let countdown = self.histories[class.index()].countdown.load(Ordering::Relaxed);
        let (count, units) = self.bin(class).counted(countdown);
        let bytes = units.saturating_sub(count);
        (counters.allocations.get().wrapping_add(count), counters.bytes.get().wrapping_add(bytes))
    }

    /// The address of the record before this one, or 0.
    pub fn next_address(&self) -> usize {
        self.next.load(Ordering::Relaxed).addr()
    }

    /// Counts what a claim did to its span's pages. Owner only.
    #[inline]
    pub fn count_gained(&self, gained: Gained, clock: &Clock) {
        self.resident_gained.add(gained.pages.0 as u64);
        if gained.refaults.0 > 0 {
            self.interior_refaults.add(gained.refaults.0 as u64);
            if clock.has_purged_interiors_lately(&Linux) {
                self.soon_interior_refaults.add(gained.refaults.0 as u64);
            }
        }
    }

    /// The bins with room that no operation touched between the last `patience` calls and this one.
    /// One thread at a time: whoever ticks, or the owner where caches cannot be taken over.
    pub fn unused_bins(&self, patience: u32) -> Bins {
        let mut unused = Bins::NONE;
        for class in SizeClass::all() {
            let bin = self.bin(class);
            if bin.capacity() == 0 {
                continue;
            }
            let history = &self.histories[class.index()];
            let len = bin.len.load(Ordering::Relaxed);
            // An allocation changes the tally, a free the length.
            let tally = bin.tally.load(Ordering::Relaxed);
            let rested = if history.seen_len.load(Ordering::Relaxed) == len
                && history.seen_tally.load(Ordering::Relaxed) == tally
            {
                history.rested.load(Ordering::Relaxed).saturating_add(1)
            } else {
                0
            };
            history.seen_len.store(len, Ordering::Relaxed);
            history.seen_tally.store(tally, Ordering::Relaxed);
            history.rested.store(rested, Ordering::Relaxed);
            if rested >= patience {
                unused.add(class);
            }
        }
        unused
    }

    /// Has every bin been flushed? Then its owner's next operation is a slow path.
    pub fn is_flushed(&self) -> bool {
        self.capacity_bytes.load(Ordering::Relaxed) == 0
    }

    /// Does the owner's word say that it is inside malloc? With the registry's lock held.
    pub(super) fn is_busy(&self) -> bool {
        let address = self.word_address.load(Ordering::Relaxed) as *const AtomicUsize;
        // SAFETY: the owner takes the registry's lock before its word goes away (invariant of
        // `word_address`).
        let word = unsafe { &*address };
        BiasedLock::owner_is_inside(word)
    }

    /// Has it an owner, and another than the thread whose word is at `own_word`?
    pub(super) fn is_of_another(&self, own_word: usize) -> bool {
        let owner = self.word_address.load(Ordering::Relaxed);
        owner != 0 && owner != own_word
    }
}
