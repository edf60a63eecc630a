//! Spans: runs of equal blocks, and the lock-free passage of blocks out of them and back.
//!
//! A span is 64 KiB of addresses cut into blocks of one class. Its descriptor holds a bit for each
//! block: 1 = free and here, 0 = somewhere else (live, or in a thread's cache). At any time at most
//! one thread may *claim* blocks, that is clear bits: the span's **holder**. Any thread may *put*
//! blocks back, that is set bits. Who holds is decided by the span's state:
//!
//! ```text
//!            take (clears its bit in the span index)
//!  AVAILABLE ───────────────────────────────────────► HELD ──► retired: back to the page heap
//!      ▲                                              │  ▲
//!      └───────────── publish (sets that bit) ────────┘  │
//!                                        holder finds no │ first put
//!                                        free bit        ▼ afterwards
//!                                                      FULL
//! ```
//!
//! A full span belongs to nobody and stands in no list. The holder announces FULL and then looks at
//! the bits once more; a put sets its bit and then looks at the state. So whatever their order, one
//! of them sees the other: a block that comes back is never stranded in a span that nobody lists.
//! The same pattern finds emptiness: whoever sets the last missing bit sees all bits set.
//!
//! A span can be retired and its descriptor reused while a slow put still looks at it. The state
//! carries a generation, read before the put's own bit is set (until then its block keeps the span
//! alive), so such a put recognizes that the span is no longer the one it served. No two spans of a
//! heap have the same, whatever became of the descriptor in between: it may have gone back to the
//! system with its record, and reads as zero then, which is no span's generation.

use crate::base::atomics::{AtomicU32, AtomicU64, Ordering, fence_after_rmw};
use crate::base::units::{PAGE_BYTES, Pages};
use crate::geometry::size_class::{MAX_BLOCKS, SizeClass};

/// Bitmap words of a descriptor.
const WORDS: usize = MAX_BLOCKS / 64;

/// The low bits of the state word; the rest is the generation.
const STATE_BITS: u32 = 2;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;
const HELD: u64 = 0;
const AVAILABLE: u64 = 1;
const FULL: u64 = 2;

/// Where the upper half of `residency` begins: a span has 16 pages.
const PURGED_SHIFT: u32 = 16;

/// The out-of-line descriptor of one span. All-zero memory is a valid descriptor (held, no blocks).
///
/// # Invariants
/// - The generation is 0 where there has been no span since the descriptor last was zero.
/// - Bit `i` is set exactly if block `i` is in no cache and not live.
/// - Bits at and above the class's block count are never set.
/// - Only the holder clears bits, writes `residency` and `first_word`, and leaves the state HELD.
/// - `first_word` is below the span's number of bitmap words.
/// - State AVAILABLE: at least one bit is set, and the span's bit in the span index is set or about
///   to be (by the publisher) or just cleared (by a taker). No other state has that bit.
#[repr(C)]
pub(crate) struct Span {
    /// Generation and HELD, AVAILABLE or FULL.
    state: AtomicU64,
    /// Low half, one bit per page: a block there was handed out since the page was last known to be
    /// clean, so it may be resident. High half: the page was given back since, and no block there has
    /// been handed out again.
    residency: AtomicU32,
    /// Where the next claim looks first. Holder only; any value will do.
    first_word: AtomicU32,
    bits: [AtomicU64; WORDS],
}

/// The blocks of one bitmap word that a claim took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Index of the bitmap word.
    pub word: u32,
    /// The blocks taken: bit `i` is block `64 * word + i`.
    pub blocks: u64,
}

/// What handing out blocks did to a span's pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gained {
    /// Pages that may be resident from now on and were not before.
    pub pages: Pages,
    /// Of those, the ones that had been given back.
    pub refaults: Pages,
}

/// What a put has to see to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Put {
    /// Nothing.
    Done,
    /// The span was full and nobody's: the caller holds it now and publishes or retires it.
    Held,
    /// All blocks are back: whoever can take the span from the index should retire it.
    Empty,
    /// A block was already free, or its span is long gone. Nothing has been changed for the others.
    DoubleFree,
}

/// The bits that exist in `word` of a span with `blocks` blocks.
#[inline(always)]
fn full_word(blocks: u32, word: u32) -> u64 {
    let here = blocks - word * 64;
    if here >= 64 { u64::MAX } else { (1 << here) - 1 }
}

#[inline(always)]
fn words_for(blocks: u32) -> u32 {
    blocks.div_ceil(64)
}

