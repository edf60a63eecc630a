//! The pages that blocks lie on: no allocator can give those back, and a good one keeps few more.

use crate::block::OS_PAGE_BYTES;

/// The pages under one block, by number; both ends belong to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageRange {
    first: usize,
    last: usize,
}

impl PageRange {
    /// The pages with at least one byte of the block of `size` bytes (at least one) at `address`.
    pub fn of(address: usize, size: usize) -> Self {
        PageRange { first: address / OS_PAGE_BYTES, last: (address + size - 1) / OS_PAGE_BYTES }
    }
}

/// How many bytes the pages in `ranges` have, each page counted once. Sorts the ranges, in place:
/// it allocates nothing.
pub fn distinct_bytes(ranges: &mut [PageRange]) -> u64 {
    ranges.sort_unstable();
    let mut pages = 0;
    // The first page beyond all that were counted.
    let mut next = 0;
    for range in ranges {
        pages += (range.last + 1).saturating_sub(range.first.max(next));
        next = next.max(range.last + 1);
    }
    (pages * OS_PAGE_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::random::{Random, Sizes};

    fn pages(blocks: &[(usize, usize)]) -> u64 {
        let mut ranges: Vec<_> =
            blocks.iter().map(|(address, size)| PageRange::of(*address, *size)).collect();
        distinct_bytes(&mut ranges) / OS_PAGE_BYTES as u64
    }

    #[test]
    fn a_page_counts_once_and_a_byte_makes_a_page() {
        assert_eq!(pages(&[]), 0);
        assert_eq!(pages(&[(4096, 1)]), 1);
        assert_eq!(pages(&[(4096, 4096)]), 1);
        assert_eq!(pages(&[(4096, 4097)]), 2);
        assert_eq!(pages(&[(8191, 2)]), 2);
        assert_eq!(pages(&[(4096, 64), (4160, 64), (8000, 100)]), 1);
        assert_eq!(pages(&[(8000, 1000), (4096, 64)]), 2);
        // One within another, and one that begins within and ends beyond.
        assert_eq!(pages(&[(4096, 40960), (8192, 4096), (40960, 8192)]), 11);
    }

    #[test]
    fn it_counts_what_a_set_of_pages_counts() {
        let mut random = Random::new(1);
        for _ in 0..200 {
            let blocks: Vec<_> = (0..50)
                .map(|_| (4096 + random.below(1 << 20), random.size(Sizes { from: 1, to: 20_000 })))
                .collect();
            let set: HashSet<usize> = blocks
                .iter()
                .flat_map(|(address, size)| address / 4096..=(address + size - 1) / 4096)
                .collect();
            assert_eq!(pages(&blocks), set.len() as u64);
        }
    }
}
