//! Which pages of a heap the kernel backs, page by page, laid over what the allocator uses them for.
//!
//! The kernel's side comes from its page map ([`Pagemap`]), the allocator's from the records of its segments.

use std::io;
use std::ops::Range;
use std::path::Path;

use slackwater::remote::{self, Memory, Place, RemoteError, RemoteHeap, SegmentPages};
use slackwater::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_PAGES};

use crate::figures::stacks;
use crate::kernel::memory::ProcessMemoryReader;
pub use crate::kernel::pagemap::{Expected, Pagemap};
use crate::kernel::process::ProcessMemory;

/// Segments that are looked at together: 128 MiB.
const BATCH: usize = 64;

/// What the kernel backs of the heap's address range, by what the allocator uses it for. In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapResidency {
    /// Pages of spans.
    pub span_bytes: u64,
    /// Pages of large runs.
    pub large_bytes: u64,
    /// Free pages that wait for their purge.
    pub dirty_bytes: u64,
    /// Free pages that should hold nothing.
    pub unexplained_bytes: u64,
    /// The allocator's records: what is backed of those in the address range, and those outside it.
    pub record_bytes: u64,
    /// Pages of blocks that the profiler has put on pages of their own.
    pub sampled_bytes: u64,
    /// Of all these, what is backed by huge pages.
    pub huge_bytes: u64,
    /// Not backed any more, but swapped out: pages of spans and large runs.
    pub swapped_bytes: u64,
}

impl HeapResidency {
    /// Everything that is backed.
    pub fn resident_bytes(&self) -> u64 {
        self.span_bytes
            + self.large_bytes
            + self.dirty_bytes
            + self.unexplained_bytes
            + self.record_bytes
            + self.sampled_bytes
    }
}

/// What the kernel backs of this process's heap, and what it has swapped out where `process` says that
/// there is any; `None` where it does not say.
pub fn of_this_process(process: Option<&ProcessMemory>) -> Option<HeapResidency> {
    look_at_this_process(|memory, heap, pagemap| read_all(memory, heap, pagemap, process)).ok()
}

/// What is resident of the stacks of this process's threads; `None` where the kernel does not say. Costs a
/// look at each of its mappings, and 5 µs for each thread, of at most 256.
pub fn stacks_of_this_process() -> Option<u64> {
    let look = |memory: &ProcessMemoryReader, heap: &RemoteHeap, pagemap: &Pagemap| {
        let heap = stacks::heap_addresses(heap.place(memory)?.as_ref());
        let process = std::process::id();
        Ok(stacks::resident_bytes(Path::new("/proc/self"), process, &heap, pagemap))
    };
    look_at_this_process(look).ok().flatten()
}

/// Reads something of this process's heap.
///
/// # Errors
///
/// As `read` has them, and when `/proc` is not to be had.
pub fn look_at_this_process<T>(
    read: impl FnOnce(&ProcessMemoryReader, &RemoteHeap, &Pagemap) -> Result<T, ReadError>,
) -> Result<T, ReadError> {
    let memory = ProcessMemoryReader::own();
    let heap = RemoteHeap::open(&memory, remote::own_root())?;
    read(&memory, &heap, &Pagemap::open("/proc/self/pagemap")?)
}

/// What the kernel backs of a heap, and what it has swapped out where `process`, whose heap it is, says that
/// there is any.
///
/// # Errors
///
/// As [`read`].
pub(crate) fn read_all(
    memory: &impl Memory,
    heap: &RemoteHeap,
    pagemap: &Pagemap,
    process: Option<&ProcessMemory>,
) -> Result<HeapResidency, ReadError> {
    let mut found = read(memory, heap, pagemap)?;
    if let Some(most) = process.and_then(ProcessMemory::swapped) {
        found.swapped_bytes = swapped_bytes(memory, heap, pagemap)?.min(most);
    }
    Ok(found)
}

