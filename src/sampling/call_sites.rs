//! The stacks on which something was sampled, each kept once, with what was sampled there.
//!
//! Everything is bounded. Where there is no room for another stack its samples are counted to the one
//! that stands for "unknown", so that sums stay right.

use super::growing_array::GrowingArray;
use crate::stack::MAX_FRAMES;

/// How many different stacks there is room for, and how many frames they have together: 32 each on
/// average.
pub(crate) const MAX_STACKS: usize = 1 << 14;
pub(crate) const ALL_FRAMES: usize = MAX_STACKS * 32;

/// A power of two well above [`MAX_STACKS`]: the hash table is never full.
const BUCKETS: usize = MAX_STACKS * 2;

/// The stack that stands for all that could not be kept.
pub(crate) const UNKNOWN: StackId = StackId(0);

/// A stack's place in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct StackId(pub u32);

/// Objects are counted in parts of so many: a sample stands for a fraction, too.
pub(crate) const OBJECT: f64 = 65536.0;

/// How many objects, in 65536ths, and how many bytes something stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Amount {
    pub objects: u64,
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, more: Amount) {
        self.objects = self.objects.wrapping_add(more.objects);
        self.bytes = self.bytes.wrapping_add(more.bytes);
    }

    pub fn minus(self, less: Amount) -> Amount {
        let objects = self.objects.saturating_sub(less.objects);
        Amount { objects, bytes: self.bytes.saturating_sub(less.bytes) }
    }
}

/// Ages up to which freed objects are counted together, in nanoseconds, each ten times the one before:
/// a millisecond, up to a thousand seconds; and one for all that were older.
pub(crate) const LIFETIMES: usize = 8;
const SHORTEST_LIFE: u64 = 1_000_000;

fn lifetime_index(nanos: u64) -> usize {
    let mut bound = SHORTEST_LIFE;
    let mut index = 0;
    while index < LIFETIMES - 1 && nanos >= bound {
        bound *= 10;
        index += 1;
    }
    index
}

/// What was sampled on a stack.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct StackFigures {
    pub samples: u64,
    pub allocated: Amount,
    pub freed: Amount,
    /// What was live at the peak numbered `peak_seen`; at later ones, what is live now.
    pub at_peak: Amount,
    pub peak_seen: u64,
    /// Objects freed, by age.
    pub lifetimes: [u64; LIFETIMES],
}

impl StackFigures {
    pub fn live(&self) -> Amount {
        self.allocated.minus(self.freed)
    }

    /// What was live when the most was, at the peak numbered `peak`.
    pub fn at_peak(&self, peak: u64) -> Amount {
        if self.peak_seen == peak { self.at_peak } else { self.live() }
    }

    /// Before what is live changes.
    fn keep_peak(&mut self, peak: u64) {
        if self.peak_seen != peak {
            (self.at_peak, self.peak_seen) = (self.live(), peak);
        }
    }
}

/// One stack. All-zero memory is an unused one.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct StackEntry {
    hash: u32,
    pub depth: u32,
    /// Where its frames begin, among all frames.
    pub first: u32,
    padding: u32,
    pub figures: StackFigures,
}

/// All stacks. All-zero memory is an empty table, but for [`StackTable::make_ready`].
///
/// # Invariants
/// - `entries` has `used` elements, `frames` has `frames_used`.
/// - `entries[..used]` have disjoint places in `frames[..frames_used]`.
/// - Each of them but [`UNKNOWN`] has one bucket, reached from its hash without passing an empty one.
#[repr(C)]
pub(crate) struct StackTable {
    pub used: u32,
    pub frames_used: u32,
    /// Peaks so far.
    pub peak: u64,
    pub entries: GrowingArray<StackEntry>,
    pub frames: GrowingArray<u64>,
    /// 0 for an empty bucket.
    buckets: [u16; BUCKETS],
}

const _: () = assert!(MAX_STACKS <= u16::MAX as usize + 1 && BUCKETS.is_power_of_two());

impl StackTable {
    /// The addresses that the table may need besides its own.
    pub const BYTES: usize = Self::ENTRY_BYTES + GrowingArray::<u64>::bytes_for(ALL_FRAMES);
    const ENTRY_BYTES: usize = GrowingArray::<StackEntry>::bytes_for(MAX_STACKS);

