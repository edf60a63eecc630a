//! The preload library: where it is, and whether it loads.

use std::env;
use std::process::Command;

use super::super::library;
use super::finding::{Finding, Section, less, missing, works};

/// What the loader says of a library that it leaves out.
const NOT_LOADED: &str = "cannot be preloaded";

pub fn section() -> Section {
    let findings = match library::find() {
        Err(failure) => vec![missing("library", failure.line())],
        Ok(library) => {
            let path = library.display().to_string();
            vec![works("library", path.clone()), loads(&path)]
        }
    };
    Section { title: "The preload library: slackwater run", is_essential: true, findings }
}

/// Starts this program under the library, to say its version.
fn loads(library: &str) -> Finding {
    const WHAT: &str = "loads";
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(error) => return less(WHAT, format!("it could not be tried: /proc/self/exe: {error}")),
    };
    let tried = Command::new(program).arg("--version").env("LD_PRELOAD", library).output();
    match tried {
        Err(error) => less(WHAT, format!("it could not be tried: {error}")),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            match said.lines().find(|line| line.contains(NOT_LOADED)) {
                Some(line) => missing(WHAT, line),
                None if output.status.success() => {
                    works(WHAT, "a program was started under it, and ended well")
                }
                None => missing(
                    WHAT,
                    format!("a program that was started under it ended by {}", output.status),
                ),
            }
        }
    }
}
