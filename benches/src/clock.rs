//! The two clocks that a row is timed by.

use std::time::{Duration, Instant};

/// What a piece of work took.
#[derive(Clone, Copy, Debug)]
pub struct Elapsed {
    /// By the clock on the wall: what a user waits for, others on the same cores included.
    pub wall: Duration,
    /// On processors, of all threads together: what remains to be compared while others run.
    pub processors: Duration,
}

/// When a piece of work began.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    wall: Instant,
    processors: Duration,
}

impl Start {
    /// It begins now.
    pub fn now() -> Self {
        Start { wall: Instant::now(), processors: processor_time() }
    }

    /// It ends now.
    pub fn elapsed(&self) -> Elapsed {
        let wall = self.wall.elapsed();
        Elapsed { wall, processors: processor_time().saturating_sub(self.processors) }
    }
}

/// What this process's threads have had of processors.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is the one asked for and lives through the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert!(failed == 0, "the kernel does not say what a process had of processors");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_both() {
        let start = Start::now();
        while start.elapsed().processors < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        assert!(start.elapsed().wall > Duration::ZERO);
    }
}