    /// Before its first use; `addresses` is the first of [`StackTable::BYTES`] unused ones. `false`: the system has
    /// no memory for it.
    ///
    /// # Safety
    /// Nobody else uses these addresses.
    pub unsafe fn make_ready(&mut self, addresses: usize) -> bool {
        // SAFETY: the caller says so, and an entry is nothing but numbers.
        unsafe { self.entries.set_aside(addresses, MAX_STACKS) };
        // SAFETY: likewise.
        unsafe { self.frames.set_aside(addresses + Self::ENTRY_BYTES, ALL_FRAMES) };
        self.used = 1;
        self.entries.reach(1)
    }

    /// The place of a stack, a new one if need be; `None` if there is no room for it.
    pub fn intern(&mut self, frames: &[u64]) -> Option<StackId> {
        debug_assert!(frames.len() <= MAX_FRAMES);
        if frames.is_empty() {
            return Some(UNKNOWN);
        }
        let hash = hash_of(frames);
        let mut bucket = hash as usize % BUCKETS;
        while self.buckets[bucket] != 0 {
            let id = StackId(self.buckets[bucket] as u32);
            if self.entries[id.0 as usize].hash == hash && self.frames_of(id) == frames {
                return Some(id);
            }
            bucket = (bucket + 1) % BUCKETS;
        }
        let (id, first) = (self.used as usize, self.frames_used as usize);
        if !self.entries.reach(id + 1) || !self.frames.reach(first + frames.len()) {
            return None;
        }
        self.frames[first..first + frames.len()].copy_from_slice(frames);
        let depth = frames.len() as u32;
        self.entries[id] = StackEntry { hash, depth, first: first as u32, ..StackEntry::default() };
        self.used += 1;
        self.frames_used += depth;
        self.buckets[bucket] = id as u16;
        Some(StackId(id as u32))
    }

    /// A stack's return addresses, innermost first, each with the number of its module ([`split`](super::split)).
    pub fn frames_of(&self, id: StackId) -> &[u64] {
        let entry = &self.entries[id.0 as usize];
        &self.frames[entry.first as usize..][..entry.depth as usize]
    }

    /// Counts a sampled allocation.
    pub fn allocated(&mut self, id: StackId, amount: Amount) {
        let figures = &mut self.entries[id.0 as usize].figures;
        figures.keep_peak(self.peak);
        figures.samples += 1;
        figures.allocated.add(amount);
    }

    /// What is live now is what was live at the peak, until there is another.
    pub fn record_peak(&mut self) {
        self.peak += 1;
    }

    /// Counts its end after so many nanoseconds.
    pub fn freed(&mut self, id: StackId, amount: Amount, nanos: u64) {
        let figures = &mut self.entries[id.0 as usize].figures;
        figures.keep_peak(self.peak);
        figures.freed.add(amount);
        let lifetime = &mut figures.lifetimes[lifetime_index(nanos)];
        *lifetime = lifetime.wrapping_add(amount.objects);
    }

    /// Bytes of the table that have been touched.
    pub fn used_bytes(&self) -> usize {
        self.used as usize * size_of::<StackEntry>() + self.frames_used as usize * 8
    }

    /// Walks the invariants.
    #[cfg(test)]
    pub fn check(&self) {
        assert!(self.used >= 1 && self.entries[0].depth == 0);
        let mut frames = 0;
        for (entry, id) in self.entries[..self.used as usize].iter().zip(0..) {
            let figures = &entry.figures;
            if id > 0 {
                assert_eq!(entry.first, frames, "one after the other");
                frames += entry.depth;
                let mut bucket = entry.hash as usize % BUCKETS;
                while self.buckets[bucket] as u32 != id {
                    assert_ne!(self.buckets[bucket], 0, "every stack is found");
                    bucket = (bucket + 1) % BUCKETS;
                }
            }
            assert!(figures.freed.bytes <= figures.allocated.bytes, "no more freed than allocated");
            assert!(figures.freed.objects <= figures.allocated.objects);
            assert_eq!(figures.lifetimes.iter().sum::<u64>(), figures.freed.objects);
            assert!(figures.at_peak(self.peak).bytes <= figures.allocated.bytes);
        }
        assert_eq!(frames, self.frames_used);
    }
}

