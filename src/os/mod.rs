//! The operating system, behind the few calls the allocator makes.
//!
//! Nothing here allocates, and nothing changes `errno`: these calls happen inside `free`, which
//! must not. What release policy needs of the system is the trait [`Os`], so that tests can put a
//! clock and a kernel of their own in its place; everything else is a plain function.

pub(crate) mod biased_lock;
pub mod cgroup;
pub(crate) mod loader;
pub(crate) mod lock;
pub(crate) mod pin;
pub(crate) mod raw_thread;
pub(crate) mod report;
pub(crate) mod tls;

use core::arch::asm;
use core::ffi::{CStr, c_int, c_long, c_void};
use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::base::units::PAGE_BYTES;
use crate::os::cgroup::Scratch;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressRange {
    pub start: usize,
    pub bytes: usize,
}

/// Nanoseconds of a clock that only goes forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nanos(pub u64);

impl Nanos {
    pub const fn from_millis(millis: u64) -> Nanos {
        Nanos(millis * 1_000_000)
    }

    /// Whole microseconds.
    pub fn micros(self) -> u64 {
        self.0 / 1000
    }

    pub fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The most ranges that one [`Os::purge`] takes: batches of 64 are as good as the kernel's limit
/// of 1,024 and leave a small frame on the stack.
pub(crate) const PURGE_BATCH: usize = 64;

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PurgeOutcome {
    /// System calls made.
    pub calls: u64,
    /// Bit `i` is set if the kernel refused range `i`; its pages are as they were.
    pub refused: u64,
    /// When it began, and how long it took.
    pub began: Nanos,
    pub took: Nanos,
}

/// Room for the text of one of the kernel's small files.
pub(crate) const TEXT_BYTES: usize = 4096;

/// What a limit leaves the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryRoom {
    pub limit_bytes: u64,
    pub used_bytes: u64,
    /// The part of the last ten seconds in which some task waited for memory.
    pub stalled_percent: u64,
}

impl MemoryRoom {
    /// Is nine tenths of it in use, or do tasks wait a tenth of the time?
    pub fn is_scarce(self) -> bool {
        self.used_bytes >= self.limit_bytes / 10 * 9 || self.stalled_percent >= 10
    }
}

/// What release and growth ask of the system.
pub(crate) trait Os {
    /// Makes reserved addresses readable and writable. `false` if the system has no memory for it.
    fn commit(&self, range: AddressRange) -> bool;
    /// Gives the pages of up to [`PURGE_BATCH`] ranges back; they read as zero afterwards.
    fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome;
    /// The time, to a few milliseconds, for the price of a read from memory.
    fn now(&self) -> Nanos;
    /// The time to the nanosecond, for some 30 of them.
    fn exact_now(&self) -> Nanos {
        self.now()
    }
    /// The room that a limit leaves the program; `None` where there is no limit.
    fn memory_room(&self, scratch: &mut Scratch) -> Option<MemoryRoom>;
}

fn clock(clock: libc::clockid_t) -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for a timespec.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The system this process runs on.
pub(crate) struct Linux;

/// The time, to the nanosecond, for the price of a few allocations.
pub(crate) fn precise_now() -> Nanos {
    clock(libc::CLOCK_MONOTONIC)
}

/// The kernel's number of the calling thread.
pub(crate) fn thread() -> u32 {
    // SAFETY: gettid has no preconditions.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

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
    fn commit(&self, range: AddressRange) -> bool {
        let read_write = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range lies in a reservation of ours; widening its protection harms nothing.
        let result = keep_errno(|| unsafe {
            libc::mprotect(range.start as *mut c_void, range.bytes, read_write)
        });
        result == 0
    }

    fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
        debug_assert!(ranges.len() <= PURGE_BATCH);
        let began = self.exact_now();
        let outcome = keep_errno(|| purge_batch(ranges));
        PurgeOutcome { began, took: self.exact_now().since(began), ..outcome }
    }

    fn now(&self) -> Nanos {
        clock(libc::CLOCK_MONOTONIC_COARSE)
    }

    fn exact_now(&self) -> Nanos {
        precise_now()
    }

    fn memory_room(&self, scratch: &mut Scratch) -> Option<MemoryRoom> {
        crate::os::cgroup::memory_room(scratch)
    }
}

