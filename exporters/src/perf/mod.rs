//! What the processor and the kernel count while the allocator works: cycles, instructions and misses
//! where there are counters for them, page faults, context switches and time on a processor everywhere.
//!
//! [`count_sections`] counts in this process, around the slow sections of its allocator
//! ([`slackwater::sections`]); the counts are exported as `slackwater_perf_events_total`. Nothing is
//! counted until it is called. [`threads::Watch`] counts for the threads of any process, from outside.
//!
//! An event that is not counted is absent everywhere, and never 0; [`Plan`] says in one line what is
//! absent, and why.
//!
//! # What is counted
//!
//! User and kernel mode. Where the kernel allows the process user mode alone (`kernel.perf_event_paranoid`
//! 2, without the capability `CAP_PERFMON`) it is that, and context switches are absent: they happen in
//! the kernel. Where the processor has fewer registers than there are events, the kernel lets them take
//! turns, and counts are scaled up to the whole time.

mod events;
mod plan;
mod sections;
#[cfg(test)]
mod test_pages;
pub mod threads;

use std::sync::OnceLock;

pub use plan::{PerfError, Plan};

/// Counts in the slow sections of this process's allocator from now on, for as long as the process
/// lives; again does nothing. Returns what is counted.
///
/// Each section then takes two to three microseconds more, one of which is in its own figures
/// (`benches/section_cost.rs`). Each thread that enters one has three to seven descriptors open, with high
/// numbers, and all of them at most a quarter of those that the process may have; threads beyond are
/// left out, and how many sections that were is counted (`slackwater_perf_uncounted_sections_total`).
/// A forked child counts on, for itself.
///
/// # Errors
///
/// When the kernel has no perf events, or does not let this process have any; then nothing changes.
pub fn count_sections() -> Result<&'static Plan, PerfError> {
    static OUTCOME: OnceLock<Result<(), PerfError>> = OnceLock::new();
    OUTCOME.get_or_init(|| Plan::probe().map(sections::start)).clone()?;
    Ok(sections::plan())
}
