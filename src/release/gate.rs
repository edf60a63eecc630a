//! The gate: is the program idle or busy? Decided once per tick, in one function.

use crate::heap::knobs::GateMode;

/// What the gate decided at the last tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateState {
    /// Nothing much is happening: give back everything, at once.
    #[default]
    Idle,
    /// The program is at work: give back little, and only what has been free for a while.
    Busy,
}

/// What the decision rests on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateInput {
    pub mode: GateMode,
    /// The last decision.
    pub was: GateState,
    /// Slow-path operations of all threads since the last tick.
    pub operations: u64,
    /// Epochs' lengths that have passed since the last tick, at least 1.
    pub epochs: u64,
    /// There was no operation at all for a part of an epoch up to now.
    pub is_quiet: bool,
    /// The program's memory is scarce: it is near the limit of its control group, or waits for it.
    pub is_pressed: bool,
}

/// What the gate decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub state: GateState,
    /// Release as when idle, although the program is busy.
    pub is_urgent: bool,
}

/// Slow-path operations per epoch from which on an idle program counts as busy, and below which a
/// busy one counts as idle. One stands for a batch of blocks or for half a megabyte of requests, so
/// the first is some thousand allocations in 50 ms.
const BUSY_FROM: u64 = 32;
const IDLE_BELOW: u64 = 8;

/// Idle or busy?
pub(crate) fn decide(input: GateInput) -> Decision {
    let threshold = match input.was {
        GateState::Idle => BUSY_FROM,
        GateState::Busy => IDLE_BELOW,
    };
    let state = match input.mode {
        GateMode::Idle => GateState::Idle,
        GateMode::Busy => GateState::Busy,
        GateMode::Auto if input.is_quiet => GateState::Idle,
        GateMode::Auto if input.operations >= threshold * input.epochs => GateState::Busy,
        GateMode::Auto => GateState::Idle,
    };
    Decision { state, is_urgent: input.mode == GateMode::Auto && input.is_pressed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use GateState::{Busy, Idle};

    const INPUT: GateInput = GateInput {
        mode: GateMode::Auto,
        was: Idle,
        operations: 0,
        epochs: 1,
        is_quiet: false,
        is_pressed: false,
    };

    #[test]
    fn a_rate_decides_not_a_count() {
        let state = |operations, epochs| decide(GateInput { operations, epochs, ..INPUT }).state;
        assert_eq!(state(0, 1), Idle);
        assert_eq!(state(BUSY_FROM - 1, 1), Idle);
        assert_eq!(state(BUSY_FROM, 1), Busy);
        // As many operations over a minute of silence are not busy.
        assert_eq!(state(BUSY_FROM, 1200), Idle);
    }

    #[test]
    fn between_the_thresholds_it_stays_what_it_was() {
        let state = |was, operations| decide(GateInput { was, operations, ..INPUT }).state;
        for operations in 0..2 * BUSY_FROM {
            let expected = match operations {
                ..IDLE_BELOW => (Idle, Idle),
                IDLE_BELOW..BUSY_FROM => (Idle, Busy),
                BUSY_FROM.. => (Busy, Busy),
            };
            assert_eq!((state(Idle, operations), state(Busy, operations)), expected);
        }
    }

    #[test]
    fn a_pause_is_idle_whatever_came_before() {
        let input = GateInput { was: Busy, operations: 1000, is_quiet: true, ..INPUT };
        assert_eq!(decide(input).state, Idle);
        assert_eq!(decide(GateInput { mode: GateMode::Busy, ..input }).state, Busy);
    }

    #[test]
    fn scarce_memory_is_urgent_and_still_busy() {
        let pressed = GateInput { operations: 1000, is_pressed: true, ..INPUT };
        assert_eq!(decide(pressed), Decision { state: Busy, is_urgent: true });
        let eased = GateInput { is_pressed: false, ..pressed };
        assert_eq!(decide(eased), Decision { state: Busy, is_urgent: false });
    }

    #[test]
    fn a_forced_gate_ignores_the_program() {
        for (mode, state, operations) in
            [(GateMode::Idle, Idle, u64::MAX), (GateMode::Busy, Busy, 0)]
        {
            let input = GateInput { mode, operations, is_pressed: true, ..INPUT };
            assert_eq!(decide(input), Decision { state, is_urgent: false });
        }
    }
}
