//! C++'s `new` and `delete` take as many instructions as `malloc` and `free`, and a few: counted by callgrind, which
//! repeats to the instruction.

#[path = "support/callgrind.rs"]
mod callgrind;
#[path = "support/programs_in_c.rs"]
mod programs_in_c;
mod support;

use std::env;
use std::path::Path;

use callgrind::counting;
use programs_in_c::built;
use support::{OTHER_LIBRARY, installed, preloaded};

const FEW: u64 = 100_000;
const MANY: u64 = 1_100_000;

fn instructions(valgrind: &Path, program: &Path, kind: &str, pairs: u64) -> u64 {
    // Its own part runs under the library as well, and is not counted.
    let mut command = preloaded(valgrind);
    counting(&mut command, program)
        .args([kind, &pairs.to_string()])
        // Nothing but the pairs: no samples, and no tick of an epoch that ends.
        .env("SLACKWATER_PROFILE_RATE_BYTES", "0")
        .env("SLACKWATER_EPOCH_MS", "3600000")
        .env("SLACKWATER_TICKER", "off")
        .env("SLACKWATER_ARENA_BYTES", "64M");
    callgrind::instructions(&mut command)
}

#[test]
fn new_and_delete_take_a_few_more_than_malloc_and_free() {
    const TEST: &str = "new_and_delete_take_a_few_more_than_malloc_and_free";
    // What cargo builds for tests has other paths: without optimization, or for panics that unwind.
    if env::var_os(OTHER_LIBRARY).is_none_or(|library| library.is_empty()) {
        eprintln!("SKIPPED: {TEST}: the library as it is released is asked for by {OTHER_LIBRARY}");
        return;
    }
    let (Some(valgrind), Some(program)) = (installed(TEST, "valgrind"), built("pairs.cpp")) else {
        return;
    };
    let per_pair = |kind| {
        let [few, many] = [FEW, MANY].map(|pairs| instructions(&valgrind, &program, kind, pairs));
        (many - few) as f64 / (MANY - FEW) as f64
    };
    let malloc = per_pair("malloc");
    for kind in ["new", "array", "sized"] {
        let own = per_pair(kind);
        println!("{kind}: {own:.2}; malloc and free: {malloc:.2}");
        // Whose the operators are is asked twice, and a size is an argument more. By way of the C++ library it is
        // 16 to 22.
        assert!(own <= malloc + 8.0, "{kind}: {own} instructions, malloc and free {malloc}");
    }
}
