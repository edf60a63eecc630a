//! Work in a process of its own: it needs much memory for a moment, and the program that is looked at shall not have
//! had it.
//!
//! The process is a bare `clone` of this one: a copy of its memory, with one thread. Nothing of the program's
//! runs there, and the program does not see it:
//!
//! - No handler of `pthread_atfork` runs. The heap's locks are taken around the clone
//!   ([`slackwater::fork::around`]), so this is done only where that heap is the program's; locks of the
//!   standard library's or of libc's that other threads held stay held in the child, so the work may not need
//!   any. If it does after all, a deadline ends it.
//! - It has no exit signal: neither a handler of `SIGCHLD` nor `waitpid(-1)` hears of it.
//! - Its signals are blocked, so no handler of the program's runs; where the kernel or an `abort` insists, the
//!   child ends, without a core dump.
//! - Its descriptors are closed but for the pipe to here, so no connection stays open for its sake.
//! - It has a limit of memory, is the first to go when memory is short (`oom_score_adj` 1000), and ends with the
//!   thread that waits for it.
//!
//! What it costs the program is the copy of its page tables, for which its threads may wait: some milliseconds
//! for each GiB that is resident.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{fs, hint, ptr, thread};

use slackwater::fork;
use slackwater::malloc;

use crate::kernel::process::{ProcessMemory, field_bytes};

/// A larger process is not copied: its threads would wait for tens of milliseconds, and what the work takes is
/// little beside what it has.
const MAX_COPIED_BYTES: u64 = 4 << 30;

/// How many times as much memory as it is thought to need the work may have.
const SLACK: u64 = 8;

/// How often to look whether a child that was killed has gone, and how often at most.
const GLANCE: Duration = Duration::from_millis(10);
const MAX_GLANCES: u32 = 100;

/// Why there is no result.
#[derive(Debug, PartialEq, Eq)]
pub enum ApartError {
    /// No child can be had, or none may be: the work can be done here.
    NoChild,
    /// The child did not come to an end: the same work here might harm this process. What became of it.
    Lost(String),
}

/// How many filters of system calls there were when [`remember_filters`] was first called.
static FILTERS: OnceLock<u64> = OnceLock::new();

/// Remembers under how many filters of system calls this thread runs. Those that come later are the program's own,
/// and may end it for a call that it does not make itself; those of before are a container's.
pub fn remember_filters() {
    FILTERS.get_or_init(filters);
}

fn filters() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let number = |name: &str| -> Option<u64> {
        status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    // The mode, where the kernel (before 5.9) does not count them.
    number("Seccomp_filters:").or_else(|| number("Seccomp:")).unwrap_or(0)
}

/// Whether a copy of this process can do work, and costs the program little.
fn may_be_copied() -> bool {
    let is_our_heap = malloc::is_ours(ptr::from_ref(&*hint::black_box(Box::new(0u8))));
    let resident = ProcessMemory::read().map_or(u64::MAX, |memory| memory.resident_bytes());
    remember_filters();
    is_our_heap && resident <= MAX_COPIED_BYTES && FILTERS.get() == Some(&filters())
}

/// Does `work` in a child, which may take `patience` and about `bytes` of memory, and returns what it returns
/// there. It must not need locks that another thread may hold, nor what has a thread of its own.
pub fn run(
    bytes: u64,
    patience: Duration,
    work: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, ApartError> {
    if !may_be_copied() {
        return Err(ApartError::NoChild);
    }
    let limit_bytes = data_bytes().saturating_add(bytes.saturating_mul(SLACK));
    let (reader, writer) = io::pipe().map_err(|_| ApartError::NoChild)?;
    let deadline = Instant::now() + patience;
    let signals = block_signals();
    let clone = || {
        // No flags: a copy of everything. No signal when it ends, no new stack, nobody to be told its number.
        let (flags, nothing) = (0 as libc::c_ulong, 0 as libc::c_ulong);
        // SAFETY: a copy of this process, which is `fork::around`'s to make fit.
        unsafe { libc::syscall(libc::SYS_clone, flags, nothing, nothing, nothing, nothing) }
    };
    // SAFETY: `clone` is one system call, which copies the memory and returns 0 in the copy alone.
    let process = unsafe { fork::around(clone) };
    if process == 0 {
        be_the_child(writer.as_raw_fd(), limit_bytes, work);
    }
    restore_signals(&signals);
    drop(writer);
    if process < 0 {
        return Err(ApartError::NoChild);
    }
    let found = read_until(reader, deadline);
    let status = end_of(process as libc::pid_t, found.is_none());
    match (found, status) {
        // Somebody else may have waited for it.
        (Some(found), None | Some(0)) if !found.is_empty() => Ok(found),
        (None, _) => Err(ApartError::Lost(format!("was ended after {} s", patience.as_secs()))),
        (_, Some(status)) if libc::WIFSIGNALED(status) => match libc::WTERMSIG(status) {
            // A filter of system calls: here none of those calls is made.
            libc::SIGSYS => Err(ApartError::NoChild),
            signal => Err(ApartError::Lost(format!("was ended by signal {signal}"))),
        },
        _ => Err(ApartError::Lost("failed".to_string())),
    }
}

/// What counts to `RLIMIT_DATA`; nothing where the kernel does not tell.
fn data_bytes() -> u64 {
    fs::read("/proc/self/status")
        .ok()
        .and_then(|status| field_bytes(&status, b"VmData:"))
        .unwrap_or(0)
}

/// Blocks all signals on this thread; returns which were blocked before.
fn block_signals() -> libc::sigset_t {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: a valid place, which is filled in.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both are valid places; `all` has been filled in.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: filled in; where that failed, zeros are the empty set.
    unsafe { before.assume_init() }
}

fn restore_signals(signals: &libc::sigset_t) {
    // SAFETY: a valid set; the one before is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, signals, ptr::null_mut()) };
}

/// Everything that comes until the other end is closed; `None`: not in time.
fn read_until(mut reader: PipeReader, deadline: Instant) -> Option<Vec<u8>> {
    let mut found = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let mut poll = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // Rounded up, so that no time is spent on asking again and again.
        let millis = left.as_millis().min(1_000_000) as libc::c_int + 1;
        // SAFETY: `poll` is one valid entry.
        if unsafe { libc::poll(&mut poll, 1, millis) } > 0 {
            match reader.read(&mut piece) {
                Ok(0) => return Some(found),
                Ok(count) => found.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Some(Vec::new()),
            }
        }
    }
}

