//! Release: how free pages get back to the system.
//!
//! ```text
//!  span retired ─┐  pages/boundary
//!  run freed ────┼─► boundary ─► ledger: the segments' dirty bits ─► tick: gate ─► purge ─► kernel
//!  run trimmed ──┘
//! ```
//!
//! The records of segments that are wholly free and clean follow their pages ([`records`]).
//!
//! The design follows the work order S65 of hz3, an experimental allocator in C (ARCHITECTURE.md has what it
//! measured): one boundary, a ledger
//! that merges neighbours, every kind of block covered, one gate that tells idle from busy.

mod assistant;
mod delays;
mod gate;
mod interior;
pub(crate) mod journal;
mod lifecycle;
mod own_thread;
mod purge;
mod records;
mod state;
mod takeover;
mod tick;
mod ticker;

pub use gate::GateState;
pub(crate) use state::{RELEASE, Release};
#[cfg(test)]
pub(crate) use tick::purge_everything;
pub(crate) use tick::{release_everything, tick_if_due};
pub(crate) use ticker::{
    end as end_ticker, forbid_ticker, start_if_needed, start_no_more, wait_for_its_end,
};
