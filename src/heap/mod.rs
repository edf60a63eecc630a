//! The heap: everything there is one of in a process, and how it comes into being.

pub(crate) mod central;
pub mod knobs;
pub(crate) mod large;

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use self::knobs::{KnobCells, Knobs};
use crate::api::this_thread;
use crate::caches::thread_cache::{Registry, ThreadCache};
use crate::figures::root;
use crate::geometry::arena::Arena;
use crate::geometry::size_class::CLASS_COUNT;
use crate::heap::large::Deferred;
use crate::os::lock::Guard;
use crate::os::report::Line;
use crate::os::{self, Os};
use crate::pages::HeapPages;
use crate::pages::metadata::Metadata;
use crate::pages::page_heap::PageHeap;
use crate::sampling::Sampler;

/// The process's heap.
pub(crate) static HEAP: Heap = Heap::new();

/// States of [`Heap::ready`].
const UNTOUCHED: u32 = 0;
const STARTING: u32 = 1;
const READY: u32 = 2;
const FAILED: u32 = 3;

/// Everything the allocator keeps.
pub(crate) struct Heap {
    pub pages: HeapPages,
    pub threads: Registry,
    pub metadata: Metadata,
    pub sampler: Sampler,
    pub knobs: KnobCells,
    pub uncached: Uncached,
    /// Large blocks that signal handlers gave up while the page heap was not to be had.
    pub deferred: AtomicPtr<Deferred>,
    ready: AtomicU32,
    /// The thread that makes the heap ready, by its word's address.
    starter: AtomicUsize,
    /// The process whose heap this is.
    process: AtomicU32,
    /// Whether the kernel has the barrier that taking over a cache needs.
    has_barrier: AtomicBool,
}

/// Counters of what is done without a thread cache or to another's, by any thread; and of the time that
/// ticks take.
#[repr(C)]
pub(crate) struct Uncached {
    pub operations: AtomicU64,
    pub foreign_frees: AtomicU64,
    pub allocation_failures: AtomicU64,
    pub resident_gained: AtomicU64,
    pub interior_refaults: AtomicU64,
    pub barriers: AtomicU64,
    pub takeovers_taken: AtomicU64,
    pub takeovers_busy: AtomicU64,
    pub takeovers_unavailable: AtomicU64,
    /// Nanoseconds in which bins that rest were put away, and of ticks but for that, the purges they
    /// made and the wait for their assistant's.
    pub takeover_nanos: AtomicU64,
    pub tick_nanos: AtomicU64,
    pub remaps: AtomicU64,
    pub zeroing_calls: AtomicU64,
    pub classes: [UncachedClass; CLASS_COUNT],
}

/// The same by class.
#[repr(C)]
pub(crate) struct UncachedClass {
    pub claimed: AtomicU64,
    pub spilled: AtomicU64,
    pub allocations: AtomicU64,
    pub bytes: AtomicU64,
}

impl Heap {
    pub const fn new() -> Heap {
        Heap {
            pages: HeapPages::new(),
            threads: Registry::new(),
            metadata: Metadata::new(),
            sampler: Sampler::new(),
            knobs: KnobCells::new(),
            uncached: Uncached::new(),
            deferred: AtomicPtr::new(core::ptr::null_mut()),
            ready: AtomicU32::new(UNTOUCHED),
            starter: AtomicUsize::new(0),
            process: AtomicU32::new(0),
            has_barrier: AtomicBool::new(false),
        }
    }

    /// Makes the heap usable, once; `false` if the system did not grant an arena.
    #[inline]
    pub fn is_ready(&self, os: &impl Os) -> bool {
        // Acquire: partner of the Release in `start`.
        self.ready.load(Ordering::Acquire) == READY || self.start(os)
    }

    /// Before a fork: if another thread is making the heap usable, waits until it is. In the child nobody would.
    pub fn wait_for_start(&self, os: &impl Os) {
        if self.ready.load(Ordering::Relaxed) == STARTING {
            self.is_ready(os);
        }
    }

