//! Other processes with this heap: one of them, or all that there are.

pub mod attach;
mod error;
mod find;
pub mod fleet;
