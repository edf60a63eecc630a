//! What there is to know of a heap at one moment: the allocator's figures and the kernel's, laid over each
//! other; and the one table that names them.

pub mod amounts;
pub mod breakdown;
pub mod families;
mod family;
pub mod observation;
pub mod residency;
pub(crate) mod stacks;
