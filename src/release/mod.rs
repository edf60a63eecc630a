//! Release: how free pages get back to the system.
//!
//! ```text
//!  span retired ─┐
//!  run freed ────┼─► boundary ─► ledger: the segments' dirty bits ─► tick: gate ─► purge ─► kernel
//!  run trimmed ──┘
//! ```
//!
//! The design follows the work order `PHASE_HZ3_S65` of the allocator hz3: one boundary, a ledger
//! that merges neighbours, every kind of block covered, one gate that tells idle from busy.

mod boundary;
mod gate;
mod purge;
mod tick;

pub(crate) use boundary::release_range_definitely_free;
pub use gate::GateMode;

pub(crate) use tick::{Release, purge_everything, tick_if_due};

/// Why a range of pages became free: which kind of memory it held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReleaseReason {
    /// The last block of a span of `small` blocks (16 B to 2 KiB) came back.
    SmallPageRetire = 0,
    /// The last block of a span of `sub4k` blocks (above 2 KiB, to 4 KiB) came back.
    Sub4kRunRetire = 1,
    /// The last block of a span of `medium` blocks (above 4 KiB, to 32 KiB) came back.
    MediumRunReclaim = 2,
    /// A large page run was freed, or its tail by a shrinking `realloc`.
    LargeFree = 3,
}

impl ReleaseReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [ReleaseReason; 4] = [
        ReleaseReason::SmallPageRetire,
        ReleaseReason::Sub4kRunRetire,
        ReleaseReason::MediumRunReclaim,
        ReleaseReason::LargeFree,
    ];
}
