//! Which allocator this program was built with: the one thing that differs between its builds.

/// Every allocator that can be chosen, by the name of its cargo feature, in the order of the
/// tables.
pub const NAMES: [&str; 6] =
    ["slackwater", "mimalloc", "jemalloc", "snmalloc", "tcmalloc", "system"];

// Two at once would measure one under the other's name; none would measure the system's unasked.
const _: () = assert!(
    cfg!(feature = "slackwater") as u8
        + cfg!(feature = "mimalloc") as u8
        + cfg!(feature = "jemalloc") as u8
        + cfg!(feature = "snmalloc") as u8
        + cfg!(feature = "tcmalloc") as u8
        + cfg!(feature = "system") as u8
        == 1,
    "choose exactly one allocator: --no-default-features --features NAME"
);

#[cfg(feature = "slackwater")]
#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(feature = "snmalloc")]
#[global_allocator]
static ALLOCATOR: snmalloc_rs::SnMalloc = snmalloc_rs::SnMalloc;

#[cfg(feature = "tcmalloc")]
#[global_allocator]
static ALLOCATOR: tcmalloc_better::TCMalloc = tcmalloc_better::TCMalloc;

#[cfg(feature = "system")]
#[global_allocator]
static ALLOCATOR: std::alloc::System = std::alloc::System;
