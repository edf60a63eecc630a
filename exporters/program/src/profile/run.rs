//! `slackwater profile run`: a program's profile as of its end.
//!
//! It is read when the program has run its exit handlers. One that ends without them was last read within the
//! second before. What is read goes into the file meanwhile, too: who kills the program may kill this one with it.

use std::io::{self, Write};
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use slackwater_exporters::attach::{AttachError, Target};
use slackwater_exporters::profile::reading::ProfileReading;

use super::super::arguments::{ProfileFormat, ProfileRunArguments, ResultArguments};
use super::super::executable;
use super::super::failure::Failure;
use super::super::output;
use super::super::run::under_slackwater;
use super::super::watched::{Event, GLANCE, Watched, exit_code};
use super::children::Children;
use super::form::{Form, render, write_beside};

/// How far the readings are apart that are for a sudden end.
const PERIOD: Duration = Duration::from_secs(1);

/// Writing takes one part in so many of the time.
const WRITE_SHARE: u32 = 20;

/// Runs the program and writes its profile; its exit code is the result.
pub fn run(arguments: &ProfileRunArguments) -> Result<ExitCode, Failure> {
    let command = under_slackwater(&arguments.command)?;
    let format = arguments.result.format();
    if format == ProfileFormat::Pprof && arguments.result.output.is_none() {
        return Err(Failure::bad_input("--format pprof: expected -o FILE"));
    }
    let form = Form { format, symbolize: arguments.result.symbolize };
    let name = command.get_program().to_owned();
    let mut program = Watched::start(command)?;
    let mut files = Files::new(&arguments.result, form);
    let watched = watch(&mut program, &mut files);
    let (status, found) = watched
        .map_err(|error| Failure::broken(format_args!("process {}: {error}", program.id())))?;
    let written = match found {
        Found::AtTheEnd(reading) => write_beside(&arguments.result, &render(form, None, &reading)),
        Found::Before(reading, age) => {
            let _ = writeln!(
                io::stderr(),
                "slackwater: the program ended without its exit handlers; its profile is as of \
                 {:.1} s before",
                age.as_secs_f64()
            );
            write_beside(&arguments.result, &render(form, None, &reading))
        }
        Found::Nothing(error) => Err(match (executable::obstacle(&name), error) {
            (Some(why), _) => Failure::broken(why),
            (None, Some(error)) => Failure::broken(error),
            (None, None) => Failure::broken(
                "the program ended without its exit handlers, before it could be read",
            ),
        }),
    };
    files.children.finish();
    written?;
    Ok(ExitCode::from(exit_code(status)))
}

/// What could be read of a program.
enum Found {
    AtTheEnd(Box<ProfileReading>),
    /// So long before it.
    Before(Box<ProfileReading>, Duration),
    /// And why not.
    Nothing(Option<AttachError>),
}

/// What is written while the program runs.
struct Files<'a> {
    result: &'a ResultArguments,
    form: Form,
    children: Children<'a>,
    next_write: Instant,
}

impl<'a> Files<'a> {
    fn new(result: &'a ResultArguments, form: Form) -> Files<'a> {
        let children = Children::new(result.file(), form);
        Files { result, form, children, next_write: Instant::now() }
    }

    /// Writes what is known now; where that takes long, more rarely. What goes into a pipe goes there
    /// once, at the end, and it is then, too, that a file which cannot be written is told of.
    fn write(&mut self, program: Option<&ProfileReading>) {
        let begin = Instant::now();
        let Some(output) = &self.result.output else { return };
        if begin < self.next_write || !output::is_a_file(output) {
            return;
        }
        if let Some(reading) = program {
            let _ = output::write_file(output, render(self.form, None, reading));
        }
        self.children.write();
        self.next_write = Instant::now() + begin.elapsed() * WRITE_SHARE;
    }
}

/// Reads the program and its children now and then, and at their ends.
fn watch(program: &mut Watched, files: &mut Files<'_>) -> io::Result<(ExitStatus, Found)> {
    let mut last: Option<(Box<ProfileReading>, Instant)> = None;
    let mut error = None;
    let mut next = Instant::now() + GLANCE;
    loop {
        match program.next_event()? {
            Event::ChildEnds(process, _waits) => files.children.ends(process),
            Event::Ends(waits) => {
                let reading = read(program.id());
                drop(waits);
                let status = program.wait()?;
                return Ok((
                    status,
                    match reading {
                        Ok(reading) => Found::AtTheEnd(reading),
                        Err(error) => found(last, Some(error)),
                    },
                ));
            }
            Event::Ended(status) => return Ok((status, found(last, error))),
            Event::Nothing => {}
        }
        let now = Instant::now();
        if now >= next {
            next = now + PERIOD;
            match read(program.id()) {
                Ok(reading) => last = Some((reading, now)),
                Err(found) => error = Some(found),
            }
            files.children.look(program.id());
            files.write(last.as_ref().map(|(reading, _)| &**reading));
        }
    }
}

fn found(last: Option<(Box<ProfileReading>, Instant)>, error: Option<AttachError>) -> Found {
    match last {
        Some((reading, time)) => Found::Before(reading, time.elapsed()),
        None => Found::Nothing(error.filter(|error| !error.is_gone())),
    }
}

fn read(process: u32) -> Result<Box<ProfileReading>, AttachError> {
    Target::open(process)?.reading().map(Box::new)
}