fn hash_of(frames: &[u64]) -> u32 {
    let mut hash = frames.len() as u64;
    for &frame in frames {
        hash = (hash.rotate_left(23) ^ frame).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::growing_array::addresses_for_a_test;
    use crate::testing::test_random::Random;

    /// The table is larger than a test's stack.
    pub fn table() -> Box<StackTable> {
        // SAFETY: all-zero is an empty table.
        let mut table = unsafe { Box::<StackTable>::new_zeroed().assume_init() };
        // SAFETY: nobody else has these addresses.
        assert!(unsafe { table.make_ready(addresses_for_a_test()) });
        table
    }

    fn amount(objects: u64, bytes: u64) -> Amount {
        Amount { objects, bytes }
    }

    #[test]
    fn a_stack_is_kept_once() {
        let mut table = table();
        let stacks: Vec<Vec<u64>> =
            (0..3000).map(|i| (0..=i % 40).map(|frame| i / 40 * 7 + frame).collect()).collect();
        let ids: Vec<_> = stacks.iter().map(|stack| table.intern(stack).unwrap()).collect();
        table.check();
        for (stack, &id) in stacks.iter().zip(&ids) {
            assert_eq!(table.intern(stack), Some(id));
            assert_eq!(table.frames_of(id), stack);
        }
        assert_eq!(table.intern(&[]), Some(UNKNOWN));
    }

    #[test]
    fn a_full_table_refuses_new_stacks_and_knows_the_old_ones() {
        let mut short = table();
        for i in 1..MAX_STACKS as u64 {
            assert_eq!(short.intern(&[i]), Some(StackId(i as u32)));
        }
        assert_eq!(short.intern(&[1 << 40]), None, "no entry is left");
        assert_eq!(short.intern(&[5]), Some(StackId(5)));
        short.check();
        let mut long = table();
        let mut stack = [0; MAX_FRAMES];
        let mut kept = 0u64;
        while let Some(id) = long.intern(&stack) {
            kept += 1;
            assert_eq!(id.0 as u64, kept);
            stack[0] = kept;
        }
        assert_eq!(kept as usize, ALL_FRAMES / MAX_FRAMES, "no frames are left");
        long.check();
    }

    #[test]
    fn the_profile_at_the_peak_is_that_of_when_the_most_was_live() {
        let mut table = table();
        let ids: Vec<_> = (1..9).map(|i| table.intern(&[i, 7, i]).unwrap()).collect();
        let mut random = Random::new(5);
        let mut live: Vec<(StackId, Amount)> = Vec::new();
        let (mut most, mut at_peak) = (0, vec![0u64; 9]);
        for step in 0..20_000 {
            if random.below(if step / 3000 % 2 == 0 { 3 } else { 6 }) < 2 || live.is_empty() {
                let id = ids[random.below(8) as usize];
                let amount = amount(random.below(1 << 20), 1 + random.below(9000));
                table.allocated(id, amount);
                live.push((id, amount));
                let now: u64 = live.iter().map(|(_, amount)| amount.bytes).sum();
                if now > most {
                    most = now;
                    table.record_peak();
                    at_peak.fill(0);
                    live.iter().for_each(|(id, amount)| at_peak[id.0 as usize] += amount.bytes);
                }
            } else {
                let (id, amount) = live.swap_remove(random.below(live.len() as u64) as usize);
                table.freed(id, amount, random.next() >> 20);
            }
            if step % 500 == 0 {
                table.check();
            }
        }
        for &id in &ids {
            let figures = &table.entries[id.0 as usize].figures;
            assert_eq!(figures.at_peak(table.peak).bytes, at_peak[id.0 as usize]);
        }
    }

    #[test]
    fn lifetimes_are_counted_by_powers_of_ten() {
        let millis = 1_000_000;
        for (nanos, index) in [
            (0, 0),
            (millis - 1, 0),
            (millis, 1),
            (10 * millis - 1, 1),
            (999_999 * millis, 6),
            (1_000_000 * millis, 7),
            (u64::MAX, 7),
        ] {
            assert_eq!(lifetime_index(nanos), index, "{nanos}");
        }
    }
}
