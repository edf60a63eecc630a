//! The gate: is the program idle or busy? Decided once per tick, in one function.

use crate::snapshot::GateState;

/// Whether the gate decides or is told (`SLACKWATER_GATE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum GateMode {
    /// Decide at each tick from what the program does.
    #[default]
    Auto = 0,
    /// Always idle: every tick releases all it can.
    Idle = 1,
    /// Always busy: ticks release little, and only what has been free for a while.
    Busy = 2,
}

/// What the decision rests on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateInput {
    pub mode: GateMode,
    /// Slow-path operations of all threads since the last tick.
    pub operations: u64,
    /// Ticks' lengths that have passed since the last tick, at least 1.
    pub epochs: u64,
}

/// Slow-path operations per epoch from which on a program counts as busy. One stands for a batch of
/// blocks or for half a megabyte of requests, so this is a few thousand allocations in 50 ms.
const BUSY_OPERATIONS: u64 = 64;

/// Idle or busy?
pub(crate) fn decide(input: GateInput) -> GateState {
    match input.mode {
        GateMode::Idle => GateState::Idle,
        GateMode::Busy => GateState::Busy,
        GateMode::Auto if input.operations >= BUSY_OPERATIONS * input.epochs => GateState::Busy,
        GateMode::Auto => GateState::Idle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_decides_not_a_count() {
        let input = |operations, epochs| GateInput { mode: GateMode::Auto, operations, epochs };
        assert_eq!(decide(input(0, 1)), GateState::Idle);
        assert_eq!(decide(input(BUSY_OPERATIONS - 1, 1)), GateState::Idle);
        assert_eq!(decide(input(BUSY_OPERATIONS, 1)), GateState::Busy);
        // As many operations over a minute of silence are not busy.
        assert_eq!(decide(input(BUSY_OPERATIONS, 1200)), GateState::Idle);
    }

    #[test]
    fn a_forced_gate_ignores_the_program() {
        let input = |mode, operations| GateInput { mode, operations, epochs: 1 };
        assert_eq!(decide(input(GateMode::Idle, u64::MAX)), GateState::Idle);
        assert_eq!(decide(input(GateMode::Busy, 0)), GateState::Busy);
    }
}
