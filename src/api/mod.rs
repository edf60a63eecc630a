//! What users call, and what the system calls: the operations, threads that come and go, forks, and the end.

pub(crate) mod copies;
pub(crate) mod exit_summary;
pub mod faults;
pub(crate) mod foreign;
pub mod fork;
pub(crate) mod fork_handlers;
pub(crate) mod global;
pub mod malloc;
pub mod page_flags;
pub mod seccomp;
pub(crate) mod start;
pub(crate) mod this_thread;
pub(crate) mod thread_exit;
