//! A heap of which the root has been read, and its figures.

use core::mem::{MaybeUninit, offset_of};

use super::memory::{MAX_ATTEMPTS, Memory, RemoteError, read_plain, read_word};
use crate::caches::thread_cache::ThreadCache;
use crate::figures::raw_counters::{CacheSums, RawCounters, SamplingSums, UncachedSums};
use crate::figures::root::{self, MAGIC, ROOT, Root, Singles};
use crate::figures::snapshot::Snapshot;
use crate::geometry::arena::Arena;
use crate::heap::Uncached;
use crate::heap::knobs::{KnobCells, Knobs};
use crate::hooks::sections::{Cells, SectionCounts};
use crate::os::{Linux, Nanos, Os};
use crate::pages::totals::Totals;
use crate::release::GateState;
use crate::sampling;

/// How often to read thread caches again, all of a list together: one that changes whenever it is
/// looked at is no cache.
pub(super) const MAX_REREADS: u32 = 1 << 12;

/// More thread caches than this are a loop in the list.
pub(super) const MAX_CACHES: u32 = 1 << 17;

/// Where the root of this very process is.
pub fn own_root() -> u64 {
    root::address() as u64
}

/// A heap whose root has been read.
pub struct RemoteHeap {
    root: MaybeUninit<Root>,
}

