//! What do the patterns of published benchmarks and of well-known programs cost?
//!
//! Each is written anew from its description, with a fixed amount of work; threads are pinned in
//! turn to the cores. Run it by `scripts/bench patterns`.

mod alloc_test;
mod cache;
mod churn;
mod json;
mod large;
mod rptest;
mod sh;
mod tiny;

use std::process::ExitCode;

use slackwater_benches::rows::{self, Row};

fn main() -> ExitCode {
    let mut rows = Vec::new();
    for threads in [2, 8, 16] {
        rows.push(Row::new(format!("rptest_{threads}"), 4_000_000, move |pairs| {
            rptest::crossed(pairs, threads)
        }));
    }
    for threads in [1, 2] {
        let name = format!("sh6bench_{threads}");
        rows.push(Row::new(name, 20_000_000, move |pairs| sh::sh6bench(pairs, threads)));
    }
    for threads in [2, 8] {
        let name = format!("sh8bench_{threads}");
        rows.push(Row::new(name, 20_000_000, move |pairs| sh::sh8bench(pairs, threads)));
    }
    for threads in [1, 2, 8] {
        let name = format!("alloc_test_{threads}");
        rows.push(Row::new(name, 20_000_000, move |pairs| alloc_test::run(pairs, threads)));
    }
    rows.extend([
        Row::new("cache_scratch_1", 2_000_000, |pairs| cache::scratch(pairs, 1)),
        Row::new("cache_scratch_2", 4_000_000, |pairs| cache::scratch(pairs, 2)),
        Row::new("cache_thrash_1", 2_000_000, |pairs| cache::thrash(pairs, 1)),
        Row::new("cache_thrash_2", 4_000_000, |pairs| cache::thrash(pairs, 2)),
        Row::new("large_blocks", 1000, large::replaced),
        Row::new("churn_10", 20_000, |threads| churn::run(threads, 10)),
        Row::new("churn_100", 20_000, |threads| churn::run(threads, 100)),
        Row::new("prover", 30_000_000, tiny::prover),
        Row::new("bignum", 40_000_000, tiny::bignum),
        Row::new("json_1", 20_000, json::alone),
        Row::new("json_2", 20_000, json::handed_over),
    ]);
    rows::main(&rows)
}
