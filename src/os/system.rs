//! What release and growth ask of the system, as a trait, so that tests can put a clock and a kernel of their
//! own in its place; and the words for it.

use super::cgroup::{MemoryRoom, Scratch};

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressRange {
    pub start: usize,
    pub bytes: usize,
}

/// Nanoseconds of a clock that only goes forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nanos(pub u64);

impl Nanos {
    pub const fn from_millis(millis: u64) -> Nanos {
        Nanos(millis * 1_000_000)
    }

    /// Whole microseconds.
    pub fn micros(self) -> u64 {
        self.0 / 1000
    }

    pub fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The most ranges that one [`Os::purge`] takes: batches of 64 are as good as the kernel's limit
/// of 1,024, and its vector of them (1 KiB) has room on any stack.
pub(crate) const PURGE_BATCH: usize = 64;

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PurgeOutcome {
    /// System calls made.
    pub calls: u64,
    /// Bit `i` is set if the kernel refused range `i`; its pages are as they were.
    pub refused: u64,
    /// When it began, and how long it took.
    pub began: Nanos,
    pub took: Nanos,
}

/// What became of a mapping at certain addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapped {
    Here,
    /// Something is mapped there already, and stays.
    Taken,
    /// The system has no memory or no such addresses, or a limit forbids it.
    Refused,
}

/// What release and growth ask of the system.
pub(crate) trait Os {
    /// Maps fresh zero memory at exactly these addresses, if nothing is mapped there.
    fn map(&self, range: AddressRange) -> Mapped;
    /// Gives the pages of up to [`PURGE_BATCH`] ranges back; they read as zero afterwards.
    fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome;
    /// The time, to a few milliseconds, for the price of a read from memory.
    fn now(&self) -> Nanos;
    /// The time to the nanosecond, for some 30 of them.
    fn exact_now(&self) -> Nanos {
        self.now()
    }
    /// The room that a limit leaves the program; `None` where there is no limit.
    fn memory_room(&self, scratch: &mut Scratch) -> Option<MemoryRoom>;
}
