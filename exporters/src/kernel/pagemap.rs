//! Which pages of a process the kernel backs, and which it has swapped out.
//!
//! It says so in `/proc/PID/pagemap`: by its ioctl `PAGEMAP_SCAN` (Linux 6.7), which tells the shared page of
//! zeros from memory and huge pages from small ones, or else entry by entry, which does not. See the kernel's
//! Documentation/admin-guide/mm/pagemap.rst.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use slackwater::units::PAGE_BYTES;

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
    /// order, and whether it is one of huge pages. What is `expected` changes nothing but the cost, if all of it is
    /// mapped; what is not mapped may be among what is expected to be backed.
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

    /// Does the kernel list regions (`PAGEMAP_SCAN`)? Where it does not, entries are read.
    pub fn lists_regions(&self) -> bool {
        let query = ScanArgument {
            end: PAGE_BYTES as u64,
            category_mask: IS_PRESENT,
            return_mask: IS_PRESENT,
            ..ScanArgument::default()
        };
        self.list(query, &mut |_, _, _| {}).is_ok()
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
