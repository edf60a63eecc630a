//! The arena: one reservation of addresses for all blocks and all records about them.
//!
//! ```text
//! │ page map │ span index │ segment sets │ segment records … │ (to 2 MiB) │ segment │ … │ samples │
//! └──────── fixed, backed at once ───────┴── grows with ─────┴────────────┴─ the segments ┴─────────┘
//! ```
//!
//! The samples (see [`crate::sampling`]) have chunks like segments, for which the page map always says
//! "not a span".
//!
//! Addresses are reserved first and backed lazily: the records and the segments become accessible a
//! few segments at a time, lowest first, and the kernel gives them memory as they are touched.
//!
//! The size follows the machine (four times its memory, so that fragmentation of addresses never
//! is the limit) and gives way where the system does not grant as much: under a low `RLIMIT_AS`, or
//! where even reservations are rationed.

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use core::{ptr, slice};

use crate::base::atomics::AtomicU64;
use crate::base::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_CHUNKS, SPAN_BYTES, SegmentIndex};
use crate::geometry::segment::Segment;
use crate::geometry::size_class::{CLASS_COUNT, SizeClass};
use crate::geometry::slot::MAX_SLOTS;
use crate::geometry::span::Span;
use crate::os::{self, AddressRange, Os};

/// The smallest arena worth having, the largest that the span index can describe, and what is taken
/// where the machine does not tell its memory.
const MIN_BYTES: usize = 32 << 20;
pub(crate) const MAX_BYTES: usize = 512 << 30;
const DEFAULT_BYTES: usize = 64 << 30;

/// The addresses of samples: as many as there can be slots, and no more than an eighth of the segments'.
const SAMPLE_BYTES: usize = (MAX_SLOTS as usize + 1) * SPAN_BYTES;

/// How many sets of segments the page heap keeps (see [`crate::pages::page_heap`]).
pub(crate) const SEGMENT_SETS: usize = 16;

/// A chunk's place in the arena: its segment times 32, plus its place there. A span has the index of
/// its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub(crate) struct ChunkIndex(pub u32);

impl ChunkIndex {
    pub fn new(segment: SegmentIndex, chunk: u32) -> ChunkIndex {
        ChunkIndex(segment.0 * SEGMENT_CHUNKS + chunk)
    }

    #[inline(always)]
    pub fn segment(self) -> SegmentIndex {
        SegmentIndex(self.0 / SEGMENT_CHUNKS)
    }

    /// The chunk's place in its segment.
    #[inline(always)]
    pub fn in_segment(self) -> u32 {
        self.0 % SEGMENT_CHUNKS
    }

    /// The byte offset of the chunk from the arena's base.
    #[inline(always)]
    pub fn byte_offset(self) -> usize {
        self.0 as usize * SPAN_BYTES
    }
}

/// Where everything is. All fields are written once, by [`Arena::reserve`] before anybody uses the
/// arena, except `in_use`.
///
/// # Invariants
/// - `base` is a multiple of [`SEGMENT_BYTES`], `bytes` of the same, and `base + bytes` is reserved.
/// - The segments end and the samples begin at `samples`, a multiple of [`SEGMENT_BYTES`] too.
/// - `page_map` has a byte for each chunk, `index` and `sets` have their rows, `segments` a record
///   for each segment; of the records and segments the first `in_use` are accessible.
#[repr(C)]
pub(crate) struct Arena {
    pub base: AtomicUsize,
    pub bytes: AtomicUsize,
    pub samples: AtomicUsize,
    pub page_map: AtomicPtr<AtomicU8>,
    pub segments: AtomicPtr<Segment>,
    index: AtomicPtr<AtomicU64>,
    sets: AtomicPtr<u64>,
    /// Segments there are addresses for.
    capacity: AtomicU32,
    /// Segments that are accessible. Grows under the page heap's lock, never shrinks.
    pub in_use: AtomicU32,
}

/// Sizes of the fixed records of an arena, in bytes. Pure arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    page_map: usize,
    index: usize,
    sets: usize,
    records: usize,
    segments: usize,
    samples: usize,
}

impl Layout {
    const fn new(arena_bytes: usize) -> Layout {
        let segments = arena_bytes / SEGMENT_BYTES;
        let rows = segments.div_ceil(64);
        let samples = (arena_bytes / 8).next_multiple_of(SEGMENT_BYTES);
        let samples = if samples < SAMPLE_BYTES { samples } else { SAMPLE_BYTES };
        let chunks = (arena_bytes + samples) / SPAN_BYTES;
        Layout {
            page_map: chunks.next_multiple_of(PAGE_BYTES),
            // A row of words for each 64 segments, and one for each 64 of those rows.
            index: ((rows + rows.div_ceil(64)) * CLASS_COUNT * 8).next_multiple_of(PAGE_BYTES),
            sets: (rows * SEGMENT_SETS * 8).next_multiple_of(PAGE_BYTES),
            records: segments * size_of::<Segment>(),
            segments: segments * SEGMENT_BYTES,
            samples,
        }
    }