/// What the kernel backs of a heap. Costs a quarter to two milliseconds for each GiB in use.
///
/// # Errors
///
/// When the heap or the page map cannot be read.
pub fn read(
    memory: &impl Memory,
    heap: &RemoteHeap,
    pagemap: &Pagemap,
) -> Result<HeapResidency, ReadError> {
    let mut found = HeapResidency::default();
    let Some(place) = heap.place(memory)? else {
        return Ok(found);
    };
    let mut records = 0;
    // Of what is before the records of segments little is mapped. Of segments in use most are touched in full; those
    // of others are gone, and lie side by side.
    for (expected, start, end) in [
        (Expected::Absent, place.records, place.segment_records),
        (Expected::Backed, place.segment_records, place.records_end),
    ] {
        pagemap.scan(expected, start, end, &mut |start, end, is_huge| {
            records += end - start;
            found.huge_bytes += if is_huge { end - start } else { 0 };
        })?;
    }
    found.record_bytes = records + place.pool_bytes;
    // A slot has sixteen pages, of which a block mostly takes one.
    let (start, end) = (place.samples, place.samples_end());
    pagemap.scan(Expected::Absent, start, end, &mut |start, end, is_huge| {
        found.sampled_bytes += end - start;
        found.huge_bytes += if is_huge { end - start } else { 0 };
    })?;
    for first in (0..place.segments).step_by(BATCH) {
        let count = (place.segments - first).min(BATCH as u32);
        for segment in segments(memory, heap, pagemap, &place, first, count)? {
            found.huge_bytes += page_bytes(&segment.huge);
            let backed = |of: &[u64; 8]| page_bytes(&and(of, &segment.resident));
            found.span_bytes += backed(&segment.pages.span);
            found.large_bytes += backed(&segment.pages.large);
            found.dirty_bytes += backed(&segment.pages.dirty);
            found.unexplained_bytes += backed(&segment.pages.clean);
        }
    }
    Ok(found)
}

/// How much of a heap's spans and large runs is swapped out. Costs as much as [`read`], and is asked for
/// where a process has anything swapped out. Blocks that the profiler has put on pages of their own are
/// not looked at: between them are guards, which the kernel says are swapped out.
///
/// # Errors
///
/// As [`read`].
pub fn swapped_bytes(
    memory: &impl Memory,
    heap: &RemoteHeap,
    pagemap: &Pagemap,
) -> Result<u64, ReadError> {
    let Some(place) = heap.place(memory)? else { return Ok(0) };
    let mut ranges = Vec::new();
    pagemap.swapped(place.base, place.end(), &mut |from, to| ranges.push(from..to))?;
    let mut found = 0;
    for range in ranges {
        // Free pages may be swapped out, too: nobody wants them back.
        let segment = |address: u64| ((address - place.base) / SEGMENT_BYTES as u64) as u32;
        for number in segment(range.start)..=segment(range.end - 1) {
            let mut pages = [SegmentPages::default()];
            heap.pages(memory, &place, number, &mut pages)?;
            let start = place.base + number as u64 * SEGMENT_BYTES as u64;
            found += used_bytes(&pages[0], start, &range);
        }
    }
    Ok(found)
}

/// Bytes of spans and large runs in a range of a segment that begins at `start`.
fn used_bytes(pages: &SegmentPages, start: u64, range: &Range<u64>) -> u64 {
    let place = |address: u64| {
        let pages = address.saturating_sub(start) / PAGE_BYTES as u64;
        pages.min(SEGMENT_PAGES as u64) as usize
    };
    let mut wanted = [SegmentResidency::default()];
    set_pages(&mut wanted, place(range.start), place(range.end), false);
    let used: [u64; 8] = std::array::from_fn(|i| pages.span[i] | pages.large[i]);
    page_bytes(&and(&used, &wanted[0].resident))
}

/// A segment's 512 pages: what they are used for, and whether the kernel backs them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SegmentResidency {
    /// What the allocator says.
    pub pages: SegmentPages,
    /// One bit for each page that is backed.
    pub resident: [u64; 8],
    /// Of those, the ones in a huge page.
    pub huge: [u64; 8],
}

