//! Ranges given back to the kernel, many in one call where it can.

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use super::files::close;
use super::raw::system_call;
use super::system::{AddressRange, PURGE_BATCH, PurgeOutcome};
use super::threads::process;

/// How [`purge_batch`] reaches the kernel; found out once.
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

pub(super) fn purge_batch(ranges: &[AddressRange]) -> PurgeOutcome {
    let mut outcome = PurgeOutcome::default();
    let how = match PURGE_BY.load(Ordering::Relaxed) {
        PURGE_BY_UNKNOWN => ask_for_purge_call(),
        known => known,
    };
    if how == PURGE_BY_MADVISE || ranges.len() == 1 {
        for (i, &range) in ranges.iter().enumerate() {
            purge_one(range, i, &mut outcome);
        }
        return outcome;
    }
    let pidfd = if how == PURGE_BY_PIDFD { open_pidfd() } else { PIDFD_SELF };
    let mut vector = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PURGE_BATCH];
    for (entry, range) in vector.iter_mut().zip(ranges) {
        *entry = libc::iovec { iov_base: range.start as *mut c_void, iov_len: range.bytes };
    }
    let mut next = 0;
    while next < ranges.len() {
        outcome.calls += 1;
        let advised = advise_vector(pidfd, &vector[next..ranges.len()]);
        if advised <= 0 {
            // Nothing was done: the first range is at fault, or the call as a whole. On its own
            // it either succeeds or is the one to report.
            let range =
                AddressRange { start: vector[next].iov_base as usize, bytes: vector[next].iov_len };
            purge_one(range, next, &mut outcome);
            next += 1;
            continue;
        }
        // A short count stops at the range that failed: go on from there.
        let mut left = advised as usize;
        while next < ranges.len() && left >= vector[next].iov_len {
            left -= vector[next].iov_len;
            next += 1;
        }
        if next < ranges.len() {
            vector[next].iov_base = vector[next].iov_base.wrapping_byte_add(left);
            vector[next].iov_len -= left;
        }
    }
    if how == PURGE_BY_PIDFD && pidfd >= 0 {
        // SAFETY: the descriptor was opened above and is used by nobody else.
        unsafe { close(pidfd) };
    }
    outcome
}

fn purge_one(range: AddressRange, index: usize, outcome: &mut PurgeOutcome) {
    outcome.calls += 1;
    let arguments = [range.start, range.bytes, libc::MADV_DONTNEED as usize];
    // SAFETY: the caller of `purge` owns these pages and needs nothing of what they hold.
    let result = unsafe { system_call(libc::SYS_madvise, arguments) };
    if result != 0 {
        outcome.refused |= 1 << index;
    }
}

fn advise_vector(pidfd: c_int, vector: &[libc::iovec]) -> isize {
    let (start, advice) = (vector.as_ptr() as usize, libc::MADV_DONTNEED as usize);
    let arguments = [pidfd as usize, start, vector.len(), advice, 0];
    // SAFETY: `vector` is a valid array of so many entries; the caller of `purge` owns the pages.
    unsafe { system_call(libc::SYS_process_madvise, arguments) }
}

fn open_pidfd() -> c_int {
    // SAFETY: opens a descriptor and touches nothing else; it is close-on-exec by definition.
    unsafe { system_call(libc::SYS_pidfd_open, [process() as usize, 0]) as c_int }
}

/// Asks with an empty vector, which only checks that the call is allowed. When the heap starts: later
/// a filter of the program's may take offence.
pub(crate) fn find_purge_call() {
    ask_for_purge_call();
}

fn ask_for_purge_call() -> u32 {
    let mut how = PURGE_BY_MADVISE;
    if advise_vector(PIDFD_SELF, &[]) == 0 {
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
