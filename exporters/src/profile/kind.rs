//! What a flamegraph may be of.

use std::fmt;
use std::str::FromStr;

use slackwater::snapshot::Snapshot;

use super::folded::{self, Folded};
use super::fragmentation::{self, FreeBlocks};
use super::names::Names;
use super::reading::ProfileReading;
use super::{Profile, Stack};
use crate::figures::families::by_purge;

/// What a flamegraph is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes that are live, by where they were allocated.
    Live,
    /// Bytes that were allocated: ever, or in a window.
    Alloc,
    /// Bytes that were live when all together were at their highest.
    Peak,
    /// Free bytes on resident pages, by whose live blocks keep these pages.
    Fragmentation,
    /// The time that giving pages back took, by how they had become free.
    Release,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] =
        [Kind::Live, Kind::Alloc, Kind::Peak, Kind::Fragmentation, Kind::Release];

    /// Its name in commands and addresses.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Live => "live",
            Kind::Alloc => "alloc",
            Kind::Peak => "peak",
            Kind::Fragmentation => "fragmentation",
            Kind::Release => "release",
        }
    }

    /// What it is, for people.
    pub const fn title(self) -> &'static str {
        match self {
            Kind::Live => "Live memory by call site",
            Kind::Alloc => "Allocations by call site",
            Kind::Peak => "Memory at its peak, by call site",
            Kind::Fragmentation => "Free blocks by the call sites that keep their pages",
            Kind::Release => "Time spent giving memory back",
        }
    }

    /// What it counts.
    pub const fn unit(self) -> &'static str {
        match self {
            Kind::Release => "microseconds",
            _ => "bytes",
        }
    }

    /// Whether it only ever grows, so that a window has what was added, and not a comparison.
    pub const fn is_total(self) -> bool {
        matches!(self, Kind::Alloc | Kind::Release)
    }

    /// Whether it is about call sites, which have to be named.
    pub const fn has_stacks(self) -> bool {
        !matches!(self, Kind::Release)
    }

    /// A path and a value for each place that has any.
    pub fn folded(self, reading: &ProfileReading, names: &Names) -> Vec<Folded> {
        let profile = &reading.profile;
        let by = |value: fn(&Stack) -> f64| {
            let values = profile.stacks.iter().map(value);
            fold(profile, names, values)
        };
        match self {
            Kind::Live => by(|stack| stack.live().bytes),
            Kind::Alloc => by(|stack| stack.allocated.bytes),
            Kind::Peak => by(|stack| stack.at_peak.bytes),
            Kind::Fragmentation => {
                let found = fragmentation::divide(profile, &free_blocks(&reading.snapshot));
                let mut folded = fold(profile, names, found.by_stack.into_iter());
                folded.extend(found.unsampled.iter().map(|class| {
                    let class_name = format!("blocks of {} bytes", class.block_bytes);
                    Folded::new(["[no live block sampled]", &class_name], class.free_bytes)
                }));
                folded
            }
            Kind::Release => release(&reading.snapshot),
        }
    }
}

fn fold(profile: &Profile, names: &Names, values: impl Iterator<Item = f64>) -> Vec<Folded> {
    let stacks = profile.stacks.iter().zip(values).filter(|(_, value)| *value > 0.0);
    stacks
        .map(|(stack, value)| Folded::new(folded::path(profile, names, &stack.frames), value))
        .collect()
}

/// What of each size class is free and resident. The allocator knows per class what its spans have
/// and what is live, and for all classes together how much of the rest is resident (pages inside
/// spans are purged, too): so every class is taken to have the same share of it.
fn free_blocks(snapshot: &Snapshot) -> Vec<FreeBlocks> {
    let classes = snapshot.size_classes.iter().filter(|class| class.block_bytes > 0);
    let mut classes: Vec<FreeBlocks> = classes
        .map(|class| FreeBlocks {
            block_bytes: class.block_bytes,
            free_bytes: class.span_bytes.saturating_sub(class.live_bytes) as f64,
        })
        .collect();
    let memory = &snapshot.memory_bytes;
    let resident = memory.free_blocks.saturating_add(memory.thread_cache) as f64;
    let all: f64 = classes.iter().map(|class| class.free_bytes).sum();
    let share = if all > resident { resident / all } else { 1.0 };
    classes.iter_mut().for_each(|class| class.free_bytes *= share);
    classes
}

