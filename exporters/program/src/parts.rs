//! The parts of RSS, with what each of them means.

use std::ops::Range;

use slackwater_exporters::breakdown::Breakdown;

use super::amounts::share;

/// One part of RSS.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The value of the label `part` of `slackwater_rss_bytes`.
    pub name: &'static str,
    /// How much of RSS it is.
    pub bytes: u64,
    /// One clause for the person who asks.
    pub meaning: &'static str,
}

/// All parts of RSS, in the order in which they are told. They sum to it. One that is not known apart is
/// left out.
pub fn of_rss(breakdown: &Breakdown) -> Vec<Part> {
    let part = |name, bytes, meaning| Part { name, bytes, meaning };
    let stacks = breakdown.stacks.map(|bytes| part("stacks", bytes, "the stacks of threads"));
    let other = match stacks {
        Some(_) => "not the heap: variables, the program's own mappings",
        None => "not the heap: stacks, variables, the program's own mappings",
    };
    let heap = [
        part("live", breakdown.live, "asked for by the program, not freed, and written to"),
        part("rounding", breakdown.rounding, "what live blocks have beyond what was asked for"),
        part("free_blocks", breakdown.free_blocks, "free blocks on pages that hold live ones too"),
        part("thread_cache", breakdown.thread_cache, "free blocks kept at hand for each thread"),
        part("dirty", breakdown.dirty, "free pages that wait to be given back"),
        part("metadata", breakdown.metadata, "the allocator's own records"),
        part("sampled", breakdown.sampled, "blocks that the profiler put on pages of their own"),
    ];
    let rest = [
        part("other_anon", breakdown.other_anon, other),
        part("file", breakdown.file, "mapped files: the program and its libraries"),
        part("shmem", breakdown.shmem, "memory shared with other processes"),
        part(
            "unattributed",
            breakdown.unattributed,
            "resident at the heap's addresses, and in none of its books",
        ),
    ];
    heap.into_iter().chain(stacks).chain(rest).collect()
}

/// Where each part's bar begins and ends on a line of `width` cells, if all of them are laid end to
/// end: together they fill it, and none overlaps another.
pub fn bars(parts: &[Part], width: usize) -> Vec<Range<usize>> {
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
    use slackwater_exporters::Observation;

    use super::*;

    #[test]
    fn the_parts_sum_to_rss_and_are_named_as_the_metric_names_them() {
        let observation = Observation::take();
        let breakdown = observation.breakdown().expect("Linux tells");
        let parts = of_rss(&breakdown);
        assert_eq!(parts.iter().map(|part| part.bytes).sum::<u64>(), breakdown.sum());
        let (last, labelled) = parts.split_last().expect("some");
        assert_eq!(last.name, "unattributed");
        let family = crate::figures::family("rss_bytes");
        let mut labels = Vec::new();
        family
            .series(&observation, &mut |values, bytes| labels.push((values[0].to_string(), bytes)));
        let named: Vec<_> =
            labelled.iter().map(|part| (part.name.to_string(), part.bytes as f64)).collect();
        assert_eq!(labels, named);
    }

    #[test]
    fn bars_fill_the_line_end_to_end() {
        let breakdown =
            Breakdown { live: 999, rounding: 1, dirty: 500, file: 500, ..Breakdown::default() };
        assert_eq!(of_rss(&breakdown).len(), 11, "stacks are not known apart");
        let breakdown = breakdown.with_stacks(Some(0));
        for width in [0, 1, 7, 40] {
            let bars = bars(&of_rss(&breakdown), width);
            assert_eq!(bars.len(), 12);
            assert_eq!((bars[0].start, bars[11].end), (0, width));
            assert!(bars.windows(2).all(|two| two[0].end == two[1].start), "{bars:?}");
        }
        assert_eq!(bars(&of_rss(&breakdown), 40)[..2], [0..20, 20..20]);
        assert!(bars(&of_rss(&Breakdown::default()), 40).iter().all(|bar| bar.is_empty()));
    }
}