fn keep_errno<T>(call: impl FnOnce() -> T) -> T {
    let before = errno();
    let result = call();
    set_errno(before);
    result
}

/// The address of the calling thread's `errno`.
pub(crate) fn errno_address() -> usize {
    // SAFETY: libc's location function has no preconditions.
    unsafe { libc::__errno_location() as usize }
}

/// The calling thread's `errno`.
pub(crate) fn errno() -> c_int {
    // SAFETY: the address of the thread's own errno.
    unsafe { *(errno_address() as *const c_int) }
}

/// Sets the calling thread's `errno`.
pub(crate) fn set_errno(value: c_int) {
    // SAFETY: the address of the thread's own errno.
    unsafe { *(errno_address() as *mut c_int) = value }
}

/// Reserves addresses without backing: they take no memory and count towards no overcommit limit.
pub(crate) fn reserve(bytes: usize) -> Option<usize> {
    map(ptr::null_mut(), bytes, libc::PROT_NONE, libc::MAP_NORESERVE)
}

/// Maps fresh zero memory for the allocator's own records.
pub(crate) fn map_metadata(bytes: usize) -> Option<usize> {
    map(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, 0)
}

/// The same, aligned to its size (a power of two), and never in huge pages: what is given back of it
/// stays so. Returns the address, and how many calls it took.
pub(crate) fn map_aligned(bytes: usize) -> Option<(usize, usize)> {
    let all = map_metadata(2 * bytes - PAGE_BYTES)?;
    let start = all.next_multiple_of(bytes);
    let end = start + bytes;
    let mut calls = 2;
    for (from, to) in [(all, start), (end, all + 2 * bytes - PAGE_BYTES)] {
        if from < to {
            // SAFETY: this part was mapped just now, and nobody knows of it.
            unsafe { unmap(AddressRange { start: from, bytes: to - from }) };
            calls += 1;
        }
    }
    forbid_huge_pages(AddressRange { start, bytes });
    Some((start, calls))
}

/// Since Linux 6.13; libc does not name them yet.
const MADV_GUARD_INSTALL: c_int = 102;
const MADV_GUARD_REMOVE: c_int = 103;

/// Gives the pages of `range` back and makes every touch of them a fault, without splitting the
/// mapping. `false` if the kernel cannot; nothing has changed then.
pub(crate) fn install_guards(range: AddressRange) -> bool {
    advise_guards(range, MADV_GUARD_INSTALL)
}

/// Makes the pages of `range` accessible again; they read as zero.
pub(crate) fn remove_guards(range: AddressRange) -> bool {
    advise_guards(range, MADV_GUARD_REMOVE)
}

fn advise_guards(range: AddressRange, advice: c_int) -> bool {
    // SAFETY: the caller owns these pages and needs nothing of what they hold.
    keep_errno(|| unsafe { libc::madvise(range.start as *mut c_void, range.bytes, advice) == 0 })
}

/// Makes every touch of `range` a fault. `false` if the kernel refuses.
pub(crate) fn protect(range: AddressRange) -> bool {
    // SAFETY: the caller owns these pages and does not touch them from here on.
    let result = keep_errno(|| unsafe {
        libc::mprotect(range.start as *mut c_void, range.bytes, libc::PROT_NONE)
    });
    result == 0
}

/// Puts fresh zero pages in the place of `range`, which becomes one mapping with its neighbours
/// again. `false` if the kernel refused; the old pages are then still there.
pub(crate) fn renew(range: AddressRange) -> bool {
    let read_write = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_FIXED | libc::MAP_NORESERVE;
    let renewed = map(range.start as *mut c_void, range.bytes, read_write, flags).is_some();
    advise_huge_pages(range);
    renewed
}

/// What the kernel is told about huge pages for the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HugePages {
    Never,
    /// Whatever the system's setting is.
    System,
    Always,
}

/// The advice in force, or [`NO_ADVICE`].
static HUGE_PAGE_ADVICE: AtomicI32 = AtomicI32::new(NO_ADVICE);
const NO_ADVICE: i32 = -1;

