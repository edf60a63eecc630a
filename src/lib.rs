//! Slackwater: a memory allocator for Linux that gives memory back by itself and shows where every
//! page is.
//!
//! Use it as a Rust program's [global allocator](Slackwater), or preloaded under any program. Then
//! [`snapshot()`] says what it holds and why, [`knobs()`] and [`set_knobs`] tune it, [`release_now`]
//! gives back at once what would be given back in time. Exporters for Prometheus and people are in
//! the crate `slackwater-exporters`.
//!
//! The [`manual`] says how to use it, what it is made of, what it does about misuse, and what it costs;
//! `ARCHITECTURE.md` tells what is in which file. This crate depends on libc alone, and with its default
//! feature `unwind` on a reader of unwind tables. Nothing in it
//! allocates, takes a lock of std's, or panics while it serves `malloc` and `free`.

#![cfg_attr(not(test), no_std)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("slackwater supports 64-bit systems");

mod api;
mod base;
mod caches;
mod figures;
mod geometry;
mod heap;
mod hooks;
pub mod manual;
mod os;
mod pages;
mod release;
mod sampling;
pub mod stack;
#[cfg(test)]
mod testing;

/// The journal: what giving memory back did lately, event by event, for those who want to see it as it
/// happened. A [`Reader`](journal::Reader) takes the events out.
pub mod journal {
    pub use crate::figures::journal_reader::Reader;
    pub use crate::release::journal::{Event, Period};
}

pub use crate::api::global::Slackwater;
pub use crate::api::malloc::release_now;
use crate::api::start;
pub use crate::api::{faults, fork, malloc, page_flags, seccomp};
pub use crate::base::units;
pub use crate::figures::snapshot::{Snapshot, Summary};
pub use crate::figures::{remote, snapshot};
pub use crate::geometry::reason::ReleaseReason;
pub use crate::geometry::size_class;
use crate::heap::HEAP;
pub use crate::heap::knobs;
use crate::heap::knobs::{KnobError, Knobs};
pub use crate::hooks::{probes, sections};
use crate::os::Linux;
pub use crate::os::cgroup;
use crate::release::RELEASE;
pub use crate::sampling::observer;
#[cfg(feature = "unwind")]
pub use crate::stack::unwind;

/// Where the allocator's source was when it was built: by this its functions are known where debug
/// information says of them only where they are.
pub const SOURCE_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");

/// The word of a thread that has no cache and gets none: the allocator's own, and those that have ended. For the
/// preload library's assembly, which tells them by it.
#[doc(hidden)]
pub const NO_CACHE: usize = caches::thread_cache::DEAD;

/// Says where code panicked, a file and a line, and aborts. For the preload library, where nothing else would.
#[doc(hidden)]
pub fn end_by_panic(place: (&str, u32)) -> ! {
    os::report::end_by_panic(place)
}

/// The value of a variable whose name begins with `SLACKWATER_`. For the preload library, when it is loaded: a later
/// `setenv` may free what this refers to.
#[doc(hidden)]
#[unsafe(link_section = "slackwater_start")]
pub fn environment(name: &core::ffi::CStr) -> Option<&'static [u8]> {
    knobs::environment()(name)
}

/// Lets other threads run for a moment, by a call that malloc makes in any case.
#[doc(hidden)]
pub fn yield_now() {
    os::yield_now();
}

/// Everything the allocator knows about itself, now.
///
/// Any thread, at any time. Allocates nothing and takes no lock that `malloc` or `free` takes.
/// Costs a few microseconds, and a few more for each hundred threads there have been at a time.
pub fn snapshot() -> Snapshot {
    Snapshot::take(&HEAP, &RELEASE, &Linux)
}

/// The knobs in force.
pub fn knobs() -> Knobs {
    start::is_ready();
    HEAP.knobs.get()
}

/// Sets all knobs; they hold from the next tick on. An error names the first field whose value
/// is out of its range, and then nothing has changed.
pub fn set_knobs(knobs: Knobs) -> Result<(), KnobError> {
    knobs.validate()?;
    // Not before the heap has read the environment, which would undo it.
    start::is_ready();
    HEAP.knobs.set(&knobs);
    HEAP.sampler.set_rate(knobs.profile_rate_bytes, knobs.profile_epoch_samples);
    Ok(())
}
