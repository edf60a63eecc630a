//! A heap's profile from outside.

use core::mem::{MaybeUninit, offset_of};

use super::heap::RemoteHeap;
use super::memory::{
    ADDRESS_END, MAX_ATTEMPTS, Memory, RemoteError, read_plain, read_word, read_words,
};
use crate::geometry::slot::MAX_SLOTS;
use crate::sampling::{
    self, ALL_FRAMES, Amount, GrowingArray, LIFETIMES, MAX_MODULES, MAX_STACKS, ModuleEntry,
    ModuleTable, OBJECT, READ_BATCH, Sample, StackEntry, StackTable, Tables,
};
use crate::stack::MAX_FRAMES;

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
    /// What its first page came to ([`page_contents`](super::page_contents)).
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

/// Stands for the modules for which there was no room: there is for 1,024.
pub const UNRECORDED_MODULE: u16 = sampling::UNRECORDED;

/// What there is of profiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileHead {
    /// How many call stacks are known, the unknown one included.
    pub stacks: u32,
    /// The mean distance of samples now, in allocated bytes; 0: none are taken.
    pub rate_bytes: u64,
    /// Samples taken, and those that were lost or lost their stack.
    pub samples_total: u64,
    /// See [`Snapshot::profile_dropped_total`](crate::snapshot::Snapshot::profile_dropped_total).
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
    /// Bytes that were asked for; all of its size class's once a `realloc` within that needed more. Figures by stack do
    /// not follow such changes.
    pub bytes: u64,
    /// How many such blocks it stands for.
    pub weight: f64,
    /// The number of the stack on which it was allocated.
    pub stack: u32,
    /// When, in nanoseconds of the monotonic clock.
    pub allocated_at: u64,
}

impl RemoteHeap {
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
        const { assert!(READ_BATCH.is_multiple_of(BATCH)) };
        let Some((tables, head)) = self.tables(memory)? else { return Ok(()) };
        let stacks = tables + offset_of!(Tables, stacks) as u64;
        let peak = read_word(memory, stacks + offset_of!(StackTable, peak) as u64)?;
        let all = start_of_array(memory, stacks + offset_of!(StackTable, entries) as u64)?;
        let all_frames = start_of_array(memory, stacks + offset_of!(StackTable, frames) as u64)?;
        for first in (0..head.stacks).step_by(BATCH) {
            let place = all + first as u64 * size_of::<StackEntry>() as u64;
            let entries = self.settled::<[StackEntry; BATCH]>(memory, place)?;
            // SAFETY: it was filled, and is nothing but numbers.
            let entries = unsafe { entries.assume_init() };
            for (entry, id) in entries.iter().zip(first..head.stacks) {
                let mut frames = [0; MAX_FRAMES];
                let depth = entry.depth as usize;
                if depth > MAX_FRAMES || entry.first as usize + depth > ALL_FRAMES {
                    return Err(RemoteError::Nonsense("stacks"));
                }
                // Frames never change once they can be found.
                read_words(memory, all_frames + entry.first as u64 * 8, &mut frames[..depth])?;
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
        let all = start_of_array(memory, modules + offset_of!(ModuleTable, entries) as u64)?;
        for place in 0..used {
            let at = all + place as u64 * size_of::<ModuleEntry>() as u64;
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
        const BATCH: usize = READ_BATCH;
        let Some((tables, head)) = self.tables(memory)? else { return Ok(()) };
        let fresh = self.sampler(memory)?.fresh.into_inner().min(MAX_SLOTS + 1);
        let all = start_of_array(memory, tables + offset_of!(Tables, samples) as u64)?;
        for first in (0..fresh).step_by(BATCH) {
            let place = all + first as u64 * size_of::<Sample>() as u64;
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
        let place =
            (self.root().sampler.addr() + offset_of!(sampling::ProfilerCounters, sequence)) as u64;
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
}

/// Where the elements of the array are that is described at `address`.
fn start_of_array(memory: &impl Memory, address: u64) -> Result<u64, RemoteError> {
    let start = read_word(memory, address + offset_of!(GrowingArray<u64>, start) as u64)?;
    if start < ADDRESS_END { Ok(start) } else { Err(RemoteError::Nonsense("addresses")) }
}
