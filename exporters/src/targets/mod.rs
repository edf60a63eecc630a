//! Other processes with this heap: one of them, or all that there are.

pub mod attach;
pub mod fleet;