/// Waits for the end of a child, which may have to be brought about; returns its status. `None`: somebody else
/// has waited for it, or it cannot be ended (the kernel may be waiting for a disk).
fn end_of(process: libc::pid_t, is_late: bool) -> Option<libc::c_int> {
    let mut status = 0;
    for glance in 0.. {
        // SAFETY: `status` is a valid place. The flags find a child without an exit signal.
        let ended = unsafe { libc::waitpid(process, &mut status, libc::__WALL | libc::WNOHANG) };
        match ended {
            0 if is_late && glance == MAX_GLANCES => return None,
            0 => {
                if is_late {
                    // SAFETY: a signal to a child that has not been waited for.
                    unsafe { libc::kill(process, libc::SIGKILL) };
                }
                thread::sleep(GLANCE / if glance < 10 { 10 } else { 1 });
            }
            ended if ended == process => return Some(status),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
    None
}

/// In the child: does the work, and ends.
fn be_the_child(writer: RawFd, limit_bytes: u64, work: impl FnOnce() -> Vec<u8>) -> ! {
    shut_in(writer, limit_bytes);
    let is_done = panic::catch_unwind(AssertUnwindSafe(|| {
        let result = work();
        // SAFETY: the descriptor is open, and closed by the end of this process alone.
        let mut pipe = ManuallyDrop::new(unsafe { File::from_raw_fd(writer) });
        pipe.write_all(&result).is_ok()
    }));
    let code = if matches!(is_done, Ok(true)) { 0 } else { 1 };
    loop {
        // SAFETY: ends this process, without any handler.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

/// In the child: takes from it whatever could harm the program. What cannot be had is done without.
fn shut_in(writer: RawFd, limit_bytes: u64) {
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let [no, last] = [0 as libc::c_ulong, libc::SIGKILL as libc::c_ulong];
    // SAFETY: no core is dumped of this process.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, no, no, no, no) };
    // SAFETY: it ends when the thread that waits for it does.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, last, no, no, no) };
    // SAFETY: `abort` unblocks its signal, and would run a handler of the program's.
    unsafe { libc::signal(libc::SIGABRT, libc::SIG_DFL) };
    for (resource, bytes) in [(libc::RLIMIT_CORE, 0), (libc::RLIMIT_DATA, limit_bytes)] {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid place.
        if unsafe { libc::getrlimit(resource, &mut limit) } == 0 {
            limit.rlim_cur = limit.rlim_cur.min(bytes);
            // SAFETY: `limit` is a valid value. The limit is this process's alone.
            unsafe { libc::setrlimit(resource, &limit) };
        }
    }
    close_all_but(writer);
}

fn close_all_but(kept: RawFd) {
    let kept = kept as libc::c_uint;
    let ranges = [(0, kept.checked_sub(1)), (kept + 1, Some(libc::c_uint::MAX))];
    for (first, last) in ranges.into_iter().filter_map(|(first, last)| Some((first, last?))) {
        // SAFETY: nothing here uses these descriptors; the table is this process's own.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0 as libc::c_uint) } == 0 {
            continue;
        }
        // Kernels before 5.9. More than these are rare, and are closed when the child ends.
        for descriptor in first..=last.min(1 << 16) {
            // SAFETY: as above.
            unsafe { libc::close(descriptor as RawFd) };
        }
    }
}
