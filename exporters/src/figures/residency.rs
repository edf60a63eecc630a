//! Which pages of a heap the kernel backs, page by page, laid over what the allocator uses them for.
//!
//! The kernel's side comes from `/proc/PID/pagemap`: by its ioctl `PAGEMAP_SCAN` (Linux 6.7), which
//! tells the shared page of zeros from memory and huge pages from small ones, or else entry by entry,
//! which does not. See the kernel's Documentation/admin-guide/mm/pagemap.rst.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use slackwater::remote::{self, Memory, Place, RemoteError, RemoteHeap, SegmentPages};
use slackwater::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_PAGES};

use crate::figures::breakdown::HeapResidency;
use crate::figures::stacks;
use crate::kernel::memory::ProcessMemoryReader;
use crate::kernel::process::ProcessMemory;

/// Segments that are looked at together: 128 MiB.
const BATCH: usize = 64;

/// What the kernel backs of this process's heap, and what it has swapped out where `process` says that
/// there is any; `None` where it does not say.
pub fn of_this_process(process: Option<&ProcessMemory>) -> Option<HeapResidency> {
    let look = |memory: &ProcessMemoryReader, heap: &RemoteHeap, pagemap: &Pagemap| {
        let mut found = read(memory, heap, pagemap)?;
        if let Some(most) = process.and_then(ProcessMemory::swapped) {
            found.swapped_bytes = swapped_bytes(memory, heap, pagemap)?.min(most);
        }
        Ok(found)
    };
    look_at_this_process(look).ok()
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
    // Records of pages, segments and spans. Of segments in use most are touched in full; those of others are
    // gone, and lie side by side.
    let (start, end) = (place.records, place.records_end);
    pagemap.scan(Expected::Backed, start, end, &mut |start, end, is_huge| {
        records += end - start;
        found.huge_bytes += if is_huge { end - start } else { 0 };
    })?;
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

/// A process's page map.
#[derive(Debug)]
pub struct Pagemap(File);

/// The argument of `PAGEMAP_SCAN` (`struct pm_scan_arg`).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    region_count: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// What it answers with (`struct page_region`).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`; libc does not have it.
const PAGEMAP_SCAN: libc::c_ulong = 3 << 30
    | (size_of::<ScanArgument>() as libc::c_ulong) << 16
    | (b'f' as libc::c_ulong) << 8
    | 16;

/// What most pages of a range are expected to be. The kernel lists the others, which costs it 10 ns a
/// page; passing over a page costs 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Backed.
    Backed,
    /// Not backed.
    Absent,
}

const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_ZERO_PAGE: u64 = 1 << 5;
const IS_HUGE: u64 = 1 << 6;

/// Bits of an entry, read where there is no ioctl.
const ENTRY_IS_PRESENT: u64 = 1 << 63;
const ENTRY_IS_SWAPPED: u64 = 1 << 62;

/// Regions or entries that one call returns.
const PER_CALL: usize = 512;

impl Pagemap {
    /// Opens `/proc/PID/pagemap`.
    ///
    /// # Errors
    ///
    /// The kernel's: the same right is needed as for reading the process's memory.
    pub fn open(path: &str) -> io::Result<Pagemap> {
        Ok(Pagemap(File::open(path)?))
    }

