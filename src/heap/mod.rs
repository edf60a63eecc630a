//! The heap: everything there is one of in a process, and how it comes into being.

pub(crate) mod altered;
pub(crate) mod central;
mod depot;
pub mod knobs;
pub(crate) mod large;
pub(crate) mod mend;
mod uncached;

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use self::depot::Depot;
use self::knobs::{KnobCells, Knobs};
pub(crate) use self::uncached::{Uncached, UncachedClass};
use crate::base::units::{SEGMENT_BYTES, SegmentIndex};
use crate::caches::registry::Registry;
use crate::caches::thread_cache::ThreadCache;
use crate::os::copy_mark::CopyMark;
use crate::os::lock::Guard;
use crate::os::{self, Os, seccomp};
use crate::pages::HeapPages;
use crate::pages::page_heap::PageHeap;
use crate::sampling::Sampler;

/// The process's heap.
pub(crate) static HEAP: Heap = Heap::new();

/// The process that the allocator's code was loaded in; 0 where it is not known yet. A heap may be started in a child
/// of `vfork`, which shares the memory: it is that of both then.
#[unsafe(link_section = ".data.slackwater_start")]
static LOADED_IN: AtomicU32 = AtomicU32::new(0);

/// The allocator's code has been loaded, in the calling process.
pub(crate) fn remember_process() {
    LOADED_IN.store(os::process(), Ordering::Relaxed);
}

/// States of [`Heap::ready`].
const UNTOUCHED: u32 = 0;
const STARTING: u32 = 1;
const READY: u32 = 2;
const FAILED: u32 = 3;

/// Everything the allocator keeps.
pub(crate) struct Heap {
    pub pages: HeapPages,
    pub threads: Registry,
    pub depot: Depot,
    pub sampler: Sampler,
    pub knobs: KnobCells,
    pub uncached: Uncached,
    /// Large blocks that signal handlers gave up while the page heap was not to be had.
    pub deferred: AtomicPtr<Deferred>,
    ready: AtomicU32,
    /// The thread that makes the heap ready, by its word's address.
    starter: AtomicUsize,
    /// The process whose heap this is, and how a copy of it knows that it is not that.
    process: AtomicU32,
    copy_mark: CopyMark,
    /// Whether the kernel has the barrier that taking over a cache needs.
    has_barrier: AtomicBool,
}

/// A block whose free had to wait, with the next such block's address in it.
pub(crate) struct Deferred {
    pub(super) next: *mut Deferred,
}

impl Heap {
    pub const fn new() -> Heap {
        Heap {
            pages: HeapPages::new(),
            threads: Registry::new(),
            depot: Depot::new(),
            sampler: Sampler::new(),
            knobs: KnobCells::new(),
            uncached: Uncached::new(),
            deferred: AtomicPtr::new(core::ptr::null_mut()),
            ready: AtomicU32::new(UNTOUCHED),
            starter: AtomicUsize::new(0),
            process: AtomicU32::new(0),
            copy_mark: CopyMark::new(),
            has_barrier: AtomicBool::new(false),
        }
    }

    /// Can it be used?
    #[inline]
    pub fn is_ready(&self) -> bool {
        // Acquire: partner of the Release in `start_once`.
        self.ready.load(Ordering::Acquire) == READY
    }

    /// If another thread is making the heap usable, waits until it is, a few microseconds. Before a fork, too: in
    /// the child nobody would. The calling thread's word is at `word`; a signal handler that interrupted the start
    /// does not wait.
    pub fn wait_for_start(&self, word: usize) {
        while self.ready.load(Ordering::Acquire) == STARTING
            && self.starter.load(Ordering::Relaxed) != word
        {
            os::yield_now();
        }
    }

    /// Makes the heap usable by `start`, once, whoever comes first; returns whether it is then. The calling
    /// thread's word is at `word`: a signal handler that interrupted the start is told `false`.
    #[cold]
    pub fn start_once(&self, word: usize, start: impl FnOnce() -> bool) -> bool {
        let first =
            self.ready.compare_exchange(UNTOUCHED, STARTING, Ordering::Acquire, Ordering::Acquire);
        if first.is_ok() {
            self.starter.store(word, Ordering::Relaxed);
            self.process.store(os::process(), Ordering::Relaxed);
            self.pages.metadata.add_used(self.copy_mark.set());
            let state = if start() { READY } else { FAILED };
            // Release: partner of the Acquires of `is_ready` and `wait_for_start`.
            self.ready.store(state, Ordering::Release);
        }
        self.wait_for_start(word);
        self.is_ready()
    }

    /// Chooses its addresses, as the knobs have it. `false`: the system does not grant any.
    pub fn choose_window(&self, os: &impl Os) -> bool {
        let environment = knobs::environment();
        if knobs::are_set() {
            self.knobs.load(environment);
        }
        os::set_huge_pages(knobs::huge_pages(environment));
        if !self.pages.arena.choose_window(os, knobs::arena_bytes(environment)) {
            return false;
        }
        let Knobs { profile_rate_bytes, profile_epoch_samples, .. } = self.knobs.get();
        let has_guards = knobs::profile_guards(environment);
        self.sampler.start(profile_rate_bytes, profile_epoch_samples, has_guards);
        true
    }

