//! The arena: the addresses of all blocks and of all records about them.
//!
//! ```text
//! │ page map │ span index │ segment sets │ segment records … │ segment │ … │ samples │ their tables │
//! └────────────── each of these grows upwards, as there are more segments, or samples ─────────────┘
//! ```
//!
//! The samples (see [`crate::sampling`]) are slots as large as a chunk.
//!
//! Nothing of this is reserved. When the heap starts it chooses a *window*: a range of addresses, far larger
//! than the machine's memory, that nobody uses and where the kernel does not begin to look for room. In it
//! segments and their records are mapped a few at a time, lowest first, as the heap grows, and the kernel gives
//! them memory as they are touched. So limits of address space, of locked memory and of data, whenever they are
//! set, count what the heap has and nothing else; and a core file holds no more.
//!
//! A mapping is never put over one that is there already. Where others have mapped something in the
//! window, the segments that it touches are *others'*: the arena goes on behind them, and has no block there.

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use core::{ptr, slice};

use crate::base::atomics::AtomicU64;
use crate::base::observed::IS_OBSERVED;
use crate::base::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_CHUNKS, SPAN_BYTES, SegmentIndex};
use crate::geometry::segment::Segment;
use crate::geometry::size_class::{CLASS_COUNT, SizeClass};
use crate::geometry::slot::{MAX_SLOTS, TABLE_BYTES};
use crate::geometry::span::Span;
use crate::os::{self, AddressRange, Mapped, Os};

/// The fewest and the most bytes of addresses that the segments may have, and how many they have unless a
/// knob says another number: a window costs nothing before it is used.
const MIN_BYTES: usize = 32 << 20;
pub(crate) const MAX_BYTES: usize = 4 << 40;

/// How many windows are tried before a smaller one is.
const MAX_WINDOWS: u32 = 16;

/// Between the window and where the kernel looks for room there is a quarter of the window, and no less than this;
/// or up to eight times as much: heaps of two copies of this library in one process begin at different places.
const MIN_DISTANCE: usize = 32 << 30;
const DISTANCES: usize = 8;

/// Segments whose records are mapped together: some of them for each growth would be many calls.
const RECORD_STEP: u32 = 8;

/// The addresses of samples: as many as there can be slots, and no more than an eighth of the segments'.
const SAMPLE_BYTES: usize = (MAX_SLOTS as usize + 1) * SPAN_BYTES;

/// How many sets of segments the page heap keeps (see [`crate::pages::page_heap`]).
pub(crate) const SEGMENT_SETS: usize = 18;

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

/// Where everything is. Written by [`Arena::choose_window`] before anybody uses the arena, except what says how
/// far it has grown.
///
/// # Invariants
/// - `base` is a multiple of [`SEGMENT_BYTES`]; the segments end at or before `samples`, another one, where the
///   slots of samples begin.
/// - Of the segments the first `in_use` were mapped, by the arena or by others, and are so but for those that the page
///   heap has unmapped since; `bytes` is their length, and of each there are records: a byte for each chunk in
///   `page_map`, rows in the index and in `sets`, a record in `segments`.
/// - Of the slots `sample_bytes` are mapped by the arena. Behind all slots are [`TABLE_BYTES`] for what is known of
///   samples.
/// - What changes, changes under the page heap's lock (the slots under the sampler's); all but `unmapped` only
///   grows.
#[repr(C)]
pub(crate) struct Arena {
    pub base: AtomicUsize,
    bytes: AtomicUsize,
    pub samples: AtomicUsize,
    pub page_map: AtomicPtr<AtomicU8>,
    pub segments: AtomicPtr<Segment>,
    index: AtomicPtr<AtomicU64>,
    upper_index: AtomicPtr<AtomicU64>,
    sets: AtomicPtr<u64>,
    sample_bytes: AtomicUsize,
    /// Segments and slots that there are addresses for.
    pub capacity: AtomicU32,
    slot_capacity: AtomicU32,
    pub in_use: AtomicU32,
    /// How many of those are others', and how many are unmapped.
    pub others: AtomicU32,
    pub unmapped: AtomicU32,
    /// Attempts to map something in the window.
    pub map_calls: AtomicU32,
    /// How many bytes are mapped of each part of the records.
    mapped: [AtomicUsize; PARTS],
}

