//! `slackwater profile`: where a process's memory comes from, for `pprof` and for people.

mod children;
mod form;
mod run;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use slackwater_exporters::attach::Target;
use slackwater_exporters::profile::lacks::lacks;
use slackwater_exporters::profile::names::Names;

use super::arguments::{ProfileArguments, ProfileCommand, ProfileFormat, ResultArguments};
use super::failure::Failure;
use super::flame::look;
use super::output;
use form::{Form, render};

/// Writes the profile of a process, or of a program that is run for it. The exit code is that of the
/// program.
pub fn profile(arguments: &ProfileArguments) -> Result<ExitCode, Failure> {
    if let Some(ProfileCommand::Run(arguments)) = &arguments.run {
        return run::run(arguments);
    }
    let Some(process) = arguments.process else {
        return Err(Failure::bad_input("expected the id of a process, or run"));
    };
    let form = Form { format: format(&arguments.result)?, symbolize: arguments.result.symbolize };
    let mut target = Target::open(process).map_err(Failure::not_opened)?;
    let (before, after) = look(&mut target, arguments.seconds)?;
    let content = render(form, before.as_ref(), &after);
    if form.format == ProfileFormat::Folded {
        // The format has no place for it.
        for line in lacks(&after.profile, &Names::default()) {
            let _ = writeln!(io::stderr(), "slackwater: {line}");
        }
    }
    output::write_or_print(arguments.result.output.as_deref(), content)?;
    Ok(ExitCode::SUCCESS)
}

/// The format that is meant. What nobody can read is not written to a terminal.
fn format(arguments: &ResultArguments) -> Result<ProfileFormat, Failure> {
    let format = arguments.format();
    if format == ProfileFormat::Pprof && arguments.file().is_none() && io::stdout().is_terminal() {
        return Err(Failure::bad_input(
            "--format pprof: standard output is a terminal; expected -o FILE, or --format text",
        ));
    }
    Ok(format)
}
