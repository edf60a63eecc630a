//! What the programs that compare allocators share: the options that all of them take, and how they
//! end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::measurements::{Figure, Measurements};
use super::ratios::Ratios;
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

/// The value after `flag`.
pub fn value(flag: &str, rest: &mut impl Iterator<Item = String>) -> Result<String, String> {
    rest.next().ok_or_else(|| format!("{flag} needs something after it"))
}

/// The files that a comparison writes beside its report.
#[derive(Debug, Default)]
pub struct Files {
    /// For every single measurement.
    csv: Option<PathBuf>,
    /// For the picture of all rows.
    plot: Option<PathBuf>,
}

impl Files {
    /// As [`Options::take`].
    pub fn take(
        &mut self,
        argument: &str,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<bool, String> {
        match argument {
            "--csv" => self.csv = Some(value(argument, rest)?.into()),
            "--plot" => self.plot = Some(value(argument, rest)?.into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Writes what was asked for.
    pub fn write(
        &self,
        measurements: &Measurements,
        rows: &[String],
        contenders: &[&'static str],
        figure: Figure,
    ) -> Result<(), String> {
        if let Some(csv) = &self.csv {
            write(csv, &measurements.csv())?;
        }
        if let Some(plot) = &self.plot {
            write(plot, &Ratios { measurements, rows, contenders, figure }.svg())?;
        }
        Ok(())
    }
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_takes_its_own_arguments_and_no_others() {
        let (mut options, mut files) = (Options::default(), Files::default());
        let mut rest = ["7".to_owned()].into_iter();
        assert_eq!(options.take("--rounds", &mut rest), Ok(true));
        assert_eq!(options.rounds, 7);
        assert_eq!(options.take("--csv", &mut rest), Ok(false));
        assert!(files.take("--csv", &mut rest).unwrap_err().starts_with("--csv needs"));
        assert_eq!(files.take("--rounds", &mut rest), Ok(false));
    }
}
