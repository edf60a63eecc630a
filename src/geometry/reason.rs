//! Why pages become free: which kind of memory they held. Release has its counters and its delays by it.

use super::size_class::{Kind, SizeClass};

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
    /// Why a span of this class's blocks is released.
    pub(crate) fn of_span(class: SizeClass) -> ReleaseReason {
        match class.kind() {
            Kind::Small => ReleaseReason::SmallPageRetire,
            Kind::Sub4k => ReleaseReason::Sub4kRunRetire,
            Kind::Medium | Kind::Large => ReleaseReason::MediumRunReclaim,
        }
    }

    /// Every reason, in the order of their numbers.
    pub const ALL: [ReleaseReason; 4] = [
        ReleaseReason::SmallPageRetire,
        ReleaseReason::Sub4kRunRetire,
        ReleaseReason::MediumRunReclaim,
        ReleaseReason::LargeFree,
    ];
}
