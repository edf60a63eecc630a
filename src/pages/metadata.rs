//! Memory for the allocator's own small records: thread caches and the arrays of their bins.
//!
//! A thread cache stays one: its counters are summed for ever, and the next thread gets it. Arrays come and
//! go, with a size that is a power of two: they are pieces of *chunks*, each of which is given back to the
//! system when none of its pieces was in use for a while. The lowest chunk that has a piece gives it, so
//! that the others run empty.
//!
//! ```text
//!  a chunk, aligned to its size:
//!  │ header: one page │ pieces of any size, those below `fresh` handed out at least once │ … │
//! ```

use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::base::units::{Epoch, PAGE_BYTES};
use crate::os::lock::Lock;
use crate::os::{self, AddressRange, Aligned, Os, PURGE_BATCH};

/// Pages are mapped this many bytes at a time; the kernel backs them as they are touched. The size of a
/// chunk, too.
const MAP_BYTES: usize = 256 << 10;

/// The smallest piece: a cache line.
const MIN_SHIFT: u32 = 6;
const SIZES: usize = 12;

/// The largest piece.
pub(crate) const MAX_ARRAY_BYTES: usize = 1 << (MIN_SHIFT as usize + SIZES - 1);

/// Room for records, of which none comes back.
///
/// # Invariants
/// `[next, end)` is mapped, zero and unused.
struct Records {
    next: usize,
    end: usize,
}

/// All chunks.
///
/// # Invariants
/// - From `first` on every chunk leads to the next one; their numbers go up.
/// - No chunk before `from[size]` has a piece of that size, but for those whose pages are being given back.
struct Arrays {
    first: *mut Chunk,
    last: *mut Chunk,
    from: [*mut Chunk; SIZES],
}

/// What a chunk begins with.
///
/// # Invariants
/// - Every list of `returned` holds unused pieces of its size, linked through their first word. They and
///   the `used` pieces in use lie between the header and `fresh`, and do not overlap.
/// - A chunk without a piece in use has no list, and `fresh` is at its beginning.
/// - What lies between the header and `touched` is counted as touched.
#[repr(C)]
struct Chunk {
    next: *mut Chunk,
    number: u32,
    used: u32,
    fresh: usize,
    touched: usize,
    /// Since when no piece is in use, as far as ticks have seen.
    empty_since: Option<Epoch>,
    /// Its pages are being given back: nobody gets a piece.
    is_held: bool,
    /// The kernel has refused to take them: not again before the next use.
    is_refused: bool,
    returned: [*mut Piece; SIZES],
}

/// Where a chunk's pieces begin.
const PIECES: usize = PAGE_BYTES;

const _: () = assert!(size_of::<Chunk>() <= PIECES && MAP_BYTES.is_power_of_two());

/// An unused piece, in which its list's link is.
struct Piece {
    next: *mut Piece,
}

/// What the lock guards.
struct Pool {
    records: Records,
    arrays: Arrays,
}

// SAFETY: the pool's pointers are to memory that it alone owns.
unsafe impl Send for Pool {}

/// The pool behind its lock.
pub(crate) struct Metadata {
    pool: Lock<Pool>,
    /// Bytes that may be resident, and calls that mapped memory, for readers without the lock.
    pub touched: AtomicUsize,
    pub map_calls: AtomicUsize,
}

/// What [`Metadata::give_arrays_back`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GivenBack {
    pub bytes: usize,
    pub calls: u64,
    /// There are chunks that have to rest longer, or for which there was no budget.
    pub is_waiting: bool,
}

impl Metadata {
    pub const fn new() -> Metadata {
        let arrays = Arrays {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
            from: [ptr::null_mut(); SIZES],
        };
        Metadata {
            pool: Lock::new(Pool { records: Records { next: 0, end: 0 }, arrays }),
            touched: AtomicUsize::new(0),
            map_calls: AtomicUsize::new(0),
        }
    }

    /// Zeroed memory of `bytes` (up to 32 KiB) for ever, aligned to a cache line. `None` if the system has
    /// none, or within a fork.
    pub fn allocate_record(&self, bytes: usize) -> Option<*mut u8> {
        let bytes = bytes.next_multiple_of(1 << MIN_SHIFT);
        let mut pool = self.pool.lock_unless_mine()?;
        let pool = &mut *pool;
        if pool.arrays.first.is_null() {
            // Who gets a first record gets a first array, too, and beside it there is room.
            self.map_chunk(pool)?;
        }
        let records = &mut pool.records;
        if records.end - records.next < bytes {
            records.next = os::map_metadata(MAP_BYTES)?;
            records.end = records.next + MAP_BYTES;
            self.map_calls.fetch_add(1, Ordering::Relaxed);
        }
        let start = records.next;
        records.next += bytes;
        self.add_used(bytes);
        Some(start as *mut u8)
    }

