//! Standard output: lines that stay, and one live line.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Stdout, Write};
use std::time::Duration;

/// Clears the line the cursor is on.
const CLEAR: &str = "\r\x1b[K";

/// A line longer than the terminal is wide is cut, not wrapped: wrapped, it could not be rewritten.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// Writes to standard output. Every error comes back, so that a reader that is gone (`| head`) ends
/// the program and does not panic it.
pub struct Console {
    out: Stdout,
    is_terminal: bool,
    live_line: bool,
}

impl Console {
    /// Standard output as it is: a terminal, or something that keeps every line.
    pub fn new() -> Console {
        let out = io::stdout();
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Console { is_terminal: out.is_terminal() && !dumb, out, live_line: false }
    }

    /// How often the live line is worth writing.
    pub fn live_period(&self) -> Duration {
        if self.is_terminal { Duration::from_millis(250) } else { Duration::from_secs(1) }
    }

    /// Writes lines that stay.
    pub fn say(&mut self, lines: impl Display) -> io::Result<()> {
        if self.live_line {
            self.live_line = false;
            self.out.write_all(CLEAR.as_bytes())?;
        }
        writeln!(self.out, "{lines}")?;
        self.out.flush()
    }

    /// Writes the live line: over the last one on a terminal, as a line elsewhere.
    pub fn live(&mut self, line: impl Display) -> io::Result<()> {
        if !self.is_terminal {
            return self.say(line);
        }
        self.live_line = true;
        write!(self.out, "{CLEAR}{NO_WRAP}{line}{WRAP}")?;
        self.out.flush()
    }
}