    /// Calls `visit` with the start and end of each backed range between `start` and `end`, in
    /// order, and whether it is one of huge pages. What is `expected` changes nothing but the cost.
    ///
    /// # Errors
    ///
    /// When the kernel refuses both ways.
    pub fn scan(
        &self,
        expected: Expected,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(u64, u64, bool),
    ) -> io::Result<()> {
        let outcome = match expected {
            Expected::Absent => self.scan_backed(start, end, visit),
            Expected::Backed => self.scan_absent(start, end, visit),
        };
        match outcome {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                self.scan_entries(ENTRY_IS_PRESENT, start, end, &mut |from, to| {
                    visit(from, to, false);
                })
            }
            outcome => outcome,
        }
    }

    /// Calls `visit` with the start and end of each range between `start` and `end` that is swapped out,
    /// in order.
    ///
    /// # Errors
    ///
    /// When the kernel refuses both ways.
    pub fn swapped(&self, start: u64, end: u64, visit: &mut dyn FnMut(u64, u64)) -> io::Result<()> {
        let query = ScanArgument {
            start,
            end,
            category_mask: IS_SWAPPED,
            return_mask: IS_SWAPPED,
            ..ScanArgument::default()
        };
        match self.list(query, &mut |from, to, _| visit(from, to)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                self.scan_entries(ENTRY_IS_SWAPPED, start, end, visit)
            }
            outcome => outcome,
        }
    }

    /// Has the kernel list what is backed.
    fn scan_backed(
        &self,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(u64, u64, bool),
    ) -> io::Result<()> {
        let query = ScanArgument {
            start,
            end,
            category_inverted: IS_ZERO_PAGE,
            category_mask: IS_PRESENT | IS_ZERO_PAGE,
            return_mask: IS_HUGE,
            ..ScanArgument::default()
        };
        self.list(query, &mut |from, to, categories| visit(from, to, categories & IS_HUGE != 0))
    }

    /// Has the kernel list what is not backed, and huge pages; the rest is backed by small ones.
    fn scan_absent(
        &self,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(u64, u64, bool),
    ) -> io::Result<()> {
        let query = ScanArgument {
            start,
            end,
            category_inverted: IS_PRESENT,
            category_anyof_mask: IS_PRESENT | IS_ZERO_PAGE | IS_HUGE,
            return_mask: IS_PRESENT | IS_ZERO_PAGE | IS_HUGE,
            ..ScanArgument::default()
        };
        let mut listed_until = start;
        self.list(query, &mut |from, to, categories| {
            if listed_until < from {
                visit(listed_until, from, false);
            }
            listed_until = to;
            if categories == IS_PRESENT | IS_HUGE {
                visit(from, to, true);
            }
        })?;
        if listed_until < end {
            visit(listed_until, end, false);
        }
        Ok(())
    }

    /// Calls `each` with the start, the end and the categories of each region that `query` finds, in
    /// order. They do not overlap.
    fn list(&self, query: ScanArgument, each: &mut dyn FnMut(u64, u64, u64)) -> io::Result<()> {
        let mut regions = [Region::default(); PER_CALL];
        let mut from = query.start;
        while from < query.end {
            let mut argument = ScanArgument {
                size: size_of::<ScanArgument>() as u64,
                start: from,
                regions: regions.as_mut_ptr().addr() as u64,
                region_count: PER_CALL as u64,
                ..query
            };
            // SAFETY: the argument has the size that it says, and so have the regions it points to.
            let found = unsafe { libc::ioctl(self.0.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
            let Ok(found) = usize::try_from(found) else {
                return Err(io::Error::last_os_error());
            };
            for region in &regions[..found.min(PER_CALL)] {
                // A region may be told again from where the walk is taken up.
                let first = region.start.max(from);
                if first < region.end {
                    each(first, region.end.min(query.end), region.categories);
                    from = region.end;
                }
            }
            if argument.walk_end >= query.end || found == 0 {
                return Ok(());
            }
            from = from.max(argument.walk_end);
        }
        Ok(())
    }

    /// Reads entry by entry, and visits the pages of whose entries a bit is set.
    fn scan_entries(
        &self,
        bit: u64,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(u64, u64),
    ) -> io::Result<()> {
        let mut bytes = [0; PER_CALL * 8];
        let mut page = start / PAGE_BYTES as u64;
        let end = end / PAGE_BYTES as u64;
        while page < end {
            let want = (end - page).min(PER_CALL as u64) as usize * 8;
            self.0.read_exact_at(&mut bytes[..want], page * 8)?;
            for entry in bytes[..want].chunks_exact(8) {
                let entry = u64::from_le_bytes(std::array::from_fn(|i| entry[i]));
                if entry & bit != 0 {
                    visit(page * PAGE_BYTES as u64, (page + 1) * PAGE_BYTES as u64);
                }
                page += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mapping of 1,500 pages of which every third has been written to, and one only been read.
    fn sparse() -> (u64, u64, Vec<u64>) {
        let bytes = 1500 * PAGE_BYTES;
        // SAFETY: a new mapping, which is left to the end of the process.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: the whole mapping is ours.
        unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
        let written: Vec<u64> = (0..1500).filter(|page| page % 3 == 1).collect();
        for &page in &written {
            let byte = start.cast::<u8>().wrapping_add(page as usize * PAGE_BYTES);
            // SAFETY: inside the mapping.
            unsafe { byte.write_volatile(1) };
        }
        // SAFETY: inside the mapping. The kernel backs this page with the shared one of zeros.
        unsafe { start.cast::<u8>().read_volatile() };
        (start.addr() as u64, bytes as u64, written)
    }

    fn pages(
        scan: impl Fn(&mut dyn FnMut(u64, u64, bool)) -> io::Result<()>,
        start: u64,
    ) -> io::Result<Vec<u64>> {
        let mut pages = Vec::new();
        scan(&mut |from, to, _| {
            pages.extend((from - start) / PAGE_BYTES as u64..(to - start) / PAGE_BYTES as u64);
        })?;
        Ok(pages)
    }

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

    #[test]
    fn all_ways_find_the_pages_that_are_backed() {
        let (start, bytes, written) = sparse();
        let pagemap = Pagemap::open("/proc/self/pagemap").expect("Linux has it");
        let end = start + bytes;
        for found in [
            pages(|visit| pagemap.scan_backed(start, end, visit), start),
            pages(|visit| pagemap.scan_absent(start, end, visit), start),
        ] {
            match found {
                Ok(found) => assert_eq!(found, written),
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOTTY), "{error}"),
            }
        }
        let entries = |visit: &mut dyn FnMut(u64, u64, bool)| {
            pagemap
                .scan_entries(ENTRY_IS_PRESENT, start, end, &mut |from, to| visit(from, to, false))
        };
        let found = pages(entries, start);
        let found: Vec<u64> = found.expect("readable").into_iter().filter(|&p| p != 0).collect();
        assert_eq!(found, written);
    }
}
