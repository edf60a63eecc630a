//! Which events can be counted here, and which cannot.

use std::fmt;
use std::fs;
use std::io;

use slackwater::sections::PerfEvent;

use super::events::{self, GROUP_EVENTS};

/// The events that are read at once. Hardware and software apart: of too many hardware events none
/// runs all the time, while software events do.
pub const GROUPS: [&[PerfEvent]; 2] = [
    &[PerfEvent::TaskClock, PerfEvent::PageFaults, PerfEvent::ContextSwitches],
    &[PerfEvent::Cycles, PerfEvent::Instructions, PerfEvent::CacheMisses, PerfEvent::DtlbMisses],
];

const _: () = assert!(GROUPS[0].len() <= GROUP_EVENTS && GROUPS[1].len() <= GROUP_EVENTS);

/// Which events can be counted here, and which cannot; what it displays is one line about those, or
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The events of each group that are there, the group's leader first.
    pub(super) groups: [Vec<PerfEvent>; GROUPS.len()],
    /// The kernel counts what happens in user mode alone.
    pub(super) is_user_only: bool,
}

/// Why nothing at all can be counted: one line, through `Display`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerfError {
    refusal: Refusal,
    /// `kernel.perf_event_paranoid`, where it can be read.
    paranoid: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The kernel has no perf events.
    Absent,
    /// It does not let this process have them.
    NotPermitted,
    /// Another error.
    Other(i32),
}

impl Plan {
    /// Tries every event on the calling thread.
    ///
    /// # Errors
    ///
    /// When the kernel has no perf events, or does not let this process have any.
    pub fn probe() -> Result<Plan, PerfError> {
        let everything = Plan::probe_modes(false);
        match everything {
            Err(error) if error.refusal == Refusal::NotPermitted => Plan::probe_modes(true),
            outcome => outcome,
        }
    }

    fn probe_modes(is_user_only: bool) -> Result<Plan, PerfError> {
        let mut plan = Plan { groups: Default::default(), is_user_only };
        for (group, wanted) in GROUPS.into_iter().enumerate() {
            // In one group, as they will be: it may be full.
            let mut open = Vec::new();
            for &event in wanted {
                if is_user_only && event == PerfEvent::ContextSwitches {
                    continue;
                }
                match events::open(event, is_user_only, 0, open.first()) {
                    Ok(descriptor) => {
                        plan.groups[group].push(event);
                        open.push(descriptor);
                    }
                    // Software events are there if any are.
                    Err(error) if group == 0 => return Err(PerfError::new(&error)),
                    Err(_) => {}
                }
            }
        }
        Ok(plan)
    }

    /// The events that can be counted.
    pub fn events(&self) -> impl Iterator<Item = PerfEvent> {
        self.groups.iter().flatten().copied()
    }

    /// Is it user mode alone that is counted?
    pub fn is_user_only(&self) -> bool {
        self.is_user_only
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let absent: Vec<&str> = GROUPS[1]
            .iter()
            .filter(|event| !self.groups[1].contains(event))
            .map(|event| event.name())
            .collect();
        if !absent.is_empty() {
            write!(f, "no {} here: the kernel has no such counters", absent.join(", "))?;
        }
        if self.is_user_only {
            let and = if absent.is_empty() { "" } else { "; " };
            write!(
                f,
                "{and}user mode alone, so no context_switches: the kernel's takes CAP_PERFMON, or \
                 kernel.perf_event_paranoid 1"
            )?;
        }
        Ok(())
    }
}

impl PerfError {
    pub(super) fn new(error: &io::Error) -> PerfError {
        let refusal = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Refusal::NotPermitted,
            Some(libc::ENOSYS | libc::ENOENT | libc::EOPNOTSUPP) => Refusal::Absent,
            code => Refusal::Other(code.unwrap_or(0)),
        };
        let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok();
        PerfError { refusal, paranoid: paranoid.map(|text| text.trim().to_string()) }
    }
}

impl fmt::Display for PerfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.refusal {
            Refusal::Absent => f.write_str("the kernel has no perf events"),
            Refusal::Other(code) => io::Error::from_raw_os_error(code).fmt(f),
            Refusal::NotPermitted => {
                f.write_str("the kernel does not permit perf events")?;
                if let Some(paranoid) = &self.paranoid {
                    write!(f, " (kernel.perf_event_paranoid is {paranoid})")?;
                }
                f.write_str(
                    ": expected kernel.perf_event_paranoid of at most 2 or CAP_PERFMON, and no seccomp \
                     filter that forbids perf_event_open",
                )
            }
        }
    }
}

impl std::error::Error for PerfError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_said_in_one_line_and_what_is_there_is_not() {
        let groups = GROUPS.map(<[PerfEvent]>::to_vec);
        let all = Plan { groups, is_user_only: false };
        assert_eq!(all.to_string(), "");
        let mut some = all.clone();
        some.groups[1] = vec![PerfEvent::Instructions];
        let line = "no cycles, cache_misses, dtlb_misses here: the kernel has no such counters";
        assert_eq!(some.to_string(), line);
        some.is_user_only = true;
        let line = some.to_string();
        assert!(line.contains("counters; user mode alone") && !line.contains('\n'), "{line}");
        assert_eq!(some.events().count(), 4);
    }

    #[test]
    fn a_refusal_says_what_is_expected() {
        let refused = |code| PerfError::new(&io::Error::from_raw_os_error(code)).to_string();
        assert!(refused(libc::EACCES).contains("at most 2 or CAP_PERFMON"));
        assert!(refused(libc::EPERM).contains("seccomp"));
        assert_eq!(refused(libc::ENOSYS), "the kernel has no perf events");
        assert!(refused(libc::EMFILE).contains("Too many open files"));
    }
}
