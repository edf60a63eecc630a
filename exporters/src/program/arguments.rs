//! The command line.

use std::ffi::OsString;
use std::io;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use slackwater_exporters::http::Address;

use super::failure::Failure;

/// A hundred years; more is a mistake, and would overflow the clock.
const MAX_SECONDS: u64 = 100 * 366 * 24 * 3600;

/// A memory allocator that gives memory back by itself, and shows where every page is.
#[derive(Debug, Parser)]
#[command(
    name = "slackwater",
    version,
    args_conflicts_with_subcommands = true,
    override_usage = "slackwater [demo] [--listen ADDR] [--seconds N]\n       \
                      slackwater run [--summary] -- CMD ARGS..."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: DemoArguments,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a small service with a burst/idle load under Slackwater (this is the default)
    #[command(override_usage = "slackwater demo [--listen ADDR] [--seconds N]")]
    Demo(DemoArguments),
    /// Run any program under Slackwater, unchanged
    #[command(override_usage = "slackwater run [--summary] -- CMD ARGS...")]
    Run(RunArguments),
}

/// `slackwater demo`.
#[derive(Args, Debug)]
pub struct DemoArguments {
    /// Where the page and /metrics are served: IP:PORT (port 0 takes any free one) or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9464")]
    pub listen: Address,
    /// Stop after this many seconds instead of at Ctrl-C
    #[arg(long, value_name = "N", value_parser = seconds)]
    pub seconds: Option<u64>,
}

/// `slackwater run`.
#[derive(Args, Debug)]
pub struct RunArguments {
    /// Let the program end with the allocator's summary on stderr
    #[arg(long)]
    pub summary: bool,
    /// The program and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

impl Arguments {
    /// Reads the command line. `None`: it asked for help or the version, and has been answered.
    pub fn from_command_line() -> Result<Option<Command>, Failure> {
        match Arguments::try_parse() {
            Ok(arguments) => Ok(Some(arguments.command.unwrap_or(Command::Demo(arguments.demo)))),
            Err(error)
                if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
            {
                match error.print() {
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                        Err(Failure::broken(format_args!("standard output: {error}")))
                    }
                    _ => Ok(None),
                }
            }
            Err(error) => Err(Failure::bad_input(in_one_line(&error))),
        }
    }
}

/// clap's message is a line that names the value, then paragraphs of advice. The line is kept, with
/// the usage as what was expected.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    // Not at the first empty line: the value may have one.
    let advice = ["\n\n  tip: ", "\n\nUsage: ", "\n\nFor more information"];
    let end = advice.iter().filter_map(|start| text.find(start)).min().unwrap_or(text.len());
    let message = text[..end].trim_start_matches("error: ");
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    match usage.strip_prefix("Usage: ") {
        Some(usage) => format!("{message}; usage: {}", usage.replace("\n ", " or")),
        None if message.contains("expected") => message.to_string(),
        None => format!("{message}; slackwater --help says what is expected"),
    }
}

fn seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seconds @ 1..=MAX_SECONDS) => Ok(seconds),
        _ => Err(format!("expected a whole number of seconds from 1 to {MAX_SECONDS}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn everything_after_the_program_is_the_programs() {
        for line in [
            &["slackwater", "run", "--summary", "--", "ls", "--summary", "-l"][..],
            &["slackwater", "run", "--summary", "ls", "--summary", "-l"],
        ] {
            let arguments = Arguments::try_parse_from(line).expect("good arguments");
            let Some(Command::Run(run)) = arguments.command else { panic!("{line:?} is a run") };
            assert!(run.summary);
            assert_eq!(run.command, ["ls", "--summary", "-l"]);
        }
    }

    #[test]
    fn without_a_command_the_flags_are_the_demos() {
        let line = ["slackwater", "--listen", "localhost:0", "--seconds", "8"];
        let arguments = Arguments::try_parse_from(line).expect("good arguments");
        assert!(arguments.command.is_none());
        assert_eq!(arguments.demo.listen, Address::Tcp(([127, 0, 0, 1], 0).into()));
        assert_eq!(arguments.demo.seconds, Some(8));
    }
}
