//! The real system.

use super::cgroup::{self, MemoryRoom, Scratch};
use super::memory;
use super::purge::purge_batch;
use super::system::{AddressRange, Mapped, Nanos, Os, PURGE_BATCH, PurgeOutcome};
use super::time::{clock, precise_now};

/// The system this process runs on.
pub(crate) struct Linux;

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

impl Os for Linux {
    fn map(&self, range: AddressRange) -> Mapped {
        memory::map_exactly(range)
    }

    fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
        debug_assert!(ranges.len() <= PURGE_BATCH);
        let began = self.exact_now();
        let outcome = purge_batch(ranges);
        PurgeOutcome { began, took: self.exact_now().since(began), ..outcome }
    }

    fn now(&self) -> Nanos {
        clock(libc::CLOCK_MONOTONIC_COARSE)
    }

    fn exact_now(&self) -> Nanos {
        precise_now()
    }

    fn memory_room(&self, scratch: &mut Scratch) -> Option<MemoryRoom> {
        cgroup::memory_room(scratch)
    }
}
