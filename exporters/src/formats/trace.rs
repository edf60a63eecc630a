//! Turns the allocator's journal into `tracing` spans and events, for whatever subscriber the service has.
//!
//! A subscriber must not be called from inside malloc: what it allocates would call it again. So the
//! allocator writes plain events ([`slackwater::journal`]), and a [`Drain`] outside reads them and tells
//! them again: a tick is a span `tick`, and what it did are spans `purge` and `takeover` inside it; scarce
//! memory is an event. All have the target `slackwater`; spans have the level DEBUG.
//!
//! # Times
//!
//! `tracing` has no way to say when a span was: a subscriber looks at its own clock, and sees the drain, some
//! time later and much shorter. The truth is in the fields, as OpenTelemetry spells them:
//! `start_unix_nano` and `end_unix_nano`, and `micros` for people.

use std::io;
use std::time::Duration;

use slackwater::journal::{Event, Period, Reader};
use slackwater::snapshot::GateState;
use tracing::{debug_span, warn};

use crate::formats::periodic::Periodic;
use crate::kernel::clock::UnixClock;
use crate::kernel::observer;

/// The target of all spans and events.
pub const TARGET: &str = "slackwater";

/// Reads the journal, and tells `tracing` what is new in it.
///
/// # Examples
///
/// ```
/// let mut drain = slackwater_exporters::trace::Drain::new();
/// // Now and then, on a thread where the service's subscriber is the default:
/// drain.poll();
/// ```
#[derive(Debug)]
pub struct Drain {
    reader: Reader,
    /// What may belong to a tick that is not over yet.
    waiting: Vec<Event>,
    lost: u64,
}

impl Drain {
    /// Begins with the oldest event that is still in the journal.
    pub fn new() -> Drain {
        observer::lost_events(0);
        Drain { reader: Reader::new(), waiting: Vec::new(), lost: 0 }
    }

    /// Tells what happened since the last call; returns how many events that were. What belongs to no tick
    /// ([`slackwater::release_now`]) is told one call later. Costs what the subscriber does, and some 10 ns
    /// for each event where there is none.
    pub fn poll(&mut self) -> usize {
        observer::count(|| self.tell())
    }

    fn tell(&mut self) -> usize {
        let clock = UnixClock::now();
        let had_their_time = self.waiting.len();
        let mut events = 0;
        let mut is_in_order = false;
        while let Some(event) = self.reader.read() {
            events += 1;
            match event {
                Event::Tick { period, .. } => {
                    self.tell_tick(&clock, &event, period);
                    is_in_order = true;
                }
                event => self.waiting.push(event),
            }
        }
        if !is_in_order {
            self.waiting.drain(..had_their_time).for_each(|event| tell(&clock, &event));
        }
        let lost = self.reader.lost();
        if lost > self.lost {
            let more = lost - self.lost;
            warn!(target: TARGET, lost = more, "events were overwritten before they were read");
            observer::lost_events(more);
            self.lost = lost;
        }
        events
    }

    /// A tick comes after all that it did.
    fn tell_tick(&mut self, clock: &UnixClock, tick: &Event, of_tick: Period) {
        let is_inside = |event: &Event| match event {
            Event::Purge { period, .. } | Event::Takeover { period, .. } => {
                period.began_nanos >= of_tick.began_nanos
                    && period.ended_nanos() <= of_tick.ended_nanos()
            }
            _ => false,
        };
        let (inside, before): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(is_inside);
        before.iter().for_each(|event| tell(clock, event));
        in_span(clock, tick, || inside.iter().for_each(|event| tell(clock, event)));
    }
}

impl Default for Drain {
    fn default() -> Drain {
        Drain::new()
    }
}

fn tell(clock: &UnixClock, event: &Event) {
    in_span(clock, event, || {});
}

/// Tells an event, and what `inside` tells as a part of it.
fn in_span(clock: &UnixClock, event: &Event, inside: impl FnOnce()) {
    macro_rules! spanned {
        ($name:literal, $span:expr, $($fields:tt)*) => {
            debug_span!(
                target: TARGET,
                $name,
                start_unix_nano = clock.unix($span.began_nanos),
                end_unix_nano = clock.unix($span.ended_nanos()),
                micros = $span.took_nanos / 1000,
                $($fields)*
            )
            .in_scope(inside)
        };
    }
    match *event {
        Event::Tick { period, gate, operations, pages } => {
            let gate = if gate == GateState::Idle { "idle" } else { "busy" };
            spanned!("tick", period, gate, operations, pages)
        }
        Event::Purge { period, ranges, pages, calls, is_interior } => {
            spanned!("purge", period, ranges, pages, calls, is_interior)
        }
        Event::Takeover { period, taken, busy } => spanned!("takeover", period, taken, busy),
        Event::Pressure { at_nanos, is_scarce, limit_bytes, used_bytes, stalled_percent } => warn!(
            target: TARGET,
            unix_nano = clock.unix(at_nanos),
            is_scarce,
            limit_bytes,
            used_bytes,
            stalled_percent,
            "memory pressure"
        ),
        // A kind of a later version's.
        _ => {}
    }
}

/// Starts a thread that tells what happened now and then every `period` (at least 10 ms), until it is
/// stopped. The journal holds some ten seconds of ticks, and a second or less of large purges.
///
/// # Errors
///
/// When the system gives no thread.
pub fn trace_every(period: Duration) -> io::Result<Periodic> {
    let mut drain = Drain::new();
    Periodic::start("slackwater-trace", period, move || {
        drain.poll();
    })
}
