//! What tests of several folders share: a heap of their own, random numbers, a checker that walks every
//! invariant, and the model that drives them all.

pub(crate) mod check;
pub(crate) mod filter;
mod model;
pub(crate) mod test_heap;
pub(crate) mod test_random;
