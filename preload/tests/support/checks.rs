//! Programs of named checks (`c/*.c`, `c/*.cpp`): built with the system's compiler when a test first
//! needs one, then run once per check, so that a crash, a hang or an abort is that check's own.

use std::path::PathBuf;

use crate::programs_in_c::built;
use crate::support::{LIMIT, Outcome, library, plain, preloaded, run};

/// Runs one check under the library; none if the machine has no compiler for it.
pub fn run_check(source: &str, check: &str) -> Option<Outcome> {
    let mut command = preloaded(built(source)?);
    command.arg(check);
    match source {
        "lifecycle.c" => {
            command.env("SLACKWATER_CHECK_PLUGIN", built("plugin.c")?);
        }
        "deepbind.c" => {
            command.env("SLACKWATER_CHECK_PLUGIN", built("deepbound.c")?);
        }
        "plugin_operators.c" => {
            command.env("SLACKWATER_CHECK_PLUGIN", built("own_operators.cpp")?);
        }
        "two.c" => {
            command.env("LD_PRELOAD", with_library("next_allocator.c", false)?);
        }
        "interposed.c" => {
            command.env("LD_PRELOAD", with_library("interposer.c", true)?);
        }
        "misuse.c" => {
            // What is said of a block that happens to be sampled, one medium one in 27, is another test's (guards.rs).
            command.env("SLACKWATER_PROFILE_RATE_BYTES", "0");
        }
        "signals.c" => {
            // So that the library has reason to want a signal.
            command.env("SLACKWATER_PROFILE_RATE_BYTES", "1");
            command.env("SLACKWATER_PROFILE_EPOCH_SAMPLES", "4000000000");
        }
        "filters.c" => {
            // Many samples, which ask the system for things of their own.
            command.env("SLACKWATER_PROFILE_RATE_BYTES", "64K");
            command.env("SLACKWATER_PROFILE_EPOCH_SAMPLES", "1000000");
        }
        "faults.c" => {
            // Guards and the profiler's tables need the system, too.
            command.env("SLACKWATER_PROFILE_RATE_BYTES", "1K");
            command.env("SLACKWATER_PROFILE_EPOCH_SAMPLES", "1000000");
        }
        _ => {}
    }
    Some(run(&mut command, "", LIMIT))
}

/// The libraries of `LD_PRELOAD`: this one, and the one that is built from `source`.
fn with_library(source: &str, comes_first: bool) -> Option<String> {
    let mut libraries: Vec<PathBuf> = library().into_iter().chain([built(source)?]).collect();
    if comes_first {
        libraries.reverse();
    }
    let names: Vec<String> = libraries.iter().map(|path| path.display().to_string()).collect();
    Some(names.join(":"))
}

/// The names of the checks that a program has.
pub fn names_in(source: &str) -> Option<Vec<String>> {
    let listed = run(plain(built(source)?).arg("--list"), "", LIMIT).expect_success();
    Some(listed.stdout.lines().map(str::to_owned).collect())
}

/// One test per check of a program, and one that finds a check without a test.
macro_rules! checks {
    ($source:literal, $verdict:path, [$($(#[$attribute:meta])* $check:ident),+ $(,)?]) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $check() {
                if let Some(outcome) = $crate::checks::run_check($source, stringify!($check)) {
                    $verdict(outcome);
                }
            }
        )+

        #[test]
        fn every_check_has_its_test() {
            if let Some(names) = $crate::checks::names_in($source) {
                assert_eq!(names, [$(stringify!($check)),+]);
            }
        }
    };
}
pub(crate) use checks;
