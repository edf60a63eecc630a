//! The 512 bits of a segment's pages.

use crate::base::atomics::{AtomicU64, Ordering};
use crate::base::units::{CHUNK_PAGES, PageIndex, Pages, SEGMENT_PAGES};

const WORDS: usize = SEGMENT_PAGES as usize / 64;

/// One bit for each page of a segment. Plain data: whoever holds it synchronizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct PageBits([u64; WORDS]);

/// One bit for each page of a segment, which any thread may set at any time, a signal handler too. Whoever says
/// something of a page, and whoever asks, hand the page to each other: that orders them.
#[repr(transparent)]
pub(crate) struct AtomicPageBits([AtomicU64; WORDS]);

/// A run of pages inside one segment.
///
/// # Invariants
/// `pages >= 1` and `first + pages <= SEGMENT_PAGES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRun {
    pub first: PageIndex,
    pub pages: Pages,
}

impl PageRun {
    pub fn new(first: PageIndex, pages: Pages) -> PageRun {
        debug_assert!(pages.0 >= 1 && first.0 + pages.0 <= SEGMENT_PAGES);
        PageRun { first, pages }
    }

    /// The 16 pages of a segment's chunk.
    pub const fn of_chunk(chunk: u32) -> PageRun {
        PageRun { first: PageIndex(chunk * CHUNK_PAGES), pages: Pages(CHUNK_PAGES) }
    }

    /// From page `first` up to and without page `end`.
    pub fn between(first: u32, end: u32) -> PageRun {
        PageRun::new(PageIndex(first), Pages(end - first))
    }

    /// All pages of a segment.
    pub const SEGMENT: PageRun = PageRun { first: PageIndex(0), pages: Pages(SEGMENT_PAGES) };

    /// One past the last page.
    #[inline]
    pub fn end(self) -> u32 {
        self.first.0 + self.pages.0
    }
}

/// The part of word `word` that lies in `run`, as a mask.
#[inline]
fn word_mask(word: usize, run: PageRun) -> u64 {
    let low = run.first.0.saturating_sub(word as u32 * 64).min(64);
    let high = run.end().saturating_sub(word as u32 * 64).min(64);
    mask_below(high) & !mask_below(low)
}

#[inline]
fn mask_below(bit: u32) -> u64 {
    if bit >= 64 { u64::MAX } else { (1 << bit) - 1 }
}

impl PageBits {
    pub const EMPTY: PageBits = PageBits([0; WORDS]);

    /// Exactly the pages of `run`.
    pub fn of(run: PageRun) -> PageBits {
        let mut bits = PageBits::EMPTY;
        bits.set(run);
        bits
    }

    /// Bits of one chunk of 16 pages, from a mask whose bit 0 is the chunk's first page.
    pub fn of_chunk(chunk: u32, mask: u16) -> PageBits {
        let mut bits = PageBits::EMPTY;
        bits.0[chunk as usize / 4] = (mask as u64) << (chunk % 4 * 16);
        bits
    }

    /// One chunk's 16 pages, its first page in bit 0.
    pub fn chunk(&self, chunk: u32) -> u16 {
        (self.0[chunk as usize / 4] >> (chunk % 4 * 16)) as u16
    }

    #[inline]
    fn words_of(run: PageRun) -> core::ops::RangeInclusive<usize> {
        run.first.0 as usize / 64..=(run.end() as usize - 1) / 64
    }

    pub fn set(&mut self, run: PageRun) {
        for word in Self::words_of(run) {
            self.0[word] |= word_mask(word, run);
        }
    }

    pub fn clear(&mut self, run: PageRun) {
        for word in Self::words_of(run) {
            self.0[word] &= !word_mask(word, run);
        }
    }

    /// Are all pages of `run` set?
    pub fn all(&self, run: PageRun) -> bool {
        Self::words_of(run).all(|word| {
            let mask = word_mask(word, run);
            self.0[word] & mask == mask
        })
    }

    /// Is any page of `run` set?
    pub fn any(&self, run: PageRun) -> bool {
        Self::words_of(run).any(|word| self.0[word] & word_mask(word, run) != 0)
    }

