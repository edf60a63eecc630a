//! Ranges given back to the kernel: on the program's threads by a call for each, which every malloc makes; on our own
//! many in one call, where the kernel can.

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};

use super::files::close;
use super::memory::{forbid_huge_pages, map_metadata, unmap};
use super::raw::system_call;
use super::system::{AddressRange, PURGE_BATCH, PurgeOutcome};
use super::threads::process;
use super::{report, seccomp};
use crate::base::units::PAGE_BYTES;

/// How [`purge_together`] reaches the kernel; found out once.
static PURGE_BY: AtomicU32 = AtomicU32::new(PURGE_BY_UNKNOWN);

const PURGE_BY_UNKNOWN: u32 = 0;

/// `process_madvise(PIDFD_SELF, …)`: Linux 6.14 and later.
const PURGE_BY_SELF: u32 = 1;

/// `process_madvise` on a pidfd of ourselves: Linux 6.13.
const PURGE_BY_PIDFD: u32 = 2;

/// `madvise`, a call for each range.
const PURGE_BY_MADVISE: u32 = 3;

/// "This process", where a pidfd is expected (`linux/pidfd.h`); not in libc yet.
const PIDFD_SELF: c_int = -10_000;

/// The advice by which pages are given back, found out as ranges are refused.
static ADVICE: AtomicI32 = AtomicI32::new(libc::MADV_DONTNEED);

/// A call for each range. For the program's threads.
pub(super) fn purge_each(ranges: &[AddressRange]) -> PurgeOutcome {
    purge_batch(ranges, PURGE_BY_MADVISE)
}

/// As few calls as the kernel lets it be. For threads of our own: the first one asks what there is.
pub(super) fn purge_together(ranges: &[AddressRange]) -> PurgeOutcome {
    let how = match PURGE_BY.load(Ordering::Relaxed) {
        PURGE_BY_UNKNOWN => ask_for_purge_call(),
        known => known,
    };
    purge_batch(ranges, how)
}

/// Gives pages back and then sees to it that they are gone: a page of our own goes with each batch, after all others
/// and by the same call. Some systems say that they have done what they have not: older user-mode QEMU, and filters
/// that answer a call in the kernel's place, with "no error". A filter may come at any time, for one thread, and
/// stays; so it is what comes after a batch that proves it. If the kernel says that it has taken that page, and has
/// not, then all of the batch is refused; as it is where there is no such page, or no call is to be made.
fn purge_batch(ranges: &[AddressRange], how: u32) -> PurgeOutcome {
    debug_assert!((1..=PURGE_BATCH).contains(&ranges.len()));
    let mut batch = Batch::default();
    let all_ranges = u64::MAX >> (PURGE_BATCH - ranges.len());
    let proof = if seccomp::is_strict() { None } else { Proof::begin() };
    let Some(proof) = proof else {
        return PurgeOutcome { refused: all_ranges, ..batch.outcome };
    };
    let mut vector = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PURGE_BATCH + 1];
    let vector = &mut vector[..=ranges.len()];
    for (entry, range) in vector.iter_mut().zip(ranges.iter().chain([&proof.range()])) {
        *entry = libc::iovec { iov_base: range.start as *mut c_void, iov_len: range.bytes };
    }
    if how == PURGE_BY_MADVISE || how == PURGE_BY_PIDFD && ranges.len() == 1 {
        for entry in vector {
            batch.purge_one(entry);
        }
    } else {
        let pidfd = if how == PURGE_BY_PIDFD { open_pidfd() } else { PIDFD_SELF };
        batch.purge_all(pidfd, vector);
        if how == PURGE_BY_PIDFD && pidfd >= 0 {
            // SAFETY: the descriptor was opened above and is used by nobody else.
            unsafe { close(pidfd) };
        }
    }
    if !proof.end() && !batch.is_last_refused {
        batch.outcome.refused = all_ranges;
        say_once_that_nothing_is_given_back();
    }
    batch.outcome
}

/// What has become of a batch so far.
#[derive(Default)]
struct Batch {
    outcome: PurgeOutcome,
    /// Ranges that were taken or refused.
    done: u32,
    is_last_refused: bool,
}

