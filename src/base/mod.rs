//! What everything else is made of: units as types, atomics, sets of bits, and counters. Nothing here knows of
//! the system or of memory.

pub(crate) mod atomics;
pub(crate) mod bit_pyramid;
pub(crate) mod bits;
pub(crate) mod counter;
pub(crate) mod histogram;
pub(crate) mod observed;
pub(crate) mod ring;
pub mod units;
