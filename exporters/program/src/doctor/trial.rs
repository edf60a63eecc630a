//! A program under the preload library, from its start to its end, seen from outside.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use slackwater_exporters::Observation;
use slackwater_exporters::attach::{AttachError, Target};

use super::super::amounts;
use super::super::failure::Failure;
use super::super::run::under_slackwater;
use super::super::watched::{Event, GLANCE, Watched};
use super::finding::{Finding, Section, less, missing, works};

/// How far the looks are apart that are for a sudden end, when it has run for a while.
const LONGEST_PERIOD: Duration = Duration::from_secs(1);

/// What came of it.
pub struct Trial {
    pub status: ExitStatus,
    /// What its heap was when it was last seen, or why it was not.
    seen: Option<Result<Box<Observation>, AttachError>>,
    /// It was seen when it had run its exit handlers.
    is_of_the_end: bool,
    /// Processes below it that had a heap, too, and told of their ends.
    children: u64,
}

impl Trial {
    /// Runs a program to its end.
    pub fn run(command: &[OsString]) -> Result<Trial, Failure> {
        let mut program = Watched::start(under_slackwater(command)?)?;
        let id = program.id();
        watch(&mut program).map_err(|error| Failure::broken(format_args!("process {id}: {error}")))
    }

    pub fn section(&self) -> Section {
        let mut findings = vec![self.heap()];
        if let Some(Ok(observation)) = &self.seen {
            findings.push(given_back(observation));
            findings.extend(troubles(observation));
        }
        if self.children > 0 {
            findings.push(works(
                "children",
                format!("{} of its processes had Slackwater, too", self.children),
            ));
        }
        findings.push(self.end());
        Section { title: "What it did", is_essential: true, findings }
    }

    fn heap(&self) -> Finding {
        const WHAT: &str = "heap";
        match &self.seen {
            Some(Ok(observation)) => {
                let mapped = amounts::bytes(observation.snapshot.mapped_bytes);
                let when = if self.is_of_the_end { "at its end" } else { "when it was last seen" };
                let peak = observation.process.map(|process| amounts::bytes(process.peak_bytes));
                let peak = peak.map_or(String::new(), |peak| format!(", peak RSS {peak}"));
                works(WHAT, format!("Slackwater's; {when} {mapped} of addresses{peak}"))
            }
            Some(Err(error)) if error.is_no_heap() => {
                missing(WHAT, "none of Slackwater's was found in it")
            }
            Some(Err(error)) => less(WHAT, format!("it could not be looked at: {error}")),
            None => less(WHAT, "it ended, without its exit handlers, before it could be looked at"),
        }
    }

    fn end(&self) -> Finding {
        const WHAT: &str = "exit code";
        match (self.status.code(), self.status.signal()) {
            (Some(0), _) => works(WHAT, "0"),
            (Some(code), _) => less(WHAT, format!("{code}, which is its own")),
            (None, Some(signal)) => less(WHAT, format!("none: signal {signal} ended it")),
            (None, None) => less(WHAT, "none"),
        }
    }
}

fn watch(program: &mut Watched) -> std::io::Result<Trial> {
    let mut seen = None;
    let mut children = 0;
    let mut next = Instant::now();
    let mut period = GLANCE;
    loop {
        match program.next_event()? {
            Event::ChildEnds(..) => children += 1,
            Event::Ends(waits) => {
                let seen = look(program.id()).or(seen);
                drop(waits);
                return Ok(Trial { status: program.wait()?, seen, is_of_the_end: true, children });
            }
            Event::Ended(status) => {
                return Ok(Trial { status, seen, is_of_the_end: false, children });
            }
            Event::Nothing => {}
        }
        if Instant::now() >= next {
            seen = look(program.id()).or(seen);
            next = Instant::now() + period;
            period = (period * 2).min(LONGEST_PERIOD);
        }
    }
}

/// What is to be seen of it; `None` when it has just ended.
fn look(process: u32) -> Option<Result<Box<Observation>, AttachError>> {
    match Target::open(process).and_then(|mut target| target.observe()) {
        Ok(observation) => Some(Ok(Box::new(observation))),
        Err(error) if error.is_gone() => None,
        Err(error) => Some(Err(error)),
    }
}

fn given_back(observation: &Observation) -> Finding {
    const WHAT: &str = "given back";
    let snapshot = &observation.snapshot;
    let ticks = snapshot.epoch_ticks_total.idle + snapshot.epoch_ticks_total.busy;
    let purged = snapshot.release_purged_bytes_total;
    if ticks == 0 {
        let says = "nothing: its heap was too small, or its life too short, for a tick";
        return works(WHAT, says);
    }
    let waiting = snapshot.release_pending_bytes;
    if purged == 0 && waiting > 0 {
        let says = format!("nothing when it was last seen: {} waited", amounts::bytes(waiting));
        return less(WHAT, says);
    }
    if purged == 0 {
        return works(WHAT, "nothing: there was nothing to give back when its ticks looked");
    }
    let times = |number: u64, what: &str| {
        let plural = if number == 1 { "" } else { "s" };
        format!("{} {what}{plural}", amounts::count(number as f64))
    };
    let calls = times(snapshot.release_madvise_calls_total, "call");
    works(WHAT, format!("{} in {calls}, by {}", amounts::bytes(purged), times(ticks, "tick")))
}

/// What went wrong in it.
fn troubles(observation: &Observation) -> Vec<Finding> {
    let snapshot = &observation.snapshot;
    let mut findings = Vec::new();
    if snapshot.release_errors_total > 0 {
        let says = format!(
            "the kernel refused {} ranges that were to go back",
            snapshot.release_errors_total
        );
        findings.push(less("refused", says));
    }
    if snapshot.takeovers_total.unavailable > 0 {
        let says = "caches of blocked threads kept what they had: no membarrier there";
        findings.push(less("take-over", says));
    }
    if snapshot.allocation_failures_total > 0 {
        let says = format!("{} allocations got no memory", snapshot.allocation_failures_total);
        findings.push(less("failures", says));
    }
    findings
}
