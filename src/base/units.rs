//! Units as types: a count of bytes, a count of pages and a place in a segment are different
//! things, and only these functions turn one into another.

/// The size of an OS page. Slackwater supports systems whose pages are 4 KiB.
pub const PAGE_BYTES: usize = 4096;

/// Pages in a segment.
pub const SEGMENT_PAGES: u32 = 512;

/// Bytes in a segment: the size of a huge page on x86_64 and aarch64.
pub const SEGMENT_BYTES: usize = SEGMENT_PAGES as usize * PAGE_BYTES;

/// Pages in a chunk: the place of a span.
pub const CHUNK_PAGES: u32 = 16;

/// Bytes in a chunk, and so in a span.
pub const SPAN_BYTES: usize = CHUNK_PAGES as usize * PAGE_BYTES;

/// Chunks in a segment.
pub const SEGMENT_CHUNKS: u32 = SEGMENT_PAGES / CHUNK_PAGES;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Bytes(pub usize);

/// A number of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Pages(pub u32);

/// A page's place in its segment: 0 to 511.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct PageIndex(pub u32);

/// A segment's place in the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct SegmentIndex(pub u32);

/// A stretch of time of the release machinery, 50 ms unless a knob says otherwise: about one tick falls into
/// each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Epoch(pub u64);

impl Bytes {
    /// The plain number.
    #[inline(always)]
    pub const fn get(self) -> usize {
        self.0
    }
}

impl Pages {
    /// The fewest pages that hold `bytes`.
    #[inline]
    pub const fn covering(bytes: Bytes) -> Pages {
        Pages(bytes.0.div_ceil(PAGE_BYTES) as u32)
    }

    /// The bytes of these pages.
    #[inline(always)]
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0 as usize * PAGE_BYTES)
    }

    /// The plain number.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl PageIndex {
    /// The byte offset of this page from its segment's start.
    #[inline(always)]
    pub const fn byte_offset(self) -> usize {
        self.0 as usize * PAGE_BYTES
    }
}

impl Epoch {
    /// Epochs passed since `earlier`; 0 if that is in the future.
    #[inline]
    pub const fn since(self, earlier: Epoch) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
