//! Thread caches: per thread and size class an array of free blocks (a *bin*), and the thread's
//! counters.
//!
//! A bin holds pointers, not links through the blocks, so a free block's content never matters. The
//! record of a thread that has ended is handed to the next new thread and keeps its counters, so
//! that sums over all records never go back.
//!
//! # Who may touch a cache
//!
//! Its owner, between [`ThreadWord`] saying [`BUSY`](crate::os::biased_lock::BUSY) and saying the cache's
//! address again; or a *taker*, by the [`BiasedLock`]. A word that says BUSY when malloc is entered
//! means re-entrance (a signal handler interrupted the owner): such a call is served without the
//! cache.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::geometry::size_class::{CLASS_COUNT, SizeClass};
use crate::geometry::span::Gained;
use crate::os::biased_lock::BiasedLock;
use crate::os::lock::Lock;
use crate::os::tls::ThreadWord;
use crate::os::{self, Linux, Nanos, Os};
use crate::pages::clock::Clock;
use crate::pages::metadata::Metadata;
use crate::pages::totals::{MAX_ATTEMPTS, wait_for_writer};
use crate::sampling::{Countdown, Countdowns, LONGEST};

/// What a thread's word says besides the address of its cache. The thread has none yet:
pub(crate) const UNSET: usize = 0;
/// its owner is inside malloc or free ([`BUSY`](crate::os::biased_lock::BUSY));
/// the thread is ending and its cache is gone:
pub(crate) const DEAD: usize = 2;
/// it has none yet, and has freed one block; a word between this and [`LAST_SPECIAL`] counts on.
pub(crate) const FREED_ONE: usize = 3;
/// A word above this is the address of a cache.
pub(crate) const LAST_SPECIAL: usize = 34;

/// The longest array of a bin.
pub(crate) const MAX_BIN_SLOTS: u32 = 1024;

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
/// # Invariants
/// `len <= capacity`; `slots[..len]` are distinct free blocks of the class, whose bits are clear.
/// Class 0's bin has capacity 0, so that what is no span's goes to the slow path.
#[repr(C, align(32))]
pub(crate) struct Bin {
    pub slots: AtomicPtr<AtomicPtr<u8>>,
    pub len: AtomicU32,
    pub capacity: AtomicU32,
    /// Allocations and bytes since the last drain. It overflows when the countdown ends.
    tally: AtomicU64,
    /// The [`Countdown`] under way: its bytes and its rate.
    countdown: AtomicU32,
    rate: AtomicU32,
}

impl Bin {
    /// Counts an allocation of `bytes`. `true`: the tally overflowed and has to be drained.
    #[inline(always)]
    pub fn count(&self, bytes: usize) -> bool {
        let one = (bytes as u64 + 1) << TALLY_COUNT_BITS | 1;
        let (sum, overflowed) = self.tally.load(Ordering::Relaxed).overflowing_add(one);
        self.tally.store(sum, Ordering::Relaxed);
        overflowed
    }

    /// Empties the tally for the next countdown.
    fn start(&self, countdown: Countdown) {
        self.countdown.store(countdown.bytes, Ordering::Relaxed);
        self.rate.store(countdown.rate, Ordering::Relaxed);
        self.tally.store(tally_start(countdown.bytes), Ordering::Relaxed);
    }

    /// What the tally has counted: allocations, and their bytes plus their number.
    fn counted(&self) -> (u64, u64) {
        let tally = self.tally.load(Ordering::Relaxed);
        // An overflowed tally has wrapped around to the bytes beyond the countdown.
        let units = (tally >> TALLY_COUNT_BITS)
            .wrapping_add(self.countdown.load(Ordering::Relaxed) as u64)
            & (u64::MAX >> TALLY_COUNT_BITS);
        (tally & TALLY_COUNT_MASK, units)
    }

    /// Takes the last block, if there is one. Owner only.
    #[inline(always)]
    pub fn pop(&self) -> Option<*mut u8> {
        let len = self.len.load(Ordering::Relaxed);
        if len == 0 {
            return None;
        }
        let slots = self.slots.load(Ordering::Relaxed);
        // SAFETY: `slots` has room for `capacity >= len` pointers.
        let slot = unsafe { slots.add(len as usize - 1) };
        // SAFETY: as above.
        let block = unsafe { &*slot }.load(Ordering::Relaxed);
        self.len.store(len - 1, Ordering::Relaxed);
        Some(block)
    }

