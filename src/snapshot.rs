//! What the allocator knows about itself, as one owned plain struct.
//!
//! Field names are the metric names of the exporters (without the `slackwater_` prefix), so that a
//! dashboard's query, a field here and a counter in the allocator are one word.

use core::fmt;
use core::sync::atomic::Ordering;

use crate::heap::Heap;
use crate::size_class::{CLASS_COUNT, Kind, SizeClass};
use crate::sys::Os;
use crate::thread_cache::ThreadCache;
use crate::units::{PAGE_BYTES, SEGMENT_BYTES, SPAN_BYTES};

/// One value for each [`ReleaseReason`](crate::ReleaseReason): which kind of memory became free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByReason<T> {
    /// A span of `small` blocks (16 B to 2 KiB) was retired.
    pub small_page_retire: T,
    /// A span of `sub4k` blocks (above 2 KiB, to 4 KiB) was retired.
    pub sub4k_run_retire: T,
    /// A span of `medium` blocks (above 4 KiB, to 32 KiB) was retired.
    pub medium_run_reclaim: T,
    /// A `large` page run was freed or trimmed.
    pub large_free: T,
}

/// Pages given back, by the reason of their release, or by where they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgedPages {
    /// A span of `small` blocks (16 B to 2 KiB) was retired.
    pub small_page_retire: u64,
    /// A span of `sub4k` blocks (above 2 KiB, to 4 KiB) was retired.
    pub sub4k_run_retire: u64,
    /// A span of `medium` blocks (above 4 KiB, to 32 KiB) was retired.
    pub medium_run_reclaim: u64,
    /// A `large` page run was freed or trimmed.
    pub large_free: u64,
    /// Inside a span in use, on pages without a live block.
    pub span_interior: u64,
}

impl PurgedPages {
    /// All together.
    pub fn sum(&self) -> u64 {
        let PurgedPages { small_page_retire, sub4k_run_retire, .. } = *self;
        let PurgedPages { medium_run_reclaim, large_free, span_interior, .. } = *self;
        small_page_retire + sub4k_run_retire + medium_run_reclaim + large_free + span_interior
    }
}

/// One value for each coverage kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByKind<T> {
    /// Blocks of 16 B to 2 KiB.
    pub small: T,
    /// Blocks above 2 KiB, to 4 KiB.
    pub sub4k: T,
    /// Blocks above 4 KiB, to 32 KiB.
    pub medium: T,
    /// Page runs: everything above 32 KiB.
    pub large: T,
}

/// Where the heap's bytes are. The classes exclude each other; their sum is the heap's resident
/// estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryBytes {
    /// Bytes the program asked for and has not freed: the live blocks of each class times the mean
    /// request of that class so far, and the same for large blocks.
    pub live: u64,
    /// The live blocks' bytes beyond what was asked for.
    pub rounding: u64,
    /// Free blocks on pages that a span holds and that may be resident.
    pub free_blocks: u64,
    /// Blocks in thread caches.
    pub thread_cache: u64,
    /// Free pages that may still be resident: the ledger's content, waiting for a purge.
    pub dirty: u64,
    /// The allocator's own records: those of the segments in use, and of thread caches.
    pub metadata: u64,
}

/// What one size class holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeClassBytes {
    /// The size of a block, in bytes: the value of the label `size_class`.
    pub block_bytes: u64,
    /// Live blocks, in bytes.
    pub live_bytes: u64,
    /// Pages held by this class's spans, in bytes.
    pub span_bytes: u64,
}

/// Ticks of the release machinery by what the gate decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByGate<T> {
    /// The gate said idle.
    pub idle: T,
    /// The gate said busy.
    pub busy: T,
}

/// Attempts to take over a cache, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takeovers {
    /// Its resting bins were put away.
    pub taken: u64,
    /// Its thread was inside malloc just then: another time.
    pub busy: u64,
    /// The kernel has no `membarrier` for us: caches stay as they are until their threads move.
    pub unavailable: u64,
}

/// What the gate decided at the last tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateState {
    /// Nothing much is happening: give back everything, at once.
    #[default]
    Idle,
    /// The program is at work: give back little, and only what has been free for a while.
    Busy,
}

