//! `slackwater run`: any program under the preload library.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::arguments::RunArguments;
use super::executable;
use super::failure::Failure;
use super::library;

/// Replaces this process by the program, so that its signals, its terminal and its exit code are
/// its own and nothing stands between it and its parent. Returns only when that failed.
pub fn run(arguments: &RunArguments) -> Result<(), Failure> {
    let mut command = under_slackwater(&arguments.command)?;
    if arguments.summary {
        command.env("SLACKWATER_SUMMARY", "1");
    }
    if let Some(why) = executable::obstacle(command.get_program()) {
        // It runs all the same. Where nobody hears it, nobody is told.
        let _ = writeln!(io::stderr(), "slackwater: {why}");
    }
    let error = command.exec();
    Err(not_started(command.get_program(), &error))
}

/// A program and its arguments, under the preload library.
pub fn under_slackwater(command: &[OsString]) -> Result<Command, Failure> {
    let mut preload = library::find()?.into_os_string();
    if let Some(already) = env::var_os("LD_PRELOAD").filter(|value| !value.is_empty()) {
        preload.push(":");
        preload.push(already);
    }
    let (program, rest) = match command.split_first() {
        Some((program, rest)) if !program.is_empty() => (program, rest),
        _ => return Err(Failure::bad_input("'': expected the name of a program")),
    };
    let mut command = Command::new(program);
    command.args(rest).env("LD_PRELOAD", preload);
    Ok(command)
}

/// Why a program could not be started.
pub fn not_started(program: &OsStr, error: &io::Error) -> Failure {
    let why = executable::obstacle(program);
    let is_there = Path::new(program).is_file();
    let program = program.to_string_lossy();
    Failure::bad_input(match error.kind() {
        io::ErrorKind::NotFound if is_there => format!(
            "{program}: what it is to be run by is not there; expected the loader or the \
             interpreter that it names"
        ),
        io::ErrorKind::NotFound => {
            format!("{program}: no such program; expected a path or a name found in PATH")
        }
        io::ErrorKind::PermissionDenied => {
            format!("{program}: permission denied; expected an executable file")
        }
        _ => match why {
            Some(why) => format!("{program}: cannot be run: {error}: {why}"),
            None => format!("{program}: cannot be run: {error}"),
        },
    })
}
