//! Each thread's blocks at hand.

pub(crate) mod thread_cache;