    /// Asks for the barrier that taking over a cache needs, if there is no reason against. Returns whether the kernel
    /// has it. On a thread of our own, or when the program asks for everything back: no other malloc makes the call.
    pub fn register_barrier(&self) -> bool {
        if seccomp::is_announced() {
            return false;
        }
        let has_barrier = os::register_barrier();
        self.has_barrier.store(has_barrier, Ordering::Relaxed);
        has_barrier
    }

    /// Locks the page heap from code that a signal handler may run. `None` where waiting could deadlock: the
    /// interrupted thread holds this lock; or it holds the sampler's while this one is taken, for whoever
    /// took it may itself have been interrupted by a handler that waits for the sampler.
    pub fn lock_pages(&self) -> Option<Guard<'_, PageHeap>> {
        if self.sampler.is_interrupted() {
            self.pages.page_heap.try_lock()
        } else {
            self.pages.page_heap.lock_unless_mine()
        }
    }

    /// The kernel has refused the barrier after all.
    pub fn lose_barrier(&self) {
        self.has_barrier.store(false, Ordering::Relaxed);
    }

    /// Can caches be taken over?
    pub fn has_barrier(&self) -> bool {
        self.has_barrier.load(Ordering::Relaxed) && !seccomp::is_announced()
    }

    /// Slow-path operations of all threads so far.
    pub fn operations(&self) -> u64 {
        let cached: u64 = self.threads.all().map(|cache| cache.operations.get()).sum();
        cached + self.uncached.operations.load(Ordering::Relaxed)
    }

    /// Of the pages inside spans, those that came back after they were given back; and of those the
    /// ones that did so soon.
    pub fn interior_refaults(&self) -> (u64, u64) {
        let sum = |counter: fn(&ThreadCache) -> u64| self.threads.all().map(counter).sum::<u64>();
        let uncached = self.uncached.interior_refaults.load(Ordering::Relaxed);
        let all = sum(|cache| cache.interior_refaults.get()) + uncached;
        (all, sum(|cache| cache.soon_interior_refaults.get()))
    }

    /// Takes every lock before a fork, so that the child finds them free and what they guard whole. With the
    /// ticking lock held: no tick is under way.
    pub fn hold_for_fork(&self, own_word: usize) {
        // Caches before the rest: their owners may need the other locks to get out of malloc.
        let barriers = self.threads.hold_for_fork(own_word, self.has_barrier());
        self.uncached.barriers.fetch_add(barriers, Ordering::Relaxed);
        self.pages.page_heap.lock_for_fork();
        self.pages.metadata.lock_for_fork();
        self.sampler.lock_for_fork();
    }

    /// This process is a copy of the one that the heap was of, and the heap is whole.
    pub fn adopt_in_this_process(&self) {
        let process = os::process();
        self.process.store(process, Ordering::Relaxed);
        LOADED_IN.store(process, Ordering::Relaxed);
        self.copy_mark.settle();
    }

    /// Is this the process that the heap is of? It is not in a child of `vfork`, which shares the
    /// memory but will leave it; threads that it starts are not the program's. Nor in a copy to which nobody has seen
    /// yet.
    pub fn is_of_this_process(&self) -> bool {
        let known = [&self.process, &LOADED_IN].map(|process| process.load(Ordering::Relaxed));
        !self.copy_mark.is_copy() && known.contains(&os::process())
    }

    /// Is this process a copy of the one that the heap is of, to which nobody has seen yet? Two loads.
    #[inline]
    pub fn is_copied(&self) -> bool {
        self.copy_mark.is_copy()
    }

    /// `true`: the calling thread makes the copied heap whole, and then adopts it. `false`: another one has.
    pub fn take_copy_in_hand(&self) -> bool {
        self.copy_mark.take_in_hand()
    }

    /// Does the calling thread hold one of the locks? Then this is a signal handler that interrupted it.
    pub fn is_interrupted(&self) -> bool {
        self.pages.page_heap.is_mine()
            || self.sampler.is_interrupted()
            || self.pages.metadata.is_interrupted()
            || self.threads.is_interrupted()
    }

    /// Is what lies at `offset` from the arena's base others', among the segments?
    #[cold]
    pub fn is_others(&self, offset: usize) -> bool {
        let arena = &self.pages.arena;
        // Where there is nothing of others this is all.
        arena.others() > 0
            && self.lock_pages().is_some_and(|mut page_heap| {
                page_heap.is_others(arena, SegmentIndex((offset / SEGMENT_BYTES) as u32))
            })
    }

    /// Gives back what [`Heap::hold_for_fork`] took, but for the registry of threads.
    ///
    /// # Safety
    /// The calling thread took them, in this process or in its parent.
    pub unsafe fn unlock_after_fork(&self) {
        // SAFETY: the caller says so.
        unsafe { self.sampler.unlock_after_fork() };
        // SAFETY: the caller says so.
        unsafe { self.pages.metadata.unlock_after_fork() };
        // SAFETY: the caller says so.
        unsafe { self.pages.page_heap.unlock_after_fork() };
    }
}
