//! What does counting perf events cost a slow section of the allocator?
//!
//! Bins that fill and run empty in turn, so that most of the time is refills and spills: first while
//! nobody counts, then while they are counted. Nanoseconds per section. Run it by
//! `cargo run --release -p slackwater-benches --features exporters --bin section_cost`.

use std::hint::black_box;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use slackwater_benches::block::block;
use slackwater_benches::cores;
use slackwater_exporters::perf;

/// Larger than a bin gets.
const BLOCKS: usize = 200;
const ROUNDS: usize = 1000;

/// Medians are of so many.
const REPEATS: usize = 5;

fn main() -> ExitCode {
    cores::pin(0);
    println!("nobody counts      {:>7.0} ns per section", median(section_nanos));
    let plan = match perf::count_sections() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("section_cost: {error}");
            return ExitCode::from(2);
        }
    };
    println!("events are counted {:>7.0} ns per section", median(section_nanos));
    println!("a thread's first   {:>7.0} ns, and its end", median(first_nanos));
    println!("({} events)", plan.events().count());
    ExitCode::SUCCESS
}

fn median(measure: fn() -> f64) -> f64 {
    let mut measured: [f64; REPEATS] = std::array::from_fn(|_| measure());
    measured.sort_by(f64::total_cmp);
    measured[REPEATS / 2]
}

fn section_nanos() -> f64 {
    let sections = || {
        let snapshot = slackwater::snapshot();
        snapshot.refills_total + snapshot.spills_total
    };
    let mut blocks = Vec::with_capacity(BLOCKS);
    let mut round = || {
        blocks.extend((0..BLOCKS).map(|_| block(black_box(20_000))));
        blocks.clear();
    };
    round();
    let (before, begin) = (sections(), Instant::now());
    (0..ROUNDS).for_each(|_| round());
    begin.elapsed().as_nanos() as f64 / (sections() - before) as f64
}

/// A thread that enters one section, less one that enters none: opening its events and closing them.
fn first_nanos() -> f64 {
    let run = |allocations: usize| {
        let begin = Instant::now();
        for _ in 0..ROUNDS {
            let work = move || (0..allocations).for_each(|_| drop(black_box(block(3000))));
            thread::spawn(work).join().expect("it ends");
        }
        begin.elapsed().as_nanos() as f64 / ROUNDS as f64
    };
    run(1) - run(0)
}