    const fn fixed(&self) -> usize {
        self.page_map + self.index + self.sets
    }

    /// All of it, and room to start the first segment at a multiple of its size.
    const fn reservation(&self) -> usize {
        self.fixed() + self.records + SEGMENT_BYTES + self.segments + self.samples
    }
}

/// No arena has more bytes of records before those of its segments.
pub(crate) const MAX_FIXED_BYTES: usize = Layout::new(MAX_BYTES).fixed();

impl Arena {
    pub const fn new() -> Arena {
        Arena {
            base: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            samples: AtomicUsize::new(usize::MAX),
            page_map: AtomicPtr::new(ptr::null_mut()),
            segments: AtomicPtr::new(ptr::null_mut()),
            index: AtomicPtr::new(ptr::null_mut()),
            sets: AtomicPtr::new(ptr::null_mut()),
            capacity: AtomicU32::new(0),
            in_use: AtomicU32::new(0),
        }
    }

    /// Reserves `want` bytes or, where the system refuses, half of it, and so on. `false` if it
    /// grants nothing useful. Called once, before any other use.
    pub fn reserve(&self, os: &impl Os, want: usize) -> bool {
        let mut bytes = want.clamp(MIN_BYTES, MAX_BYTES).next_multiple_of(SEGMENT_BYTES);
        loop {
            let layout = Layout::new(bytes);
            if let Some(start) = os::reserve(layout.reservation()) {
                if os.commit(AddressRange { start, bytes: layout.fixed() }) {
                    self.set_up(start, &layout);
                    return true;
                }
                let range = AddressRange { start, bytes: layout.reservation() };
                // SAFETY: the range was reserved just now and nobody knows of it.
                unsafe { os::unmap(range) };
            }
            if bytes == MIN_BYTES {
                return false;
            }
            bytes = (bytes / 2).next_multiple_of(SEGMENT_BYTES).max(MIN_BYTES);
        }
    }

    fn set_up(&self, start: usize, layout: &Layout) {
        let index = start + layout.page_map;
        let sets = index + layout.index;
        let segments = sets + layout.sets;
        let base = (segments + layout.records).next_multiple_of(SEGMENT_BYTES);
        self.page_map.store(start as *mut AtomicU8, Ordering::Relaxed);
        self.index.store(index as *mut AtomicU64, Ordering::Relaxed);
        self.sets.store(sets as *mut u64, Ordering::Relaxed);
        self.segments.store(segments as *mut Segment, Ordering::Relaxed);
        self.base.store(base, Ordering::Relaxed);
        self.capacity.store((layout.segments / SEGMENT_BYTES) as u32, Ordering::Relaxed);
        self.samples.store(base + layout.segments, Ordering::Relaxed);
        // Release: partner of the Acquire in `offset_of`. Whoever sees the size sees the rest.
        self.bytes.store(layout.segments + layout.samples, Ordering::Release);
    }

    /// The size for this machine and its limits, in bytes.
    pub fn size_for_machine() -> usize {
        let physical = os::physical_bytes() as usize;
        let want = if physical == 0 { DEFAULT_BYTES } else { physical.saturating_mul(4) };
        // Of a limited address space, leave a part to stacks, libraries, mapped files, and the samples.
        let limit = os::address_space_limit().map_or(usize::MAX, |limit| limit as usize / 8 * 5);
        want.next_power_of_two().min(limit).clamp(MIN_BYTES, MAX_BYTES)
    }

    /// The offset of `address` from the arena's base, if it lies in the arena.
    #[inline(always)]
    pub fn offset_of(&self, address: usize) -> Option<usize> {
        // Acquire: partner of the Release in `set_up`.
        let bytes = self.bytes.load(Ordering::Acquire);
        let offset = address.wrapping_sub(self.base.load(Ordering::Relaxed));
        (offset < bytes).then_some(offset)
    }

    /// Has the arena been reserved?
    pub fn is_reserved(&self) -> bool {
        // Acquire: partner of the Release in `set_up`.
        self.bytes.load(Ordering::Acquire) != 0
    }

    #[inline(always)]
    pub fn base(&self) -> usize {
        self.base.load(Ordering::Relaxed)
    }

