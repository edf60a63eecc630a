//! When the next allocation is sampled, and what a sample stands for.
//!
//! Imagine every byte asked for (and one more for each allocation, so that one of 0 bytes counts) to
//! be hit by chance, once in `rate` bytes on average; an allocation that is hit is sampled. So the
//! distance to the next hit is geometric, an allocation of `n` such bytes is sampled with probability
//! `p = 1 - exp(-n / rate)`, and it stands for `1 / p` like itself: sums of these weights are unbiased
//! estimates, whatever the sizes are, and whatever the rate was at each time.
//!
//! Hits have no memory. So each size class of each thread may have a countdown of its own, one may end
//! without a hit and be followed by another, and a change of the rate holds from the next one on.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::base::observed::IS_OBSERVED;

/// The longest countdown, in bytes. It is also how often a thread that never leaves the fast path looks
/// at the clock.
pub(crate) const LONGEST: u32 = 512 << 10;

/// The largest rate.
pub(crate) const MAX_RATE: u64 = u32::MAX as u64;

/// A rate at which every allocation is sampled.
const EVERY: u64 = 1;

/// Bytes until an allocation leaves the fast path.
///
/// # Invariants
/// `1 <= bytes <= LONGEST`. At [`LONGEST`] the last of these bytes has yet to be tried, at less it is a
/// hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Countdown {
    pub bytes: u32,
    /// The rate it was drawn with; 0 where nothing is sampled.
    pub rate: u32,
}

impl Countdown {
    /// One that samples nothing.
    pub const OFF: Countdown = Countdown { bytes: LONGEST, rate: 0 };
}

/// The rate and the chance of a process's countdowns.
#[repr(C)]
pub(crate) struct Countdowns {
    rate: AtomicU64,
    seed: AtomicU64,
}

impl Countdowns {
    pub const fn new() -> Countdowns {
        Countdowns { rate: AtomicU64::new(0), seed: AtomicU64::new(0) }
    }

    /// Where the chance begins. Before the first countdown.
    pub fn set_seed(&self, seed: u64) {
        self.seed.store(seed, Ordering::Relaxed);
    }

    /// The mean distance of hits, in bytes; 0 if there are none.
    pub fn rate(&self) -> u64 {
        if IS_OBSERVED { self.rate.load(Ordering::Relaxed) } else { 0 }
    }

    /// For the countdowns that begin from now on.
    pub fn set_rate(&self, rate: u64) {
        self.rate.store(rate.min(MAX_RATE), Ordering::Relaxed);
    }

    /// A new countdown, drawn by `chance`. Any thread.
    pub fn begin(&self, chance: &mut Chance) -> Countdown {
        let rate = self.rate();
        if rate == 0 {
            return Countdown::OFF;
        }
        let bytes = distance(chance, rate, LONGEST as u64) as u32;
        Countdown { bytes, rate: rate as u32 }
    }

    /// An allocation has ended a countdown, and lies on `over` bytes behind its end (0: not on any).
    /// Is it sampled, and at which rate? Drawn by `chance`. Any thread.
    pub fn end(&self, chance: Chance, countdown: Countdown, over: u64) -> Option<u32> {
        if countdown.rate == 0 {
            return None;
        }
        let hit = countdown.bytes < LONGEST || is_within(chance, countdown.rate as u64, over + 1);
        hit.then_some(countdown.rate)
    }

    /// Is an allocation that no countdown counts sampled, and at which rate? Any thread.
    pub fn try_once(&self, bytes: u64) -> Option<u32> {
        let rate = self.rate();
        let hit = rate != 0 && is_within(self.next_chance(), rate, units(bytes));
        hit.then_some(rate as u32)
    }

    /// Random numbers of the owner of `place`, an address, who has had some `drawn` times before: those that nobody
    /// else has had, nor the owner itself. For who draws often: no other thread's line is written.
    pub fn chance_at(&self, place: usize, drawn: u64) -> Chance {
        let of_place = Chance(place as u64).next();
        let seed = self.seed.load(Ordering::Relaxed) ^ of_place;
        Chance(Chance(seed.wrapping_add(drawn.wrapping_mul(STEP))).next())
    }

