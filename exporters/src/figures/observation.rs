//! One look at a process: everything there is to know of its heap at one moment.

use std::convert::Infallible;

use slackwater::sections::{self, SectionCounts};
use slackwater::snapshot::Snapshot;

use crate::figures::breakdown::Breakdown;
use crate::figures::residency::{self, HeapResidency};
use crate::kernel::cgroup::CgroupMemory;
use crate::kernel::observer;
use crate::kernel::process::{ProcessMemory, ProportionalMemory};

/// How often to read again what moved while it was read.
const MOMENT_ATTEMPTS: u32 = 4;

/// Everything the families are read from, taken at one moment.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The allocator's figures.
    pub snapshot: Snapshot,
    /// The kernel's figures; `None` where `/proc` is not to be had.
    pub process: Option<ProcessMemory>,
    /// The same with what is shared divided by those who share it, as of some seconds ago; `None` where the
    /// kernel does not say, and of this process, which is not to pay for it.
    pub proportional: Option<ProportionalMemory>,
    /// What the kernel backs of the heap's addresses; `None` where it does not say.
    pub residency: Option<HeapResidency>,
    /// What is resident of the threads' stacks; `None` where the kernel does not say.
    pub stack_bytes: Option<u64>,
    /// The control group's figures; `None` where there is none.
    pub cgroup: Option<CgroupMemory>,
    /// The CPU time that collecting, rendering and serving figures has cost the process, in seconds;
    /// `None` for another process, which does not say.
    pub observer_cpu_seconds: Option<f64>,
    /// Events of the allocator's journal that were overwritten before they could be told to `tracing`;
    /// `None` where nobody tells them, and for another process.
    pub trace_lost_events: Option<u64>,
    /// What became of looking at all processes of the host; `None` for processes that do not.
    pub fleet: Option<FleetFigures>,
    /// What was counted in the allocator's slow sections.
    pub sections: SectionCounts,
}

impl Observation {
    /// Reads everything about this process, now.
    pub fn take() -> Observation {
        observer::count(|| {
            let books = || Ok::<_, Infallible>(slackwater::snapshot());
            let kernel = || {
                let process = ProcessMemory::read();
                Ok((process, residency::of_this_process(process.as_ref())))
            };
            let Ok((snapshot, (process, residency))) = Observation::at_one_moment(books, kernel);
            let stack_bytes = residency::stacks_of_this_process();
            let cgroup = CgroupMemory::read();
            let observer_cpu_seconds = Some(observer::cpu_seconds());
            let trace_lost_events = observer::events_lost();
            Observation {
                snapshot,
                process,
                proportional: None,
                residency,
                stack_bytes,
                cgroup,
                observer_cpu_seconds,
                trace_lost_events,
                fleet: None,
                sections: sections::counts(),
            }
        })
    }

    /// The allocator's books and the kernel's figures, which can only be read one after the other: read
    /// again where the books moved meanwhile by more than a hundredth, a few times. What moved
    /// least is kept.
    pub(crate) fn at_one_moment<K, E>(
        mut books: impl FnMut() -> Result<Snapshot, E>,
        mut kernel: impl FnMut() -> Result<K, E>,
    ) -> Result<(Snapshot, K), E> {
        let mut before = books()?;
        let mut stillest: Option<(u64, Snapshot, K)> = None;
        let mut attempts = 1;
        loop {
            let figures = kernel()?;
            let after = books()?;
            let moved = after.resident_bytes.abs_diff(before.resident_bytes);
            let best = match stillest.take() {
                Some(earlier) if earlier.0 <= moved => earlier,
                _ => (moved, before, figures),
            };
            if moved <= after.resident_bytes / 100 || attempts == MOMENT_ATTEMPTS {
                return Ok((best.1, best.2));
            }
            stillest = Some(best);
            before = after;
            attempts += 1;
        }
    }

    /// Why RSS is what it is; `None` where the kernel does not tell its side.
    pub fn breakdown(&self) -> Option<Breakdown> {
        let (residency, process) = (self.residency.as_ref()?, self.process.as_ref()?);
        let breakdown = Breakdown::new(&self.snapshot.memory_bytes, residency, process);
        Some(breakdown.with_stacks(self.stack_bytes))
    }
}

/// What became of the last look at all processes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FleetFigures {
    /// Processes whose figures were read.
    pub read: u64,
    /// Processes that could not be looked at for want of the right to.
    pub refused: u64,
    /// Processes whose heap is there and could not be read.
    pub failed: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}
