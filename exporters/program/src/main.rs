//! The program `slackwater`: shows the allocator at work, runs other programs under it, and looks at any
//! process that has it from outside. Arguments in, exit code out.
//!
//! `slackwater --help` says what there is; each subcommand is a file or folder beside this one.

mod amounts;
mod arguments;
mod completions;
mod console;
mod demo;
mod descriptors;
mod diff;
mod doctor;
mod executable;
mod export;
mod failure;
mod figures;
mod flame;
mod library;
mod load;
mod man;
mod output;
mod profile;
mod proof;
mod report;
mod run;
mod saved;
mod signals;
mod snapshot;
mod top;
mod watched;

use std::process::ExitCode;

use arguments::{Arguments, Command};

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// Does what the command line asks for. Whatever goes wrong is one line on stderr.
fn main() -> ExitCode {
    let outcome = match Arguments::from_command_line() {
        Ok(None) => Ok(()),
        Ok(Some(Command::Demo(arguments))) => demo::demo(&arguments),
        Ok(Some(Command::Run(arguments))) => run::run(&arguments),
        Ok(Some(Command::Top(arguments))) => top::top(&arguments),
        Ok(Some(Command::Report(arguments))) => report::report(&arguments),
        Ok(Some(Command::Snapshot(arguments))) => snapshot::snapshot(&arguments),
        Ok(Some(Command::Diff(arguments))) => diff::diff(&arguments),
        Ok(Some(Command::Flame(arguments))) => flame::flame(&arguments),
        Ok(Some(Command::Profile(arguments))) => match profile::profile(&arguments) {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        Ok(Some(Command::Doctor(arguments))) => match doctor::doctor(&arguments) {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        Ok(Some(Command::Export(arguments))) => export::export(&arguments),
        Ok(Some(Command::Completions(arguments))) => completions::completions(&arguments),
        Ok(Some(Command::Man(arguments))) => man::man(&arguments),
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
