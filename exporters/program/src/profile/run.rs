//! `slackwater profile run`: a program's profile as of its end.
//!
//! A process's memory is gone with it, so it has to be read before. The preload library connects to a
//! socket that it finds named in its environment when the program's exit handlers have run, and waits
//! until it is closed (preload/src/exit.rs); that is when the profile is read. A program that ends
//! without its exit handlers was last read within the second before. What is read goes into the file
//! meanwhile, too: who kills the program may kill this one with it.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use slackwater_exporters::attach::{AttachError, Target};
use slackwater_exporters::profile::reading::ProfileReading;

use super::super::arguments::{ProfileFormat, ProfileRunArguments, ResultArguments};
use super::super::executable;
use super::super::failure::Failure;
use super::super::output;
use super::super::run::{not_started, under_slackwater};
use super::super::signals::{self, Held};
use super::children::Children;
use super::form::{Form, render, write_beside};

/// How far the readings are apart that are for a sudden end.
const PERIOD: Duration = Duration::from_secs(1);

/// Writing takes one part in so many of the time.
const WRITE_SHARE: u32 = 20;

/// How often to look whether the program has ended.
const GLANCE: Duration = Duration::from_millis(20);

/// Names the socket to the preload library.
const VARIABLE: &str = "SLACKWATER_EXIT_SOCKET";

/// The program, as long as it runs; 0: it does not.
static PROGRAM: AtomicI32 = AtomicI32::new(0);

/// Runs the program and writes its profile; its exit code is the result.
pub fn run(arguments: &ProfileRunArguments) -> Result<ExitCode, Failure> {
    let mut command = under_slackwater(&arguments.command)?;
    let format = arguments.result.format();
    if format == ProfileFormat::Pprof && arguments.result.output.is_none() {
        return Err(Failure::bad_input("--format pprof: expected -o FILE"));
    }
    let form = Form { format, symbolize: arguments.result.symbolize };
    let no_socket = |error| Failure::broken(format_args!("a socket for the end: {error}"));
    // A folder that nobody else may look into.
    let folder = tempfile::tempdir().map_err(no_socket)?;
    let socket = folder.path().join("exit");
    let listener = UnixListener::bind(&socket).map_err(no_socket)?;
    listener.set_nonblocking(true).map_err(no_socket)?;
    let held = signals::hold();
    let mut child = start(command.env(VARIABLE, &socket), &held)
        .map_err(|error| not_started(command.get_program(), &error))?;
    PROGRAM.store(child.id() as libc::pid_t, Ordering::Relaxed);
    // Who sends this program a signal means that one.
    held.pass_on(|signal| {
        let program = PROGRAM.load(Ordering::Relaxed);
        if program != 0 {
            // SAFETY: a signal to a child that has not been waited for.
            unsafe { libc::kill(program, signal) };
        }
    });
    let mut files = Files::new(&arguments.result, form);
    let watched = watch(&mut child, &listener, &mut files);
    let (status, found) = watched
        .map_err(|error| Failure::broken(format_args!("process {}: {error}", child.id())))?;
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
        Found::Nothing(error) => Err(match (executable::obstacle(command.get_program()), error) {
            (Some(why), _) => Failure::broken(why),
            (None, Some(error)) => Failure::broken(error),
            (None, None) => Failure::broken(
                "the program ended without its exit handlers, before it could be read",
            ),
        }),
    };
    files.children.finish();
    written?;
    Ok(exit_code(status))
}

/// Starts the program. A script without a first line that names who runs it is the shell's, as for
/// `execvp`.
fn start(command: &mut Command, held: &Held) -> io::Result<Child> {
    held.leave_to(command);
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
            let program = executable::found_in_path(command.get_program());
            let variables = command.get_envs();
            let mut shell = Command::new("/bin/sh");
            held.leave_to(&mut shell);
            shell
                .arg(program.ok_or(error)?)
                .args(command.get_args())
                .envs(variables.filter_map(|(name, value)| Some((name, value?))))
                .spawn()
        }
        outcome => outcome,
    }
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
fn watch(
    child: &mut Child,
    listener: &UnixListener,
    files: &mut Files<'_>,
) -> io::Result<(ExitStatus, Found)> {
    let mut last: Option<(Box<ProfileReading>, Instant)> = None;
    let mut error = None;
    let mut next = Instant::now() + GLANCE;
    loop {
        while let Ok((stream, _)) = listener.accept() {
            let peer = peer(&stream);
            // A child of the program's has the socket's name, too.
            if let Some(process) = peer.filter(|&process| process != child.id()) {
                files.children.ends(process);
            }
            if peer == Some(child.id()) {
                let reading = read(child);
                drop(stream);
                let status = child.wait()?;
                PROGRAM.store(0, Ordering::Relaxed);
                match reading {
                    Ok(reading) => return Ok((status, Found::AtTheEnd(reading))),
                    Err(found) => error = Some(found),
                }
                return Ok((status, found(last, error)));
            }
        }
        if let Some(status) = child.try_wait()? {
            PROGRAM.store(0, Ordering::Relaxed);
            return Ok((status, found(last, error)));
        }
        let now = Instant::now();
        if now >= next {
            next = now + PERIOD;
            match read(child) {
                Ok(reading) => last = Some((reading, now)),
                Err(found) => error = Some(found),
            }
            files.children.look(child.id());
            files.write(last.as_ref().map(|(reading, _)| &**reading));
        }
        wait_for_a_caller(listener);
    }
}

/// Waits until somebody connects, or it is time to look elsewhere.
fn wait_for_a_caller(listener: &UnixListener) {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one valid entry.
    unsafe { libc::poll(&mut poll, 1, GLANCE.as_millis() as libc::c_int) };
}

fn found(last: Option<(Box<ProfileReading>, Instant)>, error: Option<AttachError>) -> Found {
    match last {
        Some((reading, time)) => Found::Before(reading, time.elapsed()),
        None => Found::Nothing(error.filter(|error| !error.is_gone())),
    }
}

fn read(child: &Child) -> Result<Box<ProfileReading>, AttachError> {
    Target::open(child.id())?.reading().map(Box::new)
}

/// The process at the other end.
fn peer(stream: &UnixStream) -> Option<u32> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `found` is a valid place of `bytes` bytes for what this option is.
    let outcome = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &mut bytes,
        )
    };
    (outcome == 0).then_some(found.pid as u32)
}

/// As shells have it: 128 and the signal, for a program that a signal ended.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(code as u8)
}
