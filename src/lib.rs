//! Slackwater: a memory allocator for Linux that gives memory back by itself and shows where every
//! page is.
//!
//! Use it as a Rust program's [global allocator](Slackwater), or preloaded under any program. Then
//! [`snapshot`] says what it holds and why, [`knobs()`] and [`set_knobs`] tune it, [`release_now`]
//! gives back at once what would be given back in time. Exporters for Prometheus and people are in
//! the crate `slackwater-exporters`.
//!
//! How it works is told in `ARCHITECTURE.md`. This crate depends on libc alone. Nothing in it
//! allocates, takes a lock of std's, or panics while it serves `malloc` and `free`.

#[cfg(not(any(loom, target_pointer_width = "64")))]
compile_error!("slackwater supports 64-bit systems");

mod bit_pyramid;
pub mod size_class;
mod span;
mod sync;
pub mod units;

// Under the model checker only what it models is built: its atomics cannot stand in statics.

#[cfg(not(loom))]
mod arena;
#[cfg(not(loom))]
mod bits;
#[cfg(not(loom))]
mod central;
#[cfg(all(test, not(loom)))]
mod check;
#[cfg(not(loom))]
mod current;
#[cfg(not(loom))]
mod exit_summary;
#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
mod global;
#[cfg(not(loom))]
mod heap;
#[cfg(not(loom))]
pub mod knobs;
#[cfg(not(loom))]
mod large;
#[cfg(not(loom))]
mod lock;
#[cfg(not(loom))]
pub mod malloc;
#[cfg(not(loom))]
mod metadata;
#[cfg(all(test, not(loom)))]
mod model;
#[cfg(not(loom))]
mod page_heap;
#[cfg(not(loom))]
mod release;
#[cfg(not(loom))]
mod report;
#[cfg(not(loom))]
mod segment;
#[cfg(not(loom))]
pub mod snapshot;
#[cfg(not(loom))]
mod span_index;
#[cfg(not(loom))]
mod sys;
#[cfg(all(test, not(loom)))]
mod test_heap;
#[cfg(all(test, not(loom)))]
mod test_random;
#[cfg(not(loom))]
mod thread_cache;
#[cfg(not(loom))]
mod tls;
#[cfg(not(loom))]
mod totals;

#[cfg(not(loom))]
pub use self::api::*;

#[cfg(not(loom))]
mod api {
    pub use crate::global::Slackwater;
    use crate::heap::HEAP;
    use crate::knobs::{KnobError, Knobs};
    pub use crate::malloc::release_now;
    pub use crate::release::ReleaseReason;
    pub use crate::snapshot::{Snapshot, Summary};
    use crate::sys::Linux;

    /// Everything the allocator knows about itself, now.
    ///
    /// Any thread, at any time. Allocates nothing and takes no lock that `malloc` or `free` takes.
    /// Costs a few microseconds, and a few more for each hundred threads there have been at a time.
    pub fn snapshot() -> Snapshot {
        Snapshot::take(&HEAP, &Linux)
    }

    /// The knobs in force.
    pub fn knobs() -> Knobs {
        HEAP.is_ready(&Linux);
        HEAP.knobs.get()
    }

    /// Sets all knobs; they hold from the next tick on. An error names the first field whose value
    /// is out of its range, and then nothing has changed.
    pub fn set_knobs(knobs: Knobs) -> Result<(), KnobError> {
        knobs.validate()?;
        // Not before the heap has read the environment, which would undo it.
        HEAP.is_ready(&Linux);
        HEAP.knobs.set(&knobs);
        Ok(())
    }
}
