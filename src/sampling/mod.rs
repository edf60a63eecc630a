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
//! All of this is behind one lock and happens some hundred times a second at most: samples are taken at
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
pub(crate) use countdown::{Countdown, Countdowns, LONGEST};
pub(crate) use growing_array::{GrowingArray, READ_BATCH};
pub(crate) use modules::{MAX_MODULES, ModuleEntry, ModuleTable, UNRECORDED, split};
pub(crate) use record::{ProfilerCounters, Sample, Tables};
pub(crate) use sampler::Sampler;