/// Reads `count` segments from `first` on.
///
/// # Errors
///
/// When they are not in use, or cannot be read.
pub fn segments(
    memory: &impl Memory,
    heap: &RemoteHeap,
    pagemap: &Pagemap,
    place: &Place,
    first: u32,
    count: u32,
) -> Result<Vec<SegmentResidency>, ReadError> {
    let mut pages = vec![SegmentPages::default(); count as usize];
    heap.pages(memory, place, first, &mut pages)?;
    let mut found: Vec<SegmentResidency> =
        pages.into_iter().map(|pages| SegmentResidency { pages, ..Default::default() }).collect();
    let mut address = place.base + first as u64 * SEGMENT_BYTES as u64;
    for segments in found.chunk_by_mut(|a, b| a.expected() == b.expected()) {
        let start = address;
        address += segments.len() as u64 * SEGMENT_BYTES as u64;
        pagemap.scan(segments[0].expected(), start, address, &mut |from, to, is_huge| {
            let page = |address: u64| ((address - start) / PAGE_BYTES as u64) as usize;
            set_pages(segments, page(from), page(to), is_huge);
        })?;
    }
    Ok(found)
}

impl SegmentResidency {
    /// What most of the segment's pages should be.
    fn expected(&self) -> Expected {
        let clean: u32 = self.pages.clean.iter().map(|word| word.count_ones()).sum();
        if clean > 256 { Expected::Absent } else { Expected::Backed }
    }
}

/// Marks pages as resident; `from` and `to` count from the first segment's first page on.
fn set_pages(segments: &mut [SegmentResidency], from: usize, to: usize, is_huge: bool) {
    let mut page = from;
    while page < to {
        let (segment, word, bit) = (page / 512, page % 512 / 64, page % 64);
        let count = (to - page).min(64 - bit);
        let bits = u64::MAX >> (64 - count) << bit;
        let segment = &mut segments[segment];
        segment.resident[word] |= bits;
        if is_huge {
            segment.huge[word] |= bits;
        }
        page += count;
    }
}

/// Why something of a heap could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The heap's own records could not be read.
    Heap(RemoteError),
    /// The kernel's page map could not be read.
    Pagemap(io::Error),
    /// The kernel's list of what is mapped where could not be read.
    Mappings(io::Error),
}

impl From<RemoteError> for ReadError {
    fn from(error: RemoteError) -> ReadError {
        ReadError::Heap(error)
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        ReadError::Pagemap(error)
    }
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Heap(error) => error.fmt(f),
            ReadError::Pagemap(error) => write!(f, "its page map cannot be read: {error}"),
            ReadError::Mappings(error) => write!(f, "its mappings cannot be read: {error}"),
        }
    }
}

impl std::error::Error for ReadError {}

fn and(a: &[u64; 8], b: &[u64; 8]) -> [u64; 8] {
    std::array::from_fn(|i| a[i] & b[i])
}

fn page_bytes(bits: &[u64; 8]) -> u64 {
    bits.iter().map(|word| word.count_ones() as u64).sum::<u64>() * PAGE_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_swapped_out_the_pages_in_use_count() {
        const PAGE: u64 = PAGE_BYTES as u64;
        let start = 0x7f00_0020_0000;
        let mut pages = SegmentPages::default();
        (pages.span[0], pages.large[7], pages.dirty[1]) = (0b1100, 1 << 63, u64::MAX);
        let of = |range: Range<u64>| used_bytes(&pages, start, &range) / PAGE;
        assert_eq!(of(start..start + SEGMENT_BYTES as u64), 3);
        assert_eq!(of(0..u64::MAX), 3, "only what is of this segment");
        assert_eq!(of(start + 3 * PAGE..start + 64 * PAGE), 1);
        assert_eq!(of(start + 64 * PAGE..start + 128 * PAGE), 0, "these are free");
        assert_eq!(of(start + SEGMENT_BYTES as u64..u64::MAX), 0);
    }

    /// A page that a thread may not touch looks swapped out to the kernel, and is not.
    #[test]
    fn nothing_of_this_heap_is_swapped_out_unless_the_kernel_says_so() {
        let of = |swapped_bytes| {
            let process = ProcessMemory { swapped_bytes, ..ProcessMemory::default() };
            of_this_process(Some(&process)).map(|found| found.swapped_bytes)
        };
        assert!(of(None).is_none_or(|bytes| bytes == 0));
        assert!(of(Some(0)).is_none_or(|bytes| bytes == 0));
        assert!(of(Some(4096)).is_none_or(|bytes| bytes <= 4096));
    }
}