    pub fn get(&self, page: u32) -> bool {
        page < SEGMENT_PAGES && self.0[page as usize / 64] >> (page % 64) & 1 == 1
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// From the first page that is set to the last.
    pub fn hull(&self) -> Option<PageRun> {
        let first = self.next_set(0);
        let last = self.0.iter().rposition(|&word| word != 0)?;
        let end = last as u32 * 64 + 64 - self.0[last].leading_zeros();
        Some(PageRun::between(first, end))
    }

    pub fn count(&self) -> Pages {
        Pages(self.0.iter().map(|word| word.count_ones()).sum())
    }

    pub fn and(&self, other: &PageBits) -> PageBits {
        PageBits(core::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    pub fn and_not(&self, other: &PageBits) -> PageBits {
        PageBits(core::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    pub fn or(&self, other: &PageBits) -> PageBits {
        PageBits(core::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// The part of these bits that lies in `run`.
    pub fn within(&self, run: PageRun) -> PageBits {
        let mut bits = PageBits::EMPTY;
        for word in Self::words_of(run) {
            bits.0[word] = self.0[word] & word_mask(word, run);
        }
        bits
    }

    /// The first page at or after `from` that is set, or `SEGMENT_PAGES`.
    fn next_set(&self, from: u32) -> u32 {
        let mut word = from as usize / 64;
        if word >= WORDS {
            return SEGMENT_PAGES;
        }
        let mut bits = self.0[word] & !mask_below(from % 64);
        while bits == 0 {
            word += 1;
            if word == WORDS {
                return SEGMENT_PAGES;
            }
            bits = self.0[word];
        }
        word as u32 * 64 + bits.trailing_zeros()
    }

    fn next_clear(&self, from: u32) -> u32 {
        PageBits(self.0.map(|word| !word)).next_set(from)
    }

    /// The first maximal run of set bits at or after page `from`.
    pub fn next_run(&self, from: u32) -> Option<PageRun> {
        let first = self.next_set(from);
        if first == SEGMENT_PAGES {
            return None;
        }
        let end = self.next_clear(first);
        Some(PageRun::new(PageIndex(first), Pages(end - first)))
    }

    /// All maximal runs, lowest first.
    pub fn runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        let mut from = 0;
        core::iter::from_fn(move || {
            let run = self.next_run(from)?;
            from = run.end();
            Some(run)
        })
    }

    /// The length of the longest run.
    pub fn longest_run(&self) -> Pages {
        let (mut longest, mut open) = (0, 0);
        for word in self.0 {
            if word == u64::MAX {
                open += 64;
                continue;
            }
            longest = longest.max(open + word.trailing_ones()).max(longest_run_in(word));
            open = word.leading_ones();
        }
        Pages(longest.max(open))
    }

    /// The lowest run of `pages` set bits that starts at a multiple of `align_pages`.
    pub fn find_run(&self, pages: Pages, align_pages: u32) -> Option<PageRun> {
        self.runs().find_map(|run| {
            let first = run.first.0.next_multiple_of(align_pages);
            (first + pages.0 <= run.end()).then(|| PageRun::new(PageIndex(first), pages))
        })
    }

    /// A mask of the chunks (16 pages each) whose pages are all set.
    pub fn full_chunks(&self) -> u32 {
        self.each_chunk(|low, high| low & high)
    }

    /// A mask of the chunks with at least one page set.
    pub fn nonempty_chunks(&self) -> u32 {
        self.each_chunk(|low, high| low | high)
    }

    /// A mask of the chunks whose pages, combined two by two, are set: in all four chunks of a word at once.
    fn each_chunk(&self, combine: impl Fn(u64, u64) -> u64) -> u32 {
        /// The lowest bit of each chunk, and what brings the four of them together in the highest bits.
        const LOWEST: u64 = 0x0001_0001_0001_0001;
        const GATHER: u64 = 1 << 60 | 1 << 45 | 1 << 30 | 1 << 15;
        let mut mask = 0;
        for (word, &bits) in self.0.iter().enumerate() {
            // A chunk's lowest bit is combined with its 15 others; what comes to the higher ones from the next chunk
            // does not matter.
            let folded = [8, 4, 2, 1].iter().fold(bits, |bits, by| combine(bits, bits >> by));
            let chunks = (folded & LOWEST).wrapping_mul(GATHER) >> 60;
            mask |= (chunks as u32) << (word * 4);
        }
        mask
    }
}

/// The length of the longest run of set bits in a word that is not full. What begins a run of twice the length begins
/// one of that length, and so does what lies behind it: the length is doubled as long as there are such, and then
/// found bit by bit.
fn longest_run_in(word: u64) -> u32 {
    if word == 0 {
        return 0;
    }
    // `starts[k]`: the bits where `2^k` set ones begin.
    let mut starts = [word; 6];
    let mut k = 0;
    while k < 5 {
        let next = starts[k] & starts[k] >> (1 << k);
        if next == 0 {
            break;
        }
        k += 1;
        starts[k] = next;
    }
    let (mut found, mut length) = (starts[k], 1 << k);
    for k in (0..k).rev() {
        let longer = found & starts[k] >> length;
        if longer != 0 {
            found = longer;
            length += 1 << k;
        }
    }
    length
}

impl AtomicPageBits {
    pub fn set(&self, run: PageRun) {
        for word in PageBits::words_of(run) {
            self.0[word].fetch_or(word_mask(word, run), Ordering::Relaxed);
        }
    }

    pub fn clear(&self, run: PageRun) {
        for word in PageBits::words_of(run) {
            self.0[word].fetch_and(!word_mask(word, run), Ordering::Relaxed);
        }
    }

    /// Those of `run` that are set.
    pub fn within(&self, run: PageRun) -> PageBits {
        let mut bits = PageBits::EMPTY;
        for word in PageBits::words_of(run) {
            bits.0[word] = self.0[word].load(Ordering::Relaxed) & word_mask(word, run);
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same questions asked of an array of bools.
    struct Model([bool; SEGMENT_PAGES as usize]);

    impl Model {
        fn runs(&self) -> Vec<PageRun> {
            let mut runs = Vec::new();
            let mut first = None;
            for page in 0..=SEGMENT_PAGES {
                let set = page < SEGMENT_PAGES && self.0[page as usize];
                match (set, first) {
                    (true, None) => first = Some(page),
                    (false, Some(start)) => {
                        runs.push(PageRun::new(PageIndex(start), Pages(page - start)));
                        first = None;
                    }
                    _ => {}
                }
            }
            runs
        }
    }

    #[test]
    fn agrees_with_an_array_of_bools() {
        let mut random = crate::testing::test_random::Random::new(7);
        let mut bits = PageBits::EMPTY;
        let mut model = Model([false; SEGMENT_PAGES as usize]);
        for _ in 0..20_000 {
            let first = random.below(512) as u32;
            let longest = if random.below(4) == 0 { 512 } else { 20 };
            let pages = 1 + random.below(longest) as u32;
            let run = PageRun::new(PageIndex(first), Pages(pages.min(SEGMENT_PAGES - first)));
            let slice = run.first.0 as usize..run.end() as usize;
            assert_eq!(bits.all(run), model.0[slice.clone()].iter().all(|&set| set));
            assert_eq!(bits.any(run), model.0[slice.clone()].iter().any(|&set| set));
            assert_eq!(
                bits.within(run).count().0 as usize,
                model.0[slice.clone()].iter().filter(|&&set| set).count()
            );
            let set = random.below(2) == 0;
            if set {
                bits.set(run)
            } else {
                bits.clear(run)
            }
            model.0[slice].fill(set);
            let runs = model.runs();
            assert_eq!(bits.runs().collect::<Vec<_>>(), runs);
            let longest = runs.iter().map(|run| run.pages.0).max().unwrap_or(0);
            assert_eq!(bits.longest_run(), Pages(longest));
            let ends = runs.first().zip(runs.last());
            let hull = ends.map(|(first, last)| PageRun::between(first.first.0, last.end()));
            assert_eq!(bits.hull(), hull);
            let want = Pages(1 + random.below(40) as u32);
            let align = 1 << random.below(6);
            let found = runs.iter().find_map(|run| {
                let first = run.first.0.next_multiple_of(align);
                (first + want.0 <= run.end()).then_some(first)
            });
            assert_eq!(bits.find_run(want, align).map(|run| run.first.0), found);
            for chunk in 0..32 {
                let lane = &model.0[chunk * 16..chunk * 16 + 16];
                assert_eq!(bits.full_chunks() >> chunk & 1 == 1, lane.iter().all(|&set| set));
                assert_eq!(bits.nonempty_chunks() >> chunk & 1 == 1, lane.iter().any(|&set| set));
            }
        }
    }

    #[test]
    fn atomic_bits_are_the_same_bits() {
        let atomic = AtomicPageBits([const { AtomicU64::new(0) }; WORDS]);
        let mut plain = PageBits::EMPTY;
        let mut random = crate::testing::test_random::Random::new(8);
        for _ in 0..2000 {
            let first = random.below(512) as u32;
            let pages = 1 + random.below((SEGMENT_PAGES - first) as u64) as u32;
            let run = PageRun::new(PageIndex(first), Pages(pages));
            assert_eq!(atomic.within(run), plain.within(run));
            if random.below(2) == 0 {
                atomic.set(run);
                plain.set(run);
            } else {
                atomic.clear(run);
                plain.clear(run);
            }
            assert_eq!(atomic.within(PageRun::SEGMENT), plain);
        }
    }

    #[test]
    fn set_operations_are_per_page() {
        let low = PageBits::of(PageRun::new(PageIndex(3), Pages(100)));
        let high = PageBits::of(PageRun::new(PageIndex(60), Pages(200)));
        assert_eq!(low.and(&high).count(), Pages(43));
        assert_eq!(low.or(&high).count(), Pages(257));
        assert_eq!(low.and_not(&high).count(), Pages(57));
        assert_eq!(PageBits::of_chunk(5, 0b101).runs().count(), 2);
        assert!(PageBits::of_chunk(5, 0b101).get(82));
    }
}