    /// Memory of at least `bytes` (up to [`MAX_ARRAY_BYTES`]), aligned to a cache line. Its content is
    /// arbitrary. `None` if the system has none, or within a fork.
    pub fn allocate_array(&self, bytes: usize) -> Option<*mut u8> {
        let size = size_index(bytes);
        let mut pool = self.pool.lock_unless_mine()?;
        let pool = &mut *pool;
        let mut at = pool.arrays.from[size];
        loop {
            if at.is_null() {
                at = self.map_chunk(pool)?;
            }
            let arrays = &mut pool.arrays;
            let chunk = arrays.chunk(at);
            if !chunk.is_held
                && let Some(piece) = chunk.take(at as usize, size)
            {
                self.add_used(chunk.count_touched());
                // Those before it have none.
                arrays.from[size] = at;
                return Some(piece.cast());
            }
            at = chunk.next;
        }
    }

    /// A new chunk, after all others. What was mapped beside it is for records, if there is no room for any.
    fn map_chunk(&self, pool: &mut Pool) -> Option<*mut Chunk> {
        let Pool { records, arrays } = pool;
        let Aligned { start, rest, mut calls } = os::map_aligned(MAP_BYTES)?;
        if records.next == records.end {
            (records.next, records.end) = (rest.start, rest.start + rest.bytes);
        } else {
            // SAFETY: it was mapped just now, and nobody knows of it.
            unsafe { os::unmap(rest) };
            calls += 1;
        }
        self.map_calls.fetch_add(calls, Ordering::Relaxed);
        let at = start as *mut Chunk;
        let number = if arrays.last.is_null() { 0 } else { arrays.chunk(arrays.last).number + 1 };
        let chunk = Chunk {
            next: ptr::null_mut(),
            number,
            used: 0,
            fresh: PIECES,
            touched: PIECES,
            empty_since: None,
            is_held: false,
            is_refused: false,
            returned: [ptr::null_mut(); SIZES],
        };
        // SAFETY: a header fits into the chunk's first page, which was mapped just now and is nobody's.
        unsafe { at.write(chunk) };
        self.add_used(PIECES);
        if arrays.last.is_null() {
            arrays.first = at;
        } else {
            arrays.chunk(arrays.last).next = at;
        }
        arrays.last = at;
        arrays.offer(at, 0..SIZES);
        Some(at)
    }

    /// Takes an array back.
    ///
    /// # Safety
    /// `piece` came from [`Metadata::allocate_array`] with the same `bytes` and is not used any more.
    pub unsafe fn give_back(&self, piece: *mut u8, bytes: usize) {
        // SAFETY: the caller says so.
        unsafe { self.give_all_back([(piece, bytes)].into_iter()) };
    }

    /// Takes several back under one lock.
    ///
    /// # Safety
    /// As [`Metadata::give_back`], for each of them; none is there twice.
    pub unsafe fn give_all_back(&self, pieces: impl Iterator<Item = (*mut u8, usize)>) {
        // A piece that cannot be given back, in a fork handler, is lost.
        let Some(mut pool) = self.pool.lock_unless_mine() else { return };
        for (piece, bytes) in pieces {
            // SAFETY: the caller says so.
            unsafe { pool.arrays.take_back(piece.cast(), size_index(bytes)) };
        }
    }

    /// Gives the pages of chunks back in which no piece was in use for so many epochs. With the ticking
    /// lock held, which keeps a fork away while chunks are held.
    pub fn give_arrays_back(
        &self,
        os: &impl Os,
        now: Epoch,
        rest_epochs: u64,
        (pages, calls): (u64, u64),
    ) -> GivenBack {
        let mut done = GivenBack::default();
        let mut at: *mut Chunk = ptr::null_mut();
        loop {
            let left = (pages as usize).saturating_mul(PAGE_BYTES).saturating_sub(done.bytes);
            let mut chunks = [ptr::null_mut::<Chunk>(); PURGE_BATCH];
            let mut ranges = [AddressRange { start: 0, bytes: 0 }; PURGE_BATCH];
            let mut count = 0;
            let mut pool = self.pool.lock();
            let arrays = &mut pool.arrays;
            at = if at.is_null() { arrays.first } else { at };
            let mut wanted = 0;
            while !at.is_null() && count < PURGE_BATCH {
                let chunk = arrays.chunk(at);
                let bytes = chunk.touched - PIECES;
                if chunk.used == 0 && bytes > 0 && !chunk.is_refused {
                    let since = *chunk.empty_since.get_or_insert(now);
                    let may = done.calls < calls && wanted + bytes <= left;
                    if now.since(since) >= rest_epochs && may {
                        chunk.is_held = true;
                        chunks[count] = at;
                        ranges[count] = AddressRange { start: at as usize + PIECES, bytes };
                        count += 1;
                        wanted += bytes;
                    } else {
                        done.is_waiting = true;
                    }
                }
                at = chunk.next;
            }
            drop(pool);
            if count == 0 {
                return done;
            }
            let outcome = os.purge(&ranges[..count]);
            done.calls += outcome.calls;
            let mut pool = self.pool.lock();
            let arrays = &mut pool.arrays;
            for (i, &held) in chunks[..count].iter().enumerate() {
                let chunk = arrays.chunk(held);
                chunk.is_held = false;
                chunk.is_refused = outcome.refused >> i & 1 == 1;
                if !chunk.is_refused {
                    let bytes = chunk.touched - PIECES;
                    chunk.touched = PIECES;
                    done.bytes += bytes;
                    self.touched.fetch_sub(bytes, Ordering::Relaxed);
                }
                arrays.offer(held, 0..SIZES);
            }
            if at.is_null() {
                return done;
            }
        }
    }