    /// Adds a block, if there is room. Owner only.
    #[inline(always)]
    pub fn push(&self, block: *mut u8) -> bool {
        let len = self.len.load(Ordering::Relaxed);
        if len >= self.capacity.load(Ordering::Relaxed) {
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

/// A number with one writer: plain loads and stores.
#[derive(Default)]
#[repr(transparent)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a bin's policy remembers.
#[derive(Default)]
#[repr(C)]
pub(crate) struct BinHistory {
    /// The bin was refilled since it was last full. Full next, it swings, and a larger one would not;
    /// empty next, it is one that only empties. Owner only.
    pub refilled: AtomicU32,
    /// What [`ThreadCache::unused_bins`] saw the last time, and how often it saw the same in a row.
    /// For its caller only.
    rested: AtomicU32,
    seen_len: AtomicU32,
    seen_tally: AtomicU64,
}

/// One thread's cache and counters. All-zero memory is a cache without capacity.
///
/// # Invariants
/// - `word_address` is the address of the owner's word, and the owner has not ended; or 0.
/// - `capacity_bytes` is the sum over the bins of capacity times block size.
#[repr(C, align(64))]
pub(crate) struct ThreadCache {
    pub lock: BiasedLock,
    /// Slow paths until the owner next looks at the clock.
    pub until_clock: AtomicU32,
    /// The epoch in which the owner last saw to its bins.
    pub seen_epoch: AtomicU64,
    pub capacity_bytes: AtomicU64,
    word_address: AtomicUsize,
    /// The record before this one in the list of all. Written once.
    next: AtomicPtr<ThreadCache>,
    /// The next unused record.
    next_unused: AtomicPtr<ThreadCache>,
    /// Odd while a tally is being drained.
    pub drain_sequence: AtomicU64,

    pub bins: [Bin; CLASS_COUNT],

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
        let bin = self.bin(class);
        let counters = &self.classes[class.index()];
        let ended = Countdown {
            bytes: bin.countdown.load(Ordering::Relaxed),
            rate: bin.rate.load(Ordering::Relaxed),
        };
        let (count, units) = bin.counted();
        let next = countdowns.begin();
        let sequence = self.drain_sequence.load(Ordering::Relaxed);
        self.drain_sequence.store(sequence + 1, Ordering::Relaxed);
        // Release: a reader that sees a store below also sees the odd sequence.
        core::sync::atomic::fence(Ordering::Release);
        counters.allocations.add(count);
        counters.bytes.add(units - count);
        bin.start(next);
        // Release: partner of the Acquire in `allocations`.
        self.drain_sequence.store(sequence + 2, Ordering::Release);
        countdowns.end(ended, units - ended.bytes as u64)
    }

    /// How many allocations of `class` this record has counted, and their bytes. Any thread.
    pub fn allocations(&self, class: SizeClass) -> (u64, u64) {
        let mut attempts = 0;
        loop {
            // Acquire: partner of the Release in `end_countdown`.
            let before = self.drain_sequence.load(Ordering::Acquire);
            let sum = self.allocations_unlocked(class);
            // Acquire: the figures were read before the sequence is read again.
            core::sync::atomic::fence(Ordering::Acquire);
            let after = self.drain_sequence.load(Ordering::Relaxed);
            if before.is_multiple_of(2) && before == after || attempts == MAX_ATTEMPTS {
                return sum;
            }
            wait_for_writer(attempts);
            attempts += 1;
        }
    }

    /// The same, as it is: whole only in a copy, or while no tally is being drained.
    pub fn allocations_unlocked(&self, class: SizeClass) -> (u64, u64) {
        let counters = &self.classes[class.index()];
        let (count, units) = self.bin(class).counted();
        let bytes = units.saturating_sub(count);
        (counters.allocations.get().wrapping_add(count), counters.bytes.get().wrapping_add(bytes))
    }

    /// Was this copy of another process's record made while no tally was being drained? `sequence` is
    /// theirs, read after the copy was made.
    pub fn is_settled_at(&self, sequence: u64) -> bool {
        sequence.is_multiple_of(2) && self.drain_sequence.load(Ordering::Relaxed) == sequence
    }

    /// The address of the record before this one, or 0.
    pub fn next_address(&self) -> usize {
        self.next.load(Ordering::Relaxed).addr()
    }

    /// Counts what a claim did to its span's pages. Owner only.
    #[inline]
    pub fn note_gained(&self, gained: Gained, clock: &Clock) {
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
            if bin.capacity.load(Ordering::Relaxed) == 0 {
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

    /// Has every bin been put away? Then its owner's next operation is a slow path.
    pub fn is_put_away(&self) -> bool {
        self.capacity_bytes.load(Ordering::Relaxed) == 0
    }

    /// Does the owner's word say that it is inside malloc? With the registry's lock held.
    fn is_busy(&self) -> bool {
        let address = self.word_address.load(Ordering::Relaxed) as *const AtomicUsize;
        // SAFETY: the owner takes the registry's lock before its word goes away (invariant of
        // `word_address`).
        let word = unsafe { &*address };
        BiasedLock::owner_is_inside(word)
    }

    /// Has it an owner, and another than the thread whose word is at `own_word`?
    fn is_of_another(&self, own_word: usize) -> bool {
        let owner = self.word_address.load(Ordering::Relaxed);
        owner != 0 && owner != own_word
    }
}

/// A set of bins, by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bins(u64);

const _: () = assert!(CLASS_COUNT <= 64);

impl Bins {
    pub const NONE: Bins = Bins(0);
    pub const ALL: Bins = Bins(((1 << (CLASS_COUNT - 1)) - 1) << 1);

    fn add(&mut self, class: SizeClass) {
        self.0 |= 1 << class.index();
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn classes(self) -> impl Iterator<Item = SizeClass> {
        SizeClass::all().filter(move |class| self.0 >> class.index() & 1 == 1)
    }
}

/// What became of an attempt to take caches over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Takeovers {
    pub taken: u64,
    /// The owner was inside just then.
    pub busy: u64,
    /// The kernel has no barrier for us.
    pub unavailable: u64,
    /// Barriers issued, and whether one was refused.
    pub barriers: u64,
    pub is_refused: bool,
}

/// How long a fork waits for a thread to leave malloc.
const FORK_PATIENCE: Nanos = Nanos::from_millis(1000);

/// How many caches share a barrier, and how many are kept from coming and going at a time.
const TAKEOVER_BATCH: usize = 32;

/// All records, and those without an owner.
pub(crate) struct Registry {
    pub newest: AtomicPtr<ThreadCache>,
    pub threads: AtomicU32,
    unused: Lock<Unused>,
}

struct Unused(*mut ThreadCache);

// SAFETY: the records belong to the registry.
unsafe impl Send for Unused {}

impl Registry {
    pub const fn new() -> Registry {
        Registry {
            newest: AtomicPtr::new(ptr::null_mut()),
            threads: AtomicU32::new(0),
            unused: Lock::new(Unused(ptr::null_mut())),
        }
    }

    /// A record for the calling thread, whose word is `word` and says [`BUSY`](crate::os::biased_lock::BUSY).
    /// Blocks from address `bound` on are samples.
    pub fn attach(
        &self,
        metadata: &Metadata,
        countdowns: &Countdowns,
        bound: usize,
        word: ThreadWord,
    ) -> Option<&ThreadCache> {
        let mut unused = self.unused.lock_unless_mine()?;
        let record = if unused.0.is_null() {
            let record = metadata.allocate_record(size_of::<ThreadCache>())?.cast::<ThreadCache>();
            // SAFETY: all-zero is a valid record; this memory is zero, aligned to a cache line as records
            // are, nobody else's, and never unmapped.
            let cache = unsafe { &*record };
            for bin in &cache.bins {
                bin.start(countdowns.begin());
            }
            cache.lock.open(bound);
            cache.next.store(self.newest.load(Ordering::Relaxed), Ordering::Relaxed);
            // Release: partner of the Acquire in `all`.
            self.newest.store(record, Ordering::Release);
            cache
        } else {
            // SAFETY: records are never unmapped.
            let cache = unsafe { &*unused.0 };
            unused.0 = cache.next_unused.load(Ordering::Relaxed);
            cache
        };
        record.word_address.store(word.address(), Ordering::Relaxed);
        self.threads.fetch_add(1, Ordering::Relaxed);
        Some(record)
    }

    /// Takes a record back whose bins are empty, from its owner or for one that is no more.
    pub fn detach(&self, cache: &ThreadCache) {
        let mut unused = self.unused.lock();
        self.detach_locked(&mut unused, cache);
    }

    fn detach_locked(&self, unused: &mut Unused, cache: &ThreadCache) {
        cache.word_address.store(0, Ordering::Relaxed);
        cache.next_unused.store(unused.0, Ordering::Relaxed);
        unused.0 = ptr::from_ref(cache).cast_mut();
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }

    /// Threads that have a cache.
    pub fn threads(&self) -> u64 {
        self.threads.load(Ordering::Relaxed) as u64
    }

    /// Every record, of living threads and of ended ones.
    pub fn all(&self) -> impl Iterator<Item = &ThreadCache> {
        // Acquire: partner of the Release in `attach`.
        let mut record = self.newest.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            if record.is_null() {
                return None;
            }
            // SAFETY: records are never unmapped.
            let cache = unsafe { &*record };
            record = cache.next.load(Ordering::Relaxed);
            Some(cache)
        })
    }

    /// Has every thread's cache been put away?
    pub fn all_put_away(&self) -> bool {
        self.all().all(|cache| cache.is_put_away() || !cache.is_of_another(0))
    }

    /// Threads other than the caller that have bins.
    pub fn count_others(&self, own_word: usize) -> u64 {
        let others = self.all().filter(|cache| cache.is_of_another(own_word));
        others.filter(|cache| !cache.is_put_away()).count() as u64
    }

    /// Takes over the caches of other threads in which `wanted` finds something to do, and does
    /// `work` there. An owner that comes in meanwhile waits until its cache is done.
    pub fn take_over(
        &self,
        own_word: usize,
        wanted: impl Fn(&ThreadCache) -> Bins,
        work: impl Fn(&ThreadCache, Bins),
    ) -> Takeovers {
        let mut done = Takeovers::default();
        let mut caches = self.all().filter(|cache| cache.is_of_another(own_word));
        loop {
            let mut batch = [const { None }; TAKEOVER_BATCH];
            let found = caches.by_ref().map(|cache| (cache, wanted(cache)));
            let found = found.filter(|(_, bins)| !bins.is_empty());
            let mut count = 0;
            for (place, candidate) in batch.iter_mut().zip(found) {
                *place = Some(candidate);
                count += 1;
            }
            if count == 0 {
                return done;
            }
            // No thread ends before the lock is given back, so every word that is there stays.
            let Some(_unused) = self.unused.lock_unless_mine() else { return done };
            let candidates = || {
                let batch = batch[..count].iter().flatten();
                batch.filter(|(cache, _)| cache.is_of_another(own_word))
            };
            candidates().for_each(|(cache, _)| cache.lock.want());
            let ordered = os::barrier_all_threads();
            done.barriers += 1;
            done.is_refused |= !ordered;
            for (cache, bins) in candidates() {
                if ordered && !cache.is_busy() {
                    work(cache, *bins);
                    done.taken += 1;
                } else {
                    done.busy += 1;
                }
                cache.lock.let_go();
            }
        }
    }

    /// Before a fork: keeps threads from coming and going, and every other thread out of its cache.
    /// A thread that does not leave malloc in time (it is stopped in a signal handler, say) is left
    /// alone. Where the kernel has no barrier for us, all are. Returns whether the barrier was used.
    pub fn hold_for_fork(&self, own_word: usize, has_barrier: bool) -> bool {
        self.unused.lock_for_fork();
        if !has_barrier {
            return false;
        }
        let others = || self.all().filter(|cache| cache.is_of_another(own_word));
        if others().next().is_none() {
            return false;
        }
        for cache in others() {
            cache.lock.want();
        }
        if !os::barrier_all_threads() {
            others().for_each(|cache| cache.lock.let_go());
            return true;
        }
        for cache in others() {
            let began = Linux.now();
            while cache.is_busy() {
                if Linux.now().since(began) >= FORK_PATIENCE {
                    cache.lock.let_go();
                    break;
                }
                os::yield_now();
            }
        }
        true
    }

    /// After a fork, in the parent: everything goes on.
    ///
    /// # Safety
    /// Follows [`Registry::hold_for_fork`] on the same thread.
    pub unsafe fn resume_in_parent(&self) {
        self.all().for_each(|cache| cache.lock.let_go());
        // SAFETY: the caller took it so.
        unsafe { self.unused.unlock_after_fork() };
    }

    /// After a fork, in the child: of all threads only the caller is left. Calls `empty` for each
    /// cache that was held, whose bins then have to be empty, and takes its record back.
    ///
    /// # Safety
    /// Follows [`Registry::hold_for_fork`] on the thread that is now the child's only one.
    pub unsafe fn resume_in_child(&self, own_word: usize, empty: impl Fn(&ThreadCache)) {
        // SAFETY: the caller took it so.
        unsafe { self.unused.unlock_after_fork() };
        for cache in self.all().filter(|cache| cache.is_of_another(own_word)) {
            if cache.lock.is_wanted() {
                cache.lock.let_go();
                empty(cache);
                self.detach(cache);
            } else {
                // Somebody was in the middle of something there: what it holds stays as it is, and
                // nobody will use the record again.
                cache.word_address.store(0, Ordering::Relaxed);
                self.threads.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(registry: &Registry) -> Vec<*const ThreadCache> {
        registry.all().map(ptr::from_ref).collect()
    }

    #[test]
    fn a_record_serves_one_thread_after_another_and_keeps_its_counters() {
        let (registry, metadata) = (Registry::new(), Metadata::new());
        let word = ThreadWord::of_this_thread();
        assert_eq!((registry.all().count(), registry.threads()), (0, 0));
        let first = registry.attach(&metadata, &Countdowns::new(), 1, word).unwrap();
        let second = registry.attach(&metadata, &Countdowns::new(), 1, word).unwrap();
        assert!(!ptr::eq(first, second), "two at a time have one each");
        assert_eq!((registry.all().count(), registry.threads()), (2, 2));
        let class = SizeClass::for_bytes(100);
        first.operations.add(7);
        first.classes[class.index()].claimed.add(5);
        assert!(!first.bin(class).count(100));
        assert_eq!(first.allocations(class), (1, 100));
        let calls = metadata.map_calls.load(Ordering::Relaxed);

        registry.detach(first);
        assert_eq!(registry.threads(), 1);
        assert_eq!(addresses(&registry).len(), 2, "a record is never given up");
        let third = registry.attach(&metadata, &Countdowns::new(), 1, word).unwrap();
        assert!(ptr::eq(first, third), "an unused record first");
        assert_eq!((registry.all().count(), registry.threads()), (2, 2));
        assert_eq!(third.operations.get(), 7);
        assert_eq!(third.classes[class.index()].claimed.get(), 5);
        assert_eq!(third.allocations(class), (1, 100));
        assert!(third.bin(class).count(LONGEST as usize));
        let counted = (2, 100 + LONGEST as u64);
        assert_eq!(third.allocations(class), counted);
        third.end_countdown(class, &Countdowns::new());
        assert_eq!(third.allocations(class), counted, "drained or not");

        // Last in, first out, and no record is handed out twice.
        registry.detach(second);
        registry.detach(third);
        assert_eq!(registry.threads(), 0);
        let again = [(); 3].map(|()| {
            ptr::from_ref(registry.attach(&metadata, &Countdowns::new(), 1, word).unwrap())
        });
        assert_eq!(again[..2], [ptr::from_ref(third), ptr::from_ref(second)]);
        assert!(!again[..2].contains(&again[2]));
        assert_eq!(
            metadata.map_calls.load(Ordering::Relaxed),
            calls,
            "three records fit one mapping"
        );
    }

    #[test]
    fn a_record_knows_whose_it_is() {
        let (registry, metadata) = (Registry::new(), Metadata::new());
        let word = ThreadWord::of_this_thread();
        let cache = registry.attach(&metadata, &Countdowns::new(), 1, word).unwrap();
        assert!(!cache.is_of_another(word.address()));
        assert!(cache.is_of_another(word.address() + 8));
        registry.detach(cache);
        assert!(!cache.is_of_another(word.address() + 8), "nobody's");
    }

    #[test]
    fn threads_that_come_and_go_share_few_records() {
        let (registry, metadata) = (Registry::new(), Metadata::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let word = ThreadWord::of_this_thread();
                        let cache =
                            registry.attach(&metadata, &Countdowns::new(), 1, word).unwrap();
                        assert_eq!(cache.word_address.load(Ordering::Relaxed), word.address());
                        // A second owner would lose some of these.
                        cache.operations.add(1);
                        registry.detach(cache);
                    }
                });
            }
        });
        assert!(registry.all().count() <= 4, "no more than threads at a time");
        let operations: u64 = registry.all().map(|cache| cache.operations.get()).sum();
        assert_eq!((operations, registry.threads()), (2000, 0));
    }