/// System calls made by the allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OsCalls {
    /// `mmap`: reservations.
    pub mmap: u64,
    /// `mprotect`: the arena grows.
    pub mprotect: u64,
    /// `madvise`, and `process_madvise` on ourselves: purges.
    pub madvise: u64,
    /// `mremap`: very large reallocations that move pages, not bytes.
    pub mremap: u64,
    /// `membarrier`: caches are taken over, or the ticker rests.
    pub membarrier: u64,
    /// `clone`: the ticker is started, or could not be.
    pub clone: u64,
}

/// How often malloc or free left its fast path, by where it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowPaths {
    /// Served without a thread cache: before the thread has one, after it is gone, or re-entered
    /// from a signal handler.
    pub uncached: u64,
    /// A new span was cut from free pages.
    pub span_create: u64,
    /// A large page run was taken from free pages.
    pub large_alloc: u64,
    /// The arena was extended.
    pub arena_grow: u64,
}

/// A consistent-enough copy of every figure the allocator keeps.
///
/// Counters (`*_total`) never go back between two snapshots of one process. Derived figures
/// saturate: they are never negative. Taking one costs about as much as reading the slots of all
/// threads and the descriptors of all segments in use; it allocates nothing and takes no lock that
/// `malloc` or `free` takes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Ranges accepted by the release boundary (the seed's `enq`).
    pub release_enqueued_total: ByReason<u64>,
    /// Of those, the ones that joined a range already pending.
    pub release_coalesced_total: u64,
    /// Pages given back to the system (of 4 KiB).
    pub release_purged_pages_total: PurgedPages,
    /// The same in bytes.
    pub release_purged_bytes_total: u64,
    /// System calls made to give pages back.
    pub release_madvise_calls_total: u64,
    /// Ranges handed to those calls.
    pub release_purge_ranges_total: u64,
    /// Pages that entered the ledger and neither left it nor are still there: 0 by design, and
    /// counted from both ends so that a flaw would show.
    pub release_dropped_total: u64,
    /// Free pages taken back into use before their purge.
    pub release_reused_pages_total: u64,
    /// Pages allocated again after their purge: each costs a page fault.
    pub release_refault_pages_total: u64,
    /// Purges the kernel refused.
    pub release_errors_total: u64,
    /// Free pages waiting for their purge, in bytes.
    pub release_pending_bytes: u64,
    /// For how long the oldest of those have been waiting, in seconds.
    pub release_oldest_age_seconds: f64,
    /// Attempts to take over the cache of another thread whose blocks rest, by result.
    pub takeovers_total: Takeovers,
    /// Ticks by gate decision (the seed's `idle_ticks` and `busy_ticks`).
    pub epoch_ticks_total: ByGate<u64>,
    /// The gate's last decision.
    pub gate_state: GateState,

    /// Where the heap's bytes are.
    pub memory_bytes: MemoryBytes,
    /// Address space of the arena in use, in bytes (backed or not).
    pub mapped_bytes: u64,
    /// The heap's resident estimate: the sum of `memory_bytes`.
    pub resident_bytes: u64,
    /// Each size class that has spans or had any; `size_class_*` of the metrics.
    pub size_classes: [SizeClassBytes; CLASS_COUNT],
    /// Threads that have a cache.
    pub threads: u64,

    /// Allocations by coverage kind.
    pub allocations_total: ByKind<u64>,
    /// Bytes asked for.
    pub allocated_bytes_total: u64,
    /// Frees.
    pub frees_total: u64,
    /// Times an empty bin was filled from spans.
    pub refills_total: u64,
    /// Times a full bin gave blocks back to spans.
    pub spills_total: u64,
    /// System calls by kind.
    pub os_calls_total: OsCalls,
    /// Departures from the fast path.
    pub slow_path_total: SlowPaths,
    /// Frees of addresses outside the arena, ignored.
    pub foreign_frees_total: u64,
    /// Age of the aggregated totals, in seconds: 0 for a snapshot taken just now.
    pub snapshot_age_seconds: f64,
}

/// One class's figures, summed over all threads.
#[derive(Clone, Copy, Default)]
struct ClassSums {
    claimed: u64,
    spilled: u64,
    in_bins: u64,
    allocations: u64,
    bytes: u64,
}

