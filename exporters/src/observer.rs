//! What observing costs: CPU time spent on collecting, rendering and serving figures.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static CPU_NANOS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The thread's work is being counted already.
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, and counts the CPU time that it takes. Costs two reads of the thread's clock, some
/// 300 ns each; where counted work does counted work, once.
pub fn count<T>(work: impl FnOnce() -> T) -> T {
    if IS_COUNTED.replace(true) {
        return work();
    }
    let before = thread_cpu_nanos();
    let result = work();
    let spent = thread_cpu_nanos().saturating_sub(before);
    CPU_NANOS.fetch_add(spent, Ordering::Relaxed);
    IS_COUNTED.set(false);
    result
}

/// What has been counted so far, in seconds.
pub fn cpu_seconds() -> f64 {
    CPU_NANOS.load(Ordering::Relaxed) as f64 / 1e9
}

fn thread_cpu_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_once_and_waiting_is_not() {
        let before = cpu_seconds();
        let spent = count(|| {
            let start = thread_cpu_nanos();
            count(|| while thread_cpu_nanos() - start < 2_000_000 {});
            thread_cpu_nanos() - start
        });
        let counted = cpu_seconds() - before;
        assert!(counted >= spent as f64 / 1e9, "{counted} s of {spent} ns");
        assert!(!IS_COUNTED.get());
    }
}
