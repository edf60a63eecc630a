//! Arguments in, exit code out.

mod arguments;
mod console;
mod demo;
mod failure;
mod library;
mod load;
mod proof;
mod run;

use std::process::ExitCode;

use arguments::{Arguments, Command};

/// Does what the command line asks for. Whatever goes wrong is one line on stderr.
pub fn main() -> ExitCode {
    let outcome = match Arguments::from_command_line() {
        Ok(None) => Ok(()),
        Ok(Some(Command::Demo(arguments))) => demo::demo(&arguments),
        Ok(Some(Command::Run(arguments))) => run::run(&arguments),
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
