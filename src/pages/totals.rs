//! Totals that change under the page heap's lock, and can be read without it.
//!
//! One writer at a time (the lock's holder) uses plain loads and stores; readers take a copy and
//! look whether a writer was there meanwhile (a sequence lock), so that what belongs together, such
//! as pages enqueued and pages pending, is read together.

use core::array;

use crate::base::counter::Counter;
use crate::base::histogram::{BUCKETS, bucket_of};
use crate::geometry::size_class::CLASS_COUNT;
use crate::os::sequence::Sequence;
use crate::os::{Nanos, PurgeOutcome};

/// What is counted under the page heap's lock: as cells for the writer, as numbers for a reader.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct PageCounters<T> {
    /// Ranges accepted by the boundary, by reason.
    pub enqueued: [T; 4],
    /// Their pages that may be resident: what entered the ledger.
    pub enqueued_pages: T,
    /// Ranges that joined a pending one.
    pub coalesced: T,
    /// Pages given back, by reason.
    pub purged_pages: [T; 4],
    /// Calls, ranges and refusals of purges.
    pub madvise_calls: T,
    pub purge_ranges: T,
    pub errors: T,
    /// Dirty pages allocated again, and purged pages allocated again.
    pub reused_pages: T,
    pub refault_pages: T,
    /// Of the latter, those that came back a short while after their purge, by reason.
    pub soon_refaults: [T; 4],
    /// Pages given back inside spans in use.
    pub interior_pages: T,
    /// Dirty pages: the ledger's content.
    pub pending_pages: T,
    /// Pages that belong to spans and large runs.
    pub used_pages: T,
    /// Segments' records that take memory: those of segments that were used, and were not given back.
    pub records: T,
    /// Calls that gave records back.
    pub record_calls: T,
    /// Spans in use, by class.
    pub spans: [T; CLASS_COUNT],
    /// Spans created, ever.
    pub spans_created: T,
    /// Pages of spans that may be resident: those that were dirty when a span was created, and those
    /// that were when one was retired. What claims add is counted by the threads.
    pub span_pages_inherited: T,
    pub span_pages_retired: T,
    /// Pages of large runs in use.
    pub large_pages: T,
    /// Large blocks allocated, the bytes asked for and the pages given for them, and those freed,
    /// ever.
    pub large_allocations: T,
    pub large_bytes: T,
    pub large_pages_taken: T,
    pub large_frees: T,
    /// Extensions of the arena.
    pub arena_grows: T,
    /// Ticks, by decision.
    pub idle_ticks: T,
    pub busy_ticks: T,
    /// Purges (a batch of ranges, one system call or a few) by microseconds in the kernel and by pages.
    pub purge_micros: [T; BUCKETS],
    /// Nanoseconds of all purges in the kernel, and around it: claiming ranges and settling them. By
    /// reason, and last inside spans; a batch's time is divided by the pages it was for.
    pub kernel_nanos: [T; 5],
    pub purge_nanos: [T; 5],
    pub purge_batch_pages: [T; BUCKETS],
    pub purge_batch_pages_sum: T,
}

/// One batch of ranges that was handed to the kernel.
pub(crate) struct PurgedBatch {
    pub outcome: PurgeOutcome,
    pub ranges: u64,
    /// The pages it was for, by reason and last inside spans, and how many of them were given back.
    pub wanted: [u64; 5],
    pub pages: u64,
    /// From the first look at what is pending to the last range's settling, the kernel included.
    pub took: Nanos,
}

impl PageCounters<Counter> {
    /// Counts one purge. Within an update.
    pub fn count_purge(&self, batch: &PurgedBatch) {
        let kernel = batch.outcome.took;
        self.madvise_calls.add(batch.outcome.calls);
        self.purge_ranges.add(batch.ranges);
        self.errors.add(batch.outcome.refused.count_ones() as u64);
        self.purge_micros[bucket_of(kernel.0.div_ceil(1000))].add(1);
        self.purge_batch_pages[bucket_of(batch.pages)].add(1);
        self.purge_batch_pages_sum.add(batch.pages);
        for (figures, time) in
            [(&self.kernel_nanos, kernel), (&self.purge_nanos, batch.took.since(kernel))]
        {
            for (figure, share) in figures.iter().zip(shares(time.0, batch.wanted)) {
                figure.add(share);
            }
        }
    }
}

/// `whole` in shares that are to each other as `parts` are (which are not all 0), and that sum to it.
fn shares(whole: u64, parts: [u64; 5]) -> [u64; 5] {
    let all = parts.iter().sum::<u64>().max(1) as u128;
    let (mut seen, mut given) = (0, 0);
    parts.map(|part| {
        seen += part;
        let share = (whole as u128 * seen as u128 / all) as u64 - given;
        given += share;
        share
    })
}

