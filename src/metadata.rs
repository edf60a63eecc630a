//! Memory for the allocator's own small records: thread caches and their arrays.
//!
//! Power-of-two pieces from mapped pages, each size with a list of returned ones. Nothing is ever
//! unmapped: a record that was a thread cache stays one (its counters are still summed), and arrays
//! are reused.

use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::lock::Lock;
use crate::sys;

/// Pages are mapped this many bytes at a time; the kernel backs them as they are touched.
const MAP_BYTES: usize = 256 << 10;

/// The smallest piece: a cache line.
const MIN_SHIFT: u32 = 6;
const SIZES: usize = 10;

/// # Invariants
/// - `[next, end)` is mapped, zero and unused.
/// - Every list holds unused pieces of its size, linked through their first word.
struct Pool {
    next: usize,
    end: usize,
    returned: [*mut Piece; SIZES],
}

/// An unused piece, in which its list's link is.
struct Piece {
    next: *mut Piece,
}

// SAFETY: the pool's pointers are to memory that it alone owns.
unsafe impl Send for Pool {}

/// The pool behind its lock.
pub(crate) struct Metadata {
    pool: Lock<Pool>,
    /// Bytes mapped so far, and those of them handed out at least once, for readers without the
    /// lock.
    pub mapped: AtomicUsize,
    pub touched: AtomicUsize,
}

impl Metadata {
    pub const fn new() -> Metadata {
        let returned = [ptr::null_mut(); SIZES];
        let pool = Pool { next: 0, end: 0, returned };
        Metadata {
            pool: Lock::new(pool),
            mapped: AtomicUsize::new(0),
            touched: AtomicUsize::new(0),
        }
    }

    /// Memory of at least `bytes` (up to 32 KiB), aligned to a cache line or, from a page on, to a
    /// page. Its content is arbitrary. `None` if the system has none, or within a fork.
    pub fn allocate(&self, bytes: usize) -> Option<*mut u8> {
        let size = size_index(bytes);
        let mut pool = self.pool.lock_unless_mine()?;
        let first = pool.returned[size];
        if !first.is_null() {
            // SAFETY: pieces in the list are the pool's own and hold a link.
            pool.returned[size] = unsafe { (*first).next };
            return Some(first.cast());
        }
        let piece = 1 << (size as u32 + MIN_SHIFT);
        let align = piece.min(crate::units::PAGE_BYTES);
        let mut start = pool.next.next_multiple_of(align);
        if pool.next == 0 || start + piece > pool.end {
            start = sys::map_metadata(MAP_BYTES)?;
            self.mapped.fetch_add(MAP_BYTES, Ordering::Relaxed);
            pool.end = start + MAP_BYTES;
        }
        pool.next = start + piece;
        self.touched.fetch_add(piece, Ordering::Relaxed);
        Some(start as *mut u8)
    }

    /// Takes a piece back.
    ///
    /// # Safety
    /// `piece` came from [`Metadata::allocate`] with the same `bytes` and is not used any more.
    pub unsafe fn give_back(&self, piece: *mut u8, bytes: usize) {
        let size = size_index(bytes);
        let piece = piece.cast::<Piece>();
        // A piece that cannot be given back, in a fork handler, is lost.
        let Some(mut pool) = self.pool.lock_unless_mine() else { return };
        // SAFETY: the caller hands the piece over; it is aligned to a cache line and large enough.
        unsafe { piece.write(Piece { next: pool.returned[size] }) };
        pool.returned[size] = piece;
    }

    /// Counts records that lie elsewhere, of which so many bytes more have been touched.
    pub fn add_touched(&self, bytes: usize) {
        self.touched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes handed out at least once: those of the mapped ones that may be resident.
    pub fn touched_bytes(&self) -> u64 {
        self.touched.load(Ordering::Relaxed) as u64
    }

    /// Calls that mapped memory.
    pub fn map_calls(&self) -> u64 {
        map_calls(self.mapped.load(Ordering::Relaxed) as u64)
    }

    pub fn lock_for_fork(&self) {
        self.pool.lock_for_fork();
    }

    /// # Safety
    /// As [`Lock::unlock_after_fork`].
    pub unsafe fn unlock_after_fork(&self) {
        // SAFETY: the caller says so.
        unsafe { self.pool.unlock_after_fork() };
    }
}

/// The calls that mapped `bytes`.
pub(crate) fn map_calls(bytes: u64) -> u64 {
    bytes / MAP_BYTES as u64
}

fn size_index(bytes: usize) -> usize {
    let size = (bytes.next_power_of_two().trailing_zeros().max(MIN_SHIFT) - MIN_SHIFT) as usize;
    debug_assert!(size < SIZES);
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_overlap_and_are_reused() {
        let metadata = Metadata::new();
        let mut pieces: Vec<(usize, usize)> = Vec::new();
        for round in 0..400 {
            let bytes = 64 << (round % 10);
            let start = metadata.allocate(bytes).unwrap() as usize;
            assert!(start.is_multiple_of(bytes.min(4096)));
            assert!(pieces.iter().all(|&(s, b)| start + bytes <= s || s + b <= start));
            pieces.push((start, bytes));
        }
        let calls = metadata.map_calls();
        for &(start, bytes) in &pieces {
            // SAFETY: the piece is not used.
            unsafe { metadata.give_back(start as *mut u8, bytes) };
        }
        for &(_, bytes) in &pieces {
            metadata.allocate(bytes).unwrap();
        }
        assert_eq!(metadata.map_calls(), calls, "returned pieces serve first");
    }
}
