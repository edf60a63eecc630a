//! What the allocator knows about itself, as one owned plain struct.
//!
//! Field names are the metric names of the exporters (without the `slackwater_` prefix), so that a
//! dashboard's query, a field here and a counter in the allocator are one word.

pub use crate::release::GateState;
use core::fmt;

pub use crate::base::histogram::Histogram;
use crate::base::units::{PAGE_BYTES, SEGMENT_BYTES, SPAN_BYTES};
use crate::figures::raw_counters::RawCounters;
use crate::geometry::size_class::{CLASS_COUNT, Kind, SizeClass};
use crate::heap::Heap;
use crate::os::Os;
use crate::pages::totals::PageCounters;
use crate::release::Release;

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

/// One value for each kind of page that is given back: by the reason of its release, or by where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByPurge<T> {
    /// A span of `small` blocks (16 B to 2 KiB) was retired.
    pub small_page_retire: T,
    /// A span of `sub4k` blocks (above 2 KiB, to 4 KiB) was retired.
    pub sub4k_run_retire: T,
    /// A span of `medium` blocks (above 4 KiB, to 32 KiB) was retired.
    pub medium_run_reclaim: T,
    /// A `large` page run was freed or trimmed.
    pub large_free: T,
    /// Inside a span in use, on pages without a live block.
    pub span_interior: T,
}

impl ByPurge<u64> {
    /// All together.
    pub fn sum(&self) -> u64 {
        let ByPurge { small_page_retire, sub4k_run_retire, .. } = *self;
        let ByPurge { medium_run_reclaim, large_free, span_interior, .. } = *self;
        [small_page_retire, sub4k_run_retire, medium_run_reclaim, large_free, span_interior]
            .iter()
            .fold(0, |sum, pages| sum.saturating_add(*pages))
    }
}

/// The time that threads spent on giving memory back, in seconds. The parts exclude each other: their
/// sum is all of it, on whatever thread (the ticker, its assistant, or one of the program's own).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReleaseSeconds {
    /// Ticks, without what is below: looking at caches, operations and limits, and deciding.
    pub tick: f64,
    /// Flushing idle bins: one's own, and those of caches taken over.
    pub takeover: f64,
    /// Purges, without the kernel's part: claiming ranges of pages and settling them afterwards. A
    /// batch's time is divided among its kinds of pages as the pages are.
    pub purge: ByPurge<f64>,
    /// The kernel's part of purges, divided likewise; the sum is that of `purge_duration_seconds`.
    pub kernel: ByPurge<f64>,
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
    /// The allocator's own records: those of the segments in use, of thread caches and of samples.
    pub metadata: u64,
    /// Pages of blocks that the profiler has put on pages of their own.
    pub sampled: u64,
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
    /// Its idle bins were flushed.
    pub taken: u64,
    /// Its thread was inside malloc just then: another time.
    pub busy: u64,
    /// The kernel has no `membarrier` for us: caches stay as they are until their threads move.
    pub unavailable: u64,
}