impl ClassSums {
    fn of(heap: &Heap, class: SizeClass) -> ClassSums {
        let uncached = &heap.uncached.classes[class.index()];
        let mut sums = ClassSums {
            claimed: uncached.claimed.load(Ordering::Relaxed),
            spilled: uncached.spilled.load(Ordering::Relaxed),
            in_bins: 0,
            allocations: uncached.allocations.load(Ordering::Relaxed),
            bytes: uncached.bytes.load(Ordering::Relaxed),
        };
        for cache in heap.threads.all() {
            let counters = &cache.classes[class.index()];
            sums.claimed += counters.claimed.get();
            sums.spilled += counters.spilled.get();
            sums.in_bins += cache.bin(class).len.load(Ordering::Relaxed) as u64;
            let (allocations, bytes) = cache.allocations(class);
            sums.allocations += allocations;
            sums.bytes += bytes;
        }
        sums
    }

    fn live_blocks(&self) -> u64 {
        self.claimed.saturating_sub(self.spilled).saturating_sub(self.in_bins)
    }
}

/// `part` of `whole`, scaled to `of`.
fn scaled(of: u64, part: u64, whole: u64) -> u64 {
    if whole == 0 { of } else { (of as u128 * part.min(whole) as u128 / whole as u128) as u64 }
}

impl Snapshot {
    pub(crate) fn take(heap: &Heap, os: &impl Os) -> Snapshot {
        let mut memory = MemoryBytes::default();
        let mut size_classes = [SizeClassBytes::default(); CLASS_COUNT];
        let mut allocations_total = ByKind::default();
        let mut allocated_bytes_total = 0;
        let mut frees_total = 0;
        // Before the totals: what a claim adds to the pages of spans is counted after the span.
        let gained: u64 = heap.threads.all().map(|cache| cache.resident_gained.get()).sum::<u64>()
            + heap.uncached.resident_gained.load(Ordering::Relaxed);
        let figures = heap.totals.read();
        let mut live_blocks_bytes = 0;
        for class in SizeClass::all() {
            let sums = ClassSums::of(heap, class);
            let block_bytes = class.block_bytes().get() as u64;
            let live_bytes = sums.live_blocks() * block_bytes;
            let requested = scaled(live_bytes, sums.bytes, sums.allocations * block_bytes);
            live_blocks_bytes += live_bytes;
            memory.live += requested;
            memory.rounding += live_bytes - requested;
            memory.thread_cache += sums.in_bins * block_bytes;
            size_classes[class.index()] = SizeClassBytes {
                block_bytes,
                live_bytes,
                span_bytes: figures.spans[class.index()] * SPAN_BYTES as u64,
            };
            *match class.kind() {
                Kind::Small => &mut allocations_total.small,
                Kind::Sub4k => &mut allocations_total.sub4k,
                Kind::Medium | Kind::Large => &mut allocations_total.medium,
            } += sums.allocations;
            allocated_bytes_total += sums.bytes;
            frees_total += sums.allocations.saturating_sub(sums.live_blocks());
        }
        let page = PAGE_BYTES as u64;
        let large_bytes = figures.large_pages * page;
        let large_live = scaled(large_bytes, figures.large_bytes, figures.large_pages_taken * page);
        memory.live += large_live;
        memory.rounding += large_bytes - large_live;
        let span_resident = (figures.span_pages_inherited + gained)
            .saturating_sub(figures.span_pages_retired)
            * page;
        memory.free_blocks =
            span_resident.saturating_sub(live_blocks_bytes).saturating_sub(memory.thread_cache);
        memory.dirty = figures.pending_pages * page;
        memory.metadata = (heap.arena.record_bytes_in_use() + heap.metadata.mapped_bytes()) as u64;
        allocations_total.large = figures.large_allocations;

        let purged: u64 = figures.purged_pages.iter().sum();
        let [small_page_retire, sub4k_run_retire, medium_run_reclaim, large_free] =
            figures.purged_pages;
        let purged_pages = PurgedPages {
            small_page_retire,
            sub4k_run_retire,
            medium_run_reclaim,
            large_free,
            span_interior: figures.interior_pages,
        };
        let left = purged + figures.reused_pages + figures.pending_pages;
        let oldest_age = if figures.pending_pages == 0 {
            0.0
        } else {
            os.now().since(heap.release.oldest()).0 as f64 / 1e9
        };
        let sum =
            |counter: fn(&ThreadCache) -> u64| -> u64 { heap.threads.all().map(counter).sum() };
        Snapshot {
            release_enqueued_total: ByReason::from(figures.enqueued),
            release_coalesced_total: figures.coalesced,
            release_purged_pages_total: purged_pages,
            release_purged_bytes_total: purged_pages.sum() * page,
            release_madvise_calls_total: figures.madvise_calls,
            release_purge_ranges_total: figures.purge_ranges,
            release_dropped_total: figures.enqueued_pages.saturating_sub(left),
            release_reused_pages_total: figures.reused_pages,
            release_refault_pages_total: figures.refault_pages + heap.interior_refaults().0,
            release_errors_total: figures.errors,
            release_pending_bytes: figures.pending_pages * page,
            release_oldest_age_seconds: oldest_age,
            takeovers_total: Takeovers {
                taken: heap.uncached.takeovers_taken.load(Ordering::Relaxed),
                busy: heap.uncached.takeovers_busy.load(Ordering::Relaxed),
                unavailable: heap.uncached.takeovers_unavailable.load(Ordering::Relaxed),
            },
            epoch_ticks_total: ByGate { idle: figures.idle_ticks, busy: figures.busy_ticks },
            gate_state: heap.release.gate_state(),
            memory_bytes: memory,
            mapped_bytes: heap.arena.in_use() as u64 * SEGMENT_BYTES as u64,
            resident_bytes: memory.sum(),
            size_classes,
            threads: heap.threads.threads(),
            allocations_total,
            allocated_bytes_total: allocated_bytes_total + figures.large_bytes,
            frees_total: frees_total + figures.large_frees,
            refills_total: sum(|cache| cache.refills.get()),
            spills_total: sum(|cache| cache.spills.get()),
            os_calls_total: OsCalls {
                mmap: heap.metadata.map_calls() + heap.arena.is_reserved() as u64,
                mprotect: figures.mprotect_calls,
                madvise: figures.madvise_calls
                    + heap.uncached.zeroing_calls.load(Ordering::Relaxed),
                mremap: heap.uncached.remaps.load(Ordering::Relaxed),
                membarrier: heap.uncached.barriers.load(Ordering::Relaxed),
                clone: heap.ticker.starts.load(Ordering::Relaxed)
                    + heap.ticker.failures.load(Ordering::Relaxed),
            },
            slow_path_total: SlowPaths {
                uncached: heap.uncached.operations.load(Ordering::Relaxed),
                span_create: figures.spans_created,
                large_alloc: figures.large_allocations,
                arena_grow: figures.arena_grows,
            },
            foreign_frees_total: heap.uncached.foreign_frees.load(Ordering::Relaxed),
            snapshot_age_seconds: 0.0,
        }
    }
}

