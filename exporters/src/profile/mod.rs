//! Where memory comes from: what the allocator's sampler knows, as people and tools open it.
//!
//! A [`Profile`] is read from a process ([`reading`]); everything else here is made from it:
//!
//! ```text
//!  a process ── reading ──► Profile ──┬─ kind ─────────► a value for each stack ─┐
//!                              │      ├─ leaks ────────► suspects                ├─ folded ─► flamegraph
//!                              │      └─ pprof, legacy ─► for `pprof` and others │           table
//!                              └─ symbols ─────────────► names ──────────────────┘
//! ```
//!
//! All figures are estimates: an allocation of n bytes is sampled with probability
//! 1 - exp(-(n + 1) / rate), and stands for so many as that probability says. Sums over many samples
//! are close to the truth; one sample says little. What a stack has of 100 samples is right to a tenth
//! or so.

use std::collections::HashMap;
use std::ops::{AddAssign, Sub};
use std::time::{Duration, SystemTime};

#[cfg(feature = "profiles")]
pub(crate) mod apart;
#[cfg(feature = "profiles")]
mod compiled;
#[cfg(feature = "profiles")]
pub mod flamegraph;
pub mod folded;
mod fragmentation;
mod frame;
pub mod kind;
pub mod lacks;
pub mod leaks;
pub mod legacy;
pub mod modules;
pub mod names;
pub mod pprof;
pub mod prune;
pub mod reading;
#[cfg(feature = "profiles")]
mod symbols;
pub mod table;

use crate::figures::amounts::bytes;
use modules::Modules;

/// How many objects and how many bytes, as estimated from samples. A difference may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weighted {
    /// Allocations.
    pub objects: f64,
    /// What was asked for, in bytes.
    pub bytes: f64,
}

impl Weighted {
    /// No less than nothing: a level that is a difference of two estimates may fall below by a hair.
    #[must_use]
    pub fn at_least_nothing(self) -> Weighted {
        Weighted { objects: self.objects.max(0.0), bytes: self.bytes.max(0.0) }
    }
}

impl AddAssign for Weighted {
    fn add_assign(&mut self, other: Weighted) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

impl Sub for Weighted {
    type Output = Weighted;

    fn sub(self, other: Weighted) -> Weighted {
        Weighted { objects: self.objects - other.objects, bytes: self.bytes - other.bytes }
    }
}

/// Bounds of the ages at which objects were freed: those of [`Stack::lifetimes`], the last of which
/// has none.
pub const LIFETIME_BOUNDS: [Duration; 7] = [
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(100),
    Duration::from_secs(1000),
];

/// One stack and what was allocated there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stack {
    /// Its number in the process, for good.
    pub id: u32,
    /// Return addresses, the caller of `malloc` first; none: the stack is not known. Those in modules that
    /// have been unloaded are the addresses of [`modules::Mapping::is_unloaded`].
    pub frames: Vec<u64>,
    /// Allocated, ever.
    pub allocated: Weighted,
    /// Freed, ever.
    pub freed: Weighted,
    /// Live when all live bytes together were at their highest.
    pub at_peak: Weighted,
    /// Samples taken here, each counted as one.
    pub samples: u64,
    /// Objects freed, by their age then: see [`LIFETIME_BOUNDS`].
    pub lifetimes: [f64; LIFETIME_BOUNDS.len() + 1],
}

impl Stack {
    /// What is allocated and not freed.
    pub fn live(&self) -> Weighted {
        self.allocated - self.freed
    }
}

/// A sampled block that is live.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveSample {
    /// Its place in [`Profile::stacks`].
    pub stack: usize,
    /// What was asked for, in bytes.
    pub bytes: u64,
    /// For how many such blocks it stands.
    pub weight: f64,
    /// For how long it has been live.
    pub age: Duration,
}

/// What a process's sampler knew at one moment.
///
/// # Invariants
///
/// - No two stacks have the same id.
/// - [`LiveSample::stack`] is a place in `stacks`.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Every stack that was ever sampled, in no particular order.
    pub stacks: Vec<Stack>,
    /// The sampled blocks that are live.
    pub live: Vec<LiveSample>,
    /// What was mapped where.
    pub modules: Modules,
    /// When it was read.
    pub time: SystemTime,
    /// For how long samples have been taken; `None`: there is none yet.
    pub observed: Option<Duration>,
    /// How long ago live bytes were at their highest.
    pub peak_age: Option<Duration>,
    /// Bytes between two samples, on average; 0: none are taken now.
    pub rate_bytes: u64,
    /// What was asked for instead, by the knob; 0: none are to be taken.
    pub asked_rate_bytes: u64,
    /// Samples that found no place in the allocator's tables: what they stand for is missing here.
    pub dropped: u64,
}

impl Profile {
    /// A profile without samples.
    pub fn empty(modules: Modules, time: SystemTime) -> Profile {
        Profile {
            stacks: Vec::new(),
            live: Vec::new(),
            modules,
            time,
            observed: None,
            peak_age: None,
            rate_bytes: 0,
            asked_rate_bytes: 0,
            dropped: 0,
        }
    }

