//! What the counts would cost where many cores have to pass lines of memory to each other. A model, not a measurement.
//!
//! A read-modify-write needs its line in the core's own cache. If another core wrote it last it has to come from
//! there, which takes 50 to 100 ns on machines with 64 cores and more, within a socket or between two. The model has
//! two bounds:
//!
//! - **Every shared write is a transfer**, and the core waits for it. This is what each operation pays at most as long
//!   as no line is saturated; a thread that finds the line as it left it pays less.
//! - **The busiest line** is passed on at most once in that time, whoever waits for it. What all cores together write
//!   to it bounds how many operations they do, and with more cores each one's share of them takes longer.
//!
//! Lines that a size class or a span has for itself are counted as if all threads used the same one, as in a program
//! with one size of block. That is the worst case, and no program's.

use super::counts::Counts;
use super::places::{CLASSES, Class, Sharing};

/// What a line takes from one core to another, in ns.
pub const TRANSFERS: [f64; 2] = [50.0, 100.0];

/// How many cores are thought of.
pub const CORES: [u32; 2] = [64, 128];

/// The busiest line: what it is for, and its writes in a thousand operations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Busiest {
    /// What it is for.
    pub class: Class,
    /// How often it is written.
    pub writes: f64,
}

/// The class of lines with the most writes, of those that all threads may write.
pub fn busiest(counts: &Counts) -> Busiest {
    let writes = |class| {
        let on_one_line = [Sharing::All, Sharing::SizeClass];
        counts.sum(|place| place.class == class && on_one_line.contains(&place.sharing)).writes
    };
    let all = CLASSES.map(|class| Busiest { class, writes: writes(class) });
    all.into_iter().max_by(|a, b| a.writes.total_cmp(&b.writes)).unwrap_or(all[0])
}

/// What an operation pays, in ns, if each of so many writes in a thousand operations is a transfer.
pub fn each_a_transfer(writes: f64, transfer: f64) -> f64 {
    writes / 1000.0 * transfer
}

/// The time in which each of `cores` does one operation, in ns, if they do nothing but wait for a line that is written
/// so often in a thousand of them.
pub fn saturated(writes: f64, transfer: f64, cores: u32) -> f64 {
    each_a_transfer(writes, transfer) * cores as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::counts::{Count, Place};
    use std::collections::BTreeMap;

    #[test]
    fn the_busiest_line_is_one_that_all_may_write() {
        let place = |class, sharing, site: &str| Place { class, sharing, site: site.to_owned() };
        let count = |writes| Count { writes, locks: 0.0 };
        let counts = Counts(BTreeMap::from([
            (place(Class::Caches, Sharing::Own, "a"), count(50.0)),
            (place(Class::SpanBitmaps, Sharing::Span, "b"), count(40.0)),
            (place(Class::Depot, Sharing::SizeClass, "c"), count(2.0)),
            (place(Class::Depot, Sharing::SizeClass, "d"), count(3.0)),
            (place(Class::PageHeap, Sharing::All, "e"), count(4.0)),
        ]));
        assert_eq!(busiest(&counts), Busiest { class: Class::Depot, writes: 5.0 });
        assert_eq!(each_a_transfer(5.0, 100.0), 0.5);
        assert_eq!(saturated(5.0, 100.0, 64), 32.0);
    }
}