/// The parts of the records: page map, the two levels of the index, sets, and the segments' records.
const PARTS: usize = 5;

/// How many bytes of each part of the records are about so many segments. Pure arithmetic.
const fn part_bytes(segments: usize) -> [usize; PARTS] {
    let rows = segments.div_ceil(64);
    [
        segments * SEGMENT_CHUNKS as usize,
        // A row of words for each 64 segments, and one for each 64 of those rows.
        rows * CLASS_COUNT * 8,
        rows.div_ceil(64) * CLASS_COUNT * 8,
        rows * SEGMENT_SETS * 8,
        segments * size_of::<Segment>(),
    ]
}

/// How far apart the parts of a window are, in bytes. Pure arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    parts: [usize; PARTS],
    segments: usize,
    samples: usize,
}

impl Layout {
    const fn new(arena_bytes: usize) -> Layout {
        let mut parts = part_bytes(arena_bytes / SEGMENT_BYTES);
        let mut part = 0;
        while part < PARTS {
            parts[part] = parts[part].next_multiple_of(PAGE_BYTES);
            part += 1;
        }
        let samples = (arena_bytes / 8).next_multiple_of(SEGMENT_BYTES);
        let samples = if samples < SAMPLE_BYTES { samples } else { SAMPLE_BYTES };
        Layout { parts, segments: arena_bytes, samples }
    }

    /// Where the segments begin in a window that begins at `start`.
    const fn base(&self, start: usize) -> usize {
        (start + self.fixed() + self.parts[4]).next_multiple_of(SEGMENT_BYTES)
    }

    /// The addresses of such a window that have to be this heap's alone: those of records, and those of samples.
    const fn kept_free(&self, start: usize) -> [AddressRange; 2] {
        let base = self.base(start);
        let samples = AddressRange {
            start: base + self.segments,
            bytes: (self.samples + TABLE_BYTES).next_multiple_of(PAGE_BYTES),
        };
        [AddressRange { start, bytes: base - start }, samples]
    }

    /// What is before the segments' records.
    const fn fixed(&self) -> usize {
        self.parts[0] + self.parts[1] + self.parts[2] + self.parts[3]
    }

    /// All of it, and room to start the first segment at a multiple of its size.
    const fn window(&self) -> usize {
        let records = self.fixed() + self.parts[4] + SEGMENT_BYTES;
        let all = records + self.segments + self.samples + TABLE_BYTES;
        all.next_multiple_of(SEGMENT_BYTES)
    }
}

/// No arena has more bytes of records before those of its segments.
pub(crate) const MAX_FIXED_BYTES: usize = Layout::new(MAX_BYTES).fixed();

/// Where the next window ends; 0 before the first one was chosen. A process has one heap; tests have many.
#[unsafe(link_section = ".data.slackwater_start")]
static WINDOWS_END: AtomicUsize = AtomicUsize::new(0);

/// Segments that an arena has more than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Growth {
    pub first: SegmentIndex,
    pub segments: u32,
    /// Others have mapped something there: they are only counted.
    pub are_others: bool,
}

impl Arena {
    pub const fn new() -> Arena {
        Arena {
            base: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            samples: AtomicUsize::new(0),
            page_map: AtomicPtr::new(ptr::null_mut()),
            segments: AtomicPtr::new(ptr::null_mut()),
            index: AtomicPtr::new(ptr::null_mut()),
            upper_index: AtomicPtr::new(ptr::null_mut()),
            sets: AtomicPtr::new(ptr::null_mut()),
            sample_bytes: AtomicUsize::new(0),
            capacity: AtomicU32::new(0),
            slot_capacity: AtomicU32::new(0),
            in_use: AtomicU32::new(0),
            others: AtomicU32::new(0),
            unmapped: AtomicU32::new(0),
            map_calls: AtomicU32::new(0),
            mapped: [const { AtomicUsize::new(0) }; PARTS],
        }
    }

