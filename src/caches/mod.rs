//! Each thread's blocks at hand.

pub(crate) mod bin;
pub(crate) mod entered;
pub(crate) mod registry;
pub(crate) mod thread_cache;