/// System calls made by the allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OsCalls {
    /// `mmap`, and `munmap` of what was too much or has no use: the heap grows, the allocator's own records, and fresh
    /// pages in the place of altered ones.
    pub mmap: u64,
    /// `madvise`, and `process_madvise` on ourselves: purges.
    pub madvise: u64,
    /// `mremap`: very large reallocations that move pages, not bytes.
    pub mremap: u64,
    /// `membarrier`: caches are taken over, or the ticker ends.
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
/// threads and the heap's totals; it allocates nothing and takes no lock that
/// `malloc` or `free` takes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Ranges accepted by the release boundary.
    pub release_enqueued_total: ByReason<u64>,
    /// Of those, the ones that joined a range already pending.
    pub release_coalesced_total: u64,
    /// Pages given back to the system (of 4 KiB).
    pub release_purged_pages_total: ByPurge<u64>,
    /// The same in bytes.
    pub release_purged_bytes_total: u64,
    /// System calls made to give pages back; those for the allocator's own records are in
    /// [`os_calls_total`](Snapshot::os_calls_total) alone.
    pub release_madvise_calls_total: u64,
    /// Ranges handed to those calls.
    pub release_purge_ranges_total: u64,
    /// Pages that entered the ledger and neither left it nor are still there: 0 by design, and
    /// counted from both ends so that a flaw would show.
    pub release_dropped_total: u64,
    /// Free pages taken back into use before their purge.
    pub release_reused_pages_total: u64,
    /// Pages allocated again after their purge: each costs a page fault. Of a segment that was left for so
    /// long that its record went, too, every page counts as purged, also one that was never used.
    pub release_refault_pages_total: u64,
    /// Purges the kernel refused.
    pub release_errors_total: u64,
    /// Free pages waiting for their purge, in bytes.
    pub release_pending_bytes: u64,
    /// For how long the oldest of those have been waiting, in seconds.
    pub release_oldest_age_seconds: f64,
    /// Purges (each one batch of ranges, most often one system call) by how long they took, in
    /// seconds.
    pub purge_duration_seconds: Histogram,
    /// The same purges by how many pages they gave back.
    pub purge_batch_pages: Histogram,
    /// Where the time went that was spent on giving memory back, in seconds.
    pub release_seconds_total: ReleaseSeconds,
    /// Attempts to take over the cache of another thread whose blocks rest, by result.
    pub takeovers_total: Takeovers,
    /// Ticks by gate decision.
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
    /// Frees and resizes of foreign blocks, which the next allocator made, if there is one.
    pub foreign_frees_total: u64,
    /// Allocations that got no memory: null, and `ENOMEM` in C.
    pub allocation_failures_total: u64,
    /// Allocations that the profiler has remembered.
    pub profile_samples_total: u64,
    /// Those that it could not remember, or without their call stack: its tables were full, the system
    /// had no memory for it, or a signal handler interrupted it.
    pub profile_dropped_total: u64,
    /// The mean distance of these allocations now, in allocated bytes; 0 if none are remembered.
    pub profile_rate_bytes: u64,
}

/// Sums saturate: figures may have been read from another process, which may hold anything.
fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 * 1e-9
}

/// `part` of `whole`, scaled to `of`.
fn scaled(of: u64, part: u64, whole: u64) -> u64 {
    if whole == 0 { of } else { (of as u128 * part.min(whole) as u128 / whole as u128) as u64 }
}

impl Snapshot {
    pub(crate) fn take(heap: &Heap, release: &Release, os: &impl Os) -> Snapshot {
        Snapshot::new(&RawCounters::of(heap, release, os.now()))
    }

    /// The figures that follow from what was read.
    pub(crate) fn new(read: &RawCounters) -> Snapshot {
        let figures = &read.figures;
        let (sums, uncached) = (&read.caches, &read.uncached);
        let blocks = Blocks::of(read);
        let memory = memory_bytes(read, &blocks);
        let [small, sub4k, medium, large] = figures.purged_pages;
        let purged_pages = ByPurge::from([small, sub4k, medium, large, figures.interior_pages]);
        let oldest_age = match figures.pending_pages {
            0 => 0.0,
            _ => read.now.since(read.oldest).0 as f64 / 1e9,
        };
        Snapshot {
            release_enqueued_total: ByReason::from(figures.enqueued),
            release_coalesced_total: figures.coalesced,
            release_purged_pages_total: purged_pages,
            release_purged_bytes_total: purged_pages.sum().saturating_mul(PAGE_BYTES as u64),
            release_madvise_calls_total: figures.madvise_calls,
            release_purge_ranges_total: figures.purge_ranges,
            release_dropped_total: dropped_pages(figures, purged_pages),
            release_reused_pages_total: figures.reused_pages,
            release_refault_pages_total: figures
                .refault_pages
                .saturating_add(sums.interior_refaults),
            release_errors_total: figures.errors,
            release_pending_bytes: memory.dirty,
            release_oldest_age_seconds: oldest_age,
            purge_duration_seconds: purge_durations(figures),
            purge_batch_pages: Histogram::new(
                figures.purge_batch_pages,
                1.0,
                figures.purge_batch_pages_sum as f64,
            ),
            release_seconds_total: release_seconds(read),
            takeovers_total: Takeovers {
                taken: uncached.takeovers_taken,
                busy: uncached.takeovers_busy,
                unavailable: uncached.takeovers_unavailable,
            },
            epoch_ticks_total: ByGate { idle: figures.idle_ticks, busy: figures.busy_ticks },
            gate_state: read.gate_state,
            memory_bytes: memory,
            mapped_bytes: read.segments_mapped as u64 * SEGMENT_BYTES as u64,
            resident_bytes: memory.sum(),
            size_classes: blocks.size_classes,
            threads: read.threads,
            allocations_total: blocks.allocations,
            allocated_bytes_total: blocks.allocated_bytes.saturating_add(figures.large_bytes),
            // Live blocks in slots are in no class's count of live blocks.
            frees_total: blocks
                .frees
                .saturating_sub(read.sampling.live_blocks)
                .saturating_add(figures.large_frees),
            refills_total: sums.refills,
            spills_total: sums.spills,
            os_calls_total: os_calls(read),
            slow_path_total: SlowPaths {
                uncached: uncached.operations,
                span_create: figures.spans_created,
                large_alloc: figures.large_allocations,
                arena_grow: figures.arena_grows,
            },
            foreign_frees_total: uncached.foreign_frees,
            allocation_failures_total: uncached.allocation_failures,
            profile_samples_total: read.sampling.samples,
            profile_dropped_total: read.sampling.dropped,
            profile_rate_bytes: read.sampling.rate,
        }
    }
}

