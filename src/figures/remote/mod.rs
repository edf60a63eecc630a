//! Reads the state of a heap from outside: another process's, or a file with its memory.
//!
//! Nothing is asked of the process that is read; it may hang. What is read is believed as little as
//! possible: the layout must be this program's own, lists have a bound, sums saturate, and no address
//! found there is used for anything but the next read. Nothing here allocates.

mod heap;
mod memory;
mod pages;
mod profile;

pub use crate::figures::root::{NOTE_NAME, NOTE_TYPE};
pub use heap::{RemoteHeap, own_root};
pub use memory::{Memory, RemoteError};
pub use pages::{Place, SegmentPages, SpanUse, page_contents};
pub use profile::{
    LiveSample, LoadedModule, ProfileHead, StackFigures, UNRECORDED_MODULE, Weighted, split_frame,
};

#[cfg(test)]
pub(crate) mod tests;
