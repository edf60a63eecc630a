//! What the tests share: the same stack walked by three, a compiler, programs that may be missing.

// Every test file is a program of its own and uses a part of this.
#![allow(dead_code)]

#[path = "../../src/testing/filter.rs"]
pub mod filter;
#[cfg(target_arch = "x86_64")]
pub mod framehop;
pub mod reference;

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Says that a test is skipped for want of `tool`; in CI, fails it.
pub fn skip(tool: &str) {
    assert!(env::var_os("CI").is_none(), "{tool} is not installed, and this is CI");
    // The test harness captures what goes through print!, not what is written to the stream.
    let line = format!("SKIPPED: {tool} is not installed\n");
    std::io::stderr().write_all(line.as_bytes()).expect("write to stderr");
}

/// The shared object made from `native/SOURCE` with `flags`; none if there is no compiler.
pub fn built(source: &str, name: &str, flags: &[&str]) -> Option<PathBuf> {
    if Command::new("c++").arg("--version").output().is_err() {
        skip("c++");
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unwinding/native").join(source);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Another test process may have the same one open: make it aside and rename it.
    let aside = target.with_extension(std::process::id().to_string());
    let mut compile = Command::new("c++");
    compile.args(["-O2", "-fomit-frame-pointer", "-shared", "-fPIC", "-std=c++17"]).args(flags);
    let built = compile.arg(source).arg("-o").arg(&aside).output().expect("the compiler runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    fs::rename(&aside, &target).expect("put it in its place");
    Some(target)
}