/// Says for all of the arena, and for what is mapped there later, whether it may have huge pages. One
/// piece of advice for one range: advice by segment would split the mapping.
pub(crate) fn set_huge_pages(arena: AddressRange, huge_pages: HugePages) {
    let advice = match huge_pages {
        HugePages::Never => libc::MADV_NOHUGEPAGE,
        HugePages::System => NO_ADVICE,
        HugePages::Always => libc::MADV_HUGEPAGE,
    };
    HUGE_PAGE_ADVICE.store(advice, Ordering::Relaxed);
    advise_huge_pages(arena);
}

/// Says that `range` is to have no huge pages, whatever is said of the rest.
pub(crate) fn forbid_huge_pages(range: AddressRange) {
    advise(range, libc::MADV_NOHUGEPAGE);
}

fn advise_huge_pages(range: AddressRange) {
    let advice = HUGE_PAGE_ADVICE.load(Ordering::Relaxed);
    if advice != NO_ADVICE {
        advise(range, advice);
    }
}

/// About huge pages. A kernel without them refuses, which is fine.
fn advise(range: AddressRange, advice: c_int) {
    // SAFETY: this advice changes no content.
    keep_errno(|| unsafe { libc::madvise(range.start as *mut c_void, range.bytes, advice) });
}

fn map(at: *mut c_void, bytes: usize, protection: c_int, flags: c_int) -> Option<usize> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: either a new mapping at a place of the kernel's choice, or (`renew`) one over a range
    // of the arena that its caller owns alone.
    let address = keep_errno(|| unsafe { libc::mmap(at, bytes, protection, flags, -1, 0) });
    (address != libc::MAP_FAILED).then_some(address as usize)
}

/// Returns a reservation that turned out not to be needed.
///
/// # Safety
/// Nothing uses the range any more.
pub(crate) unsafe fn unmap(range: AddressRange) {
    // SAFETY: the caller says that nothing uses the range.
    keep_errno(|| unsafe { libc::munmap(range.start as *mut c_void, range.bytes) });
}

/// Moves the pages of `from` to `to` (as many bytes) by their page table entries; `from` reads as
/// zero afterwards. `false` if the kernel refused, and nothing has changed.
///
/// # Safety
/// Both ranges are inside the arena and owned by the caller alone; they do not overlap.
pub(crate) unsafe fn move_pages(from: AddressRange, to: usize) -> bool {
    const MREMAP_DONTUNMAP: c_int = 4;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | MREMAP_DONTUNMAP;
    let (start, bytes) = (from.start as *mut c_void, from.bytes);
    // SAFETY: the caller owns both ranges.
    let result =
        keep_errno(|| unsafe { libc::mremap(start, bytes, bytes, flags, to as *mut c_void) });
    result != libc::MAP_FAILED
}

/// How [`Linux::purge`] reaches the kernel; found out once.
static PURGE_BY: AtomicU32 = AtomicU32::new(PURGE_BY_UNKNOWN);
const PURGE_BY_UNKNOWN: u32 = 0;
/// `process_madvise(PIDFD_SELF, …)`: Linux 6.14 and later.
const PURGE_BY_SELF: u32 = 1;
/// `process_madvise` on a pidfd of ourselves: Linux 6.13.
const PURGE_BY_PIDFD: u32 = 2;
/// `madvise`, a call for each range.
const PURGE_BY_MADVISE: u32 = 3;

/// "This process", where a pidfd is expected (`linux/pidfd.h`); not in libc yet.
const PIDFD_SELF: c_int = -10_000;