impl MemoryBytes {
    /// All classes together.
    pub fn sum(&self) -> u64 {
        let MemoryBytes { live, rounding, free_blocks, thread_cache, dirty, metadata } = *self;
        live + rounding + free_blocks + thread_cache + dirty + metadata
    }
}

impl<T: Copy> From<[T; 4]> for ByReason<T> {
    /// In the order of [`ReleaseReason::ALL`](crate::ReleaseReason::ALL).
    fn from(values: [T; 4]) -> ByReason<T> {
        let [small_page_retire, sub4k_run_retire, medium_run_reclaim, large_free] = values;
        ByReason { small_page_retire, sub4k_run_retire, medium_run_reclaim, large_free }
    }
}

impl ByReason<u64> {
    /// All reasons together.
    pub fn sum(&self) -> u64 {
        let ByReason { small_page_retire, sub4k_run_retire, medium_run_reclaim, large_free } =
            *self;
        small_page_retire + sub4k_run_retire + medium_run_reclaim + large_free
    }
}

/// The at-exit summary of a snapshot: two lines, through `Display`, without a newline at the end.
///
/// ```text
/// [slackwater] enq=… coalesce=… purged_pages=… madvise_calls=…
///   idle_ticks=… busy_ticks=… drop=…
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a>(pub &'a Snapshot);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0;
        write!(
            f,
            "[slackwater] enq={} coalesce={} purged_pages={} madvise_calls={}\n  \
             idle_ticks={} busy_ticks={} drop={}",
            s.release_enqueued_total.sum(),
            s.release_coalesced_total,
            s.release_purged_pages_total.sum(),
            s.release_madvise_calls_total,
            s.epoch_ticks_total.idle,
            s.epoch_ticks_total.busy,
            s.release_dropped_total,
        )
    }
}
