//! A thread that libc does not know of.
//!
//! The ticker must not be a `pthread`. A process ends when its last pthread ends, and would then go on
//! for ever; `pthread_create` takes locks under which libc calls `free` (`pthread_join`, when it trims
//! its cache of stacks). So this is a bare `clone`, with a stack and thread-local storage of its own.
//!
//! What runs on it calls nothing but the kernel, by `raw`, and its clock, by `vdso`.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::memory::map_stack;
use super::seccomp;
use super::system::Nanos;
use super::threads::{clone_thread, futex_wait_for, is_thread, thread};
use super::time::sleep;
use crate::base::units::PAGE_BYTES;
use crate::os::tls::{ThreadWord, prepare_thread_pointer};

/// What runs on it needs about 10 KiB. Below it lies a page that cannot be touched.
const STACK_BYTES: usize = 64 << 10;

/// Room on both sides of the thread pointer for libc's control block, which lies above it on x86_64
/// and below it on aarch64, and is smaller than this.
const CONTROL_BYTES: usize = 16 << 10;

/// About as long as the kernel needs for the end of a thread.
const MOMENT: Nanos = Nanos(20_000);

/// # Invariants
/// - `id` is the kernel's number of the thread, from before [`RawThread::start`] returns until the
///   thread has left its stack for good: the kernel sets and clears it.
/// - `memory` is 0, or the mapping that holds stack and storage, used by one thread at a time.
/// - `number` is that of the last thread, or 0 once the kernel was seen to have forgotten it.
pub(crate) struct RawThread {
    id: AtomicU32,
    number: AtomicU32,
    memory: AtomicUsize,
}

/// Where everything is in the mapping, by offset.
struct Layout {
    stack_end: usize,
    thread_pointer: usize,
    bytes: usize,
}

impl Layout {
    /// For a thread whose word lies where it does on the calling thread.
    fn of_this_thread() -> Layout {
        let word = ThreadWord::of_this_thread().address();
        let offset = word.wrapping_sub(ThreadWord::thread_pointer()) as isize;
        let (below, above) = ((-offset).max(0) as usize, offset.max(0) as usize);
        let stack_end = PAGE_BYTES + STACK_BYTES;
        let thread_pointer = stack_end + (below + CONTROL_BYTES).next_multiple_of(PAGE_BYTES);
        let bytes = thread_pointer + (above + CONTROL_BYTES).next_multiple_of(PAGE_BYTES);
        Layout { stack_end, thread_pointer, bytes }
    }
}

impl RawThread {
    pub const fn new() -> RawThread {
        let (id, number) = (AtomicU32::new(0), AtomicU32::new(0));
        RawThread { id, number, memory: AtomicUsize::new(0) }
    }

    /// Is it there?
    pub fn is_alive(&self) -> bool {
        // Acquire: the thread before is done with its stack.
        self.id.load(Ordering::Acquire) != 0
    }

    /// Returns once it is not.
    pub fn wait(&self) {
        while self.is_alive() {
            // The kernel's own wake is for waiters of any process, so this one looks again by itself.
            futex_wait_for(&self.id, self.id.load(Ordering::Relaxed), Nanos::from_millis(1));
        }
    }

    /// What the thread itself calls first.
    pub fn note_number(&self) {
        self.number.store(thread(), Ordering::Relaxed);
    }

    /// Returns once the kernel does not count it among the process's threads any more, which is a moment after it
    /// has left its stack. Nobody starts it meanwhile.
    pub fn wait_until_forgotten(&self) {
        self.wait();
        // Behind a filter nobody asks: a process that has one is rarely one that counts its threads.
        let may_ask = !seccomp::is_inherited() && !seccomp::is_announced();
        let number = self.number.load(Ordering::Relaxed);
        while may_ask && number != 0 && is_thread(number) {
            sleep(MOMENT);
        }
        self.number.store(0, Ordering::Relaxed);
    }

    /// Starts the thread, which takes no signals and ends when `run` returns. `false` if the system
    /// refuses. One caller at a time; an earlier thread that is about to end is waited for.
    ///
    /// # Safety
    /// `run` gets by without a thread of libc's: it does not allocate, and calls nothing that has thread-local
    /// variables of its own.
    pub unsafe fn start(&self, run: extern "C" fn(*mut c_void) -> c_int) -> bool {
        self.wait();
        let layout = Layout::of_this_thread();
        if self.memory.load(Ordering::Relaxed) == 0 {
            let Some(mapping) = map_stack(layout.bytes, PAGE_BYTES) else { return false };
            self.memory.store(mapping, Ordering::Relaxed);
        }
        let memory = self.memory.load(Ordering::Relaxed);
        let thread_pointer = memory + layout.thread_pointer;
        // SAFETY: the memory is mapped, and no thread uses it.
        unsafe { prepare_thread_pointer(thread_pointer) };
        // SAFETY: stack and storage are the new thread's alone, laid out for it, `id` stays, and the caller vouches
        // for `run`.
        unsafe { clone_thread(run, memory + layout.stack_end, thread_pointer, &self.id) }
    }

    /// In a forked child the thread is gone; its memory is still there.
    pub fn forget_in_child(&self) {
        self.id.store(0, Ordering::Relaxed);
        self.number.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::errno::{errno, set_errno};
    use super::super::threads::yield_now;
    use super::*;
    use core::sync::atomic::AtomicU64;

    static RUNS: AtomicU64 = AtomicU64::new(0);
    static WORDS: AtomicU64 = AtomicU64::new(0);

    extern "C" fn run(_: *mut c_void) -> c_int {
        let word = ThreadWord::of_this_thread();
        WORDS.fetch_xor(word.address() as u64, Ordering::Relaxed);
        RUNS.fetch_add(1, Ordering::Release);
        0
    }

    #[test]
    fn it_runs_on_storage_of_its_own_as_often_as_it_is_started() {
        let thread = RawThread::new();
        assert!(!thread.is_alive());
        set_errno(7);
        for runs in 1..=50 {
            // SAFETY: it makes system calls, and counts.
            assert!(unsafe { thread.start(run) });
            while RUNS.load(Ordering::Acquire) < runs {
                yield_now();
            }
        }
        while thread.is_alive() {
            yield_now();
        }
        assert_eq!(errno(), 7, "the starter's own");
        assert_eq!(WORDS.load(Ordering::Relaxed), 0, "always at the same place");
    }

    #[test]
    fn the_storage_holds_what_is_reached_through_the_thread_pointer() {
        let layout = Layout::of_this_thread();
        let pointer = ThreadWord::thread_pointer();
        let offset = ThreadWord::of_this_thread().address() as isize - pointer as isize;
        let at = (layout.thread_pointer as isize + offset) as usize;
        assert!(at >= layout.stack_end && at + 16 <= layout.bytes);
        assert!(layout.stack_end.is_multiple_of(16) && layout.thread_pointer.is_multiple_of(64));
    }
}
