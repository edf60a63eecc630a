//! For programs that are not Rust: walks the stack of whoever calls it.

// Reached by name, from outside.
#![allow(missing_docs)]

// Uses a part of it.
#[allow(dead_code)]
#[path = "../reference.rs"]
mod reference;

/// How many frames the caller's stack has, if it is the same to us and to libgcc; else -1, and why on
/// stderr.
#[unsafe(no_mangle)]
pub extern "C" fn frames_if_same() -> i32 {
    if !slackwater::unwind::install() {
        eprintln!("no _dl_find_object");
        return -1;
    }
    match reference::both().agree(0) {
        Ok(count) => count as i32,
        Err(differ) => {
            eprintln!("{differ}");
            -1
        }
    }
}
