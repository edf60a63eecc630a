//! Reads the state of a heap from outside: another process's, or a file with its memory.
//!
//! Nothing is asked of the process that is read; it may hang. What is read is believed as little as
//! possible: the layout must be this program's own, lists have a bound, sums saturate, and no address
//! found there is used for anything but the next read. Nothing here allocates.

use core::mem::{MaybeUninit, offset_of};

use crate::base::bits::PageBits;
use crate::base::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_CHUNKS, SPAN_BYTES};
use crate::caches::thread_cache::ThreadCache;
use crate::figures::readings::{CacheSums, Readings, SamplingSums, UncachedSums};
use crate::figures::root::{self, MAGIC, ROOT, Root, Singles};
use crate::figures::snapshot::Snapshot;
use crate::geometry::arena::{Arena, ChunkIndex, MAX_BYTES, MAX_FIXED_BYTES};
use crate::geometry::segment::{Chunk, PageStates, Segment};
use crate::geometry::size_class::{CLASS_COUNT, SizeClass};
use crate::geometry::slot::MAX_SLOTS;
use crate::geometry::span::Span;
use crate::heap::Uncached;
use crate::heap::knobs::{KnobCells, Knobs};
use crate::hooks::sections::{Cells, SectionCounts};
use crate::os::loader;
use crate::os::{Linux, Nanos, Os};
use crate::pages::totals::Totals;
use crate::release::GateState;
use crate::sampling::{
    self, ALL_FRAMES, Amount, LIFETIMES, MAX_MODULES, MAX_STACKS, ModuleEntry, ModuleTable, OBJECT,
    Sample, StackEntry, StackTable, Tables,
};
use crate::stack::MAX_FRAMES;

pub use crate::figures::root::{NOTE_NAME, NOTE_TYPE};

/// How often to read again what changed while it was read.
const MAX_ATTEMPTS: u32 = 64;

/// How often to read thread caches again, all of a list together: one that changes whenever it is
/// looked at is no cache.
const MAX_REREADS: u32 = 1 << 12;

/// More thread caches than this are a loop in the list.
const MAX_CACHES: u32 = 1 << 17;

/// No address of a program is as high.
const ADDRESS_END: u64 = 1 << 57;

/// The memory that is read.
pub trait Memory {
    /// Fills `into` with what is at `address`; `false` if not all of it can be read.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;

    /// Fills each piece of `bytes` bytes in `into` with what is at `first`, `first + stride`, …
    fn read_strided(&self, first: u64, stride: u64, bytes: usize, into: &mut [u8]) -> bool {
        into.chunks_exact_mut(bytes)
            .zip(0..)
            .all(|(piece, i)| self.read(first.wrapping_add(stride.wrapping_mul(i)), piece))
    }
}

/// Why a heap could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteError {
    /// There is no root at the address.
    NoRoot,
    /// The heap is one of another version, whose layout this program does not know.
    OtherLayout {
        /// What it says its layout is.
        found: u32,
        /// What this program reads.
        expected: u32,
    },
    /// Memory that the heap says is its own cannot be read: the process has ended, or has no heap yet.
    Unreadable {
        /// Where.
        address: u64,
    },
    /// What was read cannot be: the named thing is out of all bounds.
    Nonsense(&'static str),
}

impl core::fmt::Display for RemoteError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            RemoteError::NoRoot => f.write_str("there is no heap of Slackwater's"),
            RemoteError::OtherLayout { found, expected } => write!(
                f,
                "its heap has layout {found}, and this program reads layout {expected}: use the \
                 slackwater of the same version"
            ),
            RemoteError::Unreadable { address } => {
                write!(f, "its memory at {address:#x} cannot be read")
            }
            RemoteError::Nonsense(what) => write!(f, "its {what} cannot be what they say"),
        }
    }
}

impl core::error::Error for RemoteError {}

/// Where the root of this very process is.
pub fn own_root() -> u64 {
    root::address() as u64
}

/// A heap whose root has been read.
pub struct RemoteHeap {
    root: MaybeUninit<Root>,
}

/// Where a heap's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address of the first segment.
    pub base: u64,
    /// Segments (of 2 MiB) in use.
    pub segments: u32,
    /// The addresses of the records about pages, segments and spans, from the first byte on.
    pub records: u64,
    /// Their end, for the segments in use.
    pub records_end: u64,
    /// Bytes of further records, outside any of these ranges.
    pub pool_bytes: u64,
    /// The address of the first slot (of 64 KiB) for sampled blocks.
    pub samples: u64,
    /// Slots that have been used.
    pub slots: u32,
}