    /// Chooses a window with room for `want` bytes of segments or, where there is none, for half of it, and so on.
    /// `false` if the system grants nothing useful. Called once, before any other use.
    pub fn choose_window(&self, os: &impl Os, want: usize) -> bool {
        let mut bytes = want.clamp(MIN_BYTES, MAX_BYTES).next_multiple_of(SEGMENT_BYTES);
        loop {
            let layout = Layout::new(bytes);
            if self.find_window(os, &layout) {
                return true;
            }
            if bytes == MIN_BYTES {
                return false;
            }
            bytes = (bytes / 2).next_multiple_of(SEGMENT_BYTES).max(MIN_BYTES);
        }
    }

    /// Finds a window in which nobody has mapped anything where records and samples go. Segments may be others', and
    /// are found to be as the arena grows; to look at all of them would be to map terabytes for a moment, for which
    /// some tools need minutes that keep a record of what is mapped (valgrind). Where a limit forbids to look, a window
    /// whose first page is free will do.
    fn find_window(&self, os: &impl Os, layout: &Layout) -> bool {
        let first_end = WINDOWS_END.load(Ordering::Relaxed);
        for _ in 0..MAX_WINDOWS {
            let Some(start) = next_window(layout.window()) else { break };
            if layout.kept_free(start).into_iter().any(os::is_taken) {
                continue;
            }
            let [page_map, ..] = &self.mapped;
            match self.map(os, AddressRange { start, bytes: PAGE_BYTES }) {
                Mapped::Here => page_map.store(PAGE_BYTES, Ordering::Relaxed),
                Mapped::Taken => continue,
                Mapped::Refused => break,
            }
            self.set_up(start, layout);
            return true;
        }
        // A smaller one may be found where these begin.
        WINDOWS_END.store(first_end, Ordering::Relaxed);
        false
    }

    fn map(&self, os: &impl Os, range: AddressRange) -> Mapped {
        self.map_calls.fetch_add(1, Ordering::Relaxed);
        os.map(range)
    }

    fn set_up(&self, start: usize, layout: &Layout) {
        let [page_map_bytes, index_bytes, upper_bytes, sets_bytes, _] = layout.parts;
        let index = start + page_map_bytes;
        let upper_index = index + index_bytes;
        let sets = upper_index + upper_bytes;
        let segments = sets + sets_bytes;
        let base = layout.base(start);
        self.page_map.store(start as *mut AtomicU8, Ordering::Relaxed);
        self.index.store(index as *mut AtomicU64, Ordering::Relaxed);
        self.upper_index.store(upper_index as *mut AtomicU64, Ordering::Relaxed);
        self.sets.store(sets as *mut u64, Ordering::Relaxed);
        self.segments.store(segments as *mut Segment, Ordering::Relaxed);
        self.base.store(base, Ordering::Relaxed);
        self.slot_capacity.store((layout.samples / SPAN_BYTES) as u32, Ordering::Relaxed);
        self.samples.store(base + layout.segments, Ordering::Relaxed);
        // To readers outside a heap without capacity is none yet.
        self.capacity.store((layout.segments / SEGMENT_BYTES) as u32, Ordering::Release);
    }

    /// The offset of `address` from the arena's base, if it lies among the segments in use.
    #[inline(always)]
    pub fn offset_of(&self, address: usize) -> Option<usize> {
        // Acquire: partner of the Release in `extend`: the page map below is accessible.
        let bytes = self.bytes.load(Ordering::Acquire);
        let offset = address.wrapping_sub(self.base.load(Ordering::Relaxed));
        (offset < bytes).then_some(offset)
    }

