//! The operating system, behind the few calls the allocator makes.
//!
//! Nothing here allocates, and nothing changes `errno`: these calls happen inside `free`, which
//! must not; so they are the kernel's own (`raw`), and not libc's. What release policy needs of the
//! system is the trait [`Os`], so that tests can put a clock and a kernel of their own in its place;
//! everything else is a plain function.

pub(crate) mod biased_lock;
pub mod cgroup;
pub(crate) mod copy_mark;
mod errno;
#[cfg(test)]
pub(crate) mod fake;
mod files;
pub(crate) mod identity;
pub(crate) mod leader;
mod linux;
pub(crate) mod loader;
pub(crate) mod lock;
mod memory;
pub(crate) mod pin;
mod purge;
mod raw;
pub(crate) mod raw_thread;
pub(crate) mod report;
pub(crate) mod seccomp;
pub(crate) mod sequence;
pub(crate) mod signals;
pub(crate) mod streams;
mod system;
mod thread_number;
mod threads;
mod time;
pub(crate) mod tls;
mod vdso;
pub(crate) mod weak;

pub(crate) use cgroup::MemoryRoom;
pub(crate) use errno::*;
pub(crate) use files::*;
pub(crate) use linux::*;
pub(crate) use memory::*;
pub(crate) use system::*;
pub(crate) use thread_number::*;
pub(crate) use threads::*;
pub(crate) use time::*;
pub(crate) use tls::this_thread;
pub(crate) use vdso::find_clock;
