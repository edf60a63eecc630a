//! What the benches share: the allocator that this build measures, blocks, sizes, pinned threads,
//! hand-over between threads, the rows that a bench is made of, who is compared and how, and what it
//! takes to say where memory stays.
//!
//! A bench is one file for one question, and the same program for every allocator. What it does to
//! memory goes through the global allocator, as a Rust program's own memory does; nothing here
//! knows which one that is, except [`allocator`].

pub mod allocator;
pub mod block;
pub mod burst;
pub mod clock;
pub mod comparing;
pub mod cores;
pub mod line;
pub mod mapped;
pub mod pages;
pub mod process;
pub mod random;
pub mod raw;
pub mod ring;
pub mod rows;
pub mod scaling;
pub mod watched;