    /// Is `address`, which is a block's, a sample's? Where there is no arena there are no blocks.
    #[inline(always)]
    pub fn is_sample(&self, address: usize) -> bool {
        address >= self.samples.load(Ordering::Relaxed)
    }

    /// The addresses of all segments.
    pub fn range(&self) -> AddressRange {
        let end = self.samples.load(Ordering::Relaxed);
        AddressRange { start: self.base(), bytes: end - self.base() }
    }

    /// The addresses of all records.
    pub fn records(&self) -> AddressRange {
        let start = self.page_map.load(Ordering::Relaxed) as usize;
        AddressRange { start, bytes: self.base() - start }
    }

    /// The addresses of samples.
    pub fn sample_range(&self) -> AddressRange {
        let start = self.samples.load(Ordering::Relaxed);
        let end = self.base() + self.bytes.load(Ordering::Relaxed);
        AddressRange { start, bytes: end.saturating_sub(start) }
    }

    /// Segments that the arena can hold.
    #[inline(always)]
    pub fn capacity(&self) -> u32 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Segments that are accessible.
    #[inline]
    pub fn in_use(&self) -> u32 {
        // Acquire: partner of the Release in `extend`: the records below are accessible.
        self.in_use.load(Ordering::Acquire)
    }

    /// Makes `more` segments accessible, with their records. Under the page heap's lock.
    pub fn extend(&self, os: &impl Os, more: u32) -> bool {
        let in_use = self.in_use();
        if more > self.capacity() - in_use {
            return false;
        }
        let records = AddressRange {
            start: self.segments.load(Ordering::Relaxed) as usize
                + in_use as usize * size_of::<Segment>(),
            bytes: more as usize * size_of::<Segment>(),
        };
        let segments = AddressRange {
            start: self.base() + in_use as usize * SEGMENT_BYTES,
            bytes: more as usize * SEGMENT_BYTES,
        };
        if !os.commit(records) || !os.commit(segments) {
            return false;
        }
        // Release: partner of the Acquire in `in_use`.
        self.in_use.store(in_use + more, Ordering::Release);
        true
    }

    /// The record of a segment.
    #[inline(always)]
    pub fn segment(&self, index: SegmentIndex) -> &Segment {
        debug_assert!(index.0 < self.in_use.load(Ordering::Relaxed));
        let first = self.segments.load(Ordering::Relaxed);
        // SAFETY: there is a record for each segment.
        let record = unsafe { first.add(index.0 as usize) };
        // SAFETY: records of segments in use are accessible, stay so, and all-zero is valid; what
        // changes in them is atomic or guarded (`UnsafeCell`).
        unsafe { &*record }
    }

    /// The descriptor of the span in a chunk of a segment in use.
    #[inline(always)]
    pub fn span(&self, chunk: ChunkIndex) -> &Span {
        let segment = self.segment(chunk.segment());
        // SAFETY: `in_segment` is below SEGMENT_CHUNKS.
        unsafe { &segment.chunks.get_unchecked(chunk.in_segment() as usize).span }
    }

    /// The address of a chunk's first byte.
    #[inline(always)]
    pub fn chunk_address(&self, chunk: ChunkIndex) -> usize {
        self.base() + chunk.byte_offset()
    }

    /// The chunk at `offset` from the arena's base.
    #[inline(always)]
    pub fn chunk_at(offset: usize) -> ChunkIndex {
        ChunkIndex((offset / SPAN_BYTES) as u32)
    }

    /// The class of the span at `offset` from the arena's base; [`SizeClass::NONE`] if there is
    /// none. `offset` is below the arena's size.
    #[inline(always)]
    pub fn class_at(&self, offset: usize) -> SizeClass {
        // Relaxed: whoever has a block's address got it after the span's class was written.
        SizeClass(self.page_map_byte(Self::chunk_at(offset)).load(Ordering::Relaxed))
    }

    /// Writes a chunk's class: when a span is created or retired, by the one who does it.
    pub fn set_class(&self, chunk: ChunkIndex, class: SizeClass) {
        // Relaxed: published together with the span's blocks.
        self.page_map_byte(chunk).store(class.0, Ordering::Relaxed);
    }

    #[inline(always)]
    fn page_map_byte(&self, chunk: ChunkIndex) -> &AtomicU8 {
        let first = self.page_map.load(Ordering::Relaxed);
        // SAFETY: the map has a byte for each chunk of the arena.
        let byte = unsafe { first.add(chunk.0 as usize) };
        // SAFETY: the map is accessible from the start, and stays.
        unsafe { &*byte }
    }