    #[inline(always)]
    pub fn base(&self) -> usize {
        self.base.load(Ordering::Relaxed)
    }

    /// Is `address` in a slot for samples? Where there is no arena there are none.
    #[inline(always)]
    pub fn is_sample(&self, address: usize) -> bool {
        if !IS_OBSERVED {
            return false;
        }
        // Acquire: partner of the Release in `extend_samples`.
        let bytes = self.sample_bytes.load(Ordering::Acquire);
        address.wrapping_sub(self.samples.load(Ordering::Relaxed)) < bytes
    }

    /// The address of the first slot for samples: above all blocks of spans and runs.
    pub fn samples(&self) -> usize {
        self.samples.load(Ordering::Relaxed)
    }

    /// The slots for samples that are mapped.
    pub fn sample_range(&self) -> AddressRange {
        AddressRange { start: self.samples(), bytes: self.sample_bytes.load(Ordering::Acquire) }
    }

    /// Slots for samples that there are addresses for.
    pub fn slot_capacity(&self) -> u32 {
        self.slot_capacity.load(Ordering::Relaxed)
    }

    /// The first of [`TABLE_BYTES`] addresses for the tables about samples.
    pub fn tables(&self) -> usize {
        self.samples() + self.slot_capacity() as usize * SPAN_BYTES
    }

    /// Maps so many bytes of slots more. Under the sampler's lock. `false`: the system refuses, or others are
    /// there.
    pub fn extend_samples(&self, os: &impl Os, more: usize) -> bool {
        let AddressRange { start, bytes } = self.sample_range();
        let step = AddressRange { start: start + bytes, bytes: more };
        let has_room = bytes + more <= self.slot_capacity() as usize * SPAN_BYTES;
        if !has_room || self.map(os, step) != Mapped::Here {
            return false;
        }
        os::forbid_huge_pages(step);
        // Release: partner of the Acquire in `is_sample`.
        self.sample_bytes.store(bytes + more, Ordering::Release);
        true
    }

    /// Segments that the arena can hold.
    #[inline(always)]
    pub fn capacity(&self) -> u32 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Segments in use.
    #[inline]
    pub fn in_use(&self) -> u32 {
        // Acquire: partner of the Release in `extend`: the records below are accessible.
        self.in_use.load(Ordering::Acquire)
    }

    /// Segments in use that are others'.
    pub fn others(&self) -> u32 {
        self.others.load(Ordering::Relaxed)
    }

    /// So many more are others'. Under the page heap's lock.
    pub fn count_others(&self, more: u32) {
        self.others.store(self.others() + more, Ordering::Relaxed);
    }

    /// So many more are unmapped, or fewer. Under the page heap's lock.
    pub fn count_unmapped(&self, more: i32) {
        let unmapped = self.unmapped.load(Ordering::Relaxed).wrapping_add_signed(more);
        self.unmapped.store(unmapped, Ordering::Relaxed);
    }

    /// Segments in use that the arena has mapped.
    pub fn mapped_segments(&self) -> u32 {
        let missing = self.others().saturating_add(self.unmapped.load(Ordering::Relaxed));
        self.in_use().saturating_sub(missing)
    }

    /// The addresses of `count` segments.
    fn segment_range(&self, first: SegmentIndex, count: u32) -> AddressRange {
        let start = self.base() + first.0 as usize * SEGMENT_BYTES;
        AddressRange { start, bytes: count as usize * SEGMENT_BYTES }
    }

    /// Unmaps segments in use.
    ///
    /// # Safety
    /// No page of them is in use, and nobody touches one before [`Arena::map_again`].
    pub unsafe fn unmap(&self, first: SegmentIndex, count: u32) {
        self.map_calls.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller says so.
        unsafe { os::unmap(self.segment_range(first, count)) };
    }

