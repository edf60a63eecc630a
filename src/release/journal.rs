//! The journal: what giving memory back did lately, event by event, for those who want to see it as it
//! happened.
//!
//! Events are plain numbers in a ring of fixed size, written by whoever ticks or purges. Readers take them
//! out at their own pace; what one was too slow for is counted. Nothing on either side allocates, waits
//! or formats.

use super::gate::GateState;
use crate::base::ring::{Cursor, Ring};
use crate::os::Nanos;

/// So many events are kept: some ten seconds of ticks, or a purge of 4 GiB in scattered pages.
const EVENTS: usize = 512;

const WORDS: usize = 7;

/// The last events of a heap.
pub(crate) struct Journal(Ring<EVENTS, WORDS>);

/// When something was done, by `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period {
    /// The beginning.
    pub began_nanos: u64,
    /// How long it took.
    pub took_nanos: u64,
}

impl Period {
    pub(crate) fn new(began: Nanos, took: Nanos) -> Period {
        Period { began_nanos: began.0, took_nanos: took.0 }
    }

    /// The end.
    pub fn ended_nanos(&self) -> u64 {
        self.began_nanos.saturating_add(self.took_nanos)
    }
}

/// Something that was done to give memory back. Written when it is over: what belongs to a tick comes
/// before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A tick.
    Tick {
        /// When.
        period: Period,
        /// What the gate decided.
        gate: GateState,
        /// Slow-path operations of all threads since the tick before.
        operations: u64,
        /// Pages (of 4 KiB) that it gave back, without its assistant's.
        pages: u64,
    },
    /// One batch of ranges was given to the kernel.
    Purge {
        /// When: the kernel's part.
        period: Period,
        /// Ranges in the batch.
        ranges: u64,
        /// Pages given back.
        pages: u64,
        /// System calls it took.
        calls: u64,
        /// The pages were inside spans in use, not free ones.
        is_interior: bool,
    },
    /// Caches of other threads were flushed.
    Takeover {
        /// When.
        period: Period,
        /// Caches flushed.
        taken: u64,
        /// Caches left alone, since they were in use just then.
        busy: u64,
    },
    /// Memory is scarce (near the control group's limit, or tasks wait for it), or is so no longer.
    Pressure {
        /// When it was seen, by `CLOCK_MONOTONIC` in nanoseconds, to a few milliseconds.
        at_nanos: u64,
        /// Is it scarce?
        is_scarce: bool,
        /// The limit that is nearest to being reached: a memory.max or memory.high.
        limit_bytes: u64,
        /// What is needed of it: cached files, which the kernel drops first, are not counted.
        used_bytes: u64,
        /// The part of the last ten seconds in which some task waited for memory.
        stalled_percent: u64,
    },
}

const TICK: u64 = 1;
const PURGE: u64 = 2;
const TAKEOVER: u64 = 3;
const PRESSURE: u64 = 4;

impl Event {
    fn words(self) -> [u64; WORDS] {
        let timed = |kind, period: Period, [a, b, c, d]: [u64; 4]| {
            [kind, period.began_nanos, period.took_nanos, a, b, c, d]
        };
        match self {
            Event::Tick { period, gate, operations, pages } => {
                timed(TICK, period, [gate as u64, operations, pages, 0])
            }
            Event::Purge { period, ranges, pages, calls, is_interior } => {
                timed(PURGE, period, [ranges, pages, calls, is_interior as u64])
            }
            Event::Takeover { period, taken, busy } => timed(TAKEOVER, period, [taken, busy, 0, 0]),
            Event::Pressure { at_nanos, is_scarce, limit_bytes, used_bytes, stalled_percent } => {
                [PRESSURE, at_nanos, is_scarce as u64, limit_bytes, used_bytes, stalled_percent, 0]
            }
        }
    }

    fn from_words(words: [u64; WORDS]) -> Option<Event> {
        let [kind, began_nanos, took_nanos, a, b, c, d] = words;
        let period = Period { began_nanos, took_nanos };
        let event = match kind {
            TICK => {
                let gate =
                    if a == GateState::Idle as u64 { GateState::Idle } else { GateState::Busy };
                Event::Tick { period, gate, operations: b, pages: c }
            }
            PURGE => Event::Purge { period, ranges: a, pages: b, calls: c, is_interior: d != 0 },
            TAKEOVER => Event::Takeover { period, taken: a, busy: b },
            PRESSURE => Event::Pressure {
                at_nanos: began_nanos,
                is_scarce: took_nanos != 0,
                limit_bytes: a,
                used_bytes: b,
                stalled_percent: c,
            },
            _ => return None,
        };
        Some(event)
    }
}

impl Journal {
    pub const fn new() -> Journal {
        Journal(Ring::new())
    }

    /// Adds an event, over the oldest one. Any thread; waits for nobody.
    pub fn record(&self, event: Event) {
        self.0.write(event.words());
    }

    /// Before the oldest event that is still there.
    pub fn oldest(&self) -> Cursor {
        self.0.oldest()
    }

    /// The next event for a reader that is at `cursor`; `None` if there is none yet.
    pub fn read(&self, cursor: &mut Cursor) -> Option<Event> {
        self.0.read(cursor).and_then(Event::from_words)
    }

    /// Events that a reader has missed so far.
    pub fn lost(&self, cursor: &Cursor) -> u64 {
        self.0.lost(cursor)
    }
}

#[cfg(test)]
impl Journal {
    /// Every event that is there.
    pub fn events(&self) -> Vec<Event> {
        let mut cursor = self.0.oldest();
        core::iter::from_fn(|| self.read(&mut cursor)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_comes_out_as_it_went_in() {
        let period = Period { began_nanos: 1, took_nanos: 2 };
        let gate = GateState::Busy;
        let events = [
            Event::Tick { period, gate, operations: 3, pages: 4 },
            Event::Tick { period, gate: GateState::Idle, operations: 5, pages: 6 },
            Event::Purge { period, ranges: 7, pages: 8, calls: 9, is_interior: true },
            Event::Purge { period, ranges: 7, pages: 8, calls: 9, is_interior: false },
            Event::Takeover { period, taken: 10, busy: 11 },
            Event::Pressure {
                at_nanos: 12,
                is_scarce: true,
                limit_bytes: 13,
                used_bytes: 14,
                stalled_percent: 15,
            },
        ];
        let journal = Journal::new();
        events.iter().for_each(|&event| journal.record(event));
        assert_eq!(journal.events(), events);
    }
}
