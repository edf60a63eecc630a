//! The command line.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use glob::Pattern;
use slackwater_exporters::http::Address;
use slackwater_exporters::profile::kind::Kind;

use super::failure::Failure;

/// A hundred years; more is a mistake, and would overflow the clock.
const MAX_SECONDS: u64 = 100 * 366 * 24 * 3600;

/// The kernel's process ids are positive numbers of 32 bits with a sign.
const MAX_PROCESS: u32 = i32::MAX as u32;

/// How far observations of `top` may be apart, in seconds.
pub const SHORTEST_INTERVAL: f64 = 0.1;
pub const LONGEST_INTERVAL: f64 = 3600.0;

/// What every man page and every long help ends with.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it began and could not go on, as when the process that is watched has ended
  2  the command asks for what cannot be; one line on standard error names the value and what
     was expected
  `slackwater run` has the exit code of its program.";

/// What those of the doctor end with.
const DOCTOR_EXIT_CODES: &str = "\
Exit codes:
  0  memory will be given back, maybe with less than all there is
  1  it will not; the last line says for want of what
  2  the command asks for what cannot be; one line on standard error names the value and what
     was expected
  A program that is run and does not end with 0 has its own exit code here, too.";

/// A memory allocator that gives memory back by itself, and shows where every page is.
#[derive(Debug, Parser)]
#[command(
    name = "slackwater",
    version,
    args_conflicts_with_subcommands = true,
    after_long_help = EXIT_CODES,
    override_usage = "slackwater [demo] [--listen ADDR] [--seconds N] [--perf]\n       \
                      slackwater run [--summary] -- CMD ARGS...\n       \
                      slackwater top|report|snapshot PID\n       \
                      slackwater diff A B\n       \
                      slackwater flame PID [--kind KIND] [-o FILE]\n       \
                      slackwater profile PID [-o FILE]\n       \
                      slackwater profile run [-o FILE] -- CMD ARGS...\n       \
                      slackwater export [--listen ADDR]\n       \
                      slackwater doctor [-- CMD ARGS...]\n       \
                      slackwater completions SHELL\n       \
                      slackwater man [-o DIR]"
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
    #[command(override_usage = "slackwater demo [--listen ADDR] [--seconds N] [--perf]")]
    Demo(DemoArguments),
    /// Run any program under Slackwater, unchanged
    #[command(override_usage = "slackwater run [--summary] -- CMD ARGS...")]
    Run(RunArguments),
    /// Watch a process: RSS and what it is made of, what is given back, and how fast
    ///
    /// Nothing is injected into the process and nothing is stopped; it may hang. Without --once and
    /// --json this is a full-screen view for a terminal; its keys are shown at the bottom.
    #[command(
        override_usage = "slackwater top PID [--interval SECONDS] [--once] [--json]",
        after_long_help = EXIT_CODES
    )]
    Top(TopArguments),
    /// Say why a process's RSS is what it is, what would be released, and what looks wrong
    #[command(
        override_usage = "slackwater report PID [--seconds N | --perf N]",
        after_long_help = EXIT_CODES
    )]
    Report(ReportArguments),
    /// Save the figures of a process as JSON
    #[command(override_usage = "slackwater snapshot PID [-o FILE]", after_long_help = EXIT_CODES)]
    Snapshot(SnapshotArguments),
    /// Say what changed between two saved snapshots
    #[command(override_usage = "slackwater diff A B [--json]", after_long_help = EXIT_CODES)]
    Diff(DiffArguments),
    /// Draw where a process's memory comes from, as a flamegraph (SVG)
    #[command(
        override_usage = "slackwater flame PID [--kind KIND] [--seconds N] [-o FILE]",
        after_long_help = EXIT_CODES
    )]
    Flame(FlameArguments),
    /// Save a profile of a process: what is live, and what was ever allocated, by call site
    ///
    /// Figures are estimates from samples. Nothing is injected into the process and nothing is
    /// stopped.
    #[command(
        override_usage = "slackwater profile PID [--seconds N] [-o FILE] [--format FORMAT]\n       \
                          slackwater profile run [-o FILE] [--format FORMAT] -- CMD ARGS...",
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_long_help = EXIT_CODES
    )]
    Profile(ProfileArguments),
    /// Serve /metrics for all processes of this host that can be read
    ///
    /// Each series has the labels pid, comm (the process's name) and container (the short id of its
    /// container, or nothing). With --by they have one label instead, and processes that have the same
    /// are one: counters are summed and keep what ended processes counted, sizes are summed over those
    /// that are there, ages and states are the largest, and the figures of a control group are those of
    /// the process that is nearest to its limit; slackwater_build_info is the number of processes.
    /// Processes that have ended are not in
    /// the next scrape. Reading processes of other users takes the capability CAP_SYS_PTRACE.
    #[command(
        override_usage = "slackwater export [--listen ADDR] [--by LABEL] [--match PATTERN]... \
                          [--except PATTERN]... [--min-rss SIZE]",
        after_long_help = EXIT_CODES
    )]
    Export(ExportArguments),
    /// Look at this machine, or at a program on it, and say what of Slackwater will work
    ///
    /// A line for each thing that Slackwater asks of a system: kernel features, limits, filters of system
    /// calls, huge pages, the control group, the preload library. `ok`: it is there. `less`: some of it is
    /// not, and the line says what that costs. `no`: it is not there. What is told holds for programs that
    /// are started from here, for they inherit limits, filters and groups. With CMD, its file is looked at,
    /// too; then it is run under the preload library to its end, as `slackwater run` does it, and what its
    /// heap did is told.
    #[command(
        override_usage = "slackwater doctor [--json] [-- CMD ARGS...]",
        after_long_help = DOCTOR_EXIT_CODES
    )]
    Doctor(DoctorArguments),
    /// Write a completion script for a shell to standard output
    #[command(override_usage = "slackwater completions SHELL", after_long_help = EXIT_CODES)]
    Completions(CompletionsArguments),
    /// Write the man page to standard output, or all man pages into a folder
    #[command(override_usage = "slackwater man [-o DIR]", after_long_help = EXIT_CODES)]
    Man(ManArguments),
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
    /// Count perf events in the allocator's slow sections (slackwater_perf_events_total)
    #[arg(long)]
    pub perf: bool,
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

