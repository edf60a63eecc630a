//! Random numbers cheap enough not to drown what is measured.

/// Block sizes in bytes, each as likely as the next; both ends belong to it.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The smallest.
    pub from: u32,
    /// The largest.
    pub to: u32,
}

/// A generator (wyrand): the state moves on by one addition, so that the multiplication of one draw
/// overlaps with the work of the last. A table of ready draws would cost less arithmetic, and
/// caches that belong to the allocator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; the same seed draws the same numbers.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 64 random bits.
    #[inline]
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xa076_1d64_78bd_642f);
        let product = u128::from(self.0) * u128::from(self.0 ^ 0xe703_7ed1_a0b4_28db);
        (product >> 64) as u64 ^ product as u64
    }

    /// A number below `bound`.
    #[inline]
    pub fn below(&mut self, bound: usize) -> usize {
        scaled((self.draw() >> 32) as u32, bound as u64)
    }

    /// A size out of `sizes`; a single size costs no draw.
    #[inline]
    pub fn size(&mut self, sizes: Sizes) -> usize {
        if sizes.from == sizes.to {
            return sizes.from as usize;
        }
        sized((self.draw() >> 32) as u32, sizes)
    }

    /// A number below `bound` and a size out of `sizes`, from one draw.
    #[inline]
    pub fn slot_and_size(&mut self, bound: usize, sizes: Sizes) -> (usize, usize) {
        let bits = self.draw();
        (scaled((bits >> 32) as u32, bound as u64), sized(bits as u32, sizes))
    }
}

/// Maps 32 random bits to a number below `bound`.
#[inline]
fn scaled(bits: u32, bound: u64) -> usize {
    ((u64::from(bits) * bound) >> 32) as usize
}

/// Maps 32 random bits to a size.
#[inline]
fn sized(bits: u32, sizes: Sizes) -> usize {
    sizes.from as usize + scaled(bits, u64::from(sizes.to - sizes.from) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_the_sizes_are_drawn_and_nothing_beyond() {
        let mut random = Random::new(1);
        let mut seen = [false; 12];
        for _ in 0..10_000 {
            let (slot, size) = random.slot_and_size(7, Sizes { from: 3, to: 11 });
            assert!(slot < 7);
            seen[size] = true;
        }
        assert_eq!(seen, std::array::from_fn(|size| size >= 3));
    }
}
