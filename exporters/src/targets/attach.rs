//! Another process's heap, read from outside: nothing is injected, nothing is stopped, and a process
//! that hangs is read like any other.
//!
//! The heap is found without symbols and without the program's file (which may be deleted, or in
//! another mount namespace): every program and library that is mapped is searched, in the process's
//! memory, for the note that leads to the allocator's root. See [`slackwater::remote`] for
//! what is believed of what is found there.
//!
//! The kernel lets a process read others as it lets a debugger attach: see [`crate::kernel::memory`].

use std::fs;
use std::io;
use std::path::PathBuf;

use slackwater::knobs::Knobs;
use slackwater::remote::{Place, RemoteError, RemoteHeap, SpanUse};
use slackwater::units::SEGMENT_CHUNKS;

pub use super::error::AttachError;
use super::error::Cause;
use super::find::find_root;
use crate::figures::observation::Observation;
use crate::figures::residency::{self, ReadError, SegmentResidency};
use crate::figures::stacks;
use crate::kernel::cgroup::{CgroupMemory, GroupName};
use crate::kernel::mappings::{self, MappingUse};
use crate::kernel::memory::ProcessMemoryReader;
use crate::kernel::pagemap::Pagemap;
use crate::kernel::process::{LastProportional, ProcessMemory, comm, is_kernel_thread, name_of};
pub use crate::kernel::process::{parent, processes, start_time};

/// A running process that has a heap of Slackwater's. Holds no file of `/proc` open: what is bound to the
/// memory that a process had before it executed another program says nothing of the new one.
pub struct Target {
    process: u32,
    /// When it was started, by which another process of the same number is told from it.
    started: u64,
    comm: String,
    group: GroupName,
    memory: ProcessMemoryReader,
    root: u64,
    /// Which program it executes: see [`drawn_at_exec`].
    drawn: Option<[u8; 16]>,
    proportional: LastProportional,
}

impl Target {
    /// Finds the heap of a process.
    ///
    /// # Errors
    ///
    /// When there is no such process, it may not be read, or it has no heap that this program
    /// understands.
    pub fn open(process: u32) -> Result<Target, AttachError> {
        let error = |cause| AttachError { process, comm: comm(process), cause };
        let started = start_time(process).ok_or_else(|| error(Cause::of_absence(process)))?;
        let memory = ProcessMemoryReader::of(process);
        let drawn = drawn_at_exec(process, &memory);
        // That it may be opened is known now, and not when the first figures are wanted.
        let opened = open_pagemap(process).map_err(|error| Cause::of_io(&error));
        let root = opened.and_then(|_| find_root(process, &memory));
        let root = root.map_err(|cause| match start_time(process) {
            Some(_) if is_kernel_thread(process) => error(Cause::KernelThread),
            Some(_) => error(cause),
            None => error(Cause::Ended),
        })?;
        Ok(Target {
            process,
            started,
            comm: comm(process),
            group: GroupName::of(process),
            memory,
            root,
            drawn,
            proportional: LastProportional::default(),
        })
    }

    /// Its process id, as seen from here.
    pub fn pid(&self) -> u32 {
        self.process
    }

    /// When it was started, in the kernel's ticks since boot: tells it from an earlier process of the
    /// same number.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// The name of its program, as the kernel has it, without control characters.
    pub fn comm(&self) -> &str {
        &self.comm
    }

    /// The process as people know it: `redis-server (1234)`.
    pub fn name(&self) -> String {
        name_of(&self.comm, self.process)
    }

    /// The short id of the container that its control group says it is in, or nothing.
    pub fn container(&self) -> &str {
        &self.group.container
    }

    /// The path of its control group, as far as it can be seen from here, or nothing: of the one that
    /// accounts its memory.
    pub fn cgroup(&self) -> &str {
        &self.group.path
    }