    /// Maps a segment in use that was unmapped.
    pub fn map_again(&self, os: &impl Os, segment: SegmentIndex) -> Mapped {
        let range = self.segment_range(segment, 1);
        let mapped = self.map(os, range);
        if mapped == Mapped::Here {
            os::advise_huge_pages(range);
        }
        mapped
    }

    /// Maps up to `more` segments, at least one, and their records; returns which. `None`: there are no more
    /// addresses, or the system has no memory. Under the page heap's lock.
    pub fn extend(&self, os: &impl Os, more: u32) -> Option<Growth> {
        let in_use = self.in_use();
        if more > self.capacity() - in_use {
            return None;
        }
        let mut segments = self.segment_range(SegmentIndex(in_use), more);
        // As many as there are before the first that is others'; if that is the first one, that one.
        let are_others = loop {
            match self.map(os, segments) {
                Mapped::Here => break false,
                Mapped::Refused => return None,
                Mapped::Taken if segments.bytes == SEGMENT_BYTES => break true,
                Mapped::Taken => {
                    segments.bytes = (segments.bytes / 2).next_multiple_of(SEGMENT_BYTES);
                }
            }
        };
        let more = (segments.bytes / SEGMENT_BYTES) as u32;
        if !self.extend_records(os, in_use + more) {
            if !are_others {
                // SAFETY: it was mapped just now, and nobody knows of it.
                unsafe { os::unmap(segments) };
            }
            return None;
        }
        if are_others {
            self.count_others(more);
        } else {
            os::advise_huge_pages(segments);
        }
        // Release: partner of the Acquires in `offset_of` and `in_use`.
        self.bytes.store((in_use + more) as usize * SEGMENT_BYTES, Ordering::Release);
        self.in_use.store(in_use + more, Ordering::Release);
        Some(Growth { first: SegmentIndex(in_use), segments: more, are_others })
    }

    /// Maps the records of the first `segments` segments, as far as they are not yet. Parts that are mapped when a
    /// later one is refused stay: the next growth needs them.
    fn extend_records(&self, os: &impl Os, segments: u32) -> bool {
        let segments = segments.next_multiple_of(RECORD_STEP).min(self.capacity());
        let starts = [
            self.page_map.load(Ordering::Relaxed) as usize,
            self.index.load(Ordering::Relaxed) as usize,
            self.upper_index.load(Ordering::Relaxed) as usize,
            self.sets.load(Ordering::Relaxed) as usize,
            self.segments.load(Ordering::Relaxed) as usize,
        ];
        for ((start, bytes), mapped) in
            starts.into_iter().zip(part_bytes(segments as usize)).zip(&self.mapped)
        {
            let (from, to) = (mapped.load(Ordering::Relaxed), bytes.next_multiple_of(PAGE_BYTES));
            if from >= to {
                continue;
            }
            let range = AddressRange { start: start + from, bytes: to - from };
            if self.map(os, range) != Mapped::Here {
                return false;
            }
            // A huge page would bring back what was given back of its records; there is none in a shorter mapping.
            if to >= SEGMENT_BYTES {
                os::forbid_huge_pages(AddressRange { start, bytes: to });
            }
            mapped.store(to, Ordering::Relaxed);
        }
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
        SizeClass(self.page_map_byte(offset / SPAN_BYTES).load(Ordering::Relaxed))
    }

    /// Writes a chunk's class: when a span is created or retired, by the one who does it.
    pub fn set_class(&self, chunk: ChunkIndex, class: SizeClass) {
        // Relaxed: published together with the span's blocks.
        self.page_map_byte(chunk.0 as usize).store(class.0, Ordering::Relaxed);
    }

    #[inline(always)]
    fn page_map_byte(&self, chunk: usize) -> &AtomicU8 {
        let first = self.page_map.load(Ordering::Relaxed);
        // SAFETY: the map has a byte for each chunk of the segments in use.
        let byte = unsafe { first.add(chunk) };
        // SAFETY: those are accessible, and stay so.
        unsafe { &*byte }
    }

