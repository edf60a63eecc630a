//! A heap's pages from outside: where they are, and what each is for.

use core::mem::offset_of;

use super::heap::RemoteHeap;
use super::memory::{ADDRESS_END, Memory, RemoteError, read_plain, read_word};
use crate::base::bits::PageBits;
use crate::base::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_CHUNKS, SPAN_BYTES};
use crate::geometry::arena::{Arena, ChunkIndex, MAX_BYTES, MAX_FIXED_BYTES};
use crate::geometry::segment::{Chunk, PageStates, Segment};
use crate::geometry::size_class::{CLASS_COUNT, SizeClass};
use crate::geometry::slot::MAX_SLOTS;
use crate::geometry::span::Span;
use crate::os::loader;
use crate::sampling;

const _: () = assert!(size_of::<PageBits>() == 64 && SEGMENT_BYTES == 512 * PAGE_BYTES);

const _: () = assert!(offset_of!(Chunk, span) == 0);

const _: () = assert!(offset_of!(Segment, pages) == 0 && size_of::<ChunkIndex>() == 4);

/// Where a heap's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address of the first segment.
    pub base: u64,
    /// Segments (of 2 MiB) in use.
    pub segments: u32,
    /// How many of those are not mapped just now, or are others' mappings.
    pub unmapped: u32,
    /// The addresses of the records about pages, segments and spans, from the first byte on. Most of what is before
    /// those of segments is not mapped.
    pub records: u64,
    /// The first of those of segments, all of which are mapped.
    pub segment_records: u64,
    /// The end of the last of them.
    pub records_end: u64,
    /// Bytes of further records, outside any of these ranges.
    pub pool_bytes: u64,
    /// The address of the first slot (of 64 KiB) for sampled blocks.
    pub samples: u64,
    /// Slots that have been used.
    pub slots: u32,
}

impl Place {
    /// One past the last byte of the segments in use.
    pub fn end(&self) -> u64 {
        self.base + self.segments as u64 * SEGMENT_BYTES as u64
    }

    /// One past the last byte of the slots that have been used.
    pub fn samples_end(&self) -> u64 {
        self.samples + self.slots as u64 * SPAN_BYTES as u64
    }
}

/// One word of a page's bytes: modules that differ there have different ones.
pub fn page_contents(page: &[u8]) -> u64 {
    loader::contents_of(page)
}

/// What the 512 pages of a segment are, one bit for each. The four exclude each other and cover all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentPages {
    /// They belong to spans.
    pub span: [u64; 8],
    /// They belong to large runs.
    pub large: [u64; 8],
    /// They are free, and wait for their purge.
    pub dirty: [u64; 8],
    /// They are free and hold nothing.
    pub clean: [u64; 8],
}

/// One span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanUse {
    /// The size of its blocks, in bytes.
    pub block_bytes: u32,
    /// How many blocks it has.
    pub blocks: u32,
    /// How many of them are free, and in no thread's cache.
    pub free: u32,
}

impl SegmentPages {
    /// From a segment's bytes of the page map, and its bits of pages in use and of dirty pages. Those of a
    /// record that was given back, or is just being, are all zero: every page is free and holds nothing.
    fn new(classes: &[u8], bits: &[u8]) -> SegmentPages {
        let mut words = bits.chunks_exact(8).map(|word| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            u64::from_le_bytes(bytes)
        });
        let free: [u64; 8] = core::array::from_fn(|_| !words.next().unwrap_or(0));
        let dirty: [u64; 8] = core::array::from_fn(|_| words.next().unwrap_or(0));
        // Four chunks of 16 pages to a word.
        let in_span: [u64; 8] = core::array::from_fn(|word| {
            let chunks = classes[word * 4..][..4].iter().enumerate();
            chunks.map(|(i, &class)| if class == 0 { 0 } else { 0xffff << (i * 16) }).sum()
        });
        let word = |of: fn(u64, u64, u64) -> u64| -> [u64; 8] {
            core::array::from_fn(|i| of(free[i], dirty[i], in_span[i]))
        };
        SegmentPages {
            span: word(|free, _, span| span & !free),
            large: word(|free, _, span| !free & !span),
            dirty: word(|free, dirty, _| free & dirty),
            clean: word(|free, dirty, _| free & !dirty),
        }
    }
}

