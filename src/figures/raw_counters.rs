//! What a snapshot is made of: the counters of all threads added up, and those that stand alone.
//!
//! There are two sources, this process's heap and (by [`crate::figures::remote`]) another's; what follows from
//! the readings is the same for both.

use core::sync::atomic::Ordering;

use crate::caches::thread_cache::ThreadCache;
use crate::geometry::arena::Arena;
use crate::geometry::size_class::{CLASS_COUNT, SizeClass};
use crate::heap::{Heap, Uncached, UncachedClass};
use crate::os::Nanos;
use crate::pages::totals::PageCounters;
use crate::release::{GateState, Release};
use crate::sampling;

/// Everything the formulas of a snapshot need.
pub(crate) struct RawCounters {
    pub caches: CacheSums,
    pub uncached: UncachedSums,
    pub figures: PageCounters<u64>,
    pub threads: u64,
    pub gate_state: GateState,
    pub oldest: Nanos,
    pub now: Nanos,
    /// Segments in use that the heap has mapped.
    pub segments_mapped: u32,
    pub arena_map_calls: u32,
    pub sampling: SamplingSums,
    pub metadata_bytes: u64,
    pub metadata_map_calls: u64,
    pub clone_calls: u64,
}

impl RawCounters {
    pub fn of(heap: &Heap, release: &Release, now: Nanos) -> RawCounters {
        let mut caches = CacheSums::default();
        // Before the totals: what a claim adds to the pages of spans is counted after the span.
        for cache in heap.threads.all() {
            caches.resident_gained += cache.resident_gained.get();
        }
        caches.resident_gained += heap.uncached.resident_gained.load(Ordering::Relaxed);
        let figures = heap.pages.totals.read();
        for cache in heap.threads.all() {
            caches.add(cache, ThreadCache::allocations);
        }
        caches.add_uncached(&heap.uncached);
        RawCounters {
            caches,
            uncached: UncachedSums::of(&heap.uncached),
            figures,
            threads: heap.threads.threads(),
            gate_state: release.gate_state(),
            oldest: heap.pages.clock.oldest(),
            now,
            segments_mapped: heap.pages.arena.mapped_segments(),
            arena_map_calls: heap.pages.arena.map_calls.load(Ordering::Relaxed),
            sampling: SamplingSums::of(&heap.sampler.readings),
            metadata_bytes: Arena::record_bytes(heap.pages.arena.in_use(), figures.records)
                + heap.pages.metadata.used_bytes(),
            metadata_map_calls: heap.pages.metadata.map_calls.load(Ordering::Relaxed) as u64,
            clone_calls: release.ticker.starts.load(Ordering::Relaxed)
                + release.ticker.failures.load(Ordering::Relaxed),
        }
    }
}

/// One class's figures, summed over all threads.
#[derive(Clone, Copy, Default)]
pub(crate) struct ClassSums {
    pub claimed: u64,
    pub spilled: u64,
    pub in_bins: u64,
    pub allocations: u64,
    pub bytes: u64,
}

impl ClassSums {
    pub fn live_blocks(&self) -> u64 {
        self.claimed.saturating_sub(self.spilled).saturating_sub(self.in_bins)
    }
}

/// The records of all threads, added up. Sums wrap, as the counters themselves would.
pub(crate) struct CacheSums {
    pub classes: [ClassSums; CLASS_COUNT],
    pub refills: u64,
    pub spills: u64,
    /// Added by its reader alone, since it must be read before the totals.
    pub resident_gained: u64,
    pub interior_refaults: u64,
}

impl Default for CacheSums {
    fn default() -> CacheSums {
        CacheSums {
            classes: [ClassSums::default(); CLASS_COUNT],
            refills: 0,
            spills: 0,
            resident_gained: 0,
            interior_refaults: 0,
        }
    }
}