    /// Words of the span index above the segments' own: `upper` 0 is one bit per segment, 1 is one
    /// bit per word of that. Rows hold a word for each class, side by side.
    #[inline(always)]
    pub fn index_word(&self, upper: usize, row: usize, class: SizeClass) -> &AtomicU64 {
        let level = if upper == 0 { &self.index } else { &self.upper_index };
        let first = level.load(Ordering::Relaxed);
        // SAFETY: a level has a row of CLASS_COUNT words for each 64 segments, or 64 rows of the level below.
        let word = unsafe { first.add(row * CLASS_COUNT + class.index()) };
        // SAFETY: rows of segments in use are accessible, and stay so.
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
        let rows = (self.in_use() as usize).div_ceil(64);
        // SAFETY: `sets` has that many rows; the caller's lock makes the reference the only one.
        unsafe { slice::from_raw_parts_mut(first, rows) }
    }

    /// The addresses of a segment's record, which are whole pages of its own.
    pub fn record_range(&self, index: SegmentIndex) -> AddressRange {
        let first = self.segments.load(Ordering::Relaxed) as usize;
        let bytes = size_of::<Segment>();
        AddressRange { start: first + index.0 as usize * bytes, bytes }
    }

    /// Bytes of records about so many segments in use, of which `records` have one of their own that
    /// takes memory.
    pub fn record_bytes(segments: u32, records: u64) -> u64 {
        let rows = segments.div_ceil(64) as u64;
        let fixed = 64 * SEGMENT_CHUNKS as usize + (CLASS_COUNT + SEGMENT_SETS) * 8;
        // What is read from another process may be any number.
        rows * fixed as u64 + records.min(segments as u64) * size_of::<Segment>() as u64
    }
}