const WORDS: usize = size_of::<PageCounters<u64>>() / 8;

/// The figures and their sequence.
///
/// # Invariants
/// `sequence` is odd exactly while a writer is between its first and last store.
#[repr(C)]
pub(crate) struct Totals {
    pub sequence: Sequence,
    figures: PageCounters<Counter>,
}

impl Totals {
    pub const fn new() -> Totals {
        // SAFETY: `PageCounters<Counter>` is nothing but 64-bit integers; zero is a value of each.
        Totals { sequence: Sequence::new(), figures: unsafe { core::mem::zeroed() } }
    }

    /// Changes figures that belong together. Only with the page heap's lock held; not nested.
    #[inline]
    pub fn update(&self, change: impl FnOnce(&PageCounters<Counter>)) {
        self.sequence.write(|| change(&self.figures));
    }

    /// The figures, for the lock's holder.
    pub fn figures(&self) -> &PageCounters<Counter> {
        &self.figures
    }

    /// A consistent copy.
    pub fn read(&self) -> PageCounters<u64> {
        self.sequence.read(|| self.read_unlocked())
    }

    /// The figures as they are, one after the other: whole only in a copy.
    pub fn read_unlocked(&self) -> PageCounters<u64> {
        let first = (&raw const self.figures).cast::<Counter>();
        let words: [u64; WORDS] = array::from_fn(|i| {
            // SAFETY: `PageCounters<Counter>` is `WORDS` cells in a row.
            let cell = unsafe { first.add(i) };
            // SAFETY: as above.
            unsafe { &*cell }.get()
        });
        // SAFETY: `PageCounters<u64>` is `WORDS` integers in a row, in the order of the cells.
        unsafe { core::mem::transmute::<[u64; WORDS], PageCounters<u64>>(words) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn an_update_changes_what_it_names_and_nothing_else() {
        let totals = Totals::new();
        totals.update(|figures| {
            figures.enqueued[3].add(5);
            figures.pending_pages.add(9);
            figures.pending_pages.subtract(2);
            figures.busy_ticks.add(1);
        });
        let read = totals.read();
        assert_eq!((read.enqueued, read.pending_pages, read.busy_ticks), ([0, 0, 0, 5], 7, 1));
        assert_eq!(read.spans, [0; CLASS_COUNT]);
        assert_eq!((read.coalesced, read.idle_ticks), (0, 0));
        assert_eq!(totals.figures().pending_pages.get(), 7);
    }

    #[test]
    fn shares_sum_to_the_whole() {
        assert_eq!(shares(1000, [1, 0, 2, 1, 0]), [250, 0, 500, 250, 0]);
        assert_eq!(shares(7, [0, 0, 0, 0, 3]), [0, 0, 0, 0, 7]);
        for whole in [0, 1, 2, 3, 999, u64::MAX] {
            for parts in [[1, 1, 1, 0, 0], [0, 5, 7, 11, 13], [1 << 40, 1, 0, 1 << 40, 3]] {
                let shares = shares(whole, parts);
                assert_eq!(shares.iter().sum::<u64>(), whole, "{whole} {parts:?}");
                assert!(shares.iter().zip(parts).all(|(&share, part)| part > 0 || share == 0));
            }
        }
    }

    /// Figures that a writer always changes together are never read apart: the first and the last
    /// of the struct, one that goes up and down, and their sums.
    #[test]
    fn a_reader_beside_a_writer_sees_whole_updates() {
        let totals = Totals::new();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0.. {
                    totals.update(|figures| {
                        figures.enqueued[0].add(1);
                        figures.enqueued_pages.add(3);
                        figures.pending_pages.add(3);
                        figures.spans[20].add(1);
                        figures.busy_ticks.add(1);
                    });
                    totals.update(|figures| {
                        figures.pending_pages.subtract(3);
                        figures.purged_pages[i % 4].add(3);
                    });
                    // Without a pause now and then a reader would never get through. Where processors are
                    // scarce, to yield is none.
                    if i % 8 == 0 {
                        std::thread::sleep(std::time::Duration::from_micros(20));
                    }
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let mut last = 0;
            // Enough reads, of which enough saw something new.
            let mut missing = (5000, 50);
            while missing != (0, 0) {
                let read = totals.read();
                let updates = read.enqueued[0];
                let whole = (read.busy_ticks, read.spans[20]) == (updates, updates)
                    && read.enqueued_pages == 3 * updates
                    && read.purged_pages.iter().sum::<u64>() + read.pending_pages == 3 * updates;
                if !whole || updates < last {
                    done.store(true, Ordering::Relaxed);
                    panic!("torn, or back in time: {read:?}");
                }
                missing.0 -= (missing.0 > 0) as u32;
                missing.1 -= (missing.1 > 0 && updates > last) as u32;
                last = updates;
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