impl CacheSums {
    /// Adds one thread's record. `allocations` reads a class's allocations and their bytes.
    pub fn add(
        &mut self,
        cache: &ThreadCache,
        allocations: impl Fn(&ThreadCache, SizeClass) -> (u64, u64),
    ) {
        for class in SizeClass::all() {
            let sums = &mut self.classes[class.index()];
            let counters = &cache.classes[class.index()];
            let (count, bytes) = allocations(cache, class);
            let in_bin = cache.bin(class).len.load(Ordering::Relaxed) as u64;
            for (sum, more) in [
                (&mut sums.claimed, counters.claimed.get()),
                (&mut sums.spilled, counters.spilled.get()),
                (&mut sums.in_bins, in_bin),
                (&mut sums.allocations, count),
                (&mut sums.bytes, bytes),
            ] {
                *sum = sum.wrapping_add(more);
            }
        }
        self.refills = self.refills.wrapping_add(cache.refills.get());
        self.spills = self.spills.wrapping_add(cache.spills.get());
        self.interior_refaults = self.interior_refaults.wrapping_add(cache.interior_refaults.get());
    }

    /// Adds what was done without a cache.
    pub fn add_uncached(&mut self, uncached: &Uncached) {
        for (sums, class) in self.classes.iter_mut().zip(&uncached.classes) {
            let UncachedClass { claimed, spilled, allocations, bytes } = class;
            for (sum, more) in [
                (&mut sums.claimed, claimed),
                (&mut sums.spilled, spilled),
                (&mut sums.allocations, allocations),
                (&mut sums.bytes, bytes),
            ] {
                *sum = sum.wrapping_add(more.load(Ordering::Relaxed));
            }
        }
        let refaults = uncached.interior_refaults.load(Ordering::Relaxed);
        self.interior_refaults = self.interior_refaults.wrapping_add(refaults);
    }
}

/// What the profiler has counted.
pub(crate) struct SamplingSums {
    pub samples: u64,
    pub dropped: u64,
    pub live_blocks: u64,
    pub live_pages: u64,
    pub rate: u64,
}

impl SamplingSums {
    pub fn of(sampler: &sampling::ProfilerCounters) -> SamplingSums {
        SamplingSums {
            samples: sampler.samples.get(),
            dropped: sampler.dropped.load(Ordering::Relaxed),
            live_blocks: sampler.live_blocks.get(),
            live_pages: sampler.live_pages.get(),
            rate: sampler.countdowns.rate(),
        }
    }
}

/// What is counted by any thread, as numbers.
pub(crate) struct UncachedSums {
    pub operations: u64,
    pub foreign_frees: u64,
    pub allocation_failures: u64,
    pub barriers: u64,
    pub takeovers_taken: u64,
    pub takeovers_busy: u64,
    pub takeovers_unavailable: u64,
    pub takeover_nanos: u64,
    pub tick_nanos: u64,
    pub remaps: u64,
    pub zeroing_calls: u64,
}

impl UncachedSums {
    pub fn of(uncached: &Uncached) -> UncachedSums {
        UncachedSums {
            operations: uncached.operations.load(Ordering::Relaxed),
            foreign_frees: uncached.foreign_frees.load(Ordering::Relaxed),
            allocation_failures: uncached.allocation_failures.load(Ordering::Relaxed),
            barriers: uncached.barriers.load(Ordering::Relaxed),
            takeovers_taken: uncached.takeovers_taken.load(Ordering::Relaxed),
            takeovers_busy: uncached.takeovers_busy.load(Ordering::Relaxed),
            takeovers_unavailable: uncached.takeovers_unavailable.load(Ordering::Relaxed),
            takeover_nanos: uncached.takeover_nanos.load(Ordering::Relaxed),
            tick_nanos: uncached.tick_nanos.load(Ordering::Relaxed),
            remaps: uncached.remaps.load(Ordering::Relaxed),
            zeroing_calls: uncached.zeroing_calls.load(Ordering::Relaxed),
        }
    }
}