impl RemoteHeap {
    /// Where the heap's memory is; `None` before its first allocation.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or holds addresses that no heap can have.
    pub fn place(&self, memory: &impl Memory) -> Result<Option<Place>, RemoteError> {
        let arena = self.root().arena.addr() as u64;
        let field = |offset: usize| read_word(memory, arena.wrapping_add(offset as u64));
        let capacity = field(offset_of!(Arena, capacity))? as u32;
        if capacity == 0 {
            return Ok(None);
        }
        let base = field(offset_of!(Arena, base))?;
        let records = field(offset_of!(Arena, page_map))?;
        let segment_records = field(offset_of!(Arena, segments))?;
        let segments = field(offset_of!(Arena, in_use))? as u32;
        let others = field(offset_of!(Arena, others))? as u32;
        let unmapped = others.saturating_add(field(offset_of!(Arena, unmapped))? as u32);
        let samples = field(offset_of!(Arena, samples))?;
        let sampler = self.root().sampler.addr() as u64;
        let fresh = offset_of!(sampling::ProfilerCounters, fresh) as u64;
        let slots = read_word(memory, sampler.wrapping_add(fresh))? as u32;
        let pool_bytes = self.single(memory, self.root().singles.metadata_used)?;
        let fits = base.is_multiple_of(SEGMENT_BYTES as u64)
            && base < ADDRESS_END
            && capacity as u64 <= MAX_BYTES as u64 / SEGMENT_BYTES as u64
            && pool_bytes < ADDRESS_END
            && segments <= capacity
            && samples == base + capacity as u64 * SEGMENT_BYTES as u64
            && slots <= MAX_SLOTS + 1
            && records < segment_records
            // Whoever asks the kernel about them asks about every page.
            && segment_records - records <= MAX_FIXED_BYTES as u64
            && segment_records < base;
        if !fits {
            return Err(RemoteError::Nonsense("addresses"));
        }
        let records_end = segment_records + segments as u64 * size_of::<Segment>() as u64;
        Ok(Some(Place {
            base,
            segments,
            unmapped,
            records,
            segment_records,
            records_end,
            pool_bytes,
            samples,
            slots,
        }))
    }

    /// How often the heap has asked for memory in its window.
    pub(super) fn arena_map_calls(&self, memory: &impl Memory) -> Result<u32, RemoteError> {
        let arena = self.root().arena.addr() as u64;
        let calls = read_word(memory, arena.wrapping_add(offset_of!(Arena, map_calls) as u64))?;
        Ok(calls as u32)
    }

    /// What the pages of segments are, from segment `first` on.
    ///
    /// # Errors
    ///
    /// When a segment is not in use, or its record cannot be read.
    pub fn pages(
        &self,
        memory: &impl Memory,
        place: &Place,
        first: u32,
        into: &mut [SegmentPages],
    ) -> Result<(), RemoteError> {
        // So many at a time, for the sake of the stack.
        const BATCH: usize = 64;
        const BYTES: usize = size_of::<[PageBits; 2]>();
        const { assert!(PageStates::USED_OFFSET == 0 && PageStates::DIRTY_OFFSET == BYTES / 2) };
        for (batch, from) in into.chunks_mut(BATCH).zip((first..).step_by(BATCH)) {
            let mut classes = [0; BATCH * SEGMENT_CHUNKS as usize];
            let classes = &mut classes[..batch.len() * SEGMENT_CHUNKS as usize];
            let mut bits = [0; BATCH * BYTES];
            let bits = &mut bits[..batch.len() * BYTES];
            let first_class = place.records + from as u64 * SEGMENT_CHUNKS as u64;
            let record = self.segment_record(place, from, batch.len() as u32)?;
            if !memory.read(first_class, classes) {
                return Err(RemoteError::Unreadable { address: first_class });
            }
            if !memory.read_strided(record, size_of::<Segment>() as u64, BYTES, bits) {
                return Err(RemoteError::Unreadable { address: record });
            }
            let classes = classes.chunks_exact(SEGMENT_CHUNKS as usize);
            for ((pages, classes), bits) in
                batch.iter_mut().zip(classes).zip(bits.chunks_exact(BYTES))
            {
                *pages = SegmentPages::new(classes, bits);
            }
        }
        Ok(())
    }

    /// The spans in the 32 chunks (of 64 KiB) of a segment.
    ///
    /// # Errors
    ///
    /// When the segment is not in use, or its record cannot be read.
    pub fn spans(
        &self,
        memory: &impl Memory,
        place: &Place,
        segment: u32,
    ) -> Result<[Option<SpanUse>; SEGMENT_CHUNKS as usize], RemoteError> {
        let record = self.segment_record(place, segment, 1)?;
        let mut classes = [0; SEGMENT_CHUNKS as usize];
        let first_class = place.records + segment as u64 * SEGMENT_CHUNKS as u64;
        if !memory.read(first_class, &mut classes) {
            return Err(RemoteError::Unreadable { address: first_class });
        }
        let mut uses = [None; SEGMENT_CHUNKS as usize];
        for (i, (&class, span_use)) in classes.iter().zip(&mut uses).enumerate() {
            if class == 0 || class as usize >= CLASS_COUNT {
                continue;
            }
            let class = SizeClass(class);
            let offset = offset_of!(Segment, chunks) + i * size_of::<Chunk>();
            let span = read_plain::<Span>(memory, record + offset as u64)?;
            // SAFETY: it was filled, and is nothing but atomic numbers.
            let span = unsafe { span.assume_init_ref() };
            let blocks = class.blocks_per_span();
            *span_use = Some(SpanUse {
                block_bytes: class.block_bytes().get() as u32,
                blocks,
                free: span.free_blocks(blocks).min(blocks),
            });
        }
        Ok(uses)
    }

    /// The record of `segment`, if it and the `count - 1` after it are in use.
    fn segment_record(&self, place: &Place, segment: u32, count: u32) -> Result<u64, RemoteError> {
        match segment.checked_add(count) {
            Some(end) if end <= place.segments => {
                Ok(place.segment_records + segment as u64 * size_of::<Segment>() as u64)
            }
            _ => Err(RemoteError::Nonsense("segments")),
        }
    }
}
