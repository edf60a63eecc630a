//! Threads, pinned.
//!
//! The kernel packs two threads on one core while the other does anything else: a figure from
//! threads that are not pinned, one core each, means nothing.

use std::sync::{Barrier, OnceLock};
use std::thread;

use crate::clock::{Elapsed, Start};

/// The cores this process was given. Read once, before the first pinning narrows the answer.
pub fn allowed() -> &'static [usize] {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    ALLOWED.get_or_init(|| {
        // SAFETY: a cpu_set_t is an array of integers; all zeroes is the empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is as large as is said and lives through the call.
        let failed = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
        assert!(failed == 0, "the kernel does not say which cores there are");
        (0..libc::CPU_SETSIZE as usize)
            // SAFETY: the index is below CPU_SETSIZE.
            .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
            .collect()
    })
}

/// Pins the calling thread to a core: the threads of a row go round the cores in order of `index`.
pub fn pin(index: usize) {
    let allowed = allowed();
    let core = allowed[index % allowed.len()];
    // SAFETY: as in `allowed`.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the core came out of such a set, so it is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: as in `allowed`; 0 is the calling thread.
    let failed = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    assert!(failed == 0, "cannot pin a thread to core {core}");
}

/// What one thread of a row does.
pub type Work<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Runs each piece of work on a pinned thread of its own, all released at once, and returns the
/// time from there until the last one ended.
pub fn side_by_side(work: Vec<Work<'_>>) -> Elapsed {
    let start_line = Barrier::new(work.len() + 1);
    let start_line = &start_line;
    let mut start = Start::now();
    thread::scope(|scope| {
        for (index, work) in work.into_iter().enumerate() {
            scope.spawn(move || {
                pin(index);
                start_line.wait();
                work();
            });
        }
        start_line.wait();
        start = Start::now();
    });
    start.elapsed()
}

/// Waiting for another thread: spins a little, then lets others run, since with more threads than
/// cores the one waited for may be on this very core.
#[derive(Default)]
pub struct Wait(u32);

impl Wait {
    /// As long as another thread, running on the other core, might take for one step.
    const SPINS: u32 = 200;

    /// One look at whatever is waited for was in vain.
    #[inline]
    pub fn again(&mut self) {
        if self.0 < Self::SPINS {
            self.0 += 1;
            std::hint::spin_loop();
        } else {
            thread::yield_now();
        }
    }
}