impl Span {
    /// Makes this the descriptor of a new span whose `blocks` blocks are all free, held by the
    /// caller. `resident` says which pages still hold old content; `number` is one that no other span of
    /// the heap has had, and not 0.
    ///
    /// The caller took the span's pages from the page heap, so nobody else uses the descriptor but
    /// late puts to an earlier span, which the new generation turns away.
    pub fn create(&self, blocks: u32, resident: u16, number: u64) {
        debug_assert!(number > 0);
        for word in 0..words_for(blocks) {
            // Relaxed: published with the span, by the Release of the index or of a block's owner.
            self.bits[word as usize].store(full_word(blocks, word), Ordering::Relaxed);
        }
        self.residency.store(resident as u32, Ordering::Relaxed);
        self.first_word.store(0, Ordering::Relaxed);
        self.state.store(number << STATE_BITS | HELD, Ordering::Relaxed);
    }

    /// Takes up to `want` blocks of one word, lowest first: of the word that the last claim stopped
    /// at or the next one that has any. `None`: no block is free just now. Holder only.
    #[inline]
    pub fn claim(&self, blocks: u32, want: u32) -> Option<Claim> {
        let words = words_for(blocks);
        let mut word = self.first_word.load(Ordering::Relaxed);
        for _ in 0..words {
            let free = self.bits[word as usize].load(Ordering::Relaxed);
            if free != 0 {
                let take = lowest_bits(free, want);
                // Acquire: partner of the Release in `put`; what the last owner did with the
                // blocks is over before the next one gets them. Only the holder clears bits, so
                // those seen set are still set.
                self.bits[word as usize].fetch_and(!take, Ordering::Acquire);
                self.first_word.store(word, Ordering::Relaxed);
                return Some(Claim { word, blocks: take });
            }
            word = if word + 1 < words { word + 1 } else { 0 };
        }
        None
    }