impl Batch {
    /// As many ranges in one call as the kernel takes.
    fn purge_all(&mut self, pidfd: c_int, vector: &mut [libc::iovec]) {
        let mut next = 0;
        while next < vector.len() {
            self.outcome.calls += 1;
            let advised = advise_vector(pidfd, &vector[next..]);
            if advised <= 0 {
                // Nothing was done: the first range is at fault, or the call as a whole. On its own
                // it either succeeds or is the one to report.
                self.purge_one(&vector[next]);
                next += 1;
                continue;
            }
            // A short count stops at the range that failed: go on from there.
            let mut left = advised as usize;
            while next < vector.len() && left >= vector[next].iov_len {
                left -= vector[next].iov_len;
                self.end_one(true);
                next += 1;
            }
            if next < vector.len() {
                vector[next].iov_base = vector[next].iov_base.wrapping_byte_add(left);
                vector[next].iov_len -= left;
            }
        }
    }

    fn purge_one(&mut self, range: &libc::iovec) {
        let advice = ADVICE.load(Ordering::Relaxed);
        let mut result = self.advise(range, advice);
        if result == -libc::EINVAL as isize && advice != libc::MADV_DONTNEED_LOCKED {
            // The program may have locked its memory: it wants no faults in what it uses, and uses this no more.
            // There is an advice for that, since Linux 5.18, which does for all other pages, too.
            result = self.advise(range, libc::MADV_DONTNEED_LOCKED);
            if result == 0 {
                ADVICE.store(libc::MADV_DONTNEED_LOCKED, Ordering::Relaxed);
            }
        }
        self.end_one(result == 0);
    }

    fn advise(&mut self, range: &libc::iovec, advice: c_int) -> isize {
        self.outcome.calls += 1;
        let arguments = [range.iov_base as usize, range.iov_len, advice as usize];
        // SAFETY: the caller of `purge` owns these pages and needs nothing of what they hold.
        unsafe { system_call(libc::SYS_madvise, arguments) }
    }

    fn end_one(&mut self, is_taken: bool) {
        self.is_last_refused = !is_taken;
        // The page that comes after a full batch has no bit.
        self.outcome.refused |= (!is_taken as u64).checked_shl(self.done).unwrap_or(0);
        self.done += 1;
    }
}

fn advise_vector(pidfd: c_int, vector: &[libc::iovec]) -> isize {
    let (start, advice) = (vector.as_ptr() as usize, ADVICE.load(Ordering::Relaxed) as usize);
    let arguments = [pidfd as usize, start, vector.len(), advice, 0];
    // SAFETY: `vector` is a valid array of so many entries; the caller of `purge` owns the pages.
    unsafe { system_call(libc::SYS_process_madvise, arguments) }
}

/// A page that nobody has in hand as a [`Proof`], or 0.
static PROOF_PAGE: AtomicUsize = AtomicUsize::new(0);

/// A page of our own that is not zero until the kernel takes it.
///
/// # Invariants
/// `page` is the address of a page that was mapped for this and is the proof's alone.
struct Proof {
    page: usize,
}

impl Proof {
    /// `None`: the system has no page for it.
    fn begin() -> Option<Proof> {
        // Acquire: partner of the Release in `end`.
        let mut page = PROOF_PAGE.swap(0, Ordering::Acquire);
        if page == 0 {
            page = map_metadata(PAGE_BYTES)?;
            forbid_huge_pages(AddressRange { start: page, bytes: PAGE_BYTES });
        }
        // SAFETY: the page is the proof's alone.
        unsafe { (page as *mut u64).write_volatile(u64::MAX) };
        Some(Proof { page })
    }

    fn range(&self) -> AddressRange {
        AddressRange { start: self.page, bytes: PAGE_BYTES }
    }

    /// Whether the kernel has taken the page.
    fn end(self) -> bool {
        // SAFETY: the page is the proof's alone.
        let is_gone = unsafe { (self.page as *const u64).read_volatile() } == 0;
        // Release: partner of the Acquire in `begin`.
        let spare = PROOF_PAGE.swap(self.page, Ordering::AcqRel);
        if spare != 0 {
            // SAFETY: it was mapped for this, and taken out by nobody else.
            unsafe { unmap(AddressRange { start: spare, bytes: PAGE_BYTES }) };
        }
        is_gone
    }
}