fn purge_batch(ranges: &[AddressRange]) -> PurgeOutcome {
    let mut outcome = PurgeOutcome::default();
    let how = match PURGE_BY.load(Ordering::Relaxed) {
        PURGE_BY_UNKNOWN => find_purge_call(),
        known => known,
    };
    if how == PURGE_BY_MADVISE || ranges.len() == 1 {
        for (i, &range) in ranges.iter().enumerate() {
            purge_one(range, i, &mut outcome);
        }
        return outcome;
    }
    let pidfd = if how == PURGE_BY_PIDFD { open_pidfd() } else { PIDFD_SELF };
    let mut vector = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PURGE_BATCH];
    for (entry, range) in vector.iter_mut().zip(ranges) {
        *entry = libc::iovec { iov_base: range.start as *mut c_void, iov_len: range.bytes };
    }
    let mut next = 0;
    while next < ranges.len() {
        outcome.calls += 1;
        let advised = advise_vector(pidfd, &vector[next..ranges.len()]);
        if advised <= 0 {
            // Nothing was done: the first range is at fault, or the call as a whole. On its own
            // it either succeeds or is the one to report.
            let range =
                AddressRange { start: vector[next].iov_base as usize, bytes: vector[next].iov_len };
            purge_one(range, next, &mut outcome);
            next += 1;
            continue;
        }
        // A short count stops at the range that failed: go on from there.
        let mut left = advised as usize;
        while next < ranges.len() && left >= vector[next].iov_len {
            left -= vector[next].iov_len;
            next += 1;
        }
        if next < ranges.len() {
            vector[next].iov_base = vector[next].iov_base.wrapping_byte_add(left);
            vector[next].iov_len -= left;
        }
    }
    if how == PURGE_BY_PIDFD && pidfd >= 0 {
        // SAFETY: the descriptor was opened above and is used by nobody else.
        unsafe { close(pidfd) };
    }
    outcome
}

fn purge_one(range: AddressRange, index: usize, outcome: &mut PurgeOutcome) {
    outcome.calls += 1;
    let (start, bytes) = (range.start as *mut c_void, range.bytes);
    // SAFETY: the caller of `purge` owns these pages and needs nothing of what they hold.
    let result = unsafe { libc::madvise(start, bytes, libc::MADV_DONTNEED) };
    if result != 0 {
        outcome.refused |= 1 << index;
    }
}

fn advise_vector(pidfd: c_int, vector: &[libc::iovec]) -> c_long {
    let (start, count) = (vector.as_ptr(), vector.len());
    // SAFETY: `vector` is a valid array of `count` entries; the caller of `purge` owns the pages.
    unsafe { libc::syscall(libc::SYS_process_madvise, pidfd, start, count, libc::MADV_DONTNEED, 0) }
}

fn open_pidfd() -> c_int {
    // SAFETY: getpid has no preconditions.
    let pid = unsafe { libc::getpid() };
    // SAFETY: opens a descriptor and touches nothing else; it is close-on-exec by definition.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    pidfd as c_int
}

