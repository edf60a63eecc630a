//! Who owns which pages, under one lock; the boundary through which they become free; and what is counted of
//! them.

pub(crate) mod boundary;
pub(crate) mod metadata;
pub(crate) mod page_heap;
pub(crate) mod totals;