    /// What has changed since `before`, an earlier reading of the same process: what was allocated
    /// and freed since then. What is live, as the difference of these, is what was added to it, and
    /// may be negative. Peak and live samples are those of this reading.
    #[must_use]
    pub fn since(&self, before: &Profile) -> Profile {
        let earlier: HashMap<u32, &Stack> =
            before.stacks.iter().map(|stack| (stack.id, stack)).collect();
        let mut window = self.clone();
        for stack in &mut window.stacks {
            let Some(earlier) = earlier.get(&stack.id) else { continue };
            // They only ever grow.
            stack.allocated = (stack.allocated - earlier.allocated).at_least_nothing();
            stack.freed = (stack.freed - earlier.freed).at_least_nothing();
            stack.samples = stack.samples.saturating_sub(earlier.samples);
            for (count, earlier) in stack.lifetimes.iter_mut().zip(earlier.lifetimes) {
                *count = (*count - earlier).max(0.0);
            }
        }
        window.dropped = self.dropped.saturating_sub(before.dropped);
        window
    }

    /// What its figures are estimated from, in words.
    pub fn basis(&self) -> String {
        let samples: u64 = self.stacks.iter().map(|stack| stack.samples).sum();
        match self.rate_bytes {
            0 => format!("estimated from {samples} samples; none are taken now"),
            rate => {
                let rate = bytes(rate as f64);
                format!("estimated from {samples} samples; now there is one for each {rate}")
            }
        }
    }

    /// For how long the window from `before` to this reading lasted.
    pub fn seconds_since(&self, before: &Profile) -> f64 {
        self.time.duration_since(before.time).unwrap_or_default().as_secs_f64()
    }

    /// Every address in any stack, each once, in order.
    pub fn addresses(&self) -> Vec<u64> {
        let mut addresses: Vec<u64> =
            self.stacks.iter().flat_map(|stack| stack.frames.iter().copied()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// So many objects of `bytes` each.
    pub fn objects(count: f64, bytes: f64) -> Weighted {
        Weighted { objects: count, bytes: count * bytes }
    }

    /// Two stacks of a program and one of a library: a leak, a churn, an unknown stack.
    pub fn made_up() -> Profile {
        let maps = "00400000-00401000 r--p 00000000 fe:01 11 /srv/app\n\
            00401000-00402000 r-xp 00001000 fe:01 11 /srv/app\n\
            7f0000000000-7f0000001000 r-xp 00000000 fe:01 12 /lib/libx.so.1\n";
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 500);
        let mut profile = Profile::empty(Modules::parse(maps), time);
        profile.rate_bytes = 512 << 10;
        profile.observed = Some(Duration::from_secs(400));
        profile.peak_age = Some(Duration::from_secs(3));
        profile.stacks = vec![
            Stack {
                id: 1,
                frames: vec![0x40_1011, 0x40_1101, 0x40_1201],
                allocated: objects(100.0, 1024.0),
                at_peak: objects(90.0, 1024.0),
                samples: 4,
                ..Stack::default()
            },
            Stack {
                id: 2,
                frames: vec![0x7f00_0000_0021, 0x40_1101, 0x40_1201],
                allocated: objects(5000.0, 64.0),
                freed: objects(4000.0, 64.0),
                at_peak: objects(2000.0, 64.0),
                samples: 9,
                lifetimes: [4000.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            },
            Stack {
                allocated: objects(2.5, 40.0),
                freed: objects(0.25, 40.0),
                samples: 1,
                ..Stack::default()
            },
        ];
        let live = |stack, bytes, weight, seconds| LiveSample {
            stack,
            bytes,
            weight,
            age: Duration::from_secs(seconds),
        };
        profile.live =
            vec![live(0, 1024, 60.0, 300), live(0, 1024, 40.0, 20), live(1, 64, 1000.0, 1)];
        profile
    }

    #[test]
    fn a_window_has_what_happened_in_it() {
        let mut before = made_up();
        let mut after = before.clone();
        before.stacks.swap(0, 1);
        before.stacks.remove(2);
        after.stacks[0].allocated = objects(150.0, 1024.0);
        after.stacks[0].freed = objects(120.0, 1024.0);
        after.stacks[1].allocated = objects(4999.9, 64.0);
        after.time += Duration::from_millis(2500);
        let window = after.since(&before);
        assert_eq!(window.stacks[0].allocated, objects(50.0, 1024.0));
        assert_eq!(window.stacks[0].live(), objects(-70.0, 1024.0));
        assert_eq!(window.stacks[1].allocated, Weighted::default(), "never less than nothing");
        assert_eq!(window.stacks[1].lifetimes, [0.0; 8]);
        assert_eq!(window.stacks[2], after.stacks[2], "new since then");
        assert_eq!(after.seconds_since(&before), 2.5);
        assert_eq!(before.seconds_since(&after), 0.0);
    }

    #[test]
    fn each_address_comes_once() {
        let addresses = made_up().addresses();
        assert_eq!(addresses, [0x40_1011, 0x40_1101, 0x40_1201, 0x7f00_0000_0021]);
    }
}