/// Asks with an empty vector, which only checks that the call is allowed. When the heap starts: later
/// a filter of the program's may take offence.
pub(crate) fn find_purge_call() -> u32 {
    let mut how = PURGE_BY_MADVISE;
    if advise_vector(PIDFD_SELF, &[]) == 0 {
        how = PURGE_BY_SELF;
    } else {
        let pidfd = open_pidfd();
        if pidfd >= 0 {
            if advise_vector(pidfd, &[]) == 0 {
                how = PURGE_BY_PIDFD;
            }
            // SAFETY: the descriptor was opened above and is used by nobody else.
            unsafe { close(pidfd) };
        }
    }
    PURGE_BY.store(how, Ordering::Relaxed);
    how
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

/// Sleeps for `time`; may return early.
pub(crate) fn sleep(time: Nanos) {
    let never = AtomicU32::new(0);
    futex_wait_for(&never, 0, time);
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

/// Maps memory for a thread's stack, whose first `guard` bytes cannot be touched.
pub(crate) fn map_stack(bytes: usize, guard: usize) -> Option<usize> {
    let start = map(ptr::null_mut(), bytes, libc::PROT_NONE, libc::MAP_NORESERVE)?;
    let range = AddressRange { start: start + guard, bytes: bytes - guard };
    if !Linux.commit(range) {
        // SAFETY: the range was mapped just now and nobody knows of it.
        unsafe { unmap(AddressRange { start, bytes }) };
        return None;
    }
    Some(start)
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
    let flags = libc::CLONE_VM
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

/// The calling thread's user and group identities (real, effective, saved), mixed into one number.
pub(crate) fn credentials() -> u64 {
    let mut ids = [0u32; 6];
    let [user, effective_user, saved_user, group, effective_group, saved_group] = &mut ids;
    // SAFETY: three valid places.
    unsafe { libc::getresuid(user, effective_user, saved_user) };
    // SAFETY: three valid places.
    unsafe { libc::getresgid(group, effective_group, saved_group) };
    // FNV-1a, with words for bytes.
    ids.iter().fold(0xcbf2_9ce4_8422_2325, |mixed, &id| {
        (mixed ^ id as u64).wrapping_mul(0x0100_0000_01b3)
    })
}

/// This process's number.
pub(crate) fn process() -> u32 {
    // SAFETY: getpid has no preconditions.
    unsafe { libc::getpid() as u32 }
}

/// Gives the calling thread a table of descriptors of its own, with nothing in it: what it opens is
/// never the program's next descriptor, and what the program closes is closed. `false` on kernels
/// before 5.9, where it goes on sharing the program's.
pub(crate) fn leave_descriptors() -> bool {
    const CLOSE_RANGE_UNSHARE: c_int = 2;
    let (first, last) = (0u32, u32::MAX);
    // SAFETY: the calling thread uses no descriptor.
    keep_errno(|| unsafe {
        libc::syscall(libc::SYS_close_range, first, last, CLOSE_RANGE_UNSHARE) == 0
    })
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

/// Reads a file's beginning into `buffer`; `path` ends with a zero. `None` if there is none, or it is
/// empty.
pub(crate) fn read_file<'a>(path: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let path = CStr::from_bytes_until_nul(path).ok()?;
    keep_errno(|| {
        let (place, flags) = (libc::AT_FDCWD, libc::O_RDONLY | libc::O_CLOEXEC);
        // SAFETY: the path ends with a zero.
        let file = unsafe { libc::syscall(libc::SYS_openat, place, path.as_ptr(), flags) };
        if file < 0 {
            return None;
        }
        let (start, count) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: the buffer has room for `count` bytes.
        let length = unsafe { libc::syscall(libc::SYS_read, file, start, count) };
        // SAFETY: the descriptor was opened above.
        unsafe { close(file as c_int) };
        usize::try_from(length).ok().filter(|&length| length > 0).map(|length| &buffer[..length])
    })
}

/// Whether there is something at `path`.
pub(crate) fn is_there(path: &CStr) -> bool {
    let place = libc::AT_FDCWD;
    // SAFETY: the path ends with a zero.
    let result = keep_errno(|| unsafe {
        libc::syscall(libc::SYS_faccessat, place, path.as_ptr(), libc::F_OK)
    });
    result == 0
}

/// The number of the mount that is seen at `path`, as mountinfo has it; `None` where there is nothing,
/// or the kernel does not say (before 5.8).
pub(crate) fn mount_id(path: &CStr) -> Option<u64> {
    /// The beginning of what the kernel writes, and room for the rest. libc does not name the number
    /// for every C library.
    #[repr(C)]
    struct Statx {
        mask: u32,
        before: [u32; 35],
        mount_id: u64,
        after: [u64; 13],
    }
    const _: () = assert!(size_of::<Statx>() == 256);
    const STATX_MNT_ID: u32 = 0x1000;
    let mut found = Statx { mask: 0, before: [0; 35], mount_id: 0, after: [0; 13] };
    let (at, flags) = (libc::AT_FDCWD, libc::AT_NO_AUTOMOUNT);
    let to = &raw mut found;
    // SAFETY: the path ends with a zero, and the kernel writes no more than 256 bytes.
    let result = keep_errno(|| unsafe {
        libc::syscall(libc::SYS_statx, at, path.as_ptr(), flags, STATX_MNT_ID, to)
    });
    (result == 0 && found.mask & STATX_MNT_ID != 0).then_some(found.mount_id)
}

/// Hands the lines of a file to `visit`, cut to what fits into `buffer`, until that says `false`.
pub(crate) fn each_line(path: &CStr, buffer: &mut [u8], mut visit: impl FnMut(&[u8]) -> bool) {
    let (place, flags) = (libc::AT_FDCWD, libc::O_RDONLY | libc::O_CLOEXEC);
    let file = keep_errno(|| {
        // SAFETY: the path ends with a zero.
        unsafe { libc::syscall(libc::SYS_openat, place, path.as_ptr(), flags) }
    });
    if file < 0 {
        return;
    }
    // What `buffer` holds of the line, and whether the line's rest is to be left out.
    let (mut held, mut is_cut) = (0, false);
    loop {
        let (start, count) = (buffer[held..].as_mut_ptr(), buffer.len() - held);
        // SAFETY: the buffer has room for `count` bytes from there.
        let read = keep_errno(|| unsafe { libc::syscall(libc::SYS_read, file, start, count) });
        if read <= 0 {
            break;
        }
        held += read as usize;
        let mut done = 0;
        let mut goes_on = true;
        while goes_on
            && let Some(length) = buffer[done..held].iter().position(|&byte| byte == b'\n')
        {
            goes_on = is_cut || visit(&buffer[done..done + length]);
            is_cut = false;
            done += length + 1;
        }
        if done == 0 && held == buffer.len() {
            goes_on = is_cut || visit(&buffer[..held]);
            is_cut = true;
            done = held;
        }
        buffer.copy_within(done..held, 0);
        held -= done;
        if !goes_on {
            break;
        }
    }
    // SAFETY: the descriptor was opened above.
    keep_errno(|| unsafe { close(file as c_int) });
}

/// The memory of this machine, in bytes; 0 if the system does not say.
pub(crate) fn physical_bytes() -> u64 {
    // SAFETY: all-zero is a valid sysinfo.
    let mut info: libc::sysinfo = unsafe { core::mem::zeroed() };
    // SAFETY: `info` is a valid place for the result.
    let result = keep_errno(|| unsafe { libc::sysinfo(&mut info) });
    if result == 0 { info.totalram * info.mem_unit as u64 } else { 0 }
}

/// The limit on this process's address space, if there is one.
pub(crate) fn address_space_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    let result = keep_errno(|| unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) });
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// The value of an environment variable, without copying it. The reference is used at once, while
/// the process starts: a later `setenv` may free what it points to.
pub(crate) fn environment(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: `name` is NUL-terminated.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: getenv returns NUL-terminated strings.
    Some(unsafe { CStr::from_ptr(value) }.to_bytes())
}

/// A copy of descriptor 2 that outlives programs which close their stderr early.
pub(crate) fn duplicate_stderr() -> c_int {
    // SAFETY: fcntl on a descriptor number touches no memory.
    keep_errno(|| unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 512) })
}

