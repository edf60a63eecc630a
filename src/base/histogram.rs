//! Histograms with ready-made buckets: a count for each power of four.
//!
//! Four decades of a quantity fit into eleven words, which are counted under the page heap's lock
//! like the figures beside them. Two buckets to a decade are enough to tell a purge that takes
//! microseconds from one that takes milliseconds, which is what is asked of them.

/// Finite bounds: 1, 4, 16, … 262,144 of the histogram's own unit.
pub(crate) const BOUNDS: usize = 10;

/// The counts of a histogram: one for each bound, and one for what is above the last.
pub(crate) const BUCKETS: usize = BOUNDS + 1;

/// The bucket of `value`: the first whose bound is not below it.
#[inline]
pub(crate) fn bucket_of(value: u64) -> usize {
    let bits = u64::BITS - value.saturating_sub(1).leading_zeros();
    (bits.div_ceil(2) as usize).min(BOUNDS)
}

/// How often a quantity was how large. Buckets exclude each other here; exporters add them up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Histogram {
    /// What the last bound of each finite bucket is, in the unit of the histogram's name; a value
    /// equal to a bound is counted at it.
    pub bounds: [f64; BOUNDS],
    /// Values in each bucket, the last being those above every bound.
    pub counts: [u64; BUCKETS],
    /// The sum of all values.
    pub sum: f64,
}

impl Histogram {
    /// How many counts there are: one for each bound, and one for what is above the last.
    pub const BUCKETS: usize = BUCKETS;

    /// From counts whose bounds are the powers of four times `unit`.
    pub(crate) fn new(counts: [u64; BUCKETS], unit: f64, sum: f64) -> Histogram {
        let bounds = core::array::from_fn(|i| (1u64 << (2 * i)) as f64 * unit);
        Histogram { bounds, counts, sum }
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_cannot_be_are_no_small_count() {
        assert_eq!(Histogram::new([u64::MAX; BUCKETS], 1.0, 0.0).count(), u64::MAX);
    }

    #[test]
    fn a_value_is_counted_at_the_first_bound_that_is_not_below_it() {
        let bounds = Histogram::new([0; BUCKETS], 1.0, 0.0).bounds;
        for value in (0..2000).chain([65_536, 65_537, 262_144, 262_145, u64::MAX]) {
            let expected = bounds.iter().position(|&bound| value as f64 <= bound);
            assert_eq!(bucket_of(value), expected.unwrap_or(BOUNDS), "{value}");
        }
    }
}
