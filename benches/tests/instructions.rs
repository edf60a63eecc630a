//! The fast paths keep to a budget of instructions, and the profiler takes none of them: counted by
//! callgrind, which repeats to the instruction.

#[path = "../../tests/surroundings/mod.rs"]
mod surroundings;

mod counting;

use std::process::Command;

use slackwater_benches::comparing::counting::collected;

use counting::can_count;

const FEW: u64 = 100_000;
const MANY: u64 = 1_100_000;

/// The rate at which samples are taken.
const SAMPLED: &str = "512K";

/// Instructions for a sample with two stacks, the one on which it is freed included, as a quarter of them have. There
/// are 500 of them a second at most.
const SAMPLE_BUDGET: f64 = 45_000.0;

/// What `growing` allocates in a step, on average.
const GROWN_BYTES: u64 = 130;

fn instructions(kind: &str, pairs: u64, rate: &str) -> u64 {
    // Slow paths tick once in an epoch, and on a busy machine there are more of these in a run. An hour's has none; and
    // where as many samples may be taken in it as come, how many do is a matter of bytes, not of time.
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args([env!("CARGO_BIN_EXE_instructions"), kind, &pairs.to_string()])
        .env("SLACKWATER_PROFILE_RATE_BYTES", rate)
        .env("SLACKWATER_EPOCH_MS", "3600000")
        .env("SLACKWATER_PROFILE_EPOCH_SAMPLES", "1000000")
        .env("SLACKWATER_TICKER", "off")
        .env("SLACKWATER_ARENA_BYTES", "64M")
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    collected(&said).unwrap_or_else(|| panic!("{said}"))
}

fn per_pair(kind: &str, rate: &str) -> f64 {
    // Where the first sample is is drawn by chance: even at the largest rate one run in ten has one, and
    // sets its tables up.
    let runs = if rate == SAMPLED { 1 } else { 3 };
    let fewest = |pairs| (0..runs).map(|_| instructions(kind, pairs, rate)).min().unwrap_or(0);
    let more = fewest(MANY) - fewest(FEW);
    more as f64 / (MANY - FEW) as f64
}

#[test]
fn an_allocation_and_its_free_keep_to_their_budget_with_and_without_the_profiler() {
    if !can_count(&["valgrind"]) {
        return;
    }
    // They take 50.02, 68.03 and 61.03. Another compiler may need some more or less.
    for (kind, budget, bytes) in
        [("known_size", 53.0, 64), ("any_layout", 71.0, 100), ("malloc_free", 64.0, 100)]
    {
        keeps_to(kind, budget, bytes);
    }
}

/// Before they had fast paths they took 80, 83, 40 and 123, and `growing` 247 with samples.
#[test]
fn a_resize_and_a_question_for_a_size_keep_to_theirs() {
    if !can_count(&["valgrind"]) {
        return;
    }
    for (kind, budget, bytes) in [
        ("resize", 31.0, 0),
        ("resize_known", 35.0, 0),
        ("usable_size", 21.0, 0),
        // Each change of the class is an allocation.
        ("growing", 67.0, GROWN_BYTES),
    ] {
        keeps_to(kind, budget, bytes);
    }
}

/// `bytes` are what one of its kind allocates.
fn keeps_to(kind: &str, budget: f64, bytes: u64) {
    // At the largest rate nothing is sampled here, but everything is counted down for it.
    let [off, unsampled, sampled] = ["0", "1G", SAMPLED].map(|rate| per_pair(kind, rate));
    println!("{kind}: {off:.2}; with the profiler {unsampled:.2}, samples included {sampled:.2}");
    assert!(off <= budget, "{kind}: {off} instructions, of {budget}");
    assert!(unsampled - off <= 0.1, "{kind}: {off}, but {unsampled} where samples may come");
    let most = SAMPLE_BUDGET * bytes as f64 / (512 << 10) as f64;
    assert!(sampled - off <= most + 0.1, "{kind}: {off}, but {sampled} with samples, of {most}");
}