/// What the blocks of all size classes come to.
struct Blocks {
    size_classes: [SizeClassBytes; CLASS_COUNT],
    /// Bytes that were asked for of the live blocks, what they are rounded up by, and both together.
    requested_bytes: u64,
    rounding_bytes: u64,
    live_bytes: u64,
    /// Bytes of free blocks in bins.
    cached_bytes: u64,
    /// Allocations, of large blocks too; bytes asked for and frees, of those without.
    allocations: ByKind<u64>,
    allocated_bytes: u64,
    frees: u64,
}

impl Blocks {
    fn of(read: &RawCounters) -> Blocks {
        let mut blocks = Blocks {
            size_classes: [SizeClassBytes::default(); CLASS_COUNT],
            requested_bytes: 0,
            rounding_bytes: 0,
            live_bytes: 0,
            cached_bytes: 0,
            allocations: ByKind { large: read.figures.large_allocations, ..ByKind::default() },
            allocated_bytes: 0,
            frees: 0,
        };
        for class in SizeClass::all() {
            blocks.add(read, class);
        }
        blocks
    }

    fn add(&mut self, read: &RawCounters, class: SizeClass) {
        let of_class = &read.caches.classes[class.index()];
        let block_bytes = class.block_bytes().get() as u64;
        let live_bytes = of_class.live_blocks().saturating_mul(block_bytes);
        let asked_at_most = of_class.allocations.saturating_mul(block_bytes);
        let requested = scaled(live_bytes, of_class.bytes, asked_at_most);
        add(&mut self.live_bytes, live_bytes);
        add(&mut self.requested_bytes, requested);
        add(&mut self.rounding_bytes, live_bytes - requested);
        add(&mut self.cached_bytes, of_class.in_bins.saturating_mul(block_bytes));
        self.size_classes[class.index()] = SizeClassBytes {
            block_bytes,
            live_bytes,
            span_bytes: read.figures.spans[class.index()].saturating_mul(SPAN_BYTES as u64),
        };
        let of_kind = match class.kind() {
            Kind::Small => &mut self.allocations.small,
            Kind::Sub4k => &mut self.allocations.sub4k,
            Kind::Medium | Kind::Large => &mut self.allocations.medium,
        };
        add(of_kind, of_class.allocations);
        add(&mut self.allocated_bytes, of_class.bytes);
        add(&mut self.frees, of_class.allocations.saturating_sub(of_class.live_blocks()));
    }
}