/// `slackwater top`.
#[derive(Args, Debug)]
pub struct TopArguments {
    /// The process
    #[arg(value_name = "PID", value_parser = process)]
    pub process: u32,
    /// How far observations are apart
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: Duration,
    /// Print one view as plain text; its rates are over one interval
    #[arg(long)]
    pub once: bool,
    /// Print one JSON object for each observation, or with --once just one
    #[arg(long)]
    pub json: bool,
}

/// `slackwater report`.
#[derive(Args, Debug)]
pub struct ReportArguments {
    /// The process
    #[arg(value_name = "PID", value_parser = process)]
    pub process: u32,
    /// Look again after this many seconds, and say what grew
    #[arg(long, value_name = "N", value_parser = seconds)]
    pub seconds: Option<u64>,
    /// The same, and count what its threads do in them: time on a processor, page faults, context
    /// switches, and cycles, instructions and misses where the machine has counters for them
    #[arg(long, value_name = "N", value_parser = seconds, conflicts_with = "seconds")]
    pub perf: Option<u64>,
}

/// `slackwater snapshot`.
#[derive(Args, Debug)]
pub struct SnapshotArguments {
    /// The process
    #[arg(value_name = "PID", value_parser = process)]
    pub process: u32,
    /// The file to write, whole or not at all; standard output without it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `slackwater diff`.
#[derive(Args, Debug)]
pub struct DiffArguments {
    /// The older snapshot
    #[arg(value_name = "A")]
    pub before: PathBuf,
    /// The newer one
    #[arg(value_name = "B")]
    pub after: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `slackwater flame`.
#[derive(Args, Debug)]
pub struct FlameArguments {
    /// The process
    #[arg(value_name = "PID", value_parser = process)]
    pub process: u32,
    /// What it is of: live, alloc, peak, fragmentation or release
    #[arg(long, value_name = "KIND", default_value = "live")]
    pub kind: Kind,
    /// Look again after this many seconds: draw what was added, or what changed
    #[arg(long, value_name = "N", value_parser = seconds)]
    pub seconds: Option<u64>,
    /// The file to write, whole or not at all; standard output without it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `slackwater profile`.
#[derive(Args, Debug)]
pub struct ProfileArguments {
    #[command(subcommand)]
    pub run: Option<ProfileCommand>,
    /// The process
    #[arg(value_name = "PID", value_parser = process, required = true)]
    pub process: Option<u32>,
    /// Look again after this many seconds: what happened in between
    #[arg(long, value_name = "N", value_parser = seconds)]
    pub seconds: Option<u64>,
    #[command(flatten)]
    pub result: ResultArguments,
}

/// `slackwater profile run`.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// Run any program under Slackwater, unchanged, and save its profile when it ends
    ///
    /// The profile is read when the program has run its exit handlers. A program that ends without
    /// them (by a signal, or by _exit) was last read up to a second before. Without -o the profile is
    /// a table on standard error. With it the file is written as it goes, and each child of the program
    /// that allocates has a file beside it: p.1234.pb.gz beside p.pb.gz.
    #[command(
        override_usage = "slackwater profile run [-o FILE] [--format FORMAT] -- CMD ARGS...",
        after_long_help = EXIT_CODES
    )]
    Run(ProfileRunArguments),
}

