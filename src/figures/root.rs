//! The root of the allocator's state, for readers outside the process.
//!
//! A reader finds it without symbols, so in stripped programs too: the program (or the preload
//! library) carries an ELF note, which is loaded with it, and whose content is the root's distance
//! from it. The root says what the state is, in which layout, and where.

use core::arch::global_asm;

use crate::caches::thread_cache::ThreadCache;
use crate::geometry::arena::Arena;
use crate::geometry::segment::Segment;
use crate::geometry::size_class::CLASS_COUNT;
use crate::heap::knobs::KnobCells;
use crate::heap::{HEAP, Uncached};
use crate::hooks::sections;
use crate::pages::totals::Totals;
use crate::release::RELEASE;
use crate::sampling::{self, Tables};

/// What a root begins with.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"SLACKWTR");

/// Goes up whenever the meaning or the place of anything reachable from the root changes (a test
/// compares the places with those of this version).
pub(crate) const LAYOUT_VERSION: u32 = 13;

/// The ELF note: its name, with the terminating zero, and its type.
pub const NOTE_NAME: &[u8] = b"Slackwater\0";
/// The note's type. Its content is 8 bytes: the root's address minus the content's own.
pub const NOTE_TYPE: u32 = 1;

/// Everything a reader needs to know before it reads the rest. Never changes while the process lives.
///
/// # Invariants
/// The addresses are those of parts of [`HEAP`] and of [`sections::CELLS`], in the layout that
/// `layout_version` names.
#[repr(C)]
pub(crate) struct Root {
    pub magic: u64,
    pub layout_version: u32,
    /// Sizes, by which layouts can be told apart that somebody forgot to number.
    pub root_bytes: u32,
    pub totals_bytes: u32,
    pub uncached_bytes: u32,
    pub thread_cache_bytes: u32,
    pub segment_bytes: u32,
    pub class_count: u32,
    pub tables_bytes: u32,
    pub arena: *const Arena,
    pub totals: *const Totals,
    pub uncached: *const Uncached,
    pub knobs: *const KnobCells,
    pub sampler: *const sampling::ProfilerCounters,
    pub sections: *const sections::Cells,
    /// Where that is which stands alone.
    pub singles: Singles<*const u64>,
}

/// What stands alone, of eight bytes or fewer: where it is, or what was read there.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Singles<T> {
    pub newest_cache: T,
    pub threads: T,
    pub busy: T,
    pub oldest: T,
    pub ticker_starts: T,
    pub ticker_failures: T,
    pub metadata_map_calls: T,
    pub metadata_used: T,
}

// SAFETY: the pointers are only read, and by other processes.
unsafe impl Sync for Root {}

/// The root of this process's state.
pub(crate) static ROOT: Root = Root {
    magic: MAGIC,
    layout_version: LAYOUT_VERSION,
    root_bytes: size_of::<Root>() as u32,
    totals_bytes: size_of::<Totals>() as u32,
    uncached_bytes: size_of::<Uncached>() as u32,
    thread_cache_bytes: size_of::<ThreadCache>() as u32,
    segment_bytes: size_of::<Segment>() as u32,
    class_count: CLASS_COUNT as u32,
    tables_bytes: size_of::<Tables>() as u32,
    arena: &raw const HEAP.pages.arena,
    totals: &raw const HEAP.pages.totals,
    uncached: &raw const HEAP.uncached,
    knobs: &raw const HEAP.knobs,
    sampler: &raw const HEAP.sampler.readings,
    sections: &raw const sections::CELLS,
    singles: Singles {
        newest_cache: (&raw const HEAP.threads.newest).cast(),
        threads: (&raw const HEAP.threads.threads).cast(),
        busy: (&raw const RELEASE.busy).cast(),
        oldest: (&raw const HEAP.pages.clock.oldest).cast(),
        ticker_starts: (&raw const RELEASE.ticker.starts).cast(),
        ticker_failures: (&raw const RELEASE.ticker.failures).cast(),
        metadata_map_calls: (&raw const HEAP.pages.metadata.map_calls).cast(),
        metadata_used: (&raw const HEAP.pages.metadata.touched).cast(),
    },
};

global_asm!(
    ".pushsection .note.slackwater,\"a\",%note",
    ".balign 4",
    ".long 1f - 0f",
    ".long 3f - 2f",
    ".long 1",
    "0: .asciz \"Slackwater\"",
    "1: .balign 4",
    "2: .quad {root} - .",
    "3: .balign 4",
    ".popsection",
    root = sym ROOT,
);

/// The root's address in this process. Whoever calls this is what brings the note into a program.
#[inline(never)]
pub(crate) fn address() -> usize {
    (&raw const ROOT).addr()
}
