//! Each thread's blocks at hand.

pub(crate) mod entered;
pub(crate) mod thread_cache;