/// Closes a descriptor. Like all calls here that libc makes a point of cancellation, not through its
/// wrapper: threads that libc does not know of come here, too.
///
/// # Safety
/// The descriptor is the caller's, and used by nobody else.
unsafe fn close(descriptor: c_int) {
    // SAFETY: the caller says so.
    unsafe { libc::syscall(libc::SYS_close, descriptor) };
}

/// Copies what is at `address`, a multiple of 8 on the calling thread's stack or anywhere, as far as it
/// can be read; returns the words copied. An address at which nothing is mapped does no harm: each page
/// is asked about before it is read, by a call that every program makes, and no filter can mind.
pub(crate) fn read_own_memory(address: usize, words: &mut [u64]) -> usize {
    let mut done = 0;
    while done < words.len() {
        let at = address.wrapping_add(done * 8);
        if !is_readable(at) {
            break;
        }
        let page_words = (PAGE_BYTES - at % PAGE_BYTES) / 8;
        let end = words.len().min(done + page_words);
        for (place, from) in words[done..end].iter_mut().zip((at..).step_by(8)) {
            // SAFETY: the kernel has read from this page just now, and a thread's stack stays.
            *place = unsafe { load_word(from) };
        }
        done = end;
    }
    done
}

/// Can the kernel read eight bytes at `address`? It reads a signal mask there before it sees that nothing
/// is to be done with it.
fn is_readable(address: usize) -> bool {
    const NOTHING: c_int = -1;
    let (set, no_set, bytes) = (address, ptr::null_mut::<c_void>(), size_of::<u64>());
    let number = libc::SYS_rt_sigprocmask;
    keep_errno(|| {
        // SAFETY: the kernel refuses addresses that it cannot read, and writes nothing.
        unsafe { libc::syscall(number, NOTHING, set, no_set, bytes) };
        errno() == libc::EINVAL
    })
}

