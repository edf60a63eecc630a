//! What the programs that compare allocators share: the options that all of them take, and how they
//! end.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::rows::positive;

/// The options of every comparison.
#[derive(Debug)]
pub struct Options {
    /// How often everything is run.
    pub rounds: usize,
    /// Where each allocator's build is, in a folder of its name.
    pub built: PathBuf,
    /// Only say which allocators are to be built.
    pub only_allocators: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { rounds: 5, built: PathBuf::from("target/bench"), only_allocators: false }
    }
}

impl Options {
    /// Takes `argument`, with its value from `rest`, if it is one of these options. `false`: it is
    /// not.
    pub fn take(
        &mut self,
        argument: &str,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<bool, String> {
        match argument {
            "--rounds" => self.rounds = positive(argument, rest.next())?,
            "--built" => self.built = rest.next().ok_or("--built needs a folder")?.into(),
            "--only-allocators" => self.only_allocators = true,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The exit code of a comparison: whether all that was checked went well, or what was wrong with the
/// call, which goes to stderr.
pub fn exit_code(outcome: Result<bool, String>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}