    #[cold]
    fn start(&self, os: &impl Os) -> bool {
        let first =
            self.ready.compare_exchange(UNTOUCHED, STARTING, Ordering::Acquire, Ordering::Acquire);
        let (word, _) = this_thread::this_thread();
        if first.is_ok() {
            self.starter.store(word, Ordering::Relaxed);
            self.process.store(os::process(), Ordering::Relaxed);
            // Readers from outside find the heap by what this brings into the program.
            core::hint::black_box(root::address());
            os::find_purge_call();
            self.knobs.load_environment();
            let want = knobs::arena_bytes().unwrap_or_else(Arena::size_for_machine);
            let reserved = self.pages.arena.reserve(os, want);
            if reserved {
                os::set_huge_pages(self.pages.arena.range(), knobs::huge_pages());
                os::forbid_huge_pages(self.pages.arena.sample_range());
                // A huge page would bring back what was given back of its records.
                os::forbid_huge_pages(self.pages.arena.records());
                let Knobs { profile_rate_bytes, profile_epoch_samples, .. } = self.knobs.get();
                let guards = knobs::profile_guards();
                self.sampler.start(profile_rate_bytes, profile_epoch_samples, guards);
                this_thread::create_exit_key();
                self.has_barrier.store(os::register_barrier(), Ordering::Relaxed);
            } else {
                Line::new().text("the system grants no address space for a heap").send();
            }
            // Release: partner of the Acquires here and in `is_ready`.
            self.ready.store(if reserved { READY } else { FAILED }, Ordering::Release);
        }
        loop {
            match self.ready.load(Ordering::Acquire) {
                READY => return true,
                FAILED => return false,
                // A signal handler interrupted the start.
                STARTING if self.starter.load(Ordering::Relaxed) == word => return false,
                // Another thread is at it: this takes a few microseconds.
                _ => os::yield_now(),
            }
        }
    }

    /// The page heap, for whom a signal handler can interrupt. `None` in a handler that interrupted its
    /// thread there; or in the sampler, if it would have to wait: others may have been interrupted in the
    /// page heap by a handler that waits for the sampler.
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
        self.has_barrier.load(Ordering::Relaxed)
    }

    /// As starting does: caches can be taken over from now on, if the kernel lets us.
    #[cfg(test)]
    pub fn register_barrier(&self) -> bool {
        let has_barrier = os::register_barrier();
        self.has_barrier.store(has_barrier, Ordering::Relaxed);
        has_barrier
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
        if self.threads.hold_for_fork(own_word, self.has_barrier()) {
            self.uncached.barriers.fetch_add(1, Ordering::Relaxed);
        }
        self.pages.page_heap.lock_for_fork();
        self.metadata.lock_for_fork();
        self.sampler.lock_for_fork();
    }

    /// A fork has made this process.
    pub fn belongs_to_this_process(&self) {
        self.process.store(os::process(), Ordering::Relaxed);
    }

    /// Is this the process that the heap is of? It is not in a child of `vfork`, which shares the
    /// memory but will leave it; threads that it starts are not the program's.
    pub fn is_of_this_process(&self) -> bool {
        self.process.load(Ordering::Relaxed) == os::process()
    }

    /// Gives back what [`Heap::hold_for_fork`] took, but for the registry of threads.
    ///
    /// # Safety
    /// The calling thread took them, in this process or in its parent.
    pub unsafe fn unlock_after_fork(&self) {
        // SAFETY: the caller says so.
        unsafe { self.sampler.unlock_after_fork() };
        // SAFETY: the caller says so.
        unsafe { self.metadata.unlock_after_fork() };
        // SAFETY: the caller says so.
        unsafe { self.pages.page_heap.unlock_after_fork() };
    }
}

impl Uncached {
    const fn new() -> Uncached {
        Uncached {
            operations: AtomicU64::new(0),
            foreign_frees: AtomicU64::new(0),
            allocation_failures: AtomicU64::new(0),
            resident_gained: AtomicU64::new(0),
            interior_refaults: AtomicU64::new(0),
            barriers: AtomicU64::new(0),
            takeovers_taken: AtomicU64::new(0),
            takeovers_busy: AtomicU64::new(0),
            takeovers_unavailable: AtomicU64::new(0),
            takeover_nanos: AtomicU64::new(0),
            tick_nanos: AtomicU64::new(0),
            remaps: AtomicU64::new(0),
            zeroing_calls: AtomicU64::new(0),
            classes: [const {
                UncachedClass {
                    claimed: AtomicU64::new(0),
                    spilled: AtomicU64::new(0),
                    allocations: AtomicU64::new(0),
                    bytes: AtomicU64::new(0),
                }
            }; CLASS_COUNT],
        }
    }
}
