//! What is read of a heap, this process's or another's, and what follows from it.

pub(crate) mod journal_reader;
pub(crate) mod raw_counters;
pub mod remote;
pub(crate) mod root;
pub mod snapshot;