/// The word at `address`. In assembly: other threads may write to it, which is no business of the
/// compiler's, nor of a sanitizer's.
///
/// # Safety
/// It is mapped.
unsafe fn load_word(address: usize) -> u64 {
    let word: u64;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller says that it is mapped.
    unsafe {
        asm!("mov {}, qword ptr [{}]", out(reg) word, in(reg) address,
            options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the caller says that it is mapped.
    unsafe {
        asm!("ldr {}, [{}]", out(reg) word, in(reg) address,
            options(nostack, preserves_flags, readonly));
    }
    word
}

/// Writes to stderr, as far as it goes. A thread that has left the process's descriptors goes by way
/// of `/proc`, where they are still to be found.
pub(crate) fn write_stderr(bytes: &[u8]) {
    // SAFETY: fcntl on a descriptor number touches no memory.
    let is_open = keep_errno(|| unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_GETFD) } >= 0);
    if is_open {
        return write(libc::STDERR_FILENO, bytes);
    }
    let (path, flags) = (c"/proc/self/fd/2", libc::O_WRONLY | libc::O_APPEND | libc::O_CLOEXEC);
    // SAFETY: the path ends with a zero.
    let file = keep_errno(|| unsafe {
        libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags)
    });
    if file >= 0 {
        write(file as c_int, bytes);
        // SAFETY: the descriptor was opened above.
        keep_errno(|| unsafe { close(file as c_int) });
    }
}

/// Writes to a descriptor, as far as it goes.
pub(crate) fn write(descriptor: c_int, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (start, count) = (rest.as_ptr(), rest.len());
        // SAFETY: `rest` is a valid slice of `count` bytes.
        let written =
            keep_errno(|| unsafe { libc::syscall(libc::SYS_write, descriptor, start, count) });
        if written <= 0 {
            return;
        }
        rest = &rest[written as usize..];
    }
}

/// Ends the process with SIGABRT.
pub(crate) fn abort() -> ! {
    // SAFETY: abort has no preconditions.
    unsafe { libc::abort() }
}

#[cfg(test)]
pub(crate) mod fake {
    //! A system for tests: a clock that stands still until told, an exact one that goes on a
    //! microsecond at each look, and a kernel that keeps a list.

    use super::*;
    use std::cell::{Cell, RefCell};

    #[derive(Default)]
    pub(crate) struct FakeOs {
        pub time: Cell<Nanos>,
        pub exact_time: Cell<Nanos>,
        pub purged: RefCell<Vec<AddressRange>>,
        pub purge_calls: Cell<u64>,
        /// Ranges that contain one of these addresses are refused.
        pub locked: RefCell<Vec<usize>>,
        pub out_of_memory: Cell<bool>,
        pub room: Cell<Option<MemoryRoom>>,
    }

    impl FakeOs {
        pub fn advance_millis(&self, millis: u64) {
            self.time.set(Nanos(self.time.get().0 + Nanos::from_millis(millis).0));
        }

        pub fn purged_bytes(&self) -> usize {
            self.purged.borrow().iter().map(|range| range.bytes).sum()
        }
    }

    impl Os for FakeOs {
        fn commit(&self, range: AddressRange) -> bool {
            !self.out_of_memory.get() && Linux.commit(range)
        }

        fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
            self.purge_calls.set(self.purge_calls.get() + 1);
            let (began, took) = (self.exact_now(), Nanos::from_millis(1));
            self.exact_time.set(Nanos(began.0 + took.0));
            let mut outcome = PurgeOutcome { calls: 1, refused: 0, began, took };
            for (i, range) in ranges.iter().enumerate() {
                let within = |&at: &usize| at.wrapping_sub(range.start) < range.bytes;
                if self.locked.borrow().iter().any(within) {
                    outcome.refused |= 1 << i;
                } else {
                    self.purged.borrow_mut().push(*range);
                    // What is purged reads as zero, as others may rely on.
                    assert_eq!(Linux.purge(&[*range]).refused, 0);
                }
            }
            outcome
        }

        fn now(&self) -> Nanos {
            self.time.get()
        }

        fn exact_now(&self) -> Nanos {
            self.exact_time.set(Nanos(self.exact_time.get().0 + 1000));
            self.exact_time.get()
        }

        fn memory_room(&self, _: &mut Scratch) -> Option<MemoryRoom> {
            self.room.get()
        }
    }
}