    /// Makes the chunks agree with the arrays that are in use: addresses, and the bytes asked for. What else was taken
    /// of a chunk, or had come back, is lost until the chunk is empty. In a copy of the process where a thread that
    /// the copy does not have held the lock.
    pub fn rebuild(&self, in_use: impl Iterator<Item = (usize, usize)>) {
        let mut pool = self.pool.lock();
        let arrays = &mut pool.arrays;
        let mut at = arrays.first;
        while !at.is_null() {
            let chunk = arrays.chunk(at);
            (chunk.used, chunk.is_held) = (0, false);
            chunk.forget_pieces();
            at = chunk.next;
        }
        for (array, bytes) in in_use {
            let chunk = arrays.chunk(chunk_of(array as *mut Piece));
            let end = array % MAP_BYTES + (1 << (size_index(bytes) as u32 + MIN_SHIFT));
            chunk.used += 1;
            chunk.fresh = chunk.fresh.max(end);
        }
        arrays.from = [arrays.first; SIZES];
    }

    /// Is this a signal handler that interrupted its thread here?
    pub fn is_interrupted(&self) -> bool {
        self.pool.is_mine()
    }

    /// Frees the lock from a thread that is not there. Returns whether one held it.
    ///
    /// # Safety
    /// As [`Lock::free_from_ghost`]; [`Metadata::rebuild`] is what makes it whole.
    pub unsafe fn free_from_ghost(&self) -> bool {
        // SAFETY: the caller says so.
        unsafe { self.pool.free_from_ghost() }
    }

    /// Counts records, here or elsewhere, of which so many bytes more have been touched.
    pub fn add_used(&self, bytes: usize) {
        // Mostly there are none, and the line is everybody's.
        if bytes > 0 {
            self.touched.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes that may be resident.
    pub fn used_bytes(&self) -> u64 {
        self.touched.load(Ordering::Relaxed) as u64
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

impl Arrays {
    /// A chunk's header.
    fn chunk(&mut self, at: *mut Chunk) -> &mut Chunk {
        // SAFETY: chunks are never unmapped, and their headers are never given back. They are the pool's
        // alone, which is locked: `&mut self` is the only way here.
        unsafe { &mut *at }
    }

    /// This chunk has pieces of these sizes.
    fn offer(&mut self, at: *mut Chunk, sizes: core::ops::Range<usize>) {
        let number = self.chunk(at).number;
        for size in sizes {
            let from = self.from[size];
            if from.is_null() || number < self.chunk(from).number {
                self.from[size] = at;
            }
        }
    }

    /// # Safety
    /// `piece` was taken from a chunk as one of this size, and is not used any more.
    unsafe fn take_back(&mut self, piece: *mut Piece, size: usize) {
        let at = chunk_of(piece);
        let chunk = self.chunk(at);
        chunk.used -= 1;
        if chunk.used == 0 {
            chunk.forget_pieces();
            self.offer(at, 0..SIZES);
        } else {
            // SAFETY: the caller hands the piece over; it is aligned to a cache line and large enough.
            unsafe { piece.write(Piece { next: chunk.returned[size] }) };
            chunk.returned[size] = piece;
            self.offer(at, size..size + 1);
        }
    }
}

impl Chunk {
    /// A piece of the chunk that starts at `start`.
    fn take(&mut self, start: usize, size: usize) -> Option<*mut Piece> {
        let first = self.returned[size];
        let piece = if first.is_null() {
            let bytes = 1 << (size as u32 + MIN_SHIFT);
            let offset = self.fresh.next_multiple_of(bytes.min(PAGE_BYTES));
            if offset + bytes > MAP_BYTES {
                return None;
            }
            self.fresh = offset + bytes;
            (start + offset) as *mut Piece
        } else {
            // SAFETY: pieces in the list are the chunk's own and hold a link.
            self.returned[size] = unsafe { (*first).next };
            first
        };
        self.used += 1;
        (self.empty_since, self.is_refused) = (None, false);
        Some(piece)
    }

    /// Bytes that are touched from now on and were not before.
    fn count_touched(&mut self) -> usize {
        let more = self.fresh.saturating_sub(self.touched);
        self.touched += more;
        more
    }

    /// No piece is in use: there are no pieces.
    fn forget_pieces(&mut self) {
        self.returned = [ptr::null_mut(); SIZES];
        self.fresh = PIECES;
    }
}

fn chunk_of(piece: *mut Piece) -> *mut Chunk {
    (piece as usize / MAP_BYTES * MAP_BYTES) as *mut Chunk
}

fn size_index(bytes: usize) -> usize {
    let size = (bytes.next_power_of_two().trailing_zeros().max(MIN_SHIFT) - MIN_SHIFT) as usize;
    debug_assert!(size < SIZES);
    size
}

#[cfg(test)]
mod tests;
