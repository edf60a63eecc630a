//! Which allocator this program was built with: the one thing that differs between its builds.

/// The name of the one this program was built with.
pub const NAME: &str = if cfg!(feature = "slackwater") {
    "slackwater"
} else if cfg!(feature = "mimalloc") {
    "mimalloc"
} else if cfg!(feature = "mimalloc2") {
    "mimalloc2"
} else if cfg!(feature = "jemalloc") {
    "jemalloc"
} else if cfg!(feature = "snmalloc") {
    "snmalloc"
} else if cfg!(feature = "tcmalloc") {
    "tcmalloc"
} else if cfg!(feature = "rpmalloc") {
    "rpmalloc"
} else if cfg!(feature = "rusty_alloc") {
    "rusty_alloc"
} else {
    "system"
};

/// Every allocator that can be chosen, by the name of its cargo feature, in the order of the
/// tables.
pub const NAMES: [&str; 9] = [
    "slackwater",
    "mimalloc",
    "mimalloc2",
    "jemalloc",
    "snmalloc",
    "tcmalloc",
    "rpmalloc",
    "rusty_alloc",
    "system",
];

// Two at once would measure one under the other's name; none would measure the system's unasked.
const _: () = assert!(
    cfg!(feature = "slackwater") as u8
        + cfg!(feature = "mimalloc") as u8
        + cfg!(feature = "mimalloc2") as u8
        + cfg!(feature = "jemalloc") as u8
        + cfg!(feature = "snmalloc") as u8
        + cfg!(feature = "tcmalloc") as u8
        + cfg!(feature = "rpmalloc") as u8
        + cfg!(feature = "rusty_alloc") as u8
        + cfg!(feature = "system") as u8
        == 1,
    "choose exactly one allocator: --no-default-features --features NAME"
);

#[cfg(feature = "slackwater")]
#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

#[cfg(any(feature = "mimalloc", feature = "mimalloc2"))]
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

#[cfg(feature = "rpmalloc")]
#[global_allocator]
static ALLOCATOR: rpmalloc::RpMalloc = rpmalloc::RpMalloc;

#[cfg(feature = "rusty_alloc")]
#[global_allocator]
static ALLOCATOR: rusty_alloc_api::RustyAlloc = rusty_alloc_api::RustyAlloc;

#[cfg(feature = "system")]
#[global_allocator]
static ALLOCATOR: std::alloc::System = std::alloc::System;

/// What slackwater knows about its release of memory, since the program's start.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    /// Ranges that became free pages.
    pub enqueued: u64,
    /// Of those, the ones that joined a range already pending.
    pub coalesced: u64,
    /// Pages given back, for whatever reason.
    pub purged_pages: u64,
    /// Of those, the ones of each reason that is shown.
    pub purged_pages_by_reason: [(&'static str, u64); 5],
    /// System calls made to give them back.
    pub madvise_calls: u64,
    /// Pages the ledger lost.
    pub dropped: u64,
    /// Pages allocated again after they were given back.
    pub refault_pages: u64,
    /// Ticks at which the gate said idle.
    pub idle_ticks: u64,
    /// Ticks at which the gate said busy.
    pub busy_ticks: u64,
}

impl Release {
    /// The figures now; none from any other allocator. Allocates nothing.
    pub fn now() -> Option<Self> {
        #[cfg(feature = "slackwater")]
        {
            let snapshot = slackwater::snapshot();
            let purged = snapshot.release_purged_pages_total;
            Some(Release {
                enqueued: snapshot.release_enqueued_total.sum(),
                coalesced: snapshot.release_coalesced_total,
                purged_pages: purged.sum(),
                purged_pages_by_reason: [
                    ("small_page_retire", purged.small_page_retire),
                    ("sub4k_run_retire", purged.sub4k_run_retire),
                    ("medium_run_reclaim", purged.medium_run_reclaim),
                    ("large_free", purged.large_free),
                    ("span_interior", purged.span_interior),
                ],
                madvise_calls: snapshot.release_madvise_calls_total,
                dropped: snapshot.release_dropped_total,
                refault_pages: snapshot.release_refault_pages_total,
                idle_ticks: snapshot.epoch_ticks_total.idle,
                busy_ticks: snapshot.epoch_ticks_total.busy,
            })
        }
        #[cfg(not(feature = "slackwater"))]
        None
    }
}

/// How often slackwater left its fast path, since the program's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowPaths {
    /// Empty bins filled from spans.
    pub refills: u64,
    /// Full bins that gave blocks back to spans.
    pub spills: u64,
    /// All others: calls without a cache, new spans, large blocks, growth of the arena.
    pub others: u64,
}

impl SlowPaths {
    /// The figures now; none from any other allocator. Allocates nothing.
    pub fn now() -> Option<Self> {
        #[cfg(feature = "slackwater")]
        {
            let snapshot = slackwater::snapshot();
            let others = snapshot.slow_path_total;
            Some(SlowPaths {
                refills: snapshot.refills_total,
                spills: snapshot.spills_total,
                others: others.uncached
                    + others.span_create
                    + others.large_alloc
                    + others.arena_grow,
            })
        }
        #[cfg(not(feature = "slackwater"))]
        None
    }
}

/// How many allocations slackwater has sampled, since the program's start; none from any other allocator. Allocates
/// nothing.
pub fn samples() -> Option<u64> {
    #[cfg(feature = "slackwater")]
    {
        Some(slackwater::snapshot().profile_samples_total)
    }
    #[cfg(not(feature = "slackwater"))]
    None
}
