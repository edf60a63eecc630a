//! Who a process or a thread is for the kernel: users, groups, capabilities, and whether it has bound itself.
//!
//! Read from `/proc`, by a thread of our own: the program's threads make no system call for it. See
//! proc_pid_status(5).

use core::ffi::CStr;

use super::files::{TEXT_BYTES, each_line};

/// What is looked at in a `status` file: what changes when a program gives up rights.
const LINES: [&[u8]; 8] =
    [b"Uid:", b"Gid:", b"Groups:", b"CapPrm:", b"CapEff:", b"CapBnd:", b"NoNewPrivs:", b"Seccomp:"];

/// An identity, mixed into one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(u64);

/// What the kernel says of a process, which is of its first thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub identity: Identity,
    /// That thread has ended, and left others.
    pub has_ended: bool,
}

/// The process. `None` where it cannot be read.
pub(crate) fn of_process() -> Option<Process> {
    read(c"/proc/self/status")
}

/// The identity of the calling thread.
pub(crate) fn of_this_thread() -> Option<Identity> {
    Some(read(c"/proc/thread-self/status")?.identity)
}

fn read(path: &CStr) -> Option<Process> {
    let (mut mixed, mut has_ended) = (None, false);
    each_line(path, &mut [0; TEXT_BYTES], |line| {
        has_ended |= line.starts_with(b"State:\tZ");
        if LINES.iter().any(|start| line.starts_with(start)) {
            // FNV-1a.
            let mix = |mixed: u64, &byte: &u8| (mixed ^ byte as u64).wrapping_mul(0x0100_0000_01b3);
            mixed = Some(line.iter().fold(mixed.unwrap_or(0xcbf2_9ce4_8422_2325), mix));
        }
        true
    });
    Some(Process { identity: Identity(mixed?), has_ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_its_process_until_it_binds_itself() {
        assert!(of_process().is_some());
        let before_and_after = std::thread::spawn(|| {
            let before = of_this_thread();
            // SAFETY: takes numbers.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            (before, of_this_thread())
        });
        let (before, after) = before_and_after.join().unwrap();
        let process = of_process().unwrap();
        assert_eq!(before, Some(process.identity));
        assert!(!process.has_ended);
        assert_ne!(after, before);
    }
}