    /// Words of the span index above the segments' own: `upper` 0 is one bit per segment, 1 is one
    /// bit per word of that. Rows hold a word for each class, side by side.
    #[inline(always)]
    pub fn index_word(&self, upper: usize, row: usize, class: SizeClass) -> &AtomicU64 {
        let rows = (self.capacity() as usize).div_ceil(64);
        let row = if upper == 0 { row } else { rows + row };
        let first = self.index.load(Ordering::Relaxed);
        // SAFETY: `index` holds `rows` rows of the first kind and a 64th of that of the second,
        // each of CLASS_COUNT words.
        let word = unsafe { first.add(row * CLASS_COUNT + class.index()) };
        // SAFETY: the index is accessible from the start, and stays.
        unsafe { &*word }
    }

    /// One bit for each of 64 segments: blocks of its spans came back since the pages inside them
    /// were last looked at. In the index this is the column of no class.
    #[inline(always)]
    pub fn touched_word(&self, row: usize) -> &AtomicU64 {
        self.index_word(0, row, SizeClass::NONE)
    }

    /// The rows of the page heap's sets: a word of each set for 64 segments, side by side.
    ///
    /// # Safety
    /// The caller holds the page heap's lock and keeps the slice only so long.
    #[expect(clippy::mut_from_ref, reason = "the caller's lock is what makes it exclusive")]
    pub unsafe fn segment_sets(&self) -> &mut [[u64; SEGMENT_SETS]] {
        let first = self.sets.load(Ordering::Relaxed).cast();
        let rows = (self.capacity() as usize).div_ceil(64);
        // SAFETY: `sets` has that many rows; the caller's lock makes the reference the only one.
        unsafe { slice::from_raw_parts_mut(first, rows) }
    }

    /// The addresses of a segment's record, which are whole pages of its own.
    pub fn record_range(&self, index: SegmentIndex) -> AddressRange {
        let first = self.segments.load(Ordering::Relaxed) as usize;
        let bytes = size_of::<Segment>();
        AddressRange { start: first + index.0 as usize * bytes, bytes }
    }

    /// Bytes of records about so many accessible segments, of which `records` have one of their own that
    /// takes memory.
    pub fn record_bytes(segments: u32, records: u64) -> u64 {
        let rows = segments.div_ceil(64) as u64;
        let fixed = 64 * SEGMENT_CHUNKS as usize + (CLASS_COUNT + SEGMENT_SETS) * 8;
        // What is read from another process may be any number.
        rows * fixed as u64 + records.min(segments as u64) * size_of::<Segment>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Linux;

    #[test]
    fn layouts_leave_room_for_every_segment() {
        for shift in 25..=39 {
            for odd in [0, SEGMENT_BYTES, 37 * SEGMENT_BYTES] {
                let bytes = (1usize << shift) + odd;
                let layout = Layout::new(bytes);
                let segments = bytes / SEGMENT_BYTES;
                assert!(layout.page_map >= segments * SEGMENT_CHUNKS as usize);
                assert!(layout.sets >= segments.div_ceil(64) * SEGMENT_SETS * 8);
                assert_eq!(layout.segments, bytes);
                assert!(layout.samples * 8 < bytes + 8 * SEGMENT_BYTES);
                assert!(layout.page_map >= (bytes + layout.samples) / SPAN_BYTES);
                // Records are a hundredth of what they describe.
                assert!(layout.fixed() + layout.records < bytes / 80 + (64 << 10));
            }
        }
    }

    #[test]
    fn only_addresses_inside_have_an_offset() {
        let arena = Arena::new();
        assert_eq!(arena.offset_of(4096), None, "nothing is inside before the reservation");
        assert!(arena.reserve(&Linux, MIN_BYTES));
        assert!(arena.base().is_multiple_of(SEGMENT_BYTES));
        assert_eq!(arena.offset_of(arena.base() - 1), None);
        assert_eq!(arena.offset_of(arena.base()), Some(0));
        let samples = MIN_BYTES / 8;
        assert_eq!(arena.offset_of(arena.base() + MIN_BYTES - 1), Some(MIN_BYTES - 1));
        assert!(!arena.is_sample(arena.base() + MIN_BYTES - 1));
        assert!(arena.is_sample(arena.base() + MIN_BYTES));
        let end = MIN_BYTES + samples;
        assert_eq!(arena.offset_of(arena.base() + end - 1), Some(end - 1));
        assert_eq!(arena.offset_of(arena.base() + end), None);
        assert_eq!(arena.capacity(), 16);
        assert!(arena.extend(&Linux, 16));
        assert!(!arena.extend(&Linux, 1), "no more than the reservation");
    }
}
