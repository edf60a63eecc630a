//! What a block, a span, a segment and the arena are, and where: numbers and layouts, which no policy
//! changes.

pub(crate) mod arena;
pub(crate) mod reason;
pub(crate) mod segment;
pub mod size_class;
pub(crate) mod slot;
pub(crate) mod span;
pub(crate) mod span_index;