/// The time of ticks, of taking caches over, and of purges by how their pages had become free, of which
/// the kernel's part is a branch of its own.
fn release(snapshot: &Snapshot) -> Vec<Folded> {
    let seconds = &snapshot.release_seconds_total;
    let own = by_purge(&seconds.purge).map(|(reason, own)| (vec![reason, "purge"], own));
    let kernel =
        by_purge(&seconds.kernel).map(|(reason, part)| (vec![reason, "purge", "kernel"], part));
    let ticks = [(vec!["tick"], seconds.tick), (vec!["takeover"], seconds.takeover)];
    let all = ticks.into_iter().chain(own).chain(kernel).filter(|(_, part)| *part > 0.0);
    all.map(|(path, part)| Folded::new(path, part * 1e6)).collect()
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Kind, &'static str> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or("expected live, alloc, peak, fragmentation or release")
    }
}

#[cfg(test)]
mod tests {
    use super::super::folded::tests::made_up_names;
    use super::super::tests::made_up;
    use super::*;

    fn reading() -> ProfileReading {
        let mut snapshot = slackwater::snapshot();
        snapshot.size_classes = snapshot.size_classes.map(|_| Default::default());
        for (class, (block, live, span)) in
            snapshot.size_classes.iter_mut().zip([(0, 9, 9), (64, 100, 300), (1024, 0, 1000)])
        {
            (class.block_bytes, class.live_bytes, class.span_bytes) = (block, live, span);
        }
        snapshot.memory_bytes.free_blocks = 500;
        snapshot.memory_bytes.thread_cache = 100;
        ProfileReading { profile: made_up(), snapshot }
    }

    fn lines(kind: Kind, reading: &ProfileReading) -> String {
        folded::render(&kind.folded(reading, &made_up_names()))
    }

    #[test]
    fn each_kind_has_its_own_values() {
        let reading = reading();
        let of = |kind| {
            let text = lines(kind, &reading);
            let value = |line: &str| line.rsplit(' ').next().map(str::to_string);
            text.lines().filter_map(value).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(Kind::Live), "90 102400 64000");
        assert_eq!(of(Kind::Alloc), "100 102400 320000");
        assert_eq!(of(Kind::Peak), "92160 128000");
    }

    #[test]
    fn of_what_is_free_that_is_resident_each_class_has_its_share() {
        // 1,200 bytes are free, and half of them resident.
        let mut reading = reading();
        assert_eq!(
            lines(Kind::Fragmentation, &reading),
            "main;app::serve;app::leak;<[u8: 16] as app::Keep>::keep 500\n\
             main;app::serve;libx.so.1+0x21 100\n"
        );
        reading.profile.live.clear();
        assert_eq!(
            lines(Kind::Fragmentation, &reading),
            "[no live block sampled];blocks of 1024 bytes 500\n\
             [no live block sampled];blocks of 64 bytes 100\n"
        );
    }

    #[test]
    fn the_time_of_release_is_where_it_was_spent() {
        let mut reading = reading();
        reading.snapshot.release_seconds_total = Default::default();
        assert_eq!(lines(Kind::Release, &reading), "");
        let seconds = &mut reading.snapshot.release_seconds_total;
        (seconds.tick, seconds.takeover) = (0.001, 0.002);
        seconds.purge.large_free = 0.003;
        seconds.kernel.large_free = 0.004;
        seconds.kernel.span_interior = 0.005;
        assert_eq!(
            lines(Kind::Release, &reading),
            "large_free;purge 3000\nlarge_free;purge;kernel 4000\n\
             span_interior;purge;kernel 5000\ntakeover 2000\ntick 1000\n"
        );
    }

    #[test]
    fn kinds_have_names() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("banana".parse::<Kind>().is_err());
    }
}