    /// The same for who has no place: the next ones of all those without.
    fn next_chance(&self) -> Chance {
        let mut chance = Chance(self.seed.fetch_add(STEP, Ordering::Relaxed));
        Chance(chance.next())
    }
}

/// What an allocation of `bytes` counts.
#[inline(always)]
pub(crate) fn units(bytes: u64) -> u64 {
    bytes.saturating_add(1)
}

/// How many allocations one of `bytes` stands for that was sampled at `rate`.
pub(crate) fn weight(bytes: u64, rate: u32) -> f64 {
    if rate as u64 <= EVERY { 1.0 } else { 1.0 / hit_probability(units(bytes), rate) }
}

/// `1 - exp(-units / rate)`, to about 15 digits. Without the mathematics library, which malloc does not
/// load: the series where it converges fast, and `1 - exp(-2x) = 2q - q²` for `q = 1 - exp(-x)`.
fn hit_probability(units: u64, rate: u32) -> f64 {
    let mut x = units as f64 / rate as f64;
    if x > 40.0 {
        return 1.0;
    }
    let mut doublings = 0;
    while x > 0.5 {
        x /= 2.0;
        doublings += 1;
    }
    let (mut term, mut sum) = (x, x);
    for i in 2..16 {
        term *= -x / i as f64;
        sum += term;
    }
    for _ in 0..doublings {
        sum = 2.0 * sum - sum * sum;
    }
    sum
}