impl Place {
    /// One past the last byte of the segments in use.
    pub fn end(&self) -> u64 {
        self.base + self.segments as u64 * SEGMENT_BYTES as u64
    }

    /// One past the last byte of the slots that have been used.
    pub fn samples_end(&self) -> u64 {
        self.samples + self.slots as u64 * SPAN_BYTES as u64
    }
}

/// A program or library as it was when it was first on a sampled stack. It may have been unloaded since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedModule<'a> {
    /// Its number in the addresses of stacks: see [`split_frame`].
    pub number: u16,
    /// Its first address.
    pub start: u64,
    /// One past its last.
    pub end: u64,
    /// What was added to its own addresses.
    pub bias: u64,
    /// What its linker called this very build, or as much of it as there is room for; nothing if it did
    /// not.
    pub build_id: &'a [u8],
    /// What its first page came to ([`page_contents`]).
    pub contents: u64,
    /// The name by which it was loaded, which may be relative to the process's folder of then; that of
    /// the program is empty. Of a very long one the end alone.
    pub name: &'a [u8],
}

/// The return address and the number of its module, from a word of a sampled stack. 0: the loader knew of
/// no module there, as in code that a program compiles for itself, or the C library does not say;
/// [`UNRECORDED_MODULE`]: there was no room for one more.
pub fn split_frame(word: u64) -> (u64, u16) {
    sampling::split(word)
}

/// One word of a page's bytes: modules that differ there have different ones.
pub fn page_contents(page: &[u8]) -> u64 {
    loader::contents_of(page)
}

/// Stands for the modules for which there was no room: there is for 1,024.
pub const UNRECORDED_MODULE: u16 = sampling::UNRECORDED;

/// What the 512 pages of a segment are, one bit for each. The four exclude each other and cover all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentPages {
    /// They belong to spans.
    pub span: [u64; 8],
    /// They belong to large runs.
    pub large: [u64; 8],
    /// They are free, and wait for their purge.
    pub dirty: [u64; 8],
    /// They are free and hold nothing.
    pub clean: [u64; 8],
}

/// One span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanUse {
    /// The size of its blocks, in bytes.
    pub block_bytes: u32,
    /// How many blocks it has.
    pub blocks: u32,
    /// How many of them are free, and in no thread's cache.
    pub free: u32,
}

/// What there is of profiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileHead {
    /// How many call stacks are known, the unknown one included.
    pub stacks: u32,
    /// The mean distance of samples now, in allocated bytes; 0: none are taken.
    pub rate_bytes: u64,
    /// Samples taken, and those that were lost or lost their stack.
    pub samples_total: u64,
    /// See [`Snapshot::profile_dropped_total`].
    pub dropped_total: u64,
    /// When the first one was taken, in nanoseconds of the monotonic clock.
    pub started: u64,
    /// When the most was live, likewise.
    pub peak_at: u64,
}

/// An estimate: how many objects, and how many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weighted {
    /// Objects. A sample stands for a fraction, too.
    pub objects: f64,
    /// Bytes that were asked for.
    pub bytes: f64,
}

/// What was allocated on one call stack: unbiased estimates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StackFigures {
    /// Since the process began.
    pub allocated: Weighted,
    /// Likewise.
    pub freed: Weighted,
    /// What was live when, of all stacks together, the most was.
    pub at_peak: Weighted,
    /// The samples behind these estimates.
    pub samples: u64,
    /// Objects freed, by their age: below a millisecond, below ten, and so on to below a thousand
    /// seconds, and longer.
    pub lifetimes: [f64; LIFETIMES],
}

impl Weighted {
    fn new(amount: Amount) -> Weighted {
        Weighted { objects: amount.objects as f64 / OBJECT, bytes: amount.bytes as f64 }
    }
}

impl StackFigures {
    fn new(figures: &sampling::StackFigures, peak: u64) -> StackFigures {
        StackFigures {
            allocated: Weighted::new(figures.allocated),
            freed: Weighted::new(figures.freed),
            at_peak: Weighted::new(figures.at_peak(peak)),
            samples: figures.samples,
            lifetimes: figures.lifetimes.map(|objects| objects as f64 / OBJECT),
        }
    }

