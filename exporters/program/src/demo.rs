//! `slackwater demo`: a small service with a burst/idle load, and what happens to its memory.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use slackwater::Summary;
use slackwater::knobs::Knobs;
use slackwater::snapshot::GateState;
use slackwater_exporters::{Endpoint, Observation, perf};

use super::arguments::DemoArguments;
use super::console::Console;
use super::failure::Failure;
use super::load::{Load, WORKERS};
use super::output;
use super::proof::{Proof, mib, purged_pages};
use super::signals;

/// A burst and the idle time after it.
const CYCLE_SECONDS: u64 = 6;

/// The burst's part of a cycle.
const BURST_PART: f64 = 1.0 / 3.0;

/// Samples that an epoch may have here. By default they are fewer, and of a load that allocates gigabytes a
/// second a picture would be made of some dozens.
const PROFILE_EPOCH_SAMPLES: u64 = 1000;

/// Serves, works and reports until a signal, or until the time is over.
pub fn demo(arguments: &DemoArguments) -> Result<(), Failure> {
    sample_more();
    let (tell, stop) = mpsc::channel();
    signals::on_stop(move || {
        // Nobody listens any more when the demo is already on its way out.
        let _ = tell.send(());
    })?;
    if arguments.perf {
        count_events();
    }
    let listen = &arguments.listen;
    let endpoint = Endpoint::bind(&listen.to_string())
        .map_err(|error| Failure::not_listening(listen, &error))?;
    let mut demo = Demo {
        console: Console::new(),
        stop,
        // Half a second in, and so never at the moment when a burst ends.
        next_line: Instant::now() + Duration::from_millis(500),
        schedule: Schedule::new(arguments.seconds),
    };
    match demo.play(&endpoint) {
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => {
            outcome.map_err(|error| Failure::broken(format_args!("standard output: {error}")))
        }
    }
}

/// Counts perf events from now on; says once what cannot be counted.
fn count_events() {
    let absent = match perf::count_sections() {
        Ok(plan) => plan.to_string(),
        Err(error) => error.to_string(),
    };
    if !absent.is_empty() {
        // With stderr closed there is nobody to tell.
        let _ = writeln!(io::stderr(), "slackwater: --perf: {absent}");
    }
}

/// Unless the environment says how many.
fn sample_more() {
    if std::env::var_os("SLACKWATER_PROFILE_EPOCH_SAMPLES").is_none() {
        let profile_epoch_samples = PROFILE_EPOCH_SAMPLES;
        let knobs = Knobs { profile_epoch_samples, ..slackwater::knobs() };
        slackwater::set_knobs(knobs).expect("within what the knob takes");
    }
}

/// When bursts begin and end. With a given length, that is cut into equal cycles of about
/// [`CYCLE_SECONDS`], so that the demo ends when a cycle does and its proof is complete.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    cycle: Duration,
    cycles: Option<u64>,
}

impl Schedule {
    fn new(seconds: Option<u64>) -> Schedule {
        let Some(seconds) = seconds else {
            return Schedule { cycle: Duration::from_secs(CYCLE_SECONDS), cycles: None };
        };
        let cycles = (seconds / CYCLE_SECONDS).max(1);
        let cycle = Duration::from_secs_f64(seconds as f64 / cycles as f64);
        Schedule { cycle, cycles: Some(cycles) }
    }

    fn burst(&self) -> Duration {
        self.cycle.mul_f64(BURST_PART)
    }
}

struct Demo {
    console: Console,
    stop: Receiver<()>,
    next_line: Instant,
    schedule: Schedule,
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PhaseEnd {
    Over,
    Stopped,
}

impl Demo {
    fn play(&mut self, endpoint: &Endpoint) -> io::Result<()> {
        let place = |path| output::place(endpoint.address(), path);
        self.console.say(format_args!(
            "slackwater demo: bursts of work over {WORKERS} threads, and what memory does after \
             each\n  page     {}\n  metrics  {}\n  profiles {}",
            place("/"),
            place("/metrics"),
            place("/debug/pprof/")
        ))?;
        let load = Load::start()?;
        let proof = self.cycles(&load);
        load.stop();
        match proof? {
            Some(proof) => self.console.say(proof)?,
            None => {
                self.console.say("stopped before the first burst and its idle time were over")?
            }
        }
        self.console.say(Summary(&slackwater::snapshot()))
    }

    /// Burst after burst; returns the last complete one's proof.
    fn cycles(&mut self, load: &Load) -> io::Result<Option<Proof>> {
        let mut proof = None;
        let mut begin = Instant::now();
        for burst in 1.. {
            let burst_end = begin + self.schedule.burst();
            load.burst(burst_end);
            if self.watch("burst", burst_end)? == PhaseEnd::Stopped {
                break;
            }
            load.wait_until_full();
            let (peak, idle_begin) = (Observation::take(), Instant::now());
            load.drain();
            begin += self.schedule.cycle;
            if self.watch("idle", begin)? == PhaseEnd::Stopped {
                break;
            }
            let rest = Observation::take();
            proof = Proof::between(burst, idle_begin.elapsed(), &peak, &rest);
            if self.schedule.cycles == Some(burst) {
                break;
            }
            if let Some(proof) = &proof {
                self.console.say(proof.in_one_line())?;
            }
        }
        Ok(proof)
    }

    /// Shows the live line until that moment, or until a signal.
    fn watch(&mut self, phase: &str, until: Instant) -> io::Result<PhaseEnd> {
        loop {
            let now = Instant::now();
            if now >= until {
                return Ok(PhaseEnd::Over);
            }
            if now >= self.next_line {
                self.console.live(live_line(phase, &Observation::take()))?;
                self.next_line = now + self.console.live_period();
            }
            let next = until.min(self.next_line);
            match self.stop.recv_timeout(next.saturating_duration_since(now)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(PhaseEnd::Stopped),
            }
        }
    }
}

/// At most 79 characters until the counters have grown for days.
fn live_line(phase: &str, observation: &Observation) -> String {
    let rss = observation.process.map_or("?".to_string(), |process| mib(process.resident_bytes()));
    let gate = match observation.snapshot.gate_state {
        GateState::Idle => "idle",
        GateState::Busy => "busy",
    };
    format!(
        "{phase:<5}  RSS {rss:>9}  live {:>9}  purged {} pages  {} calls  gate {gate}",
        mib(observation.snapshot.memory_bytes.live),
        purged_pages(observation),
        observation.snapshot.release_madvise_calls_total,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_length_is_cut_into_equal_whole_cycles() {
        for (seconds, cycles, cycle_ms) in
            [(1, 1, 1000), (6, 1, 6000), (8, 1, 8000), (12, 2, 6000), (20, 3, 6667)]
        {
            let schedule = Schedule::new(Some(seconds));
            assert_eq!(schedule.cycles, Some(cycles), "{seconds} s");
            assert_eq!(schedule.cycle.as_secs_f64().mul_add(1000.0, 0.5) as u64, cycle_ms);
            assert!(schedule.burst() < schedule.cycle);
        }
        assert_eq!(Schedule::new(None).cycles, None);
    }
}
