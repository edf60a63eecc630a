//! The records of all threads: who has one, and how others' are taken over.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::bin::{Bin, Bins};
use super::thread_cache::ThreadCache;
use crate::os::lock::Lock;
use crate::os::tls::ThreadWord;
use crate::os::{self, Linux, Nanos, Os};
use crate::pages::metadata::Metadata;
use crate::sampling::Countdowns;

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

/// A cache that may be taken over.
struct Candidate<'a> {
    cache: &'a ThreadCache,
    bins: Bins,
    /// They are closed, and their owner is outside.
    is_closed: bool,
}

impl<'a> Candidate<'a> {
    fn new(cache: &'a ThreadCache, bins: Bins) -> Candidate<'a> {
        Candidate { cache, bins, is_closed: false }
    }

    fn bins(&self) -> impl Iterator<Item = &Bin> {
        self.bins.classes().map(|class| self.cache.bin(class))
    }
}

/// Closes the bins of candidates, which are wanted, unless their owner is inside just then. `false`: the kernel refuses
/// a barrier, and no bin is closed.
fn keep_owners_out(batch: &mut [Option<Candidate>], barriers: &mut u64) -> bool {
    *barriers += 1;
    if !os::barrier_all_threads() {
        return false;
    }
    for candidate in batch.iter_mut().flatten() {
        // An owner outside gets into none of its slow paths from here on, so its bins are as they are.
        candidate.is_closed = !candidate.cache.is_busy();
        if candidate.is_closed {
            candidate.bins().for_each(Bin::close);
        }
    }
    if !batch.iter().flatten().any(|candidate| candidate.is_closed) {
        return true;
    }
    *barriers += 1;
    let is_refused = !os::barrier_all_threads();
    for candidate in batch.iter_mut().flatten().filter(|candidate| candidate.is_closed) {
        if is_refused || candidate.cache.is_busy() {
            candidate.bins().for_each(Bin::open);
            candidate.is_closed = false;
        }
    }
    !is_refused
}

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
    /// Blocks from address `samples` on are samples.
    pub fn attach(
        &self,
        metadata: &Metadata,
        countdowns: &Countdowns,
        samples: usize,
        word: ThreadWord,
    ) -> Option<&ThreadCache> {
        let mut unused = self.unused.lock_unless_mine()?;
        let record = if unused.0.is_null() {
            let record = metadata.allocate_record(size_of::<ThreadCache>())?.cast::<ThreadCache>();
            // SAFETY: all-zero is a valid record; this memory is zero, aligned to a cache line as records
            // are, nobody else's, and never unmapped.
            let cache = unsafe { &*record };
            cache.start_countdowns(countdowns);
            cache.samples.store(samples, Ordering::Relaxed);
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

    /// Is the calling thread at the list of unused records? Then this is a signal handler that interrupted it.
    pub fn is_interrupted(&self) -> bool {
        self.unused.is_mine()
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

    /// Has every thread's cache been flushed?
    pub fn all_are_flushed(&self) -> bool {
        self.all().all(|cache| cache.is_flushed() || !cache.is_of_another(0))
    }

    /// Threads other than the caller that have bins.
    pub fn count_others(&self, own_word: usize) -> u64 {
        let others = self.all().filter(|cache| cache.is_of_another(own_word));
        others.filter(|cache| !cache.is_flushed()).count() as u64
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
            let found = caches.by_ref().map(|cache| Candidate::new(cache, wanted(cache)));
            let found = found.filter(|candidate| !candidate.bins.is_empty());
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
            for place in &mut batch {
                place.take_if(|candidate| !candidate.cache.is_of_another(own_word));
            }
            batch.iter().flatten().for_each(|candidate| candidate.cache.lock.want());
            let is_refused = !keep_owners_out(&mut batch, &mut done.barriers);
            for candidate in batch.iter().flatten() {
                if candidate.is_closed {
                    work(candidate.cache, candidate.bins);
                    candidate.bins().for_each(Bin::open);
                    done.taken += 1;
                } else if !is_refused {
                    done.busy += 1;
                }
                candidate.cache.lock.let_go();
            }
            if is_refused {
                done.is_refused = true;
                done.unavailable = self.count_others(own_word);
                return done;
            }
        }
    }

    /// In a copy of the process: ends the take-overs of a thread that the copy does not have. Calls `mend` for each
    /// cache that was being taken over, before its owner gets in.
    ///
    /// # Safety
    /// As [`Lock::free_from_ghost`]; no thread is inside its cache.
    pub unsafe fn end_ghosts_takeovers(&self, mend: impl Fn(&ThreadCache)) {
        for cache in self.all().filter(|cache| cache.lock.is_wanted()) {
            mend(cache);
            cache.open_bins();
            cache.lock.let_go();
        }
        // SAFETY: the caller says so. Take-overs leave the list of unused records alone.
        unsafe { self.unused.free_from_ghost() };
    }

    /// Before a fork: keeps threads from coming and going, and every other thread out of its cache.
    /// A thread that does not leave malloc in time (it is stopped in a signal handler, say) is left
    /// alone. Where the kernel has no barrier for us, all are. Returns how many barriers it took.
    pub fn hold_for_fork(&self, own_word: usize, has_barrier: bool) -> u64 {
        self.unused.lock_for_fork();
        if !has_barrier {
            return 0;
        }
        let others = || self.all().filter(|cache| cache.is_of_another(own_word));
        if others().next().is_none() {
            return 0;
        }
        for cache in others() {
            cache.lock.want();
        }
        if !os::barrier_all_threads() {
            others().for_each(|cache| cache.lock.let_go());
            return 1;
        }
        for cache in others() {
            if waited_for_owner(cache) {
                cache.close_bins();
            } else {
                cache.lock.let_go();
            }
        }
        let is_refused = !os::barrier_all_threads();
        for cache in others().filter(|cache| cache.lock.is_wanted()) {
            if is_refused || !waited_for_owner(cache) {
                cache.open_bins();
                cache.lock.let_go();
            }
        }
        2
    }

    /// After a fork, in the parent: everything goes on.
    ///
    /// # Safety
    /// Follows [`Registry::hold_for_fork`] on the same thread.
    pub unsafe fn resume_in_parent(&self) {
        for cache in self.all().filter(|cache| cache.lock.is_wanted()) {
            cache.open_bins();
            cache.lock.let_go();
        }
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
                cache.open_bins();
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

/// Waits until a cache's owner is outside. `false`: it takes too long (it is stopped in a signal handler, say).
fn waited_for_owner(cache: &ThreadCache) -> bool {
    let began = Linux.now();
    while cache.is_busy() {
        if Linux.now().since(began) >= FORK_PATIENCE {
            return false;
        }
        os::yield_now();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::size_class::SizeClass;
    use crate::sampling::LONGEST;

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