    /// What a thread's first bin of class 0 must refuse is everything that is no span's.
    #[test]
    fn a_new_cache_has_room_for_nothing() {
        let (registry, metadata) = (Registry::new(), Metadata::new());
        let cache = registry
            .attach(&metadata, &Countdowns::new(), 1, ThreadWord::of_this_thread())
            .unwrap();
        for class in SizeClass::all().chain([SizeClass::NONE]) {
            assert!(cache.bin(class).pop().is_none());
            assert!(!cache.bin(class).push(64 as *mut u8));
            assert_eq!(cache.allocations(class), (0, 0));
        }
    }

    #[test]
    fn a_bin_gives_back_what_it_was_given_last_first() {
        let room = [const { AtomicPtr::new(ptr::null_mut()) }; 3];
        let bin = bin_of(&room);
        let blocks = [16, 32, 48].map(|address: usize| address as *mut u8);
        assert!(blocks.iter().all(|&block| bin.push(block)));
        assert!(!bin.push(64 as *mut u8), "full");
        let popped: Vec<_> = core::iter::from_fn(|| bin.pop()).collect();
        assert_eq!(popped, [blocks[2], blocks[1], blocks[0]]);
    }

    fn bin_of(room: &[AtomicPtr<u8>]) -> Bin {
        let bin = Bin {
            slots: AtomicPtr::new(room.as_ptr().cast_mut()),
            len: AtomicU32::new(0),
            capacity: AtomicU32::new(room.len() as u32),
            tally: AtomicU64::new(0),
            countdown: AtomicU32::new(0),
            rate: AtomicU32::new(0),
        };
        bin.start(Countdown::OFF);
        bin
    }

