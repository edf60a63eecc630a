//! Threads, and how they wait for each other.

use core::ffi::{CStr, c_int, c_long, c_void};
use core::sync::atomic::AtomicU32;

use super::raw::{self, system_call};
use super::seccomp;
use super::system::Nanos;

/// The kernel's number of the calling thread; 0 where it is not to be asked.
pub(crate) fn thread() -> u32 {
    if seccomp::is_strict() {
        return 0;
    }
    // SAFETY: gettid has no preconditions.
    unsafe { system_call(libc::SYS_gettid, []) as u32 }
}

/// Is there a thread of this number in this process? A thread that ends is one until the kernel has forgotten it.
pub(crate) fn is_thread(number: u32) -> bool {
    const NO_SIGNAL: usize = 0;
    let arguments = [process() as usize, number as usize, NO_SIGNAL];
    // SAFETY: takes numbers, and sends nothing.
    unsafe { system_call(libc::SYS_tgkill, arguments) == 0 }
}

/// This process's number.
pub(crate) fn process() -> u32 {
    // SAFETY: getpid has no preconditions.
    unsafe { system_call(libc::SYS_getpid, []) as u32 }
}

/// Announces that this process will use [`barrier_all_threads`]; `false` where the kernel has no
/// such barrier.
pub(crate) fn register_barrier() -> bool {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
}

/// Makes every running thread of this process pass a full memory barrier.
pub(crate) fn barrier_all_threads() -> bool {
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
}

fn membarrier(command: c_int) -> bool {
    // SAFETY: membarrier takes no pointers.
    unsafe { system_call(libc::SYS_membarrier, [command as usize, 0, 0]) == 0 }
}

const FUTEX_WAIT: usize = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
const FUTEX_WAKE: usize = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;

/// Sleeps while `word` holds `value`; may return early.
pub(crate) fn futex_wait(word: &AtomicU32, value: u32) {
    const NO_TIMEOUT: usize = 0;
    let arguments = [word.as_ptr() as usize, FUTEX_WAIT, value as usize, NO_TIMEOUT];
    // SAFETY: `word` is a valid aligned u32 for the whole call.
    unsafe { system_call(libc::SYS_futex, arguments) };
}

/// Sleeps while `word` holds `value`, for `time` at most; may return early.
pub(crate) fn futex_wait_for(word: &AtomicU32, value: u32, time: Nanos) {
    let timeout = libc::timespec {
        tv_sec: (time.0 / 1_000_000_000) as libc::time_t,
        tv_nsec: (time.0 % 1_000_000_000) as c_long,
    };
    let place = &raw const timeout as usize;
    let arguments = [word.as_ptr() as usize, FUTEX_WAIT, value as usize, place];
    // SAFETY: `word` and `timeout` are valid for the whole call.
    unsafe { system_call(libc::SYS_futex, arguments) };
}

/// Wakes one thread that sleeps on `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    const ONE_THREAD: usize = 1;
    // SAFETY: `word` is a valid aligned u32; the kernel only uses its address.
    unsafe { system_call(libc::SYS_futex, [word.as_ptr() as usize, FUTEX_WAKE, ONE_THREAD]) };
}

/// How often to look again, as fast as that goes, before others are let run.
const SPINS: u32 = 200;

/// Lets other threads run for a moment, in which what is waited for may happen.
pub(crate) fn yield_now() {
    (0..SPINS).for_each(|_| core::hint::spin_loop());
    let never = AtomicU32::new(0);
    futex_wait_for(&never, 0, Nanos(1));
}

/// Starts a thread that libc does not know of and that takes no signals (see [`crate::os::raw_thread`]).
/// The kernel writes its number to `id` before this returns, and 0 when it is gone. `false` if the
/// kernel refuses.
///
/// # Safety
/// The memory below `stack_end` and around `thread_pointer` is the new thread's alone and fit for it;
/// `id` outlives it; `run` gets by without a thread of libc's.
pub(crate) unsafe fn clone_thread(
    run: extern "C" fn(*mut c_void) -> c_int,
    stack_end: usize,
    thread_pointer: usize,
    id: &AtomicU32,
) -> bool {
    // Those of a pthread: tools that run programs in a machine of their own know no others.
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID;
    // The new thread inherits the mask, with the signals of libc's own, which that leaves out.
    let before = set_signal_mask(u64::MAX);
    // SAFETY: the caller vouches for the memory and for `run`.
    let result = unsafe { raw::clone_thread(flags, stack_end, id, thread_pointer, run) };
    set_signal_mask(before);
    result > 0
}

