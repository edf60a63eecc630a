//! What threads write that others write does not grow with their number: counted by callgrind, a thread at a time.

#[path = "../../tests/surroundings/mod.rs"]
mod surroundings;

mod counting;

use std::path::Path;

use slackwater_benches::scaling::counts::Counts;
use slackwater_benches::scaling::places::Class;
use slackwater_benches::scaling::{TOOLS, count_ours};

use counting::can_count;

/// Where the first sample falls is chance, and what is set up for it would be in one of a row's two sizes only.
const UNSAMPLED: [(&str, &str); 1] = [("SLACKWATER_PROFILE_RATE_BYTES", "0")];

fn counted(load: &str, threads: u32) -> Counts {
    let row = format!("{load}_by_{threads}");
    let counts = count_ours(Path::new(env!("CARGO_BIN_EXE_scale")), &row, &UNSAMPLED);
    counts.unwrap_or_else(|why| panic!("{row}: {why}"))
}

/// Samples have a lock; there are so many of them in a second, whatever is allocated.
fn is_of_blocks(class: Class) -> bool {
    class != Class::Sampling
}

#[test]
fn a_pair_in_a_thread_s_own_cache_takes_no_lock_and_writes_nothing_of_others() {
    if !can_count(&TOOLS) {
        return;
    }
    for threads in [1, 4] {
        let counts = counted("pair", threads);
        let count = counts.sum(|place| is_of_blocks(place.class));
        // What is set up once may be in one of two runs only.
        let few = count.writes < 2.0 && count.locks < 0.5;
        assert!(few, "{count:?} in a thousand pairs of {threads} threads: {counts:#?}");
    }
}

#[test]
fn blocks_below_32_kib_cost_no_more_shared_writes_where_there_are_more_threads() {
    if !can_count(&TOOLS) {
        return;
    }
    for (load, few, many) in [
        ("random", 1, 4),
        ("deep", 1, 4),
        ("larson", 1, 4),
        ("churn", 1, 4),
        ("remote", 2, 32),
        ("xmalloc", 2, 32),
    ] {
        let shared_writes = |threads| {
            let counts = counted(load, threads);
            counts.sum(|place| is_of_blocks(place.class)).writes
        };
        let with_few = shared_writes(few);
        // Which threads run at the same time differs from run to run, and with it who meets whom: of three runs with
        // many, one has to be within the bound.
        let bound = with_few * 1.25 + 15.0;
        let mut runs = Vec::new();
        while runs.len() < 3 && runs.last().is_none_or(|&with_many| with_many > bound) {
            runs.push(shared_writes(many));
        }
        println!("{load}: {with_few:.1} with {few} threads, {runs:.1?} with {many}");
        let is_within = runs.last().is_some_and(|&with_many| with_many <= bound);
        assert!(is_within, "{load}: {with_few:.1}, but {runs:.1?} with {many} threads");
    }
}

#[test]
fn threads_that_come_get_the_blocks_of_those_that_went() {
    if !can_count(&TOOLS) {
        return;
    }
    let counts = counted("churn", 4);
    let of_spans = [Class::PageHeap, Class::SpanIndex, Class::SpanBitmaps];
    let writes = counts.sum(|place| of_spans.contains(&place.class)).writes;
    // When they put them back to spans first it was 2,780.
    assert!(writes < 200.0, "{writes} in a thousand pairs: {counts:#?}");
}

#[test]
fn every_place_that_is_executed_has_a_class() {
    if !can_count(&TOOLS) {
        return;
    }
    for load in ["larson", "large"] {
        let counts = counted(load, 4);
        let others: Vec<_> = counts.0.keys().filter(|place| place.class == Class::Other).collect();
        assert!(others.is_empty(), "the table of places says nothing of {others:#?}");
    }
}
