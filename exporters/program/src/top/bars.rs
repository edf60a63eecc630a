//! The parts of RSS as bars that are laid end to end.

use std::ops::Range;

use slackwater_exporters::breakdown::Part;

use crate::amounts::share;

/// Where each part's bar begins and ends on a line of `width` cells, if all of them are laid end to
/// end: together they fill it, and none overlaps another.
pub fn of(parts: &[Part], width: usize) -> Vec<Range<usize>> {
    let whole: u64 = parts.iter().map(|part| part.bytes).sum();
    let cell = |bytes: u64| (share(bytes, whole) * width as f64).round() as usize;
    let mut before = 0;
    let mut bars = Vec::new();
    for part in parts {
        bars.push(cell(before)..cell(before + part.bytes));
        before += part.bytes;
    }
    bars
}

#[cfg(test)]
mod tests {
    use slackwater_exporters::breakdown::Breakdown;

    use super::*;

    #[test]
    fn bars_fill_the_line_end_to_end() {
        let breakdown =
            Breakdown { live: 999, rounding: 1, dirty: 500, file: 500, ..Breakdown::default() };
        let of_rss = |breakdown: &Breakdown| breakdown.parts().collect::<Vec<_>>();
        assert_eq!(of_rss(&breakdown).len(), 11, "stacks are not known apart");
        let breakdown = breakdown.with_stacks(Some(0));
        for width in [0, 1, 7, 40] {
            let bars = of(&of_rss(&breakdown), width);
            assert_eq!(bars.len(), 12);
            assert_eq!((bars[0].start, bars[11].end), (0, width));
            assert!(bars.windows(2).all(|two| two[0].end == two[1].start), "{bars:?}");
        }
        assert_eq!(of(&of_rss(&breakdown), 40)[..2], [0..20, 20..20]);
        assert!(of(&of_rss(&Breakdown::default()), 40).iter().all(|bar| bar.is_empty()));
    }
}
