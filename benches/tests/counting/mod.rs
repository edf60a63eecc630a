//! Whether the machine and the build are such that instructions can be counted.

use std::env;
use std::io::{self, Write};

use slackwater_benches::comparing::counting::missing;

/// A build without optimization has other paths. In CI nothing may be missing.
pub fn can_count(tools: &[&'static str]) -> bool {
    let missing = if cfg!(debug_assertions) {
        "this is not a release build".to_owned()
    } else if let Some(tool) = missing(tools) {
        format!("{tool} is not installed")
    } else {
        return true;
    };
    assert!(env::var_os("CI").is_none() || cfg!(debug_assertions), "{missing}, and this is CI");
    // Not `eprintln!`, which the test runner keeps to itself.
    let _ = writeln!(io::stderr(), "SKIPPED: {missing}");
    false
}
