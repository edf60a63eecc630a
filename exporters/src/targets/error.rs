//! Why a process could not be read.

use std::fmt;
use std::fs;
use std::io;

use slackwater::remote::RemoteError;

/// Why a process could not be read: one line, through `Display`.
#[derive(Clone, Debug)]
pub struct AttachError {
    pub(super) process: u32,
    pub(super) comm: String,
    pub(super) cause: Cause,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    NoProcess,
    Ended,
    NotPermitted,
    NoHeap,
    /// It has no memory for the moment: it executes another program.
    InExec,
    /// It never has memory of its own.
    KernelThread,
    Heap(RemoteError),
    Io(String),
}

impl Cause {
    pub(super) fn of_io(error: &io::Error) -> Cause {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Cause::NotPermitted,
            Some(libc::ESRCH | libc::ENOENT) => Cause::InExec,
            _ => Cause::Io(error.to_string()),
        }
    }

    /// Why there is no start time: `/proc` may be mounted with `hidepid=1`, which shows that others'
    /// processes are there, and no more.
    pub(super) fn of_absence(process: u32) -> Cause {
        match fs::read(format!("/proc/{process}/stat")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Cause::NotPermitted,
            _ => Cause::NoProcess,
        }
    }
}

impl AttachError {
    /// Is it that there is no process of that number, or none any more?
    pub fn is_gone(&self) -> bool {
        matches!(self.cause, Cause::NoProcess | Cause::Ended)
    }

    /// Is it that reading the process takes a right that this one does not have?
    pub fn is_refusal(&self) -> bool {
        self.cause == Cause::NotPermitted
    }

    /// Is it that the process has no heap of Slackwater's?
    pub fn is_no_heap(&self) -> bool {
        self.cause == Cause::NoHeap
    }

    /// It may have executed another program, which has its heap elsewhere.
    pub(super) fn is_worth_another_look(&self) -> bool {
        matches!(self.cause, Cause::Heap(_) | Cause::Io(_) | Cause::InExec)
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttachError { process, comm, cause } = self;
        match cause {
            Cause::NoProcess => write!(f, "process {process} does not exist"),
            Cause::Ended => write!(f, "process {process} has ended"),
            Cause::NotPermitted => write!(
                f,
                "process {process} ({comm}) may not be read: that takes the capability \
                 CAP_SYS_PTRACE (as root has it), or the same user and kernel.yama.ptrace_scope 0"
            ),
            Cause::NoHeap => write!(
                f,
                "process {process} ({comm}) has no heap of Slackwater's: expected a program \
                 started with `slackwater run`, or one that has Slackwater as its global allocator"
            ),
            Cause::InExec => write!(f, "process {process} ({comm}) is executing another program"),
            Cause::KernelThread => write!(
                f,
                "process {process} ({comm}) is a thread of the kernel's: expected a program"
            ),
            Cause::Heap(error) => write!(f, "process {process} ({comm}): {error}"),
            Cause::Io(error) => write!(f, "process {process} ({comm}): {error}"),
        }
    }
}

impl std::error::Error for AttachError {}
