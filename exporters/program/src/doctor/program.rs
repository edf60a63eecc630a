//! A program's file: whether it can be preloaded, and which allocators it has.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::super::executable;
use super::super::failure::Failure;
use super::super::library;
use super::super::run::not_started;
use super::finding::{Finding, Section, less, missing, works};
use super::symbols::{self, Allocators};

/// Is there such a program? Asked before anything else, so that a slip of the fingers is told at once.
pub fn must_be_there(name: &OsStr) -> Result<(), Failure> {
    let refused = |kind: io::ErrorKind| Err(not_started(name, &kind.into()));
    if name.is_empty() {
        return Err(Failure::bad_input("'': expected the name of a program"));
    }
    let found = executable::found_in_path(name).and_then(|path| fs::metadata(path).ok());
    match found {
        None => refused(io::ErrorKind::NotFound),
        Some(found) if !found.is_file() || found.mode() & 0o111 == 0 => {
            refused(io::ErrorKind::PermissionDenied)
        }
        Some(_) => Ok(()),
    }
}

pub fn section(name: &OsStr) -> Section {
    let files = executable::executed_for(name);
    let mut findings = Vec::new();
    let shown: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    findings.push(works("file", shown.join(", run by ")));
    let Some(path) = files.last() else { unreachable!("it has been found") };
    // Of a script, the interpreter's.
    if library::is_ours(path) {
        findings.push(works("loading", "it has Slackwater linked in, and needs no library"));
    } else {
        findings.push(match executable::obstacle(name) {
            Some(why) => missing("loading", why),
            None => works("loading", "nothing is known that would keep the library out"),
        });
        findings.extend(symbols::look(path).map(allocators));
    }
    Section { title: "The program", is_essential: true, findings }
}

fn allocators(found: Allocators) -> Finding {
    const WHAT: &str = "allocators";
    if let Some(sanitizer) = found.sanitizer {
        return missing(
            WHAT,
            format!(
                "{sanitizer} is in it, whose malloc must be the only one: expected a build without"
            ),
        );
    }
    if found.is_go {
        return less(
            WHAT,
            "it is written in Go, whose heap is the Go runtime's own (GOGC, GOMEMLIMIT): \
             Slackwater could have what its C code allocates, and no more",
        );
    }
    if found.exports_malloc {
        return less(
            WHAT,
            "it exports a malloc of its own, which goes before the library's: Slackwater has what \
             that leaves to it",
        );
    }
    match found.named.as_slice() {
        [] => works(WHAT, "it has none of its own"),
        named => less(
            WHAT,
            format!(
                "it calls {} by its own names: Slackwater has what goes through malloc",
                named.join(" and ")
            ),
        ),
    }
}
