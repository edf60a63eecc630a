//! What the program says when it cannot do what was asked.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use slackwater_exporters::attach::AttachError;
use slackwater_exporters::http::Address;

/// The exit code of bad input: an unknown flag, a taken port, a missing program or process.
const BAD_INPUT: u8 = 2;

/// The exit code of everything else that goes wrong.
const BROKEN: u8 = 1;

/// One line for the person who typed the command, and the exit code that goes with it.
#[derive(Debug)]
pub struct Failure {
    line: String,
    code: u8,
}

impl Failure {
    /// The command asks for something that cannot be: `line` names the value and what was expected.
    pub fn bad_input(line: impl Display) -> Failure {
        Failure { line: one_line(&line.to_string()), code: BAD_INPUT }
    }

    /// The command was right and the system does not go along.
    pub fn broken(line: impl Display) -> Failure {
        Failure { line: one_line(&line.to_string()), code: BROKEN }
    }

    /// The process named on the command line cannot be read.
    pub fn not_opened(error: AttachError) -> Failure {
        let expected = if error.is_gone() { "; expected the id of a running process" } else { "" };
        Failure::bad_input(format_args!("{error}{expected}"))
    }

    /// The address of the flag `--listen` cannot be had.
    pub fn not_listening(address: &Address, error: &io::Error) -> Failure {
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => "the address is in use".to_string(),
            _ => error.to_string(),
        };
        Failure::bad_input(format_args!(
            "--listen {address}: {why}; expected a free address of this machine, like 127.0.0.1:0"
        ))
    }

    /// A process that could be read cannot be any more: most often, it has ended.
    pub fn not_read(error: AttachError) -> Failure {
        Failure::broken(error)
    }

    /// The line, where it is told among others.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Writes the line to stderr and returns the exit code.
    pub fn report(&self) -> ExitCode {
        // With stderr closed there is nobody to tell; the exit code still speaks.
        let _ = writeln!(io::stderr(), "slackwater: {}", self.line);
        ExitCode::from(self.code)
    }
}

/// Values come from the command line and may hold anything; a line stays a line, and no escape
/// sequence reaches the terminal.
fn one_line(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(Failure::bad_input("a\n\x1b[31m  b\r\nc").line, "a [31m b c");
    }
}