/// Where the heap's bytes are.
fn memory_bytes(read: &RawCounters, blocks: &Blocks) -> MemoryBytes {
    let page = PAGE_BYTES as u64;
    let figures = &read.figures;
    let large_bytes = figures.large_pages.saturating_mul(page);
    let large_taken = figures.large_pages_taken.saturating_mul(page);
    let large_live = scaled(large_bytes, figures.large_bytes, large_taken);
    let span_pages = figures.span_pages_inherited.saturating_add(read.caches.resident_gained);
    MemoryBytes {
        live: blocks.requested_bytes.saturating_add(large_live),
        rounding: blocks.rounding_bytes.saturating_add(large_bytes - large_live),
        thread_cache: blocks.cached_bytes,
        free_blocks: span_pages
            .saturating_sub(figures.span_pages_retired)
            .saturating_mul(page)
            .saturating_sub(blocks.live_bytes)
            .saturating_sub(blocks.cached_bytes),
        dirty: figures.pending_pages.saturating_mul(page),
        metadata: read.metadata_bytes,
        sampled: read.sampling.live_pages.saturating_mul(page),
    }
}

/// Pages that entered the ledger and did not leave it in any way that is known.
fn dropped_pages(figures: &PageCounters<u64>, purged: ByPurge<u64>) -> u64 {
    let left = [purged.sum(), figures.reused_pages, figures.pending_pages]
        .iter()
        .fold(0u64, |sum, pages| sum.saturating_add(*pages))
        .saturating_sub(figures.interior_pages);
    figures.enqueued_pages.saturating_sub(left)
}

fn purge_durations(figures: &PageCounters<u64>) -> Histogram {
    let nanos = figures.kernel_nanos.iter().fold(0u64, |sum, nanos| sum.saturating_add(*nanos));
    Histogram::new(figures.purge_micros, 1e-6, seconds(nanos))
}

fn release_seconds(read: &RawCounters) -> ReleaseSeconds {
    ReleaseSeconds {
        tick: seconds(read.uncached.tick_nanos),
        takeover: seconds(read.uncached.takeover_nanos),
        purge: ByPurge::from(read.figures.purge_nanos.map(seconds)),
        kernel: ByPurge::from(read.figures.kernel_nanos.map(seconds)),
    }
}

fn os_calls(read: &RawCounters) -> OsCalls {
    let (figures, uncached) = (&read.figures, &read.uncached);
    OsCalls {
        mmap: read.metadata_map_calls.saturating_add(read.arena_map_calls.into()),
        madvise: figures
            .madvise_calls
            .saturating_add(figures.record_calls)
            .saturating_add(uncached.zeroing_calls),
        mremap: uncached.remaps,
        membarrier: uncached.barriers,
        clone: read.clone_calls,
    }
}

impl MemoryBytes {
    /// All classes together.
    pub fn sum(&self) -> u64 {
        let MemoryBytes { live, rounding, free_blocks, thread_cache, .. } = *self;
        let MemoryBytes { dirty, metadata, sampled, .. } = *self;
        [live, rounding, free_blocks, thread_cache, dirty, metadata, sampled]
            .iter()
            .fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }
}

impl<T: Copy> From<[T; 4]> for ByReason<T> {
    /// In the order of [`ReleaseReason::ALL`](crate::ReleaseReason::ALL).
    fn from(values: [T; 4]) -> ByReason<T> {
        let [small_page_retire, sub4k_run_retire, medium_run_reclaim, large_free] = values;
        ByReason { small_page_retire, sub4k_run_retire, medium_run_reclaim, large_free }
    }
}

impl<T: Copy> From<[T; 5]> for ByPurge<T> {
    /// In the order of [`ReleaseReason::ALL`](crate::ReleaseReason::ALL), and last what is inside spans.
    fn from(values: [T; 5]) -> ByPurge<T> {
        let [small_page_retire, sub4k_run_retire, medium_run_reclaim, large_free, span_interior] =
            values;
        ByPurge {
            small_page_retire,
            sub4k_run_retire,
            medium_run_reclaim,
            large_free,
            span_interior,
        }
    }
}

impl ByReason<u64> {
    /// All reasons together.
    pub fn sum(&self) -> u64 {
        let ByReason { small_page_retire, sub4k_run_retire, medium_run_reclaim, large_free } =
            *self;
        [small_page_retire, sub4k_run_retire, medium_run_reclaim, large_free]
            .iter()
            .fold(0, |sum, ranges| sum.saturating_add(*ranges))
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
