//! Slackwater's figures for Prometheus and people.
//!
//! The allocator itself (crate [`slackwater`]) only counts; what formats, serves or allocates is
//! here. Every metric is a row of one table, [`families::FAMILIES`], and every row is read from a
//! [`Observation`]: the allocator's [`Snapshot`](slackwater::snapshot::Snapshot) and the kernel's own
//! figures for the process.
//!
//! # A service that has a `metrics` recorder
//!
//! One line, anywhere in the set-up; the families appear in the service's own `/metrics`:
//!
//! ```
//! use std::time::Duration;
//!
//! # fn main() -> std::io::Result<()> {
//! slackwater_exporters::publish_every(Duration::from_secs(5))?;
//! # Ok(())
//! # }
//! ```
//!
//! The recorder has no hook for "somebody scrapes me", so the figures are as old as the period. A
//! service that renders its metrics itself can have them fresh: keep a [`Publisher`] and call
//! [`Publisher::publish`] before each render.
//!
//! # A service that has none
//!
//! An endpoint of our own, on a thread of its own (feature `endpoint`, on by default):
//!
#![cfg_attr(feature = "endpoint", doc = "```no_run")]
#![cfg_attr(not(feature = "endpoint"), doc = "```ignore")]
//! #[global_allocator]
//! static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();
//!
//! fn main() -> std::io::Result<()> {
//!     let _endpoint = slackwater_exporters::Endpoint::bind("127.0.0.1:9464")?; // or "unix:/run/service.sock"
//!     // … the service …
//!     Ok(())
//! }
//! ```
//!
//! `/metrics` is for Prometheus (OpenMetrics and gzip for those who ask for them), `/snapshot.json`
//! and `/map.json` are for scripts, `/` is for people. Figures are taken when they are asked for.
//! `examples/service.rs` is a complete service.
//!
//! `/debug/pprof/` is what Go's programs have there: `go tool pprof`, Pyroscope and Parca read
//! `/debug/pprof/heap` and `/debug/pprof/allocs` as they are (`?seconds=N` is a window, `?debug=1` is
//! text). `/debug/flame/live.svg` and its like are flamegraphs, `/debug/leaks` names call sites that
//! look as if they leak. With `?symbolize=none` each has addresses and the builds of the mapped files, and no
//! names: `pprof` looks them up itself. See [`profile`].
//!
//! # A service with a `tracing` subscriber
//!
//! One more line, [`trace_every`](fn@trace::trace_every), and ticks, purges and take-overs are spans in the
//! service's own log or traces ([`trace`], feature `tracing`, on by default; `examples/traced.rs`).
//!
//! # What costs what
//!
//! Nothing happens between two publications or scrapes. A scrape costs 0.2 to 0.7 ms of CPU time at a heap
//! of 64 MiB and 2 to 3 ms at 1 GiB, whose residency is read page by page; a publication costs 0.1 ms less
//! (`cargo run --release -p slackwater-benches --features exporters --bin scrape_cost`). A profile costs what
//! the lookup of names does: some 100 ms the first time, and then 10 to 20; and, while it lasts, memory of
//! the order of the program's debug information; at most 8 MiB of names are kept.
//!
//! That memory is a child's, not the service's: names are looked up in a bare copy of the process, which no handler
//! of the service's sees, and which is gone when they are there (15 s at most). Its dangers and their bounds:
//!
//! - The copy of the page tables holds the service's threads up: some milliseconds for each GiB. Above 4 GiB of RSS
//!   names are looked up in the process itself.
//! - The child counts to the service's control group. Where that is nearer its limit (or `memory.high`) than the
//!   lookup needs, about as much as the program's file has, names are left out. If memory runs short all the
//!   same, the child goes first.
//! - Locks that other threads hold stay held in it. The heap's are free; the lookup needs none of std's. If it does
//!   not end, it is ended.
//!
//! Where there can be no child, names are looked up in the process: where Slackwater is not its allocator, where
//! the system refuses one, or under a filter of system calls that came after the endpoint (it might end the
//! process for a `clone`). A profile that lacks its names says why, and `pprof` looks them up itself; so it does
//! for a service with feature `endpoint` without `profiles`, and for `?symbolize=none`.
//! `observer_cpu_seconds_total` says what all of it was.
//!
//! # Features
//!
//! A service that has a recorder needs none: `default-features = false` publishes. What each brings into a
//! service's build, one at a time (two Zen 4 cores, `scripts/features cost`):
//!
//! | feature | crates | seconds of a first release build | program |
//! |---|--:|--:|--:|
//! | none | 3 | 3 | 571 KiB |
//! | no feature: metrics | 8 | 6 | 714 KiB |
//! | `endpoint` | 47 | 24 | 1776 KiB |
//! | `profiles` | 73 | 42 | 3114 KiB |
//! | `perf` | 11 | 7 | 945 KiB |
//! | `tracing` | 12 | 6 | 746 KiB |
//! | all (the default) | 77 | 43 | 3117 KiB |
//!
//! The first row is the allocator alone. `endpoint` has the page, `/metrics` and profiles of addresses, whose
//! names `pprof` looks up where the program's file is; `profiles` includes it, and looks them up itself, draws
//! flamegraphs and names leak suspects.
//!
//! # What the processor and the kernel count
//!
//! [`perf::count_sections`] counts time, page faults, context switches and, where the machine counts them,
//! cycles, instructions and misses in the allocator's slow sections (feature `perf`, on by default). That
//! costs two to three microseconds a section, so nothing is counted unless a service asks for it.
//!
//! # The program
//!
//! Package `slackwater-program` builds `slackwater` on top of this library: `demo` shows the allocator
//! giving memory back, `run -- CMD` runs any program under it; `top`, `report`, `snapshot`, `diff`,
//! `flame` and `profile` look at another process from outside ([`attach`]), and `export` serves all of
//! them ([`fleet`]).

mod figures;
mod formats;
mod kernel;
#[cfg(feature = "endpoint")]
mod page;
#[cfg(feature = "perf")]
pub mod perf;
#[cfg(feature = "endpoint")]
pub mod profile;
#[cfg(feature = "endpoint")]
mod serve;
mod targets;

pub use figures::observation::Observation;
pub use figures::{amounts, breakdown, families, observation, residency};
pub use formats::periodic::Periodic;
pub use formats::publisher::{Publisher, publish_every};
#[cfg(feature = "endpoint")]
pub use formats::{exposition, groups, json};
pub use formats::{map, publisher};
#[cfg(feature = "tracing")]
pub use formats::{trace, trace::trace_every};
pub use kernel::{cgroup, mappings, memory, observer, process};
#[cfg(feature = "endpoint")]
pub use serve::{endpoint, endpoint::Endpoint, http};
pub use slackwater::unwind;
pub use targets::{attach, fleet};
