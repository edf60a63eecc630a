//! The real system.

use super::cgroup::{self, MemoryRoom, Scratch};
use super::memory;
use super::purge::{purge_each, purge_together};
use super::system::{AddressRange, Mapped, Nanos, Os, PURGE_BATCH, PurgeOutcome};
use super::time::{clock, precise_now};

/// The system this process runs on, for the program's threads: these make no call that malloc does not need.
pub(crate) struct Linux;

/// The same for threads of our own, which may ask more of it.
pub(crate) struct LinuxOfOwnThreads;

/// 16 bytes that the kernel drew for this program, as two numbers mixed into one.
pub(crate) fn random_seed() -> u64 {
    // SAFETY: getauxval has no preconditions.
    let bytes = unsafe { libc::getauxval(libc::AT_RANDOM) } as *const [u64; 2];
    if bytes.is_null() {
        return clock(libc::CLOCK_MONOTONIC).0;
    }
    // SAFETY: the kernel leaves 16 bytes there, for as long as the program runs.
    let [low, high] = unsafe { bytes.read_unaligned() };
    low ^ high.rotate_left(32)
}

impl Linux {
    fn purge_by(ranges: &[AddressRange], way: fn(&[AddressRange]) -> PurgeOutcome) -> PurgeOutcome {
        debug_assert!(ranges.len() <= PURGE_BATCH);
        let began = precise_now();
        let outcome = way(ranges);
        PurgeOutcome { began, took: precise_now().since(began), ..outcome }
    }
}

impl Os for Linux {
    fn map(&self, range: AddressRange) -> Mapped {
        memory::map_exactly(range)
    }

    fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
        Linux::purge_by(ranges, purge_each)
    }

    fn now(&self) -> Nanos {
        clock(libc::CLOCK_MONOTONIC_COARSE)
    }

    fn exact_now(&self) -> Nanos {
        precise_now()
    }

    /// That takes files, which only threads with descriptors of their own open.
    fn memory_room(&self, _: &mut Scratch) -> Option<MemoryRoom> {
        None
    }
}

impl Os for LinuxOfOwnThreads {
    fn map(&self, range: AddressRange) -> Mapped {
        Linux.map(range)
    }

    fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
        Linux::purge_by(ranges, purge_together)
    }

    fn now(&self) -> Nanos {
        Linux.now()
    }

    fn exact_now(&self) -> Nanos {
        precise_now()
    }

    fn memory_room(&self, scratch: &mut Scratch) -> Option<MemoryRoom> {
        cgroup::memory_room(scratch)
    }
}
