//! Sampling: some allocations, chosen by chance, are remembered with their call stacks.
//!
//! ```text
//!  countdown ends ──► stack is walked ──► stacks: figures by call site ──► profiles
//!                                    ├──► modules: what was loaded where
//!                                    └──► samples: the live ones, and those in quarantine
//!                                              └──► slot: a block on pages of its own, against a guard
//! ```
//!
//! A sampled block of up to 32 KiB lies in a slot, where `free` recognizes it at no cost to others. A
//! larger one stays where it is, on its own pages anyhow, and is sampled so often that a guard would
//! keep it from growing in place.
//!
//! A sample that is resized within its class remains the sample that it is: an ordinary block stays where it is then,
//! uncounted, and if samples ended there they would be too few. The first time that it outgrows what was asked for it
//! gets the room of its class, in its slot and before the same guard. From then on its resizes change nothing, and
//! neither they nor questions for its size ever take the lock. A block that changes its class is a new allocation,
//! with the chance of one, and the old one's end: so sums stay unbiased, and no sample follows a block that grows by
//! being moved from slot to slot.
//!
//! Otherwise all of this is behind one lock and happens some hundred times a second at most: samples are taken at
//! larger distances when there would be more. What is kept here is read from outside the
//! allocator, by [`crate::figures::remote`], without the lock.

mod altered;
mod blocks;
mod call_sites;
mod countdown;
mod growing_array;
mod misuse;
mod modules;
pub mod observer;
mod record;
mod sampler;
mod slots;

pub(crate) use call_sites::{
    ALL_FRAMES, Amount, LIFETIMES, MAX_STACKS, OBJECT, StackEntry, StackFigures, StackTable,
};
pub(crate) use countdown::{Chance, Countdown, Countdowns, LONGEST};
pub(crate) use growing_array::{GrowingArray, READ_BATCH};
pub(crate) use modules::{MAX_MODULES, ModuleEntry, ModuleTable, UNRECORDED, split};
pub(crate) use record::{ProfilerCounters, Sample, Tables};
pub(crate) use sampler::Sampler;