    /// Gives blocks of one word back, whoever they belong to.
    #[inline]
    pub fn put(&self, blocks: u32, word: u32, mask: u64) -> Put {
        // Before the bits are set: the caller's blocks keep the span from being retired till then.
        let generation = self.state.load(Ordering::Relaxed) & !STATE_MASK;
        // Release: partner of the Acquires in `claim` and `is_empty`.
        let before = self.bits[word as usize].fetch_or(mask, Ordering::AcqRel);
        if before & mask != 0 || generation == 0 {
            return Put::DoubleFree;
        }
        fence_after_rmw();
        if self.state.load(Ordering::Relaxed) == generation | FULL {
            // Acquire: partner of the Release in `leave_full`, for `residency`.
            let revived = self.state.compare_exchange(
                generation | FULL,
                generation | HELD,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if revived.is_ok() {
                return Put::Held;
            }
        }
        if before | mask == full_word(blocks, word) && self.is_empty(blocks) {
            return Put::Empty;
        }
        Put::Done
    }

    /// Are all blocks here? If so nobody else has business with this span, and for a holder the
    /// answer stays true.
    pub fn is_empty(&self, blocks: u32) -> bool {
        // Acquire: partner of the Release in `put`; every owner is done with its blocks.
        (0..words_for(blocks))
            .all(|word| self.bits[word as usize].load(Ordering::Acquire) == full_word(blocks, word))
    }

    /// The holder found no free block: leaves the span to whoever puts one back. `false` if one has
    /// come back meanwhile; the caller then still holds the span and should claim again.
    #[inline]
    pub fn leave_full(&self, blocks: u32) -> bool {
        let held = self.state.load(Ordering::Relaxed);
        debug_assert_eq!(held & STATE_MASK, HELD);
        let full = held & !STATE_MASK | FULL;
        // Release: partner of the Acquire in `put`, which may make another thread the holder.
        self.state.swap(full, Ordering::AcqRel);
        fence_after_rmw();
        if !self.has_any(blocks) {
            return true;
        }
        // Somebody put a block back. Either that thread saw FULL and holds the span now, or it is
        // ours again.
        self.state.compare_exchange(full, held, Ordering::AcqRel, Ordering::Relaxed).is_err()
    }

    /// Is any block here just now?
    #[inline]
    pub fn has_any(&self, blocks: u32) -> bool {
        (0..words_for(blocks)).any(|word| self.bits[word as usize].load(Ordering::Relaxed) != 0)
    }

    /// How many blocks are here just now, more or less.
    pub fn free_blocks(&self, blocks: u32) -> u32 {
        (0..words_for(blocks))
            .map(|word| self.bits[word as usize].load(Ordering::Relaxed).count_ones())
            .sum()
    }

    /// First half of publishing a held span: the state says AVAILABLE. The caller then sets the
    /// span's bit in the index.
    pub fn leave_available(&self) {
        let held = self.state.load(Ordering::Relaxed);
        debug_assert_eq!(held & STATE_MASK, HELD);
        // Relaxed: ordered by the Release with which the index bit is set.
        self.state.store(held | AVAILABLE, Ordering::Relaxed);
    }

    /// Second half of taking an available span, after its bit in the index was cleared: the caller
    /// is the holder.
    pub fn enter_held(&self) {
        let available = self.state.load(Ordering::Relaxed);
        debug_assert_eq!(available & STATE_MASK, AVAILABLE);
        self.state.store(available & !STATE_MASK | HELD, Ordering::Relaxed);
    }

    /// Adds the pages that the blocks of `claim` lie on to those that may be resident; returns what
    /// that changed. Holder only.
    #[inline]
    pub fn mark_resident(&self, class: SizeClass, claim: Claim) -> Gained {
        let all = (1u32 << class.block_pages().0) - 1;
        let before = self.residency.load(Ordering::Relaxed);
        if before & all == all {
            return Gained::default();
        }
        let size = class.block_bytes().get();
        let base = claim.word as usize * 64;
        let low = (base + claim.blocks.trailing_zeros() as usize) * size / PAGE_BYTES;
        let end = (base + 64 - claim.blocks.leading_zeros() as usize) * size;
        let pages = (u32::MAX << low) & ((1u64 << end.div_ceil(PAGE_BYTES)) - 1) as u32;
        let refaults = before & pages << PURGED_SHIFT;
        self.residency.store((before | pages) & !refaults, Ordering::Relaxed);
        Gained {
            pages: Pages((pages & !before).count_ones()),
            refaults: Pages(refaults.count_ones()),
        }
    }

    /// Which pages may be resident. Exact for the holder.
    pub fn resident_pages(&self) -> u16 {
        self.residency.load(Ordering::Relaxed) as u16
    }

    /// Which pages were given back and not handed out since. Exact for the holder.
    pub fn purged_pages(&self) -> u16 {
        (self.residency.load(Ordering::Relaxed) >> PURGED_SHIFT) as u16
    }

    /// The pages that may be resident and on which every block is here. For the holder they stay so:
    /// nobody else takes blocks out. For others, a guess.
    pub fn purgeable_pages(&self, class: SizeClass) -> u16 {
        let blocks = class.blocks_per_span();
        let mut rest = self.resident_pages();
        let mut purgeable = 0;
        while rest != 0 {
            let page = rest.trailing_zeros();
            rest &= rest - 1;
            let start = page * PAGE_BYTES as u32;
            let first = class.block_index(start);
            let last = class.block_index(start + PAGE_BYTES as u32 - 1).min(blocks - 1);
            if self.all_here(first, last) {
                purgeable |= 1 << page;
            }
        }
        purgeable
    }

    /// Are the blocks `first..=last` all here?
    fn all_here(&self, first: u32, last: u32) -> bool {
        (first / 64..=last / 64).all(|word| {
            let low = if word == first / 64 { u64::MAX << (first % 64) } else { u64::MAX };
            let high = if word == last / 64 { u64::MAX >> (63 - last % 64) } else { u64::MAX };
            let wanted = low & high;
            // Acquire: partner of the Release in `put`; the blocks' last owners are done with them.
            self.bits[word as usize].load(Ordering::Acquire) & wanted == wanted
        })
    }

    /// Records that pages were given back. Holder only.
    pub fn mark_purged(&self, pages: u16) {
        let pages = pages as u32;
        let before = self.residency.load(Ordering::Relaxed);
        self.residency.store(before & !pages | pages << PURGED_SHIFT, Ordering::Relaxed);
    }
}

/// For whoever knows that nothing moves.
impl Span {
    /// Is the block here?
    pub fn has_free(&self, block: u32) -> bool {
        self.bits[block as usize / 64].load(Ordering::Relaxed) >> (block % 64) & 1 == 1
    }

    pub fn is_available(&self) -> bool {
        self.state.load(Ordering::Relaxed) & STATE_MASK == AVAILABLE
    }

    pub fn is_full(&self) -> bool {
        self.state.load(Ordering::Relaxed) & STATE_MASK == FULL
    }