impl RemoteHeap {
    /// Reads the root at `address`.
    ///
    /// # Errors
    ///
    /// When there is none, or one in another layout than this program's.
    pub fn open(memory: &impl Memory, address: u64) -> Result<RemoteHeap, RemoteError> {
        let mut start = [0; 16];
        if !memory.read(address, &mut start) || start[..8] != MAGIC.to_le_bytes() {
            return Err(RemoteError::NoRoot);
        }
        let number = |at: usize| {
            u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]])
        };
        let (found, expected) = (number(8), ROOT.layout_version);
        if (found, number(12)) != (expected, ROOT.root_bytes) {
            return Err(RemoteError::OtherLayout { found, expected });
        }
        let heap = RemoteHeap { root: read_plain(memory, address)? };
        let root = heap.root();
        let sizes = |root: &Root| {
            (
                [root.totals_bytes, root.uncached_bytes, root.thread_cache_bytes],
                [root.segment_bytes, root.class_count, root.tables_bytes],
            )
        };
        if sizes(root) != sizes(&ROOT) {
            return Err(RemoteError::OtherLayout { found, expected });
        }
        Ok(heap)
    }

    pub(super) fn root(&self) -> &Root {
        // SAFETY: `open` filled it; every bit pattern is a Root, whose pointers are never followed.
        unsafe { self.root.assume_init_ref() }
    }

    /// The figures of the heap, now.
    ///
    /// # Errors
    ///
    /// When it cannot be read to the end, or holds what no heap can.
    pub fn snapshot(&self, memory: &impl Memory) -> Result<Snapshot, RemoteError> {
        let singles = self.singles(memory)?;
        // As in `RawCounters::of`: before the totals.
        let mut caches = CacheSums::default();
        self.each_cache(memory, singles.newest_cache, |cache| {
            let gained = cache.resident_gained.get();
            caches.resident_gained = caches.resident_gained.wrapping_add(gained);
        })?;
        let uncached = read_plain::<Uncached>(memory, self.root().uncached.addr() as u64)?;
        // SAFETY: it was filled, and is nothing but atomic numbers, which any bit pattern is.
        let uncached = unsafe { uncached.assume_init_ref() };
        let gained = uncached.resident_gained.load(core::sync::atomic::Ordering::Relaxed);
        caches.resident_gained = caches.resident_gained.wrapping_add(gained);
        let figures = self.totals(memory)?.read_unlocked();
        self.each_cache(memory, singles.newest_cache, |cache| {
            caches.add(cache, ThreadCache::allocations_unlocked);
        })?;
        caches.add_uncached(uncached);
        let place = self.place(memory)?;
        let is_busy = singles.busy & 0xff != 0;
        Ok(Snapshot::new(&RawCounters {
            caches,
            uncached: UncachedSums::of(uncached),
            figures,
            threads: singles.threads & u32::MAX as u64,
            gate_state: if is_busy { GateState::Busy } else { GateState::Idle },
            oldest: Nanos(singles.oldest),
            now: Linux.now(),
            segments_mapped: place.map_or(0, |place| place.segments.saturating_sub(place.unmapped)),
            arena_map_calls: self.arena_map_calls(memory)?,
            sampling: SamplingSums::of(&self.sampler(memory)?),
            metadata_bytes: place.map_or(0, |place| {
                Arena::record_bytes(place.segments, figures.records) + place.pool_bytes
            }),
            metadata_map_calls: singles.metadata_map_calls,
            clone_calls: singles.ticker_starts.saturating_add(singles.ticker_failures),
        }))
    }

    /// The knobs in force there.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn knobs(&self, memory: &impl Memory) -> Result<Knobs, RemoteError> {
        let cells = read_plain::<KnobCells>(memory, self.root().knobs.addr() as u64)?;
        // SAFETY: it was filled, and is nothing but atomic numbers.
        Ok(unsafe { cells.assume_init_ref() }.get())
    }

    /// What was counted in its slow sections.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn sections(&self, memory: &impl Memory) -> Result<SectionCounts, RemoteError> {
        let cells = read_plain::<Cells>(memory, self.root().sections.addr() as u64)?;
        // SAFETY: it was filled, and is nothing but atomic numbers.
        Ok(unsafe { cells.assume_init_ref() }.read())
    }

    /// What stands alone at a place.
    pub(super) fn single(
        &self,
        memory: &impl Memory,
        place: *const u64,
    ) -> Result<u64, RemoteError> {
        read_word(memory, place.addr() as u64)
    }

    fn singles(&self, memory: &impl Memory) -> Result<Singles<u64>, RemoteError> {
        let read = |place| self.single(memory, place);
        let places = &self.root().singles;
        Ok(Singles {
            newest_cache: read(places.newest_cache)?,
            threads: read(places.threads)?,
            busy: read(places.busy)?,
            oldest: read(places.oldest)?,
            ticker_starts: read(places.ticker_starts)?,
            ticker_failures: read(places.ticker_failures)?,
            metadata_map_calls: read(places.metadata_map_calls)?,
            metadata_used: read(places.metadata_used)?,
        })
    }

    pub(super) fn sampler(
        &self,
        memory: &impl Memory,
    ) -> Result<sampling::ProfilerCounters, RemoteError> {
        let address = self.root().sampler.addr() as u64;
        let readings = read_plain::<sampling::ProfilerCounters>(memory, address)?;
        // SAFETY: it was filled, and is nothing but atomic numbers.
        Ok(unsafe { readings.assume_init() })
    }

    /// The totals, read while no writer was at them if that could be had: a process that was stopped
    /// in the middle of an update stays there.
    fn totals(&self, memory: &impl Memory) -> Result<Totals, RemoteError> {
        let address = self.root().totals.addr() as u64;
        let mut attempts = 0;
        loop {
            let totals = read_plain::<Totals>(memory, address)?;
            // SAFETY: it was filled, and is nothing but atomic numbers.
            let totals = unsafe { totals.assume_init() };
            let sequence = read_word(memory, address + offset_of!(Totals, sequence) as u64)?;
            attempts += 1;
            if totals.sequence.is_settled_at(sequence) || attempts == MAX_ATTEMPTS {
                return Ok(totals);
            }
        }
    }

    pub(super) fn each_cache(
        &self,
        memory: &impl Memory,
        newest: u64,
        mut visit: impl FnMut(&ThreadCache),
    ) -> Result<(), RemoteError> {
        let mut address = newest;
        let mut rereads = 0;
        for _ in 0..MAX_CACHES {
            if address == 0 {
                return Ok(());
            }
            let mut attempts = 0;
            let copy = loop {
                let copy = read_plain::<ThreadCache>(memory, address)?;
                // SAFETY: it was filled, and is nothing but atomic numbers and pointers, which any
                // bit pattern is. The pointers are not followed here.
                let copy = unsafe { copy.assume_init() };
                let place = address.wrapping_add(offset_of!(ThreadCache, drain_sequence) as u64);
                let sequence = read_word(memory, place)?;
                attempts += 1;
                if copy.drain_sequence.is_settled_at(sequence)
                    || attempts == MAX_ATTEMPTS
                    || rereads == MAX_REREADS
                {
                    break copy;
                }
                rereads += 1;
            };
            visit(&copy);
            address = copy.next_address() as u64;
        }
        Err(RemoteError::Nonsense("threads"))
    }
}
