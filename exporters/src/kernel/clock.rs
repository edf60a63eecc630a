//! The kernel's clocks.

#[cfg(feature = "tracing")]
use std::time::SystemTime;

/// The clock of the allocator's samples and of its journal, which only goes forward, in nanoseconds.
#[cfg(any(feature = "endpoint", feature = "tracing"))]
pub(crate) fn monotonic_nanos() -> u64 {
    nanos(libc::CLOCK_MONOTONIC)
}

/// For how long the calling thread has been on a processor, in nanoseconds. Costs some 300.
pub(crate) fn thread_cpu_nanos() -> u64 {
    nanos(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn nanos(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What it takes to tell the monotonic clock as the time of day.
#[cfg(feature = "tracing")]
pub(crate) struct UnixClock {
    /// That clock's zero, in nanoseconds since 1970.
    zero: u64,
}

#[cfg(feature = "tracing")]
impl UnixClock {
    pub(crate) fn now() -> UnixClock {
        let monotonic = monotonic_nanos();
        let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64;
        UnixClock { zero: unix.saturating_sub(monotonic) }
    }

    /// In nanoseconds since 1970.
    pub(crate) fn unix(&self, nanos: u64) -> u64 {
        self.zero.saturating_add(nanos)
    }
}