    /// Its figures, now. A process that has executed another program since is looked at anew.
    ///
    /// # Errors
    ///
    /// When it has ended, or its heap cannot be read.
    pub fn observe(&mut self) -> Result<Observation, AttachError> {
        // A process may be given another name, and be put into another group.
        self.comm = comm(self.process);
        self.group = GroupName::of(self.process);
        let mut observation = self.look_again(Target::try_observe)?;
        observation.proportional = self.proportional.of(self.process);
        Ok(observation)
    }

    fn try_observe(&self) -> Result<Observation, AttachError> {
        let (sections, (snapshot, (process, residency)), stack_bytes) =
            self.read(|memory, heap| {
                let pagemap = open_pagemap(self.process)?;
                let sections = heap.sections(memory)?;
                let books = || Ok::<_, ReadError>(heap.snapshot(memory)?);
                let kernel = || {
                    let process = ProcessMemory::of(self.process);
                    let residency = residency::read_all(memory, heap, &pagemap, process.as_ref())?;
                    Ok((process, residency))
                };
                let figures = Observation::at_one_moment(books, kernel)?;
                let addresses = stacks::heap_addresses(heap.place(memory)?.as_ref());
                let stack_bytes =
                    stacks::resident_bytes(&self.files(), self.process, &addresses, &pagemap);
                Ok((sections, figures, stack_bytes))
            })?;
        Ok(Observation {
            snapshot,
            residency: Some(residency),
            process,
            proportional: None,
            stack_bytes,
            cgroup: CgroupMemory::of(self.process),
            observer_cpu_seconds: None,
            trace_lost_events: None,
            fleet: None,
            sections,
        })
    }

    /// The knobs in force there.
    ///
    /// # Errors
    ///
    /// As [`Target::observe`].
    pub fn knobs(&self) -> Result<Knobs, AttachError> {
        self.read(|memory, heap| Ok(heap.knobs(memory)?))
    }

    /// Where its heap is; `None` before its first allocation.
    ///
    /// # Errors
    ///
    /// As [`Target::observe`].
    pub fn place(&self) -> Result<Option<Place>, AttachError> {
        self.read(|memory, heap| Ok(heap.place(memory)?))
    }

    /// What the pages of `count` segments from `first` on are, and which of them are resident.
    ///
    /// # Errors
    ///
    /// As [`Target::observe`], and when the segments are not in use.
    pub fn segments(&self, first: u32, count: u32) -> Result<Vec<SegmentResidency>, AttachError> {
        self.read(|memory, heap| match heap.place(memory)? {
            None => Err(RemoteError::Nonsense("segments").into()),
            Some(place) => {
                let pagemap = open_pagemap(self.process)?;
                residency::segments(memory, heap, &pagemap, &place, first, count)
            }
        })
    }

    /// The largest mappings beside the heap and the threads' stacks of which a MiB or more is resident:
    /// `most` of them, the largest first. The kernel walks all of the process's pages for it: some 10 ms
    /// for each GiB that is resident.
    ///
    /// # Errors
    ///
    /// As [`Target::observe`].
    pub fn largest_mappings(&self, most: usize) -> Result<Vec<MappingUse>, AttachError> {
        self.read(|memory, heap| {
            let addresses = stacks::heap_addresses(heap.place(memory)?.as_ref());
            let stacks = stacks::find(&self.files(), self.process, &addresses).unwrap_or_default();
            let smaps = fs::read(self.files().join("smaps")).map_err(ReadError::Mappings)?;
            let smaps = String::from_utf8_lossy(&smaps);
            let except: Vec<_> = [addresses].into_iter().chain(stacks).collect();
            Ok(mappings::largest(&smaps, &except, 1 << 20, most))
        })
    }

