//! From a heap to a [`Profile`]: the one place that knows how the sampler's tables are read.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use slackwater::remote::{self, Memory, RemoteError, RemoteHeap, StackFigures, UNRECORDED_MODULE};
use slackwater::snapshot::Snapshot;

use super::modules::Modules;
use super::names::Names;
use super::{LiveSample, Profile, Stack, Weighted};
use crate::figures::residency::ReadError;
use crate::kernel::clock::monotonic_nanos;
use crate::kernel::memory::ProcessMemoryReader;
use crate::targets::attach::{AttachError, Target};

/// A profile, and the figures of the heap at the same moment.
#[derive(Clone, Debug)]
pub struct ProfileReading {
    /// What the sampler knows.
    pub profile: Profile,
    /// What the allocator counts.
    pub snapshot: Snapshot,
}

impl ProfileReading {
    /// Reads this process.
    ///
    /// # Errors
    ///
    /// When `/proc` is not to be had.
    pub fn of_this_process() -> Result<ProfileReading, ReadError> {
        let memory = ProcessMemoryReader::own();
        let heap = RemoteHeap::open(&memory, remote::own_root())?;
        ProfileReading::take(std::process::id(), &memory, &heap)
    }

    /// Reads a process by its memory.
    ///
    /// # Errors
    ///
    /// When its heap or its mappings cannot be read.
    pub fn take(
        process: u32,
        memory: &impl Memory,
        heap: &RemoteHeap,
    ) -> Result<ProfileReading, ReadError> {
        let snapshot = heap.snapshot(memory)?;
        let mut tables = SamplerTables::read(memory, heap)?;
        // Last, so that what is on the stacks is mapped, if it is not gone again.
        let mut modules = Modules::read(process, memory).map_err(ReadError::Mappings)?;
        tables.place_frames(memory, heap, &mut modules)?;
        Ok(ProfileReading { profile: tables.profile(modules, SystemTime::now()), snapshot })
    }

    /// What its addresses are called: see [`Names::find`]. Stacks are never forgotten, so these are
    /// the names of all earlier readings, too.
    pub fn names(&self) -> Names {
        Names::find(&self.profile.modules, &self.profile.addresses())
    }

    /// The profile, or what has changed in it since an earlier reading, and in how many seconds.
    pub fn since(&self, before: Option<&ProfileReading>) -> (Cow<'_, Profile>, Option<f64>) {
        match before {
            None => (Cow::Borrowed(&self.profile), None),
            Some(ProfileReading { profile: before, .. }) => {
                let seconds = self.profile.seconds_since(before);
                (Cow::Owned(self.profile.since(before)), Some(seconds))
            }
        }
    }
}

impl Target {
    /// Its profile, now, with the figures of the heap. A process that has executed another program
    /// since is looked at anew.
    ///
    /// # Errors
    ///
    /// As [`Target::observe`].
    pub fn reading(&mut self) -> Result<ProfileReading, AttachError> {
        self.look_again(|target| {
            target.read(|memory, heap| ProfileReading::take(target.pid(), memory, heap))
        })
    }
}

/// What the sampler's tables hold, in the words of the allocator: stacks have ids, and times are those
/// of the kernel's monotonic clock, in nanoseconds.
#[derive(Debug, Default)]
struct SamplerTables {
    /// The time of the reading.
    now: u64,
    /// That of the first sample; 0: there is none.
    started: u64,
    /// That of the peak; 0: there is none.
    peak_at: u64,
    rate_bytes: u64,
    asked_rate_bytes: u64,
    dropped: u64,
    stacks: Vec<Stack>,
    live: Vec<remote::LiveSample>,
}

impl SamplerTables {
    fn read(memory: &impl Memory, heap: &RemoteHeap) -> Result<SamplerTables, RemoteError> {
        let asked_rate_bytes = heap.knobs(memory)?.profile_rate_bytes;
        let mut tables = SamplerTables { asked_rate_bytes, ..SamplerTables::default() };
        let Some(head) = heap.profile_head(memory)? else { return Ok(tables) };
        // What is live first: its stacks are there by then.
        heap.each_live_sample(memory, &mut |sample| tables.live.push(*sample))?;
        heap.each_stack(memory, &mut |id, frames, figures| {
            tables.stacks.push(Stack::new(id, frames, figures));
        })?;
        tables.now = monotonic_nanos();
        tables.started = head.started;
        tables.peak_at = head.peak_at;
        tables.rate_bytes = head.rate_bytes;
        tables.dropped = head.dropped_total;
        Ok(tables)
    }

