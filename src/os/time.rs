//! Clocks, and sleep.

use core::sync::atomic::AtomicU32;

use super::seccomp;
use super::system::Nanos;
use super::threads::futex_wait_for;
use super::vdso;

pub(super) fn clock(clock: libc::clockid_t) -> Nanos {
    // The others are a system call where the machine's clock cannot be read without one.
    let clock = if seccomp::is_strict() { libc::CLOCK_MONOTONIC_COARSE } else { clock };
    let time = vdso::clock_gettime(clock);
    Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The time, to the nanosecond, for the price of a few allocations.
pub(crate) fn precise_now() -> Nanos {
    clock(libc::CLOCK_MONOTONIC)
}

/// Sleeps for `time`; may return early.
pub(crate) fn sleep(time: Nanos) {
    let never = AtomicU32::new(0);
    futex_wait_for(&never, 0, time);
}