    fn files(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.process))
    }

    /// The spans of a segment.
    ///
    /// # Errors
    ///
    /// As [`Target::segments`].
    pub fn spans(
        &self,
        segment: u32,
    ) -> Result<[Option<SpanUse>; SEGMENT_CHUNKS as usize], AttachError> {
        self.read(|memory, heap| match heap.place(memory)? {
            None => Err(RemoteError::Nonsense("segments").into()),
            Some(place) => Ok(heap.spans(memory, &place, segment)?),
        })
    }

    /// Looks, and if need be at the process anew: it may have executed another program since.
    pub(crate) fn look_again<T>(
        &mut self,
        look: impl Fn(&Target) -> Result<T, AttachError>,
    ) -> Result<T, AttachError> {
        match look(self) {
            Err(error) if error.is_worth_another_look() => {
                *self = Target::open(self.process)?;
                look(self)
            }
            outcome => outcome,
        }
    }

    /// Reads from the heap, and makes sure that it was the same process's and the same program's from
    /// the first byte to the last.
    pub(crate) fn read<T>(
        &self,
        read: impl Fn(&ProcessMemoryReader, &RemoteHeap) -> Result<T, ReadError>,
    ) -> Result<T, AttachError> {
        let look = || {
            let heap = RemoteHeap::open(&self.memory, self.root)?;
            let found = read(&self.memory, &heap)?;
            RemoteHeap::open(&self.memory, self.root)?;
            // Another program may have its root at the same place.
            if drawn_at_exec(self.process, &self.memory) != self.drawn {
                return Err(RemoteError::NoRoot.into());
            }
            Ok(found)
        };
        let outcome = look();
        let cause = match (start_time(self.process), outcome) {
            (Some(started), Ok(found)) if started == self.started => return Ok(found),
            (Some(started), Err(error)) if started == self.started => match error {
                ReadError::Heap(error) => Cause::Heap(error),
                ReadError::Pagemap(error) | ReadError::Mappings(error) => Cause::of_io(&error),
            },
            _ => Cause::Ended,
        };
        Err(AttachError { process: self.process, comm: self.comm.clone(), cause })
    }
}

fn open_pagemap(process: u32) -> io::Result<Pagemap> {
    Pagemap::open(&format!("/proc/{process}/pagemap"))
}

/// Sixteen random bytes that the kernel gives a process when it executes a program (`AT_RANDOM`), by which
/// that is told from what it executed before and after; `None` where they cannot be read.
fn drawn_at_exec(process: u32, memory: &ProcessMemoryReader) -> Option<[u8; 16]> {
    let vector = fs::read(format!("/proc/{process}/auxv")).ok()?;
    let words = vector.chunks_exact(8);
    let words: Vec<u64> =
        words.map(|word| u64::from_le_bytes(std::array::from_fn(|i| word[i]))).collect();
    let entry = words.chunks_exact(2).find(|entry| entry[0] == libc::AT_RANDOM)?;
    let mut drawn = [0; 16];
    memory.try_read(entry[1], &mut drawn).ok()?;
    Some(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_of_the_kernels_is_called_so() {
        assert!(!is_kernel_thread(std::process::id()));
        // Containers do not see any.
        let Some(thread) = processes().find(|&process| is_kernel_thread(process)) else { return };
        let error = Target::open(thread).err().expect("it has no heap").to_string();
        assert!(error.contains("thread of the kernel's"), "{error}");
    }

    #[test]
    fn a_process_that_is_not_there_is_gone() {
        let error = Target::open(u32::MAX >> 1).err().expect("no such process");
        assert!(error.is_gone());
        assert_eq!(error.to_string(), "process 2147483647 does not exist");
    }

    #[test]
    fn this_process_has_the_figures_it_has() {
        let mut target = Target::open(std::process::id()).expect("readable");
        let block = vec![1u8; 3 << 20];
        let observation = target.observe().expect("readable");
        let own = Observation::take();
        assert_eq!(observation.snapshot.mapped_bytes, own.snapshot.mapped_bytes);
        assert_eq!(target.knobs().expect("readable"), slackwater::knobs());
        drop(block);
    }
}
