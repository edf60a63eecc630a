//! Why is RSS what it is: the allocator's books laid over the kernel's.
//!
//! The books say what pages are for; the kernel says which of them it backs. Every part here is
//! bounded by what the kernel backs, so the parts and [`Breakdown::unattributed`] add up to the
//! kernel's RSS, whatever the books say:
//!
//! ```text
//!  RSS = file + shmem + anon
//!  anon = other_anon + stacks + the heap's address range
//!  the heap's address range = live + rounding + free_blocks + thread_cache + dirty + metadata
//!                             + sampled + unattributed
//! ```
//!
//! Blocks that the program has not written to are live, but not resident: they are
//! [`Breakdown::untouched`], and no part of RSS. Nor is what is swapped out: [`Breakdown::swapped`].

use slackwater::snapshot::MemoryBytes;

pub use crate::figures::residency::HeapResidency;
use crate::kernel::process::ProcessMemory;

/// The parts of RSS, in bytes. They exclude each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakdown {
    /// What the program asked for, has not freed and has written to.
    pub live: u64,
    /// What its blocks have beyond that.
    pub rounding: u64,
    /// Free blocks on pages that hold live ones too, or will be looked at soon.
    pub free_blocks: u64,
    /// Free blocks in the caches of threads.
    pub thread_cache: u64,
    /// Free pages that wait for their purge.
    pub dirty: u64,
    /// The allocator's records.
    pub metadata: u64,
    /// Live blocks that the profiler has put on pages of their own, with these pages.
    pub sampled: u64,
    /// The stacks of threads; `None` where they cannot be told from [`Breakdown::other_anon`].
    pub stacks: Option<u64>,
    /// Other anonymous memory that is not the heap: mappings, the program's own variables.
    pub other_anon: u64,
    /// Mapped files: the program and its libraries.
    pub file: u64,
    /// Shared memory.
    pub shmem: u64,
    /// Pages of the heap's address range that the kernel backs and the books do not explain.
    pub unattributed: u64,
    /// Not a part of RSS: live memory that the kernel does not back, as nobody has written to it.
    pub untouched: u64,
    /// Not a part of RSS either: what the kernel has swapped out of the heap.
    pub swapped: u64,
}

/// One part of RSS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The value of the label `part` of `slackwater_rss_bytes`; [`UNATTRIBUTED`] has a family of its own.
    pub name: &'static str,
    /// How much of RSS it is.
    pub bytes: u64,
    /// What it is: one clause for the person who asks.
    pub meaning: &'static str,
}

/// The name of what is backed and in no book.
pub const UNATTRIBUTED: &str = "unattributed";

/// No part of a heap is larger; a process may say so of its own.
const MAX_PART: u64 = 1 << 57;

impl Breakdown {
    /// Lays the allocator's books over what the kernel backs.
    pub fn new(
        memory: &MemoryBytes,
        residency: &HeapResidency,
        process: &ProcessMemory,
    ) -> Breakdown {
        // Of the large runs the kernel says how much is backed; of spans the books know which pages
        // had a block handed out, and a block may be handed out and never written to.
        let [live, rounding, free_blocks, thread_cache] =
            [memory.live, memory.rounding, memory.free_blocks, memory.thread_cache]
                .map(|part| part.min(MAX_PART));
        let booked = live + rounding + free_blocks + thread_cache;
        // The pages were counted one after the other: some may be gone by the time of the sum.
        let gone = residency.resident_bytes().saturating_sub(process.anon_bytes);
        let backed = (residency.span_bytes + residency.large_bytes).saturating_sub(gone);
        // What was free when the records were read and is backed by now has been allocated since, as
        // far as the books have blocks for it.
        let dirty = memory.dirty.min(residency.dirty_bytes + residency.unexplained_bytes);
        let unexplained = residency.dirty_bytes + residency.unexplained_bytes - dirty;
        let allocated_since = unexplained.min(booked.saturating_sub(backed));
        let backed = backed + allocated_since;
        let mut left = booked.saturating_sub(backed);
        // What is swapped out was written to, and is mostly live.
        let swapped = left.min(residency.swapped_bytes);
        let swapped_live = swapped.min(live);
        let untouched_live = (left - swapped).min(live - swapped_live);
        left -= swapped_live + untouched_live;
        // What is not backed cannot be live, then not a free block, and so on.
        let mut less = |part: u64| {
            let taken = left.min(part);
            left -= taken;
            part - taken
        };
        let free_blocks = less(free_blocks);
        let rounding = less(rounding);
        let thread_cache = less(thread_cache);
        let unattributed = backed.saturating_sub(booked) + (unexplained - allocated_since);
        Breakdown {
            live: live - swapped_live - untouched_live,
            rounding,
            free_blocks,
            thread_cache,
            dirty,
            metadata: residency.record_bytes,
            sampled: residency.sampled_bytes,
            stacks: None,
            other_anon: process.anon_bytes.saturating_sub(residency.resident_bytes()),
            file: process.file_bytes,
            shmem: process.shmem_bytes,
            unattributed,
            untouched: untouched_live,
            swapped: residency.swapped_bytes,
        }
    }