#[cold]
fn say_once_that_nothing_is_given_back() {
    static IS_SAID: AtomicBool = AtomicBool::new(false);
    if !IS_SAID.swap(true, Ordering::Relaxed) {
        report::Line::new()
            .text("this system accepts madvise(MADV_DONTNEED) and does not act on it; ")
            .text("no memory is given back")
            .send();
    }
}

fn open_pidfd() -> c_int {
    // SAFETY: opens a descriptor and touches nothing else; it is close-on-exec by definition.
    unsafe { system_call(libc::SYS_pidfd_open, [process() as usize, 0]) as c_int }
}

/// Asks with an empty vector, which only checks that the call is allowed. Filters that were there before the program
/// seldom know it.
fn ask_for_purge_call() -> u32 {
    let mut how = PURGE_BY_MADVISE;
    if seccomp::is_inherited() {
        // As if the kernel had none.
    } else if advise_vector(PIDFD_SELF, &[]) == 0 {
        how = PURGE_BY_SELF;
    } else {
        let pidfd = open_pidfd();
        if pidfd >= 0 {
            if advise_vector(pidfd, &[]) == 0 {
                how = PURGE_BY_PIDFD;
            }
            // SAFETY: the descriptor was opened above and is used by nobody else.
            unsafe { close(pidfd) };
        }
    }
    PURGE_BY.store(how, Ordering::Relaxed);
    how
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::filter;

    /// Mapped pages of a test's own, all of whose bytes are 7.
    fn filled(pages: usize) -> AddressRange {
        let range = AddressRange {
            start: map_metadata(pages * PAGE_BYTES).unwrap(),
            bytes: pages * PAGE_BYTES,
        };
        // SAFETY: mapped just now.
        unsafe { ptr::write_bytes(range.start as *mut u8, 7, range.bytes) };
        range
    }

    /// Every second page.
    fn ranges_in(all: AddressRange) -> Vec<AddressRange> {
        let starts = (all.start..all.start + all.bytes).step_by(2 * PAGE_BYTES);
        starts.map(|start| AddressRange { start, bytes: PAGE_BYTES }).collect()
    }

    fn first_bytes(ranges: &[AddressRange]) -> Vec<u8> {
        // SAFETY: the tests' own pages.
        ranges.iter().map(|range| unsafe { *(range.start as *const u8) }).collect()
    }

    #[test]
    fn what_was_given_back_is_zero_in_batches_of_every_length() {
        for count in [1, 2, 63, PURGE_BATCH] {
            let ranges = ranges_in(filled(2 * count));
            assert_eq!(purge_together(&ranges).refused, 0);
            assert_eq!(first_bytes(&ranges), vec![0; count]);
        }
    }

    /// The filter is set up after batches that were proved, and holds for one thread alone.
    #[test]
    fn a_call_that_says_it_has_done_what_it_has_not_is_refused() {
        for count in [1, 2, PURGE_BATCH] {
            let all = filled(2 * count);
            let with_filter = std::thread::spawn(move || {
                assert_eq!(purge_together(&ranges_in(filled(4))).refused, 0);
                filter::answer(libc::SYS_process_madvise, libc::ENOSYS);
                filter::answer(libc::SYS_madvise, 0);
                let ranges = ranges_in(all);
                let refused = purge_together(&ranges).refused;
                assert_eq!(refused.count_ones() as usize, count);
                assert_eq!(first_bytes(&ranges), vec![7; count]);
            });
            with_filter.join().unwrap();
            let ranges = ranges_in(all);
            assert_eq!(purge_together(&ranges).refused, 0);
            assert_eq!(first_bytes(&ranges), vec![0; count]);
        }
    }

    #[test]
    fn locked_pages_go_back_and_do_not_stop_others() {
        let all = filled(8);
        let ranges = ranges_in(all);
        let (locked, bytes) = (ranges[1].start as *const c_void, ranges[1].bytes);
        // SAFETY: the test's own pages.
        assert_eq!(unsafe { libc::mlock(locked, bytes) }, 0);
        assert_eq!(purge_together(&ranges).refused, 0);
        assert_eq!(first_bytes(&ranges), vec![0; 4]);
        // SAFETY: the test's own pages.
        unsafe { (ranges[0].start as *mut u8).write(7) };
        assert_eq!(purge_together(&ranges[..1]).refused, 0, "the advice is for all pages");
        assert_eq!(first_bytes(&ranges[..1]), [0]);
    }
}
