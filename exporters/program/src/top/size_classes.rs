//! The table of size classes: its columns, and its rows in the order of one of them.

use std::cmp::Ordering;

use slackwater::Snapshot;
use slackwater::snapshot::SizeClassBytes;

use crate::amounts::{bytes, percent, share};

/// What the table can be sorted by, in the order of its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// The size of a block.
    Block,
    /// Live blocks.
    Live,
    /// Pages of spans.
    Span,
    /// What of those is not live.
    Free,
    /// Live of span.
    Used,
}

impl Column {
    /// Every column.
    pub const ALL: [Column; 5] =
        [Column::Block, Column::Live, Column::Span, Column::Free, Column::Used];

    /// The column's head.
    pub fn name(self) -> &'static str {
        match self {
            Column::Block => "block",
            Column::Live => "live",
            Column::Span => "span",
            Column::Free => "free",
            Column::Used => "used",
        }
    }

    /// The one to the right, and after the last the first.
    pub fn next(self) -> Column {
        Column::ALL[(self as usize + 1) % Column::ALL.len()]
    }

    fn compare(self, a: &SizeClassBytes, b: &SizeClassBytes) -> Ordering {
        match self {
            Column::Block => a.block_bytes.cmp(&b.block_bytes),
            Column::Live => a.live_bytes.cmp(&b.live_bytes),
            Column::Span => a.span_bytes.cmp(&b.span_bytes),
            Column::Free => free_bytes(a).cmp(&free_bytes(b)),
            Column::Used => occupancy(a).total_cmp(&occupancy(b)),
        }
    }
}

/// By what the table is sorted: the largest first, or reversed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The column that decides.
    pub column: Column,
    /// The smallest first.
    pub is_reversed: bool,
}

impl Default for Order {
    /// What holds most comes first.
    fn default() -> Order {
        Order { column: Column::Span, is_reversed: false }
    }
}

/// What of a class's spans is not live.
fn free_bytes(class: &SizeClassBytes) -> u64 {
    class.span_bytes.saturating_sub(class.live_bytes)
}

/// How much of a class's spans is live, 0 to 1.
pub fn occupancy(class: &SizeClassBytes) -> f64 {
    share(class.live_bytes, class.span_bytes)
}

/// The classes that hold anything, in order.
pub fn rows(snapshot: &Snapshot, order: Order) -> Vec<SizeClassBytes> {
    let in_use = |class: &&SizeClassBytes| class.span_bytes > 0 || class.live_bytes > 0;
    let mut rows: Vec<_> = snapshot.size_classes.iter().filter(in_use).copied().collect();
    rows.sort_by(|a, b| {
        let largest_first = order.column.compare(b, a);
        if order.is_reversed { largest_first.reverse() } else { largest_first }
    });
    rows
}

/// A row's cells, in the order of the columns.
pub fn cells(class: &SizeClassBytes) -> [String; 5] {
    [
        class.block_bytes.to_string(),
        bytes(class.live_bytes),
        bytes(class.span_bytes),
        bytes(free_bytes(class)),
        percent(occupancy(class)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_sorts_both_ways_and_empty_classes_are_left_out() {
        let mut snapshot = slackwater::snapshot();
        snapshot.size_classes.fill(SizeClassBytes::default());
        let class = |block_bytes, live_bytes, span_bytes| SizeClassBytes {
            block_bytes,
            live_bytes,
            span_bytes,
        };
        snapshot.size_classes[1] = class(32, 50, 100);
        snapshot.size_classes[2] = class(48, 90, 90);
        snapshot.size_classes[3] = class(64, 10, 200);
        let sorted = |column, is_reversed| {
            let rows = rows(&snapshot, Order { column, is_reversed });
            rows.iter().map(|row| row.block_bytes).collect::<Vec<_>>()
        };
        for (column, expected) in [
            (Column::Block, [64, 48, 32]),
            (Column::Live, [48, 32, 64]),
            (Column::Span, [64, 32, 48]),
            (Column::Free, [64, 32, 48]),
            (Column::Used, [48, 32, 64]),
        ] {
            assert_eq!(sorted(column, false), expected, "{column:?}");
            let mut reversed = expected;
            reversed.reverse();
            assert_eq!(sorted(column, true), reversed, "{column:?}");
        }
    }

    #[test]
    fn the_next_column_comes_round_to_the_first() {
        let mut column = Column::Block;
        for expected in &Column::ALL[1..] {
            column = column.next();
            assert_eq!(column, *expected);
        }
        assert_eq!(column.next(), Column::Block);
    }
}
