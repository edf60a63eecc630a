//! Size classes: which block size serves a request.
//!
//! Steps of 16 bytes up to 128; above that the ratio of neighbours is chosen so that a request
//! never wastes more than an eighth of its block (seven, then six classes for each doubling, where
//! equal steps would need eight). Fewer classes mean fewer half-used spans and emptier caches.
//!
//! Everything here is `const`: the tables are data in the binary, and the assertions at the end
//! are checked by the compiler.

use crate::base::units::{Bytes, Pages, SPAN_BYTES};

/// The largest request served from a span; anything larger is a page run.
pub const MAX_CLASS_BYTES: usize = 32 * 1024;

/// How many values a [`SizeClass`] has, the reserved class 0 included.
pub const CLASS_COUNT: usize = 58;

/// The smallest distance between two classes, and the alignment of every block.
pub const GRANULE: usize = 16;

/// A size class. Class 0 is no class: a page map byte of 0 says "not a span".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SizeClass(pub(crate) u8);

/// The coverage kind of a block: which release path its pages take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 16 B to 2 KiB.
    Small,
    /// Above 2 KiB, to 4 KiB.
    Sub4k,
    /// Above 4 KiB, to 32 KiB.
    Medium,
    /// Page runs: above 32 KiB.
    Large,
}

/// The most blocks a span can have.
pub const MAX_BLOCKS: usize = SPAN_BYTES / GRANULE;

const BLOCK_BYTES: [u32; CLASS_COUNT] = {
    let mut sizes = [0; CLASS_COUNT];
    let mut class = 1;
    let mut size = 16;
    while size <= 128 {
        sizes[class] = size;
        class += 1;
        size += 16;
    }
    let first_doubling = [144, 160, 176, 192, 208, 224, 256];
    let mut i = 0;
    while i < first_doubling.len() {
        sizes[class] = first_doubling[i];
        class += 1;
        i += 1;
    }
    let doubling = [288, 320, 352, 400, 448, 512];
    let mut scale = 1;
    while class < CLASS_COUNT {
        let mut i = 0;
        while i < doubling.len() {
            sizes[class] = doubling[i] * scale;
            class += 1;
            i += 1;
        }
        scale *= 2;
    }
    sizes
};

/// ⌈2³² / block size⌉: `offset * reciprocal >> 32` is the block's index for every offset in a span.
const RECIPROCAL: [u32; CLASS_COUNT] = {
    let mut table = [0; CLASS_COUNT];
    let mut class = 1;
    while class < CLASS_COUNT {
        table[class] = (1u64 << 32).div_ceil(BLOCK_BYTES[class] as u64) as u32;
        class += 1;
    }
    table
};

/// Blocks of a span, by class.
const BLOCKS: [u16; CLASS_COUNT] = {
    let mut table = [0; CLASS_COUNT];
    let mut class = 1;
    while class < CLASS_COUNT {
        table[class] = (SPAN_BYTES / BLOCK_BYTES[class] as usize) as u16;
        class += 1;
    }
    table
};

/// Pages that those blocks cover, by class.
const BLOCK_PAGES: [u8; CLASS_COUNT] = {
    let mut table = [0; CLASS_COUNT];
    let mut class = 1;
    while class < CLASS_COUNT {
        let bytes = BLOCKS[class] as usize * BLOCK_BYTES[class] as usize;
        table[class] = Pages::covering(Bytes(bytes)).0 as u8;
        class += 1;
    }
    table
};

const CLASS_OF: [u8; MAX_CLASS_BYTES / GRANULE + 1] = {
    let mut table = [1; MAX_CLASS_BYTES / GRANULE + 1];
    let mut class = 1;
    let mut granules = 1;
    while granules < table.len() {
        if granules * GRANULE > BLOCK_BYTES[class] as usize {
            class += 1;
        }
        table[granules] = class as u8;
        granules += 1;
    }
    table
};

impl SizeClass {
    /// No class: what the page map says of chunks that hold no span.
    pub(crate) const NONE: SizeClass = SizeClass(0);

    /// Every real class, smallest first.
    pub fn all() -> impl Iterator<Item = SizeClass> {
        (1..CLASS_COUNT as u8).map(SizeClass)
    }

    /// The smallest class whose blocks hold `bytes`, which is at most [`MAX_CLASS_BYTES`]. A
    /// request of 0 bytes gets the smallest block.
    #[inline(always)]
    pub fn for_bytes(bytes: usize) -> SizeClass {
        debug_assert!(bytes <= MAX_CLASS_BYTES);
        // SAFETY: `bytes <= MAX_CLASS_BYTES`, so the index is at most the table's last.
        SizeClass(unsafe { *CLASS_OF.get_unchecked(bytes.div_ceil(GRANULE)) })
    }