/// Sets the calling thread's signal mask; returns what it was.
pub(crate) fn set_signal_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    let (new, old) = (&raw const mask as usize, &raw mut before as usize);
    let arguments = [libc::SIG_SETMASK as usize, new, old, size_of::<u64>()];
    // SAFETY: both places are valid, and as large as the kernel's masks.
    unsafe { system_call(libc::SYS_rt_sigprocmask, arguments) };
    before
}

/// Ends the process with SIGABRT, also from a thread that libc does not know of.
pub(crate) fn abort() -> ! {
    raise(libc::SIGABRT);
    // Somebody has a handler, which returned; or ignores it.
    set_default_action(libc::SIGABRT);
    raise(libc::SIGABRT);
    loop {
        // SAFETY: the process ends.
        unsafe { system_call(libc::SYS_exit_group, [127]) };
    }
}

/// Sends the calling thread a signal, which it does not block.
fn raise(signal: c_int) {
    let this = 1u64 << (signal - 1);
    let arguments = [libc::SIG_UNBLOCK as usize, &raw const this as usize, 0, size_of::<u64>()];
    // SAFETY: a valid mask, as large as the kernel's.
    unsafe { system_call(libc::SYS_rt_sigprocmask, arguments) };
    // SAFETY: takes numbers.
    unsafe {
        system_call(libc::SYS_tgkill, [process() as usize, thread() as usize, signal as usize])
    };
}

/// Has the kernel do for this signal what it does where nobody has a handler.
pub(crate) fn set_default_action(signal: c_int) {
    // The kernel's own `struct sigaction`, of zeros: `SIG_DFL`.
    let default = [0u64; 4];
    let arguments = [signal as usize, &raw const default as usize, 0, size_of::<u64>()];
    // SAFETY: a valid place, as large as the kernel's.
    unsafe { system_call(libc::SYS_rt_sigaction, arguments) };
}

/// Gives the calling thread a table of descriptors of its own, with nothing in it: what it opens is
/// never the program's next descriptor, and what the program closes is closed. `false` on kernels
/// before 5.9, or where a filter may not know the call: it goes on sharing the program's then.
///
/// # Safety
/// The calling thread uses no descriptor that is open now.
pub(crate) unsafe fn leave_descriptors() -> bool {
    const CLOSE_RANGE_UNSHARE: usize = 2;
    if !seccomp::may_close_range() {
        return false;
    }
    let arguments = [0, u32::MAX as usize, CLOSE_RANGE_UNSHARE];
    // SAFETY: the caller says that it uses none of those that are closed for it.
    unsafe { system_call(libc::SYS_close_range, arguments) == 0 }
}

/// Lets the calling thread stand in `/`, and not where the program stands, whose folder may be unmounted.
/// The program stays where it is.
pub(crate) fn stand_apart() {
    // SAFETY: takes a number; the thread has its own place from now on.
    if unsafe { system_call(libc::SYS_unshare, [libc::CLONE_FS as usize]) } == 0 {
        // SAFETY: the path ends with a zero.
        unsafe { system_call(libc::SYS_chdir, [c"/".as_ptr() as usize]) };
    }
}

/// Gives up the real-time priority that the calling thread has from the one that started it.
pub(crate) fn give_up_priority() {
    let usual = 0i32;
    let arguments = [0, libc::SCHED_OTHER as usize, &raw const usual as usize];
    // SAFETY: a valid place for a priority, of the calling thread.
    unsafe { system_call(libc::SYS_sched_setscheduler, arguments) };
}

/// Names the calling thread, for people who look at a process's threads.
pub(crate) fn name_thread(name: &CStr) {
    // SAFETY: the kernel copies the name, which ends with a zero.
    unsafe { system_call(libc::SYS_prctl, [libc::PR_SET_NAME as usize, name.as_ptr() as usize]) };
}

/// Lets the calling thread run where the process's first thread may, not where the one may that
/// started it.
pub(crate) fn share_affinity_of_process() {
    let mut mask = [0u64; 128];
    let (bytes, place) = (size_of_val(&mask), mask.as_mut_ptr() as usize);
    let arguments = [process() as usize, bytes, place];
    // SAFETY: `mask` has room for `bytes` bytes.
    let known = unsafe { system_call(libc::SYS_sched_getaffinity, arguments) };
    if known > 0 {
        // SAFETY: the kernel has written so many bytes of the mask.
        unsafe { system_call(libc::SYS_sched_setaffinity, [0, known as usize, place]) };
    }
}
