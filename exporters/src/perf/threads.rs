//! Events of a process's threads, counted from outside: nothing is injected, and the threads run on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use slackwater::sections::PerfEvent;

use super::events::{self, scaled};
use super::plan::{GROUPS, PerfError, Plan};
use crate::kernel::process::{comm, numbers_in};

/// Counts for the threads of a process from when they are first seen.
///
/// Threads that end meanwhile keep their counts. Those that come and go between two looks are not
/// seen; what a thread's children do is their own. Each thread takes up to seven descriptors.
pub struct Watch {
    process: u32,
    plan: Plan,
    threads: BTreeMap<u32, Thread>,
    left_out: bool,
}

struct Thread {
    name: String,
    /// The events of each group, the leader first.
    groups: [Vec<OwnedFd>; GROUPS.len()],
}

/// What one thread did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadCounts {
    /// Its number.
    pub thread: u32,
    /// Its name, without control characters.
    pub name: String,
    /// In the order of [`PerfEvent::ALL`]; `None`: not counted.
    pub counts: [Option<u64>; PerfEvent::ALL.len()],
    /// Some counts are scaled: the events had to take turns on the processor.
    pub is_scaled: bool,
}

impl Watch {
    /// Counts from now on for every thread of the process.
    ///
    /// # Errors
    ///
    /// When the kernel has no perf events, or does not let this process have those of that one.
    pub fn begin(process: u32) -> Result<Watch, PerfError> {
        let plan = Plan::probe()?;
        let mut watch = Watch { process, plan, threads: BTreeMap::new(), left_out: false };
        watch.look()?;
        Ok(watch)
    }

    /// Looks for threads that have come since the last look, and counts for them too.
    ///
    /// # Errors
    ///
    /// As [`Watch::begin`].
    pub fn look(&mut self) -> Result<(), PerfError> {
        let tasks = format!("/proc/{}/task", self.process);
        let threads = numbers_in(Path::new(&tasks)).into_iter().flatten();
        for thread in threads {
            if let Some(known) = self.threads.get_mut(&thread) {
                // It may have got its name after it was first seen.
                let name = comm(thread);
                if !name.is_empty() {
                    known.name = name;
                }
                continue;
            }
            match self.open(thread) {
                Ok(opened) => drop(self.threads.insert(thread, opened)),
                Err(error) => match error.raw_os_error() {
                    // It has ended.
                    Some(libc::ESRCH) => {}
                    Some(libc::EMFILE | libc::ENFILE) => self.left_out = true,
                    _ => return Err(PerfError::new(&error)),
                },
            }
        }
        Ok(())
    }

    fn open(&self, thread: u32) -> io::Result<Thread> {
        let mut opened = Thread { name: comm(thread), groups: Default::default() };
        for (group, wanted) in opened.groups.iter_mut().zip(&self.plan.groups) {
            for &event in wanted {
                let leader = group.first();
                let descriptor =
                    events::open(event, self.plan.is_user_only, thread as libc::pid_t, leader)?;
                group.push(descriptor);
            }
            if let Some(leader) = group.first() {
                events::enable(leader.as_raw_fd());
            }
        }
        Ok(opened)
    }

    /// What can be counted here, and what cannot.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Were there more threads than this process may have descriptors for?
    pub fn has_left_some_out(&self) -> bool {
        self.left_out
    }

    /// What the threads have done so far, by number.
    pub fn read(&self) -> Vec<ThreadCounts> {
        self.threads.iter().map(|(&thread, opened)| self.read_one(thread, opened)).collect()
    }

    fn read_one(&self, thread: u32, opened: &Thread) -> ThreadCounts {
        let name = opened.name.clone();
        let mut read = ThreadCounts { thread, name, counts: Default::default(), is_scaled: false };
        for (group, wanted) in opened.groups.iter().zip(&self.plan.groups) {
            let leader = group.first().map_or(-1, AsRawFd::as_raw_fd);
            let Some(reading) = events::read(leader, wanted.len()) else { continue };
            // What never had its turn is not known.
            if reading.running == 0 && reading.enabled > 0 {
                continue;
            }
            read.is_scaled |= reading.running < reading.enabled;
            for (&event, count) in wanted.iter().zip(reading.counts) {
                let count = scaled(count, reading.enabled, reading.running);
                read.counts[event as usize] = Some(count);
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::mpsc;
    use std::thread;

    use crate::perf::test_pages::{self, Fresh};

    #[test]
    fn a_thread_is_counted_to_the_page_and_beyond_its_end() {
        if test_pages::plan().is_none() {
            return;
        }
        let mut watch = Watch::begin(std::process::id()).expect("this process may watch itself");
        let (tell, told) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let fresh = Fresh::new(300);
        let worker = thread::Builder::new().name("faulty".into()).spawn(move || {
            for pages in told {
                fresh.touch(pages);
                ready.send(()).expect("it listens");
            }
        });
        let worker = worker.expect("a thread");
        let touch = |pages| {
            tell.send(pages).expect("it listens");
            is_ready.recv().expect("it answers");
        };
        // The code's and the stack's own pages are there after the first.
        touch(0..100);
        watch.look().expect("it may be watched as well");
        let faults = |watch: &Watch| {
            let threads = watch.read();
            let faulty = threads.iter().find(|one| one.name == "faulty").expect("it was there");
            faulty.counts[PerfEvent::PageFaults as usize].expect("a software event")
        };
        touch(100..150);
        let before = faults(&watch);
        // A page of the thread's own may be fetched anew meanwhile, once in a while.
        let rounds = [150..190, 190..230, 230..270].map(|pages| {
            let before = faults(&watch);
            touch(pages);
            faults(&watch) - before
        });
        assert_eq!(rounds.into_iter().min(), Some(40), "{rounds:?}");
        drop(tell);
        worker.join().expect("it ends");
        assert!(faults(&watch) - before >= 120, "counts stay when their thread is gone");
        watch.look().expect("that a thread has ended is no error");
        assert!(!watch.has_left_some_out());
    }
}