/// `slackwater profile run`.
#[derive(Args, Debug)]
pub struct ProfileRunArguments {
    #[command(flatten)]
    pub result: ResultArguments,
    /// The program and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// Where a profile goes.
#[derive(Args, Debug)]
pub struct ResultArguments {
    /// The file to write, whole or not at all
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// pprof (profile.proto, gzipped), folded (live bytes by stack; what the profile lacks is told on
    /// standard error) or text (a table); without it, pprof for a file and text elsewhere
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub format: Option<ProfileFormat>,
    /// Whether to look names up: local, or none (what reads the profile looks them up, where it has the
    /// program's files)
    #[arg(long, value_name = "WHERE", default_value = "local", value_parser = symbolize)]
    pub symbolize: Symbolize,
}

/// Where the names of functions are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbolize {
    /// Nowhere: by whoever reads the profile.
    None,
    /// Here.
    Local,
}

/// How a profile is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileFormat {
    /// Gzipped `profile.proto`.
    Pprof,
    /// A line for each stack.
    Folded,
    /// A table of call sites.
    Text,
}

/// `slackwater export`.
#[derive(Args, Debug)]
pub struct ExportArguments {
    /// Where /metrics is served: IP:PORT (port 0 takes any free one) or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9465")]
    pub listen: Address,
    /// What tells series apart: pid, or one of comm, cgroup (the control group's path) and unit (of
    /// systemd, or nothing)
    #[arg(long, value_name = "LABEL", default_value = "pid", value_parser = by)]
    pub by: By,
    /// Processes of such a name alone: a pattern with * and ?, like 'redis*'; may be repeated
    #[arg(long = "match", value_name = "PATTERN", value_parser = pattern)]
    pub matching: Vec<Pattern>,
    /// No processes of such a name; may be repeated
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub except: Vec<Pattern>,
    /// No processes whose RSS has never been that large: bytes, or with K, M or G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub min_rss: Option<u64>,
}

/// What `slackwater export` tells series apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Each process for itself.
    Pid,
    /// Processes of one name.
    Comm,
    /// Processes of one control group.
    Cgroup,
    /// Processes of one unit of systemd.
    Unit,
}

/// `slackwater doctor`.
#[derive(Args, Debug)]
pub struct DoctorArguments {
    /// Print one JSON object, behind what the program prints
    #[arg(long)]
    pub json: bool,
    /// A program to look at and to run, and its arguments
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// `slackwater completions`.
#[derive(Args, Debug)]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// `slackwater man`.
#[derive(Args, Debug)]
pub struct ManArguments {
    /// The folder for the pages of the program and of each of its commands
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

impl Arguments {
    /// The command line as data, for those who describe it.
    pub fn definition() -> clap::Command {
        let mut definition = Arguments::command();
        // Names and usages of commands as they are in messages.
        definition.build();
        definition
    }

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

fn process(text: &str) -> Result<u32, &'static str> {
    match text.parse() {
        Ok(process @ 1..=MAX_PROCESS) => Ok(process),
        _ => Err("expected the id of a process, like 1234"),
    }
}

fn format(text: &str) -> Result<ProfileFormat, &'static str> {
    match text {
        "pprof" => Ok(ProfileFormat::Pprof),
        "folded" => Ok(ProfileFormat::Folded),
        "text" => Ok(ProfileFormat::Text),
        _ => Err("expected pprof, folded or text"),
    }
}

fn symbolize(text: &str) -> Result<Symbolize, &'static str> {
    match text {
        "none" => Ok(Symbolize::None),
        "local" => Ok(Symbolize::Local),
        _ => Err("expected none or local"),
    }
}

fn by(text: &str) -> Result<By, &'static str> {
    match text {
        "pid" => Ok(By::Pid),
        "comm" => Ok(By::Comm),
        "cgroup" => Ok(By::Cgroup),
        "unit" => Ok(By::Unit),
        _ => Err("expected pid, comm, cgroup or unit"),
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    let expected = "expected a name, or a pattern like 'redis*'";
    match Pattern::new(text) {
        _ if text.is_empty() => Err(expected.to_string()),
        Ok(pattern) => Ok(pattern),
        Err(error) => Err(format!("{expected} ({} at {})", error.msg, error.pos)),
    }
}

fn size(text: &str) -> Result<u64, &'static str> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number = digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or("expected a number of bytes, like 65536, 64K, 100M or 2G")
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(format!(
            "expected seconds from {SHORTEST_INTERVAL} to {LONGEST_INTERVAL}, like 0.5"
        )),
    }
}

#[cfg(test)]
mod tests {
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