/// splitmix64 (G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", 2014):
/// any step of it is found by addition, so that threads can share it.
pub(crate) struct Chance(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// Bytes to the next hit, itself included, but `most` if there are more: geometric with mean about `rate`.
///
/// By J. von Neumann, "Various Techniques Used in Connection with Random Digits" (1951): runs of
/// falling random numbers make exact exponential variates, with comparisons alone. The whole part of
/// one is how many runs had an even length, the fraction is what the first odd one began with.
fn distance(chance: &mut Chance, rate: u64, most: u64) -> u64 {
    if rate <= EVERY {
        return 1;
    }
    let mut whole = 0u64;
    while whole * rate < most {
        let first = chance.next();
        let mut last = first;
        let mut is_odd = true;
        loop {
            let next = chance.next();
            if next >= last {
                break;
            }
            last = next;
            is_odd = !is_odd;
        }
        if is_odd {
            return (whole * rate + fraction_of(rate, first) + 1).min(most);
        }
        whole += 1;
    }
    most
}

/// Is the next hit within `units` bytes? As [`distance`] says; but where hits are further apart than that its first
/// number mostly tells: what is beyond its fraction is beyond the whole.
fn is_within(mut chance: Chance, rate: u64, units: u64) -> bool {
    let mut ahead = Chance(chance.0);
    if units < rate && fraction_of(rate, ahead.next()) >= units {
        return false;
    }
    distance(&mut chance, rate, units.saturating_add(1)) <= units
}

/// So large a part of `rate` as `number` is of all numbers.
fn fraction_of(rate: u64, number: u64) -> u64 {
    ((number as u128 * rate as u128) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(rate: u64, seed: u64) -> Countdowns {
        let countdowns = Countdowns::new();
        countdowns.set_rate(rate);
        countdowns.set_seed(seed);
        countdowns
    }

    #[test]
    fn the_probability_is_that_of_the_mathematics_library() {
        for rate in [2u32, 1000, 512 << 10, 1 << 30] {
            for shift in 0..40 {
                let units = 1u64 << shift;
                let exact = -(-(units as f64) / rate as f64).exp_m1();
                let ours = hit_probability(units, rate);
                assert!((ours / exact - 1.0).abs() < 1e-13, "{units} at {rate}: {ours}, {exact}");
            }
        }
        assert_eq!(weight(0, 1), 1.0, "every allocation is sampled and stands for itself");
    }

    /// The share of distances beyond x is exp(-x / rate), within four standard deviations of what so
    /// many draws show.
    #[test]
    fn distances_are_geometric() {
        const DRAWS: u32 = 200_000;
        let rate = 10_000u64;
        let mut chance = Chance(7);
        let draws: Vec<u64> = (0..DRAWS).map(|_| distance(&mut chance, rate, u64::MAX)).collect();
        for bound in [1u64, 100, 1000, 5000, 10_000, 20_000, 50_000] {
            let beyond = draws.iter().filter(|&&draw| draw > bound).count() as f64;
            let share = (-(bound as f64) / rate as f64).exp();
            let deviation = (DRAWS as f64 * share * (1.0 - share)).sqrt();
            let expected = DRAWS as f64 * share;
            assert!((beyond - expected).abs() < 4.0 * deviation, "{bound}: {beyond}, {expected}");
        }
    }

    /// Allocations of one size go through countdowns, as a bin's do: short ones, ones that end without
    /// a hit, and ones that a single allocation outgrows. The weights sum up to the allocations.
    #[test]
    fn weights_sum_up_to_what_was_allocated() {
        for (rate, bytes, count) in [
            (64 << 10, 100u64, 3_000_000u64),
            (512 << 10, 48, 20_000_000),
            (4 << 20, 1000, 20_000_000),
            (8 << 20, 30_000, 20_000_000),
            (1000, 5000, 20_000),
            (1, 10, 1000),
        ] {
            let countdowns = with(rate, rate ^ bytes);
            let (mut sum, mut samples) = (0.0, 0u64);
            let mut drawn = 0..;
            let mut chance = || countdowns.chance_at(7, drawn.next().expect("there is always one"));
            let mut countdown = countdowns.begin(&mut chance());
            let mut passed = 0;
            for _ in 0..count {
                passed += units(bytes);
                if passed >= countdown.bytes as u64 {
                    // As a thread does it: what comes next is drawn first.
                    let mut chance = chance();
                    let next = countdowns.begin(&mut chance);
                    let over = passed - countdown.bytes as u64;
                    if let Some(rate) = countdowns.end(chance, countdown, over) {
                        sum += weight(bytes, rate);
                        samples += 1;
                    }
                    countdown = next;
                    passed = 0;
                }
            }
            let p = 1.0 / weight(bytes, rate as u32);
            // Of a binomial count, scaled by the weight.
            let deviation = (count as f64 * p * (1.0 - p)).sqrt() / p;
            let error = sum - count as f64;
            assert!(error.abs() <= 4.0 * deviation, "{error} at {rate}, deviation {deviation}");
            assert!(samples > 500);
        }
    }

    #[test]
    fn whether_the_next_hit_is_near_is_what_its_distance_says() {
        for seed in 0..20_000 {
            let rate = 1 + seed % 7 * 1000;
            let hit = distance(&mut Chance(seed), rate, u64::MAX);
            for units in [1, hit - 1, hit, hit + 1, rate - 1, rate, rate + 1, 5 * rate] {
                let expected = hit <= units;
                assert_eq!(
                    is_within(Chance(seed), rate, units),
                    expected,
                    "{hit}, {units}, {rate}"
                );
            }
        }
    }

    /// Many places that draw for the first time are as one that draws often.
    #[test]
    fn places_and_draws_have_numbers_of_their_own() {
        let countdowns = with(1000, 3);
        let first = |place, drawn| countdowns.chance_at(place, drawn).next();
        let numbers =
            (0..100).flat_map(|place| (0..100).map(move |drawn| first(place * 64, drawn)));
        let mut numbers: Vec<u64> = numbers.collect();
        let high = numbers.iter().filter(|&&number| number >> 63 == 1).count();
        // Ten thousand coins: 5,000, with a deviation of 50.
        assert!((4800..5200).contains(&high), "{high}");
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 10_000);
    }

    #[test]
    fn what_no_countdown_counts_is_sampled_as_often() {
        let countdowns = with(1 << 20, 3);
        let bytes = 1 << 18;
        let hits = (0..100_000).filter(|_| countdowns.try_once(bytes).is_some()).count() as f64;
        let p = 1.0 / weight(bytes, 1 << 20);
        let deviation = (100_000.0 * p * (1.0 - p)).sqrt();
        assert!((hits - 100_000.0 * p).abs() < 4.0 * deviation, "{hits}");
        countdowns.set_rate(0);
        assert_eq!(countdowns.try_once(u64::MAX), None, "switched off");
        let mut chance = countdowns.chance_at(7, 0);
        assert_eq!(countdowns.begin(&mut chance), Countdown::OFF);
        assert_eq!(countdowns.end(chance, Countdown::OFF, 9), None);
    }
}
