//! What the kernel says of a process, and what is read of its memory. Nothing here knows what a heap is.

pub mod cgroup;
pub(crate) mod clock;
pub(crate) mod elf;
pub mod mappings;
pub mod memory;
pub mod observer;
pub(crate) mod pagemap;
pub mod process;