    /// The smallest class whose blocks hold `bytes` and all start at a multiple of `align`; `None`
    /// where only a page run can. `align` is a power of two.
    ///
    /// A block starts at a multiple of its size from the start of its span, which is aligned to
    /// [`SPAN_BYTES`]; so the block size must be a multiple of `align`.
    #[inline(always)]
    pub fn for_layout(bytes: usize, align: usize) -> Option<SizeClass> {
        if bytes > MAX_CLASS_BYTES {
            return None;
        }
        if align <= GRANULE {
            return Some(Self::for_bytes(bytes));
        }
        Self::for_aligned(bytes, align)
    }

    fn for_aligned(bytes: usize, align: usize) -> Option<SizeClass> {
        if align > MAX_CLASS_BYTES {
            return None;
        }
        let mut class = Self::for_bytes(bytes.max(align));
        // Every power of two from 16 to MAX_CLASS_BYTES is a class, so this ends.
        while !class.block_bytes().get().is_multiple_of(align) {
            class = SizeClass(class.0 + 1);
        }
        Some(class)
    }

    /// The class's number, for indexing tables of [`CLASS_COUNT`] entries.
    #[inline(always)]
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The size of this class's blocks.
    #[inline(always)]
    pub fn block_bytes(self) -> Bytes {
        // SAFETY: a SizeClass is below CLASS_COUNT by construction.
        Bytes(unsafe { *BLOCK_BYTES.get_unchecked(self.index()) } as usize)
    }

    /// The index of the block that contains the byte at `offset` from its span's start.
    #[inline(always)]
    pub(crate) fn block_index(self, offset: u32) -> u32 {
        // SAFETY: a SizeClass is below CLASS_COUNT by construction.
        let reciprocal = unsafe { *RECIPROCAL.get_unchecked(self.index()) };
        ((offset as u64 * reciprocal as u64) >> 32) as u32
    }

    /// How many blocks a span of this class has.
    #[inline(always)]
    pub(crate) fn blocks_per_span(self) -> u32 {
        // SAFETY: a SizeClass is below CLASS_COUNT by construction.
        unsafe { *BLOCKS.get_unchecked(self.index()) as u32 }
    }

    /// How many of the span's pages those blocks lie on; the last few may hold none.
    #[inline(always)]
    pub(crate) fn block_pages(self) -> Pages {
        // SAFETY: a SizeClass is below CLASS_COUNT by construction.
        Pages(unsafe { *BLOCK_PAGES.get_unchecked(self.index()) } as u32)
    }

    /// The coverage kind of this class's blocks.
    pub fn kind(self) -> Kind {
        match self.block_bytes().get() {
            0..=2048 => Kind::Small,
            2049..=4096 => Kind::Sub4k,
            _ => Kind::Medium,
        }
    }
}

const _: () = {
    assert!(BLOCK_BYTES[CLASS_COUNT - 1] as usize == MAX_CLASS_BYTES);
    let mut class = 1;
    while class < CLASS_COUNT {
        let size = BLOCK_BYTES[class];
        let below = BLOCK_BYTES[class - 1];
        assert!(size > below && size.is_multiple_of(GRANULE as u32));
        // The worst request of a class is one byte above the class below.
        assert!(below < 128 || (size - below - 1) * 8 <= size, "more than an eighth wasted");
        class += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_gets_the_smallest_class_that_holds_it() {
        for bytes in 0..=MAX_CLASS_BYTES {
            let class = SizeClass::for_bytes(bytes);
            assert!(class.block_bytes().get() >= bytes);
            let below = BLOCK_BYTES[class.index() - 1] as usize;
            assert!(below < bytes.max(1), "{bytes} would fit into {below}");
        }
    }

    #[test]
    fn the_reciprocal_divides_every_offset_of_a_span() {
        for class in SizeClass::all() {
            let size = class.block_bytes().get() as u32;
            for offset in 0..SPAN_BYTES as u32 {
                assert_eq!(class.block_index(offset), offset / size, "{offset} / {size}");
            }
        }
    }

    #[test]
    fn an_aligned_class_keeps_every_block_aligned() {
        for shift in 0..=15 {
            let align = 1usize << shift;
            for bytes in (1..=MAX_CLASS_BYTES).step_by(61) {
                let class = SizeClass::for_layout(bytes, align).expect("fits a class");
                assert!(class.block_bytes().get() >= bytes);
                assert!(class.block_bytes().get().is_multiple_of(align));
            }
        }
        assert_eq!(SizeClass::for_layout(1, MAX_CLASS_BYTES * 2), None);
        assert_eq!(SizeClass::for_layout(MAX_CLASS_BYTES + 1, 1), None);
    }

    #[test]
    fn kinds_split_at_their_documented_sizes() {
        assert_eq!(SizeClass::for_bytes(2048).kind(), Kind::Small);
        assert_eq!(SizeClass::for_bytes(2049).kind(), Kind::Sub4k);
        assert_eq!(SizeClass::for_bytes(4096).kind(), Kind::Sub4k);
        assert_eq!(SizeClass::for_bytes(4097).kind(), Kind::Medium);
    }
}