/// The addresses of a window of so many bytes, which nobody of this library has. `None` where there are none.
fn next_window(bytes: usize) -> Option<usize> {
    if WINDOWS_END.load(Ordering::Relaxed) == 0 {
        let place = os::mapping_area()?;
        // Where this static lies is drawn anew for each process, and differs between copies of this library.
        let drawn = (&raw const WINDOWS_END).addr() / PAGE_BYTES % DISTANCES;
        let distance = (bytes / 4).max(MIN_DISTANCE) * (1 + drawn);
        // Mostly the kernel looks for room from the top of the addresses downwards, and there is none above.
        let end = match place.checked_sub(distance).filter(|&end| end > 2 * bytes) {
            Some(end) => end,
            None => place.checked_add(distance + bytes)?,
        };
        let end = end / SEGMENT_BYTES * SEGMENT_BYTES;
        // Of two threads that begin one's choice holds for both.
        let _ = WINDOWS_END.compare_exchange(0, end, Ordering::Relaxed, Ordering::Relaxed);
    }
    let below = |end: usize| end.checked_sub(bytes).filter(|&start| start > 0);
    WINDOWS_END
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
        .ok()
        .map(|end| end - bytes)
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
                let [page_map, index, upper, sets, records] = layout.parts;
                assert!(page_map >= segments * SEGMENT_CHUNKS as usize);
                assert!(index * 64 >= segments * CLASS_COUNT * 8 && upper * 64 >= index / 64);
                assert!(sets >= segments.div_ceil(64) * SEGMENT_SETS * 8);
                assert_eq!(layout.segments, bytes);
                assert!(layout.samples * 8 < bytes + 8 * SEGMENT_BYTES);
                let start = 7 * PAGE_BYTES;
                let [records_range, samples_range] = layout.kept_free(start);
                assert_eq!(records_range.start, start);
                assert_eq!(start + records_range.bytes, layout.base(start));
                assert_eq!(samples_range.start, layout.base(start) + layout.segments);
                assert!(samples_range.start + samples_range.bytes <= start + layout.window());
                // Records are a hundredth of what they describe.
                assert!(layout.fixed() + records < bytes / 80 + (64 << 10));
            }
        }
    }

    /// An arena of so many segments.
    fn arena_of(segments: usize) -> Arena {
        let arena = Arena::new();
        assert!(arena.choose_window(&Linux, segments * SEGMENT_BYTES));
        assert_eq!(arena.capacity() as usize, segments);
        arena
    }

    #[test]
    fn only_addresses_inside_have_an_offset() {
        let arena = Arena::new();
        assert_eq!(arena.offset_of(4096), None, "nothing is inside before there is a window");
        assert!(!arena.is_sample(usize::MAX));
        let arena = arena_of(16);
        assert!(arena.base().is_multiple_of(SEGMENT_BYTES));
        assert_eq!(arena.offset_of(arena.base()), None, "nor before there is a segment");
        assert_eq!(arena.extend(&Linux, 3).map(|growth| growth.segments), Some(3));
        assert_eq!(arena.offset_of(arena.base() - 1), None);
        assert_eq!(arena.offset_of(arena.base()), Some(0));
        let end = 3 * SEGMENT_BYTES;
        assert_eq!(arena.offset_of(arena.base() + end - 1), Some(end - 1));
        assert_eq!(arena.offset_of(arena.base() + end), None);
        assert!(arena.extend(&Linux, 13).is_some());
        assert!(arena.extend(&Linux, 1).is_none(), "no more than the window has");
    }

    #[test]
    fn samples_are_those_in_slots_that_are_there() {
        let arena = arena_of(16);
        let samples = arena.samples();
        assert_eq!(samples, arena.base() + 16 * SEGMENT_BYTES);
        assert!(!arena.is_sample(samples));
        assert!(arena.extend_samples(&Linux, 2 * SPAN_BYTES));
        assert!(arena.is_sample(samples) && arena.is_sample(samples + 2 * SPAN_BYTES - 1));
        assert!(!arena.is_sample(samples - 1) && !arena.is_sample(samples + 2 * SPAN_BYTES));
        assert_eq!(arena.slot_capacity(), 2 * SEGMENT_CHUNKS);
        assert!(!arena.extend_samples(&Linux, 63 * SPAN_BYTES), "no more than there is room for");
    }

    /// The arena goes on behind what others have, and never writes there.
    #[test]
    fn segments_of_others_are_passed_over() {
        let arena = arena_of(16);
        let page = AddressRange { start: arena.base() + 5 * SEGMENT_BYTES + 4096, bytes: 4096 };
        assert_eq!(Linux.map(page), Mapped::Here, "somebody else does this");
        let theirs = page.start as *mut u8;
        // SAFETY: mapped just now, for this test alone.
        unsafe { theirs.write(7) };
        let mut seen = Vec::new();
        while let Some(growth) = arena.extend(&Linux, (arena.capacity() - arena.in_use()).min(4)) {
            seen.push((growth.first.0, growth.segments, growth.are_others));
        }
        let expected = [
            (0, 4, false),
            (4, 1, false),
            (5, 1, true),
            (6, 4, false),
            (10, 4, false),
            (14, 2, false),
        ];
        assert_eq!(seen, expected);
        assert_eq!((arena.in_use(), arena.others()), (16, 1));
        // SAFETY: still mapped.
        assert_eq!(unsafe { theirs.read() }, 7);
    }

    /// Two heaps of one process have nothing in common.
    #[test]
    fn windows_do_not_overlap() {
        let arenas: Vec<_> = (0..20).map(|_| arena_of(16)).collect();
        let mut ranges: Vec<_> = arenas
            .iter()
            .map(|arena| {
                let start = arena.page_map.load(Ordering::Relaxed) as usize;
                (start, arena.samples() + arena.slot_capacity() as usize * SPAN_BYTES)
            })
            .collect();
        ranges.sort();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:x?}");
    }
}