    /// What is live now.
    pub fn live(&self) -> Weighted {
        Weighted {
            objects: (self.allocated.objects - self.freed.objects).max(0.0),
            bytes: (self.allocated.bytes - self.freed.bytes).max(0.0),
        }
    }
}

/// A sampled block that is live.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveSample {
    /// Where it is.
    pub address: u64,
    /// Bytes that were asked for; by the last `realloc`, if that was within the block's size class. Figures
    /// by stack do not follow such changes.
    pub bytes: u64,
    /// How many such blocks it stands for.
    pub weight: f64,
    /// The number of the stack on which it was allocated.
    pub stack: u32,
    /// When, in nanoseconds of the monotonic clock.
    pub allocated_at: u64,
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

    fn root(&self) -> &Root {
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
        // As in `Readings::of`: before the totals.
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
        Ok(Snapshot::new(&Readings {
            caches,
            uncached: UncachedSums::of(uncached),
            figures,
            threads: singles.threads & u32::MAX as u64,
            gate_state: if is_busy { GateState::Busy } else { GateState::Idle },
            oldest: Nanos(singles.oldest),
            now: Linux.now(),
            segments_in_use: place.map_or(0, |place| place.segments),
            is_reserved: place.is_some(),
            sampling: SamplingSums::of(&self.sampler(memory)?),
            metadata_bytes: place.map_or(0, |place| {
                Arena::record_bytes(place.segments, figures.records) + place.pool_bytes
            }),
            metadata_map_calls: singles.metadata_map_calls,
            clone_calls: singles.ticker_starts.saturating_add(singles.ticker_failures),
        }))
    }

    /// What there is of profiles; `None` before the first sample.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn profile_head(&self, memory: &impl Memory) -> Result<Option<ProfileHead>, RemoteError> {
        Ok(self.tables(memory)?.map(|(_, head)| head))
    }

    /// Hands over every known call stack: its number, its return addresses from the innermost on (none
    /// for the unknown stack, which is number 0), each with its module ([`split_frame`]), and what was
    /// allocated there. What belongs to one stack is of one moment, where a process that never rests lets
    /// that be.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or hold what no heap can.
    pub fn each_stack(
        &self,
        memory: &impl Memory,
        visit: &mut dyn FnMut(u32, &[u64], &StackFigures),
    ) -> Result<(), RemoteError> {
        // So many at a time, for the sake of the stack.
        const BATCH: usize = 16;
        let Some((tables, head)) = self.tables(memory)? else { return Ok(()) };
        let stacks = tables + offset_of!(Tables, stacks) as u64;
        let peak = read_word(memory, stacks + offset_of!(StackTable, peak) as u64)?;
        for first in (0..head.stacks).step_by(BATCH) {
            let place = stacks
                + offset_of!(StackTable, entries) as u64
                + first as u64 * size_of::<StackEntry>() as u64;
            let entries = self.settled::<[StackEntry; BATCH]>(memory, place)?;
            // SAFETY: it was filled, and is nothing but numbers.
            let entries = unsafe { entries.assume_init() };
            for (entry, id) in entries.iter().zip(first..head.stacks) {
                let mut frames = [0; MAX_FRAMES];
                let depth = entry.depth as usize;
                if depth > MAX_FRAMES || entry.first as usize + depth > ALL_FRAMES {
                    return Err(RemoteError::Nonsense("stacks"));
                }
                let at = offset_of!(StackTable, frames) + entry.first as usize * 8;
                // Frames never change once they can be found.
                read_words(memory, stacks + at as u64, &mut frames[..depth])?;
                visit(id, &frames[..depth], &StackFigures::new(&entry.figures, peak));
            }
        }
        Ok(())
    }

    /// Hands over every module that was ever on a sampled stack. Those of a stack are there once the
    /// stack is.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or hold what no heap can.
    pub fn each_module(
        &self,
        memory: &impl Memory,
        visit: &mut dyn FnMut(&LoadedModule<'_>),
    ) -> Result<(), RemoteError> {
        let Some((tables, _)) = self.tables(memory)? else { return Ok(()) };
        let modules = tables + offset_of!(Tables, modules) as u64;
        let used = self.settled::<u32>(memory, modules + offset_of!(ModuleTable, used) as u64)?;
        // SAFETY: it was filled, and is a number.
        let used = unsafe { used.assume_init() };
        if used as usize > MAX_MODULES {
            return Err(RemoteError::Nonsense("modules"));
        }
        for place in 0..used {
            let at = modules
                + offset_of!(ModuleTable, entries) as u64
                + place as u64 * size_of::<ModuleEntry>() as u64;
            let entry = self.settled::<ModuleEntry>(memory, at)?;
            // SAFETY: it was filled, and is nothing but numbers.
            let entry = unsafe { entry.assume_init() };
            let build_id = entry.build_id.get(..entry.build_id_bytes as usize);
            let name = entry.name.get(..entry.name_bytes as usize);
            let (Some(build_id), Some(name)) = (build_id, name) else {
                return Err(RemoteError::Nonsense("modules"));
            };
            let ModuleEntry { start, end, bias, contents, .. } = entry;
            let number = place as u16 + 1;
            visit(&LoadedModule { number, start, end, bias, build_id, contents, name });
        }
        Ok(())
    }

    /// Hands over every sampled block that is live. Each is of one moment.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn each_live_sample(
        &self,
        memory: &impl Memory,
        visit: &mut dyn FnMut(&LiveSample),
    ) -> Result<(), RemoteError> {
        // So many at a time, for the sake of the stack.
        const BATCH: usize = 64;
        let Some((tables, head)) = self.tables(memory)? else { return Ok(()) };
        let fresh = self.sampler(memory)?.fresh.into_inner().min(MAX_SLOTS + 1);
        for first in (0..fresh).step_by(BATCH) {
            let place = tables
                + offset_of!(Tables, samples) as u64
                + first as u64 * size_of::<Sample>() as u64;
            let samples = self.settled::<[Sample; BATCH]>(memory, place)?;
            // SAFETY: it was filled, and is nothing but numbers.
            let samples = unsafe { samples.assume_init() };
            let used = samples.iter().zip(first..fresh).map(|(sample, _)| sample);
            for sample in used.filter(|sample| sample.is_live()) {
                visit(&LiveSample {
                    address: sample.address,
                    bytes: sample.bytes,
                    weight: sample.amount.objects as f64 / OBJECT,
                    stack: sample.stack.0.min(head.stacks.saturating_sub(1)),
                    allocated_at: sample.allocated_at,
                });
            }
        }
        Ok(())
    }

    /// Where the profiler's tables are, and what stands in front of them; `None` if there are none yet.
    fn tables(&self, memory: &impl Memory) -> Result<Option<(u64, ProfileHead)>, RemoteError> {
        let sampler = self.sampler(memory)?;
        let tables = sampler.tables.into_inner() as u64;
        if tables == 0 {
            return Ok(None);
        }
        if tables >= ADDRESS_END {
            return Err(RemoteError::Nonsense("addresses"));
        }
        let used = tables + offset_of!(Tables, stacks.used) as u64;
        let stacks = read_word(memory, used)? as u32;
        if stacks as usize > MAX_STACKS {
            return Err(RemoteError::Nonsense("stacks"));
        }
        let head = ProfileHead {
            stacks,
            rate_bytes: sampler.countdowns.rate(),
            samples_total: sampler.samples.get(),
            dropped_total: sampler.dropped.into_inner(),
            started: sampler.started.into_inner(),
            peak_at: sampler.peak_at.into_inner(),
        };
        Ok(Some((tables, head)))
    }

    /// What is at `address` in the profiler's tables, copied while they did not change if that could be
    /// had.
    fn settled<T>(
        &self,
        memory: &impl Memory,
        address: u64,
    ) -> Result<MaybeUninit<T>, RemoteError> {
        let place = (self.root().sampler.addr() + offset_of!(sampling::Readings, sequence)) as u64;
        let mut attempts = 0;
        loop {
            let before = read_word(memory, place)?;
            let value = read_plain::<T>(memory, address)?;
            attempts += 1;
            let is_settled = before.is_multiple_of(2) && read_word(memory, place)? == before;
            if is_settled || attempts == MAX_ATTEMPTS {
                return Ok(value);
            }
        }
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

    /// Where the heap's memory is; `None` before its first allocation.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or holds addresses that no heap can have.
    pub fn place(&self, memory: &impl Memory) -> Result<Option<Place>, RemoteError> {
        let arena = self.root().arena.addr() as u64;
        let field = |offset: usize| read_word(memory, arena.wrapping_add(offset as u64));
        let bytes = field(offset_of!(Arena, bytes))?;
        if bytes == 0 {
            return Ok(None);
        }
        let base = field(offset_of!(Arena, base))?;
        let records = field(offset_of!(Arena, page_map))?;
        let segment_records = field(offset_of!(Arena, segments))?;
        let segments = field(offset_of!(Arena, in_use))? as u32;
        let samples = field(offset_of!(Arena, samples))?;
        let sampler = self.root().sampler.addr() as u64;
        let fresh = offset_of!(sampling::Readings, fresh) as u64;
        let slots = read_word(memory, sampler.wrapping_add(fresh))? as u32;
        let pool_bytes = self.single(memory, self.root().singles.metadata_touched)?;
        let fits = base.is_multiple_of(SEGMENT_BYTES as u64)
            && base < ADDRESS_END
            && bytes <= 2 * MAX_BYTES as u64
            && pool_bytes < ADDRESS_END
            && segments as u64 <= bytes / SEGMENT_BYTES as u64
            && samples >= base + segments as u64 * SEGMENT_BYTES as u64
            && samples <= base + bytes
            && slots <= MAX_SLOTS + 1
            && records < segment_records
            // Whoever asks the kernel about them asks about every page.
            && segment_records - records <= MAX_FIXED_BYTES as u64
            && segment_records < base;
        if !fits {
            return Err(RemoteError::Nonsense("addresses"));
        }
        let records_end = segment_records + segments as u64 * size_of::<Segment>() as u64;
        Ok(Some(Place { base, segments, records, records_end, pool_bytes, samples, slots }))
    }

    /// What the pages of segments are, from segment `first` on.
    ///
    /// # Errors
    ///
    /// When a segment is not in use, or its record cannot be read.
    pub fn pages(
        &self,
        memory: &impl Memory,
        place: &Place,
        first: u32,
        into: &mut [SegmentPages],
    ) -> Result<(), RemoteError> {
        // So many at a time, for the sake of the stack.
        const BATCH: usize = 64;
        const BYTES: usize = size_of::<[PageBits; 2]>();
        const { assert!(PageStates::USED_OFFSET == 0 && PageStates::DIRTY_OFFSET == BYTES / 2) };
        for (batch, from) in into.chunks_mut(BATCH).zip((first..).step_by(BATCH)) {
            let mut classes = [0; BATCH * SEGMENT_CHUNKS as usize];
            let classes = &mut classes[..batch.len() * SEGMENT_CHUNKS as usize];
            let mut bits = [0; BATCH * BYTES];
            let bits = &mut bits[..batch.len() * BYTES];
            let first_class = place.records + from as u64 * SEGMENT_CHUNKS as u64;
            let record = self.segment_record(place, from, batch.len() as u32)?;
            if !memory.read(first_class, classes) {
                return Err(RemoteError::Unreadable { address: first_class });
            }
            if !memory.read_strided(record, size_of::<Segment>() as u64, BYTES, bits) {
                return Err(RemoteError::Unreadable { address: record });
            }
            let classes = classes.chunks_exact(SEGMENT_CHUNKS as usize);
            for ((pages, classes), bits) in
                batch.iter_mut().zip(classes).zip(bits.chunks_exact(BYTES))
            {
                *pages = SegmentPages::new(classes, bits);
            }
        }
        Ok(())
    }

    /// The spans in the 32 chunks (of 64 KiB) of a segment.
    ///
    /// # Errors
    ///
    /// When the segment is not in use, or its record cannot be read.
    pub fn spans(
        &self,
        memory: &impl Memory,
        place: &Place,
        segment: u32,
    ) -> Result<[Option<SpanUse>; SEGMENT_CHUNKS as usize], RemoteError> {
        let record = self.segment_record(place, segment, 1)?;
        let mut classes = [0; SEGMENT_CHUNKS as usize];
        let first_class = place.records + segment as u64 * SEGMENT_CHUNKS as u64;
        if !memory.read(first_class, &mut classes) {
            return Err(RemoteError::Unreadable { address: first_class });
        }
        let mut uses = [None; SEGMENT_CHUNKS as usize];
        for (i, (&class, span_use)) in classes.iter().zip(&mut uses).enumerate() {
            if class == 0 || class as usize >= CLASS_COUNT {
                continue;
            }
            let class = SizeClass(class);
            let offset = offset_of!(Segment, chunks) + i * size_of::<Chunk>();
            let span = read_plain::<Span>(memory, record + offset as u64)?;
            // SAFETY: it was filled, and is nothing but atomic numbers.
            let span = unsafe { span.assume_init_ref() };
            let blocks = class.blocks_per_span();
            *span_use = Some(SpanUse {
                block_bytes: class.block_bytes().get() as u32,
                blocks,
                free: span.free_blocks(blocks).min(blocks),
            });
        }
        Ok(uses)
    }

    /// The record of `segment`, if it and the `count - 1` after it are in use.
    fn segment_record(&self, place: &Place, segment: u32, count: u32) -> Result<u64, RemoteError> {
        match segment.checked_add(count) {
            Some(end) if end <= place.segments => {
                let all = place.segments as u64 * size_of::<Segment>() as u64;
                let first = place.records_end - all;
                Ok(first + segment as u64 * size_of::<Segment>() as u64)
            }
            _ => Err(RemoteError::Nonsense("segments")),
        }
    }

    /// What stands alone at a place.
    fn single(&self, memory: &impl Memory, place: *const u64) -> Result<u64, RemoteError> {
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
            metadata_touched: read(places.metadata_touched)?,
        })
    }

    fn sampler(&self, memory: &impl Memory) -> Result<sampling::Readings, RemoteError> {
        let address = self.root().sampler.addr() as u64;
        let readings = read_plain::<sampling::Readings>(memory, address)?;
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

    fn each_cache(
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

impl SegmentPages {
    /// From a segment's bytes of the page map, and its bits of pages in use and of dirty pages. Those of a
    /// record that was given back, or is just being, are all zero: every page is free and holds nothing.
    fn new(classes: &[u8], bits: &[u8]) -> SegmentPages {
        let mut words = bits.chunks_exact(8).map(|word| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            u64::from_le_bytes(bytes)
        });
        let free: [u64; 8] = core::array::from_fn(|_| !words.next().unwrap_or(0));
        let dirty: [u64; 8] = core::array::from_fn(|_| words.next().unwrap_or(0));
        // Four chunks of 16 pages to a word.
        let in_span: [u64; 8] = core::array::from_fn(|word| {
            let chunks = classes[word * 4..][..4].iter().enumerate();
            chunks.map(|(i, &class)| if class == 0 { 0 } else { 0xffff << (i * 16) }).sum()
        });
        let word = |of: fn(u64, u64, u64) -> u64| -> [u64; 8] {
            core::array::from_fn(|i| of(free[i], dirty[i], in_span[i]))
        };
        SegmentPages {
            span: word(|free, _, span| span & !free),
            large: word(|free, _, span| !free & !span),
            dirty: word(|free, dirty, _| free & dirty),
            clean: word(|free, dirty, _| free & !dirty),
        }
    }
}

const _: () = assert!(size_of::<PageBits>() == 64 && SEGMENT_BYTES == 512 * PAGE_BYTES);
const _: () = assert!(offset_of!(Chunk, span) == 0);
const _: () = assert!(offset_of!(Segment, pages) == 0 && size_of::<ChunkIndex>() == 4);

/// The bytes at `address`, as a `T` that may not be a valid one.
fn read_plain<T>(memory: &impl Memory, address: u64) -> Result<MaybeUninit<T>, RemoteError> {
    let mut value = MaybeUninit::<T>::zeroed();
    let start = value.as_mut_ptr().cast::<u8>();
    // SAFETY: the bytes are `value`'s, all initialized, and nobody else's while the slice is used.
    let bytes = unsafe { core::slice::from_raw_parts_mut(start, size_of::<T>()) };
    if memory.read(address, bytes) { Ok(value) } else { Err(RemoteError::Unreadable { address }) }
}

fn read_words(memory: &impl Memory, address: u64, into: &mut [u64]) -> Result<(), RemoteError> {
    let (start, bytes) = (into.as_mut_ptr().cast::<u8>(), size_of_val(into));
    // SAFETY: the bytes are those of `into`, and every value is valid.
    let bytes = unsafe { core::slice::from_raw_parts_mut(start, bytes) };
    if memory.read(address, bytes) { Ok(()) } else { Err(RemoteError::Unreadable { address }) }
}

fn read_word(memory: &impl Memory, address: u64) -> Result<u64, RemoteError> {
    let mut bytes = [0; 8];
    if !memory.read(address, &mut bytes) {
        return Err(RemoteError::Unreadable { address });
    }
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
pub(crate) mod tests;
