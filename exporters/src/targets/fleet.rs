//! All processes of this host that can be read, kept at hand between one look and the next.
//!
//! Finding a heap takes a walk through a process's mappings; reading it again does not. So the
//! processes that have one stay open, and those that have none are looked at again ever more rarely:
//! the loader may not have been through them yet, or they may execute another program.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub use crate::figures::observation::FleetFigures;
use crate::figures::observation::Observation;
use crate::kernel::observer;
use crate::kernel::process::{comm, processes, start_time};
use crate::targets::attach::{AttachError, Target};

/// The least and the most time until a process that could not be read is looked at again; in between
/// it is as long as it has been known.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Processes, by their numbers.
#[derive(Default)]
pub struct Fleet {
    open: BTreeMap<u32, Target>,
    closed: BTreeMap<u32, Closed>,
    wanted: Option<Box<Wanted>>,
}

/// Decides by a process's number and name whether its figures are wanted.
type Wanted = dyn Fn(u32, &str) -> bool + Send;

/// A process that could not be read.
struct Closed {
    /// When it was started: another one may have its number by now.
    started: Option<u64>,
    why: Why,
    since: Instant,
    next_look: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    NoHeap,
    Refused,
    Failed,
}

/// One process's figures, and what tells them from others'.
pub struct Seen {
    /// Its number, and when it was started.
    pub identity: (u32, u64),
    /// The path of its control group: see [`Target::cgroup`].
    pub cgroup: String,
    /// `pid`, `comm` and `container`.
    pub labels: [(&'static str, String); 3],
    /// Its figures. Those of this process have [`Observation::fleet`].
    pub observation: Observation,
}

impl Seen {
    /// The process's name.
    pub fn comm(&self) -> &str {
        &self.labels[1].1
    }
}

impl Fleet {
    /// Processes of which those alone are read that `wanted` says yes to by number and name, asked at
    /// each look, and this one itself, which tells what became of looking.
    pub fn only(wanted: impl Fn(u32, &str) -> bool + Send + 'static) -> Fleet {
        Fleet { wanted: Some(Box::new(wanted)), ..Fleet::default() }
    }

    /// Reads every process that can be, in the order of their numbers.
    pub fn look(&mut self) -> (Vec<Seen>, FleetFigures) {
        observer::count(|| {
            let begin = Instant::now();
            let running: Vec<u32> = processes().collect();
            self.forget_all_but(&running);
            for process in running {
                if !self.open.contains_key(&process) {
                    self.try_open(process, begin);
                }
            }
            let mut seen = self.read_open(begin);
            let closed = |why| self.closed.values().filter(|closed| closed.why == why).count();
            let figures = FleetFigures {
                read: seen.len() as u64,
                refused: closed(Why::Refused) as u64,
                failed: closed(Why::Failed) as u64,
                seconds: begin.elapsed().as_secs_f64(),
            };
            let own = std::process::id().to_string();
            if let Some(own) = seen.iter_mut().find(|seen| seen.labels[0].1 == own) {
                own.observation.fleet = Some(figures);
                own.observation.observer_cpu_seconds = Some(observer::cpu_seconds());
            }
            (seen, figures)
        })
    }

    fn forget_all_but(&mut self, processes: &[u32]) {
        let mut there = processes.to_vec();
        there.sort_unstable();
        let is_there = |process: &u32| there.binary_search(process).is_ok();
        self.open.retain(|process, _| is_there(process));
        self.closed.retain(|process, _| is_there(process));
    }

    fn try_open(&mut self, process: u32, now: Instant) {
        if let Some(closed) = self.closed.get(&process)
            && now < closed.next_look
            && closed.started == start_time(process)
        {
            return;
        }
        match Target::open(process) {
            Ok(target) => {
                self.closed.remove(&process);
                self.open.insert(process, target);
            }
            Err(error) => self.close(process, &error, now),
        }
    }

    fn read_open(&mut self, now: Instant) -> Vec<Seen> {
        let mut seen = Vec::with_capacity(self.open.len());
        let mut lost = Vec::new();
        let own = std::process::id();
        for (&process, target) in &mut self.open {
            // The name that it has now: it may have executed another program since it was found.
            let is_wanted = |wanted: &Wanted| wanted(process, &comm(process));
            if process != own && !self.wanted.as_deref().is_none_or(is_wanted) {
                continue;
            }
            match target.observe() {
                Ok(observation) => seen.push(Seen {
                    identity: (process, target.started()),
                    cgroup: target.cgroup().to_string(),
                    labels: [
                        ("pid", process.to_string()),
                        ("comm", target.comm().to_string()),
                        ("container", target.container().to_string()),
                    ],
                    observation,
                }),
                Err(error) => lost.push((process, error)),
            }
        }
        for (process, error) in lost {
            self.open.remove(&process);
            self.close(process, &error, now);
        }
        seen
    }

    /// Remembers that a process could not be read.
    fn close(&mut self, process: u32, error: &AttachError, now: Instant) {
        let why = match error {
            error if error.is_gone() => {
                self.closed.remove(&process);
                return;
            }
            error if error.is_no_heap() => Why::NoHeap,
            error if error.is_refusal() => Why::Refused,
            _ => Why::Failed,
        };
        let started = start_time(process);
        let before = self.closed.get(&process).filter(|closed| closed.started == started);
        let since = before.map_or(now, |closed| closed.since);
        let next_look = now + (now - since).clamp(MIN_PAUSE, MAX_PAUSE);
        self.closed.insert(process, Closed { started, why, since, next_look });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_without_a_heap_are_looked_at_ever_more_rarely() {
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().expect("coreutils");
        let process = sleeper.id();
        let mut fleet = Fleet::default();
        let begin = Instant::now();
        let mut look_after = |seconds: u64| {
            let now = begin + Duration::from_secs(seconds);
            fleet.try_open(process, now);
            let closed = &fleet.closed[&process];
            assert_eq!(closed.why, Why::NoHeap);
            (closed.next_look - begin).as_secs()
        };
        // The seconds of looks, and when the next one will be; looks before that change nothing.
        let looks = [(0, 1), (0, 1), (1, 2), (3, 6), (5, 6), (6, 12), (100, 160), (159, 160)];
        for (look, next) in looks {
            assert_eq!(look_after(look), next, "a look after {look} s");
        }
        fleet.forget_all_but(&[]);
        assert!(fleet.closed.is_empty());
        // Another process of the same number is looked at at once.
        fleet.try_open(process, begin);
        fleet.closed.get_mut(&process).expect("just looked at").started = Some(1);
        fleet.try_open(process, begin);
        assert_eq!(fleet.closed[&process].started, start_time(process));
        sleeper.kill().expect("it runs");
        sleeper.wait().expect("it ends");
        // A process that is gone is not remembered.
        fleet.try_open(process, begin + MAX_PAUSE);
        assert!(fleet.closed.is_empty() && fleet.open.is_empty());
    }
}
