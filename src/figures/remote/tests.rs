pub(crate) mod own_memory;

use own_memory::Own;

use super::heap::{MAX_CACHES, MAX_REREADS};
use super::*;
use crate::caches::thread_cache::ThreadCache;
use crate::figures::root::{MAGIC, ROOT, Root};
use crate::geometry::arena::Arena;
use crate::geometry::segment::{Chunk, Segment};
use crate::geometry::size_class::CLASS_COUNT;
use crate::heap::Uncached;
use crate::heap::knobs::KnobCells;
use crate::hooks::sections::Cells;
use crate::os::Linux;
use crate::pages::totals::Totals;
use crate::sampling::{self, ModuleEntry, Sample, StackEntry, Tables};
use core::mem::offset_of;

#[test]
fn what_is_no_root_is_refused() {
    assert_eq!(RemoteHeap::open(&Own, 8).err(), Some(RemoteError::NoRoot));
    let nothing = [0u64; 64];
    let address = nothing.as_ptr().addr() as u64;
    assert_eq!(RemoteHeap::open(&Own, address).err(), Some(RemoteError::NoRoot));
    let mut other = [0u64; 64];
    other[0] = MAGIC;
    other[1] = ROOT.layout_version as u64 + 1;
    let expected = ROOT.layout_version;
    let found = RemoteError::OtherLayout { found: expected + 1, expected };
    assert_eq!(RemoteHeap::open(&Own, other.as_ptr().addr() as u64).err(), Some(found));
    other[1] = ROOT.layout_version as u64 | (ROOT.root_bytes as u64) << 32;
    let found = RemoteError::OtherLayout { found: expected, expected };
    assert_eq!(RemoteHeap::open(&Own, other.as_ptr().addr() as u64).err(), Some(found));
}

/// A change here is a change of the layout: raise `LAYOUT_VERSION`, and then write down what is.
#[test]
fn the_layout_is_that_of_its_version() {
    let places = [
        size_of::<Root>(),
        size_of::<Totals>(),
        size_of::<Uncached>(),
        size_of::<ThreadCache>(),
        size_of::<KnobCells>(),
        size_of::<Cells>(),
        size_of::<Segment>(),
        size_of::<Chunk>(),
        size_of::<Tables>(),
        size_of::<sampling::ProfilerCounters>(),
        size_of::<Sample>(),
        size_of::<StackEntry>(),
        size_of::<ModuleEntry>(),
        offset_of!(Totals, sequence),
        offset_of!(ThreadCache, drain_sequence),
        offset_of!(ThreadCache, bins),
        offset_of!(ThreadCache, operations),
        offset_of!(ThreadCache, classes),
        offset_of!(ThreadCache, histories),
        offset_of!(Arena, page_map),
        offset_of!(Arena, segments),
        offset_of!(Segment, chunks),
        CLASS_COUNT,
    ];
    assert_eq!(
        (ROOT.layout_version, places),
        (
            13,
            [
                152, 1016, 1960, 5696, 96, 264, 20480, 576, 135320, 88, 72, 144, 512, 0, 1912, 0,
                1920, 1968, 3824, 24, 32, 2048, 58
            ]
        )
    );
}

/// Answers every read with a record that is followed by itself and is always being changed.
struct Endless(core::cell::Cell<u32>);

impl Memory for Endless {
    fn read(&self, _: u64, into: &mut [u8]) -> bool {
        self.0.set(self.0.get() + 1);
        // An odd number is the sequence of what is being changed.
        for word in into.chunks_exact_mut(8) {
            word.copy_from_slice(&4097u64.to_le_bytes());
        }
        true
    }
}

#[test]
fn a_list_without_end_is_given_up_after_so_many_reads() {
    let heap = RemoteHeap::open(&Own, own_root()).expect("our own");
    let endless = Endless(Default::default());
    let outcome = heap.each_cache(&endless, 4097, |_| {});
    assert_eq!(outcome, Err(RemoteError::Nonsense("threads")));
    // A record and its sequence.
    assert!(endless.0.get() <= 2 * (MAX_CACHES + MAX_REREADS), "{} reads", endless.0.get());
}

/// A heap that has another arena, which may say of its own where its records begin.
struct WithArena<'a> {
    arena: &'a Arena,
    records: Option<u64>,
}

impl Memory for WithArena<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let offset = address.wrapping_sub(ROOT.arena.addr() as u64);
        match self.records {
            Some(records) if offset == offset_of!(Arena, page_map) as u64 => {
                into.copy_from_slice(&records.to_le_bytes());
                true
            }
            _ if offset < size_of::<Arena>() as u64 => {
                Own.read((&raw const *self.arena).addr() as u64 + offset, into)
            }
            _ => Own.read(address, into),
        }
    }
}

#[test]
fn records_are_no_larger_than_those_of_the_largest_arena() {
    let heap = RemoteHeap::open(&Own, own_root()).expect("our own");
    let arena = Arena::new();
    // A page, which is left to the end of the process.
    assert!(arena.choose_window(&Linux, 0));
    let truth = WithArena { arena: &arena, records: None };
    assert!(heap.place(&truth).is_ok_and(|place| place.is_some()));
    let wide = WithArena { arena: &arena, records: Some(4096) };
    assert_eq!(heap.place(&wide), Err(RemoteError::Nonsense("addresses")));
}