    #[test]
    fn a_tally_counts_until_the_countdown_ends() {
        let bin = bin_of(&[]);
        let mut random = crate::testing::test_random::Random::new(3);
        for _ in 0..200 {
            let bytes_left = 1 + random.below(LONGEST as u64);
            bin.start(Countdown { bytes: bytes_left as u32, rate: 7 });
            let (mut count, mut bytes) = (0, 0);
            loop {
                let size = random.below(if count % 2 == 0 { 32_768 } else { 64 });
                let has_ended = bin.count(size as usize);
                count += 1;
                bytes += size;
                assert_eq!(bin.counted(), (count, bytes + count));
                assert_eq!(has_ended, bytes + count >= bytes_left);
                if has_ended {
                    break;
                }
            }
        }
    }

    /// Every allocation is counted once, whether countdowns end or not, and those that are sampled stand
    /// for all.
    #[test]
    fn countdowns_leave_the_counts_as_they_are() {
        let (registry, metadata, countdowns) =
            (Registry::new(), Metadata::new(), Countdowns::new());
        countdowns.set_rate(100_000);
        let word = ThreadWord::of_this_thread();
        let cache = registry.attach(&metadata, &countdowns, 1, word).unwrap();
        let class = SizeClass::for_bytes(1000);
        let mut sampled = 0;
        for i in 1..=200_000u64 {
            if cache.bin(class).count(1000) && cache.end_countdown(class, &countdowns).is_some() {
                sampled += 1;
            }
            if i % 997 == 0 {
                assert_eq!(cache.allocations(class), (i, i * 1000));
            }
        }
        // A hundredth of them, with a deviation of 44.
        assert!((1800..2180).contains(&sampled), "{sampled}");
    }
}