    /// Leaves of the words of stacks the address alone, where its module is still there. Those of others
    /// stay as they are, and `modules` gets to know what they are in.
    fn place_frames(
        &mut self,
        memory: &impl Memory,
        heap: &RemoteHeap,
        modules: &mut Modules,
    ) -> Result<(), RemoteError> {
        let words = || self.stacks.iter().flat_map(|stack| &stack.frames);
        let numbers: HashSet<u16> = words().map(|&word| remote::split_frame(word).1).collect();
        let mut present = HashSet::from([0]);
        heap.each_module(memory, &mut |module| {
            if numbers.contains(&module.number) && modules.add(memory, module) {
                present.insert(module.number);
            }
        })?;
        if numbers.contains(&UNRECORDED_MODULE) {
            modules.add_unrecorded();
        }
        for word in self.stacks.iter_mut().flat_map(|stack| &mut stack.frames) {
            let (address, number) = remote::split_frame(*word);
            if present.contains(&number) {
                *word = address;
            }
        }
        Ok(())
    }

    fn profile(self, modules: Modules, time: SystemTime) -> Profile {
        let mut profile = Profile::empty(modules, time);
        let since = |time: u64| Duration::from_nanos(self.now.saturating_sub(time));
        profile.observed = (self.started > 0).then(|| since(self.started));
        profile.peak_age = (self.peak_at > 0).then(|| since(self.peak_at));
        profile.rate_bytes = self.rate_bytes;
        profile.asked_rate_bytes = self.asked_rate_bytes;
        profile.dropped = self.dropped;
        let place_of: HashMap<u32, usize> =
            self.stacks.iter().zip(0..).map(|(stack, place)| (stack.id, place)).collect();
        profile.stacks = self.stacks;
        // What a process says of itself may be anything.
        profile.live = self
            .live
            .iter()
            .filter_map(|block| {
                Some(LiveSample {
                    stack: *place_of.get(&block.stack)?,
                    bytes: block.bytes,
                    weight: block.weight,
                    age: since(block.allocated_at),
                })
            })
            .collect();
        profile
    }
}

impl From<remote::Weighted> for Weighted {
    fn from(amount: remote::Weighted) -> Weighted {
        Weighted { objects: amount.objects, bytes: amount.bytes }
    }
}

impl Stack {
    fn new(id: u32, frames: &[u64], figures: &StackFigures) -> Stack {
        Stack {
            id,
            frames: frames.to_vec(),
            allocated: figures.allocated.into(),
            freed: figures.freed.into(),
            at_peak: figures.at_peak.into(),
            samples: figures.samples,
            lifetimes: figures.lifetimes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::objects;
    use super::*;

    #[test]
    fn ids_become_places_and_times_ages() {
        let stack = |id, frames: &[u64]| {
            let allocated = objects(2.0, 8.0);
            Stack { id, frames: frames.to_vec(), allocated, samples: 1, ..Stack::default() }
        };
        let block = |stack, allocated_at| remote::LiveSample {
            address: 4096,
            bytes: 8,
            weight: 1.0,
            stack,
            allocated_at,
        };
        let tables = SamplerTables {
            now: 5_000_000_000,
            started: 1_000_000_000,
            stacks: vec![stack(9, &[1, 2]), stack(4, &[])],
            live: vec![block(9, 4_000_000_000), block(4, 6_000_000_000), block(1, 0)],
            ..SamplerTables::default()
        };
        let profile = tables.profile(Modules::default(), SystemTime::UNIX_EPOCH);
        assert_eq!(profile.observed, Some(Duration::from_secs(4)));
        assert_eq!(profile.peak_age, None);
        assert_eq!(profile.stacks.len(), 2);
        let live: Vec<_> = profile.live.iter().map(|one| (one.stack, one.age.as_secs())).collect();
        assert_eq!(live, [(0, 1), (1, 0)], "of no known stack, or from the future");
    }
}