    /// Makes the caller the holder of a span that is in no index, whoever was it. In a copy of the process that has
    /// no other holder.
    pub fn take_from_ghost(&self) {
        let state = self.state.load(Ordering::Relaxed);
        self.state.store(state & !STATE_MASK | HELD, Ordering::Relaxed);
    }
}

/// For tests.
#[cfg(test)]
impl Span {
    /// What all-zero memory is.
    pub fn new() -> Span {
        Span {
            state: AtomicU64::new(0),
            residency: AtomicU32::new(0),
            first_word: AtomicU32::new(0),
            bits: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// What the kernel does to a descriptor whose record is given back.
    pub fn wipe(&self) {
        self.state.store(0, Ordering::Relaxed);
        self.residency.store(0, Ordering::Relaxed);
        self.first_word.store(0, Ordering::Relaxed);
        self.bits.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// The number that the span was created with.
    pub fn number(&self) -> u64 {
        self.state.load(Ordering::Relaxed) >> STATE_BITS
    }
}

/// The lowest `count` set bits of `bits`, or all of them if there are fewer.
#[inline(always)]
fn lowest_bits(bits: u64, count: u32) -> u64 {
    if count >= 64 || bits.count_ones() <= count {
        return bits;
    }
    let mut rest = bits;
    for _ in 0..count {
        rest &= rest - 1;
    }
    bits & !rest
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::units::SPAN_BYTES;

    #[test]
    fn lowest_bits_takes_from_the_bottom() {
        assert_eq!(lowest_bits(0b1011_0100, 2), 0b0001_0100);
        assert_eq!(lowest_bits(0b1011_0100, 9), 0b1011_0100);
        assert_eq!(lowest_bits(u64::MAX, 64), u64::MAX);
        assert_eq!(lowest_bits(u64::MAX, 1), 1);
    }

    #[test]
    fn every_block_is_claimed_once_and_comes_back() {
        for class in SizeClass::all() {
            let blocks = class.blocks_per_span();
            let span = Span::new();
            span.create(blocks, 0, 1);
            let mut claims = Vec::new();
            let mut seen = 0;
            while let Some(claim) = span.claim(blocks, 7) {
                seen += claim.blocks.count_ones();
                claims.push(claim);
            }
            assert_eq!(seen, blocks);
            assert!(span.leave_full(blocks));
            let (first, rest) = claims.split_first().unwrap();
            let one = first.blocks & first.blocks.wrapping_neg();
            let put = span.put(blocks, first.word, one);
            assert_eq!(put, Put::Held, "the first block to come back revives the span");
            assert_eq!(span.put(blocks, first.word, one), Put::DoubleFree);
            let mut last = if blocks == 1 { Put::Empty } else { Put::Done };
            if first.blocks != one {
                last = span.put(blocks, first.word, first.blocks & !one);
            }
            for claim in rest {
                assert_eq!(last, Put::Done);
                last = span.put(blocks, claim.word, claim.blocks);
            }
            assert_eq!(last, Put::Empty);
            assert!(span.is_empty(blocks));
        }
    }

    #[test]
    fn a_block_that_is_here_already_is_a_double_free_in_every_state() {
        let span = Span::new();
        assert_eq!(span.put(130, 0, 1), Put::DoubleFree, "no span");
        span.create(130, 0, 1);
        assert_eq!(span.put(130, 0, 1), Put::DoubleFree, "never handed out");
        span.create(130, 0, 2);
        assert_eq!(span.claim(130, 2), Some(Claim { word: 0, blocks: 0b11 }));
        assert_eq!(span.put(130, 0, 0b01), Put::Done);
        assert_eq!(span.put(130, 0, 0b01), Put::DoubleFree, "held");
        span.leave_available();
        assert_eq!(span.put(130, 0, 0b01), Put::DoubleFree, "available");
        assert_eq!(span.put(130, 0, 0b11), Put::DoubleFree, "with another that is not");
    }

    #[test]
    fn resident_pages_are_those_of_the_claimed_blocks() {
        for class in SizeClass::all() {
            let blocks = class.blocks_per_span();
            let size = class.block_bytes().get();
            let span = Span::new();
            span.create(blocks, 0, 1);
            let mut expected = 0u32;
            let mut counted = 0;
            while let Some(claim) = span.claim(blocks, 3) {
                counted += span.mark_resident(class, claim).pages.0;
                for bit in (0..64).filter(|bit| claim.blocks >> bit & 1 == 1) {
                    let start = (claim.word as usize * 64 + bit) * size;
                    for page in start / PAGE_BYTES..=(start + size - 1) / PAGE_BYTES {
                        expected |= 1 << page;
                    }
                }
                assert_eq!(span.resident_pages() as u32, expected);
                assert_eq!(counted, expected.count_ones());
            }
            assert_eq!(expected, (1 << class.block_pages().0) - 1);
            assert!(class.block_pages().bytes().get() <= SPAN_BYTES);
        }
    }

    #[test]
    fn a_put_that_outlives_its_span_leaves_the_next_one_alone() {
        let span = Span::new();
        span.create(2, 0, 1);
        let claim = span.claim(2, 2).unwrap();
        assert!(span.leave_full(2));
        // The state as a slow put would have read it, before the span is retired and reused.
        let stale = span.state.load(Ordering::Relaxed);
        assert_eq!(span.put(2, 0, claim.blocks), Put::Held);
        span.wipe();
        assert_ne!(span.state.load(Ordering::Relaxed), stale, "it is no span's");
        span.create(64, 0, 2);
        while span.claim(64, 64).is_some() {}
        assert!(span.leave_full(64));
        assert_ne!(span.state.load(Ordering::Relaxed), stale, "the generation tells them apart");
    }
}
