//! `slackwater completions`: what a shell needs to complete our command line.

use super::arguments::{Arguments, CompletionsArguments};
use super::failure::Failure;
use super::output;

/// Writes a shell's completion script to standard output.
pub fn completions(arguments: &CompletionsArguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut Arguments::definition(),
        "slackwater",
        &mut script,
    );
    output::print(&String::from_utf8_lossy(&script))
}
