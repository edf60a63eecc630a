//! Threads, and how they wait for each other.

use core::ffi::{CStr, c_int, c_long, c_void};
use core::ptr;
use core::sync::atomic::AtomicU32;

use super::errno::keep_errno;
use super::system::Nanos;

/// The kernel's number of the calling thread.
pub(crate) fn thread() -> u32 {
    // SAFETY: gettid has no preconditions.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// This process's number.
pub(crate) fn process() -> u32 {
    // SAFETY: getpid has no preconditions.
    unsafe { libc::getpid() as u32 }
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
    keep_errno(|| unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 })
}

/// Sleeps while `word` holds `value`; may return early.
pub(crate) fn futex_wait(word: &AtomicU32, value: u32) {
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let no_timeout = ptr::null::<libc::timespec>();
    // SAFETY: `word` is a valid aligned u32 for the whole call.
    keep_errno(|| unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, no_timeout)
    });
}

/// Sleeps while `word` holds `value`, for `time` at most; may return early.
pub(crate) fn futex_wait_for(word: &AtomicU32, value: u32, time: Nanos) {
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let timeout = libc::timespec {
        tv_sec: (time.0 / 1_000_000_000) as libc::time_t,
        tv_nsec: (time.0 % 1_000_000_000) as c_long,
    };
    // SAFETY: `word` and `timeout` are valid for the whole call.
    keep_errno(|| unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, &raw const timeout)
    });
}

/// Wakes one thread that sleeps on `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: `word` is a valid aligned u32; the kernel only uses its address.
    keep_errno(|| unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, 1) });
}

/// Lets another thread run.
pub(crate) fn yield_now() {
    // SAFETY: sched_yield has no preconditions.
    unsafe { libc::sched_yield() };
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
    keep_errno(|| {
        // The new thread inherits the mask. Past libc, which would leave its own signals out.
        let before = set_signal_mask(u64::MAX);
        let (stack, storage) = (stack_end as *mut c_void, thread_pointer as *mut c_void);
        let place = id.as_ptr();
        // SAFETY: the caller vouches for the memory and for `run`.
        let result =
            unsafe { libc::clone(run, stack, flags, ptr::null_mut(), place, storage, place) };
        set_signal_mask(before);
        result > 0
    })
}

/// Sets the calling thread's signal mask; returns what it was.
fn set_signal_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    let (new, old, bytes) = (&raw const mask, &raw mut before, size_of::<u64>());
    // SAFETY: both places are valid, and as large as the kernel's masks.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, new, old, bytes) };
    before
}

/// Gives the calling thread a table of descriptors of its own, with nothing in it: what it opens is
/// never the program's next descriptor, and what the program closes is closed. `false` on kernels
/// before 5.9, where it goes on sharing the program's.
///
/// # Safety
/// The calling thread uses no descriptor that is open now.
pub(crate) unsafe fn leave_descriptors() -> bool {
    const CLOSE_RANGE_UNSHARE: c_int = 2;
    let (first, last) = (0u32, u32::MAX);
    // SAFETY: the caller says that it uses none of those that are closed for it.
    keep_errno(|| unsafe {
        libc::syscall(libc::SYS_close_range, first, last, CLOSE_RANGE_UNSHARE) == 0
    })
}

/// Lets the calling thread stand in `/`, and not where the program stands, whose folder may be unmounted.
/// The program stays where it is.
pub(crate) fn stand_apart() {
    keep_errno(|| {
        // SAFETY: takes a number; the thread has its own place from now on.
        if unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_FS) } == 0 {
            // SAFETY: the path ends with a zero.
            unsafe { libc::syscall(libc::SYS_chdir, c"/".as_ptr()) };
        }
    });
}

/// Gives up the real-time priority that the calling thread has from the one that started it.
pub(crate) fn give_up_priority() {
    let (usual, policy) = (0i32, libc::SCHED_OTHER);
    let place = &raw const usual;
    // SAFETY: a valid place for a priority, of the calling thread.
    keep_errno(|| unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, place) });
}

/// Names the calling thread, for people who look at a process's threads.
pub(crate) fn name_thread(name: &CStr) {
    // SAFETY: the kernel copies the name, which ends with a zero.
    keep_errno(|| unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) });
}

/// Lets the calling thread run where the process's first thread may, not where the one may that
/// started it.
pub(crate) fn share_affinity_of_process() {
    let mut mask = [0u64; 128];
    let (bytes, place) = (size_of_val(&mask), mask.as_mut_ptr());
    // SAFETY: getpid has no preconditions.
    let process = unsafe { libc::getpid() };
    // SAFETY: `mask` has room for `bytes` bytes.
    let known =
        keep_errno(|| unsafe { libc::syscall(libc::SYS_sched_getaffinity, process, bytes, place) });
    if known > 0 {
        // SAFETY: the kernel has written so many bytes of the mask.
        keep_errno(|| unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, known, place) });
    }
}
