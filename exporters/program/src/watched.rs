//! A program that is run, and looked at from outside until it ends.
//!
//! A process's memory is gone with it, so it has to be read before. The preload library connects to a
//! socket that it finds named in its environment when the program's exit handlers have run, and waits
//! until it is closed (preload/src/exit.rs). A program that ends without its exit handlers never does.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::executable;
use super::failure::Failure;
use super::run::not_started;
use super::signals::{self, Held};

/// How often to look whether the program has ended.
pub const GLANCE: Duration = Duration::from_millis(20);

/// Names the socket to the preload library.
const VARIABLE: &str = "SLACKWATER_EXIT_SOCKET";

/// The program, as long as it runs; 0: it does not.
static PROGRAM: AtomicI32 = AtomicI32::new(0);

/// The one program that this process runs.
pub struct Watched {
    child: Child,
    listener: UnixListener,
    /// Where the socket is; gone with this.
    _folder: TempDir,
}

/// What has become of it.
pub enum Event {
    /// It has run its exit handlers, and waits until this is dropped.
    Ends(UnixStream),
    /// The same of a process that it started, or they did.
    ChildEnds(u32, UnixStream),
    /// It has ended.
    Ended(ExitStatus),
    /// Nothing, for a moment.
    Nothing,
}

impl Watched {
    /// Starts it. Who sends this process a signal from now on means the program.
    pub fn start(mut command: Command) -> Result<Watched, Failure> {
        let no_socket = |error| Failure::broken(format_args!("a socket for the end: {error}"));
        // A folder that nobody else may look into.
        let folder = tempfile::tempdir().map_err(no_socket)?;
        let socket = folder.path().join("exit");
        let listener = UnixListener::bind(&socket).map_err(no_socket)?;
        listener.set_nonblocking(true).map_err(no_socket)?;
        let held = signals::hold();
        let child = start(command.env(VARIABLE, &socket), &held)
            .map_err(|error| not_started(command.get_program(), &error))?;
        PROGRAM.store(child.id() as libc::pid_t, Ordering::Relaxed);
        held.pass_on(|signal| {
            let program = PROGRAM.load(Ordering::Relaxed);
            if program != 0 {
                // SAFETY: a signal to a child that has not been waited for.
                unsafe { libc::kill(program, signal) };
            }
        });
        Ok(Watched { child, listener, _folder: folder })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What happens next, or nothing after a moment.
    pub fn next_event(&mut self) -> io::Result<Event> {
        while let Ok((stream, _)) = self.listener.accept() {
            match peer(&stream) {
                Some(process) if process == self.child.id() => return Ok(Event::Ends(stream)),
                // A child of the program's has the socket's name, too.
                Some(process) => return Ok(Event::ChildEnds(process, stream)),
                None => {}
            }
        }
        if let Some(status) = self.child.try_wait()? {
            PROGRAM.store(0, Ordering::Relaxed);
            return Ok(Event::Ended(status));
        }
        wait_for_a_caller(&self.listener);
        Ok(Event::Nothing)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait()?;
        PROGRAM.store(0, Ordering::Relaxed);
        Ok(status)
    }
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

/// Waits until somebody connects, or it is time to look elsewhere.
fn wait_for_a_caller(listener: &UnixListener) {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one valid entry.
    unsafe { libc::poll(&mut poll, 1, GLANCE.as_millis() as libc::c_int) };
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
pub fn exit_code(status: ExitStatus) -> u8 {
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1) as u8
}