    /// The same with what is resident of the threads' stacks told from other anonymous memory.
    pub fn with_stacks(self, stack_bytes: Option<u64>) -> Breakdown {
        let anonymous = self.other_anon + self.stacks.unwrap_or(0);
        // They are looked at some time after the kernel's sum, and may have grown.
        let stacks = stack_bytes.map(|bytes| bytes.min(anonymous));
        Breakdown { stacks, other_anon: anonymous - stacks.unwrap_or(0), ..self }
    }

    /// The parts of RSS, in the order in which they are told. They sum to it. The stacks are left out where they
    /// are not known.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        let Breakdown { live, rounding, free_blocks, thread_cache, dirty, metadata, .. } = *self;
        let Breakdown { sampled, stacks, other_anon, file, shmem, unattributed, .. } = *self;
        let part = |name, bytes, meaning| Some(Part { name, bytes, meaning });
        let other = match stacks {
            Some(_) => "not the heap: variables, the program's own mappings",
            None => "not the heap: stacks, variables, the program's own mappings",
        };
        let nowhere = "resident at the heap's addresses, and in none of its books";
        let parts = [
            part("live", live, "asked for by the program, not freed, and written to"),
            part("rounding", rounding, "what live blocks have beyond what was asked for"),
            part("free_blocks", free_blocks, "free blocks on pages that hold live ones too"),
            part("thread_cache", thread_cache, "free blocks kept at hand for each thread"),
            part("dirty", dirty, "free pages that wait to be given back"),
            part("metadata", metadata, "the allocator's own records"),
            part("sampled", sampled, "blocks that the profiler put on pages of their own"),
            stacks.and_then(|bytes| part("stacks", bytes, "the stacks of threads")),
            part("other_anon", other_anon, other),
            part("file", file, "mapped files: the program and its libraries"),
            part("shmem", shmem, "memory shared with other processes"),
            part(UNATTRIBUTED, unattributed, nowhere),
        ];
        parts.into_iter().flatten()
    }

    /// All parts of RSS together.
    pub fn sum(&self) -> u64 {
        self.parts().map(|part| part.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books() -> MemoryBytes {
        MemoryBytes {
            live: 1000,
            rounding: 100,
            free_blocks: 200,
            thread_cache: 50,
            dirty: 300,
            metadata: 70,
            sampled: 8,
        }
    }

    fn process(anon_bytes: u64) -> ProcessMemory {
        ProcessMemory { anon_bytes, file_bytes: 40, shmem_bytes: 4, ..ProcessMemory::default() }
    }

    fn residency(span: u64, large: u64, dirty: u64, unexplained: u64) -> HeapResidency {
        HeapResidency {
            span_bytes: span,
            large_bytes: large,
            dirty_bytes: dirty,
            unexplained_bytes: unexplained,
            record_bytes: 60,
            sampled_bytes: 8,
            ..HeapResidency::default()
        }
    }

    #[test]
    fn books_that_the_kernel_backs_are_the_breakdown() {
        let parts = Breakdown::new(&books(), &residency(900, 450, 300, 0), &process(2000));
        let expected = Breakdown {
            live: 1000,
            rounding: 100,
            free_blocks: 200,
            thread_cache: 50,
            dirty: 300,
            metadata: 60,
            sampled: 8,
            stacks: None,
            other_anon: 282,
            file: 40,
            shmem: 4,
            unattributed: 0,
            untouched: 0,
            swapped: 0,
        };
        assert_eq!(parts, expected);
        assert_eq!(parts.sum(), 2044);
    }

    #[test]
    fn stacks_are_a_part_of_their_own_where_they_are_known() {
        let parts = Breakdown::new(&books(), &residency(900, 450, 300, 0), &process(2000));
        let told = parts.with_stacks(Some(200));
        assert_eq!((told.stacks, told.other_anon, told.sum()), (Some(200), 82, 2044));
        // They grew after the sum was read.
        let told = told.with_stacks(Some(300));
        assert_eq!((told.stacks, told.other_anon, told.sum()), (Some(282), 0, 2044));
        assert_eq!(told.with_stacks(None), parts);
    }

    #[test]
    fn what_is_not_backed_is_untouched_and_no_part() {
        let parts = Breakdown::new(&books(), &residency(400, 50, 100, 0), &process(2000));
        assert_eq!((parts.live, parts.untouched), (100, 900));
        assert_eq!((parts.dirty, parts.unattributed, parts.sum()), (100, 0, 2044));
        // Less is backed than what is not live: that goes next.
        let parts = Breakdown::new(&books(), &residency(0, 120, 0, 0), &process(2000));
        assert_eq!((parts.live, parts.untouched, parts.free_blocks), (0, 1000, 0));
        assert_eq!((parts.rounding, parts.thread_cache, parts.sum()), (70, 50, 2044));
    }

    #[test]
    fn what_is_swapped_out_is_not_called_untouched() {
        let backed = residency(400, 50, 100, 0);
        let residency = HeapResidency { swapped_bytes: 700, ..backed };
        let parts = Breakdown::new(&books(), &residency, &process(2000));
        assert_eq!((parts.live, parts.swapped, parts.untouched), (100, 700, 200));
        assert_eq!((parts.free_blocks, parts.sum()), (200, 2044));
        // More is swapped out than is live: free blocks were on those pages, too.
        let backed = super::tests::residency(0, 250, 0, 0);
        let residency = HeapResidency { swapped_bytes: 1_100, ..backed };
        let parts = Breakdown::new(&books(), &residency, &process(2000));
        assert_eq!((parts.live, parts.untouched, parts.free_blocks), (0, 0, 100));
        assert_eq!(parts.sum(), 2044);
    }

    #[test]
    fn books_of_a_process_that_lies_add_up_as_well() {
        let all = u64::MAX;
        let books = MemoryBytes {
            live: all,
            rounding: all,
            free_blocks: all,
            thread_cache: all,
            dirty: all,
            metadata: all,
            sampled: all,
        };
        let parts = Breakdown::new(&books, &residency(900, 450, 300, 0), &process(2000));
        assert_eq!(parts.sum(), 2044, "{parts:?}");
    }

    #[test]
    fn what_is_backed_and_not_in_the_books_is_unattributed() {
        let parts = Breakdown::new(&books(), &residency(1000, 450, 340, 6), &process(2000));
        assert_eq!((parts.live, parts.dirty, parts.unattributed), (1000, 300, 146));
        assert_eq!(parts.sum(), 2044);
    }

    #[test]
    fn pages_that_moved_while_they_were_counted_are_counted_once() {
        // Free in the records, backed when the kernel was asked, and in the books.
        let parts = Breakdown::new(&books(), &residency(900, 350, 300, 100), &process(2000));
        assert_eq!((parts.live, parts.unattributed, parts.sum()), (1000, 0, 2044));
        // Gone by the time of the process's sum.
        let parts = Breakdown::new(&books(), &residency(900, 450, 300, 0), &process(1500));
        assert_eq!((parts.other_anon, parts.live, parts.sum()), (0, 782, 1544));
    }
}
