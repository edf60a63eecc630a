//! The signals that ask a program to end, and those that are meant for a program that it runs.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::thread;

use super::failure::Failure;

/// What a supervisor, a shell or a user sends to a program: to end, to read its configuration anew, and what
/// it has made of the two that are its own.
const SENT_TO_PROGRAMS: [libc::c_int; 6] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// Calls `tell`, on a thread of its own, for each SIGINT, SIGTERM and SIGHUP, instead of ending.
pub fn on_stop(tell: impl FnMut() + Send + 'static) -> Result<(), Failure> {
    ctrlc::set_handler(tell)
        .map_err(|error| Failure::broken(format_args!("signal handler: {error}")))
}

/// The signals that are sent to programs, kept from this one as long as it runs another: none is lost
/// between its start and [`Held::pass_on`].
pub struct Held {
    signals: libc::sigset_t,
    before: libc::sigset_t,
}

/// Keeps them from the calling thread and from those that it starts.
pub fn hold() -> Held {
    // SAFETY: a set of signals is plain words, and these are all of none.
    let mut signals = unsafe { mem::zeroed() };
    let mut before = signals;
    // SAFETY: `signals` is a valid place.
    unsafe { libc::sigemptyset(&mut signals) };
    for signal in SENT_TO_PROGRAMS {
        // SAFETY: a set that has been made empty, and signals that exist.
        unsafe { libc::sigaddset(&mut signals, signal) };
    }
    // SAFETY: a set that is filled, and a valid place.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &signals, &mut before) };
    Held { signals, before }
}

impl Held {
    /// A program that is started by `command` receives what this one received before.
    pub fn leave_to(&self, command: &mut Command) {
        let before = self.before;
        let release = move || {
            // SAFETY: a set that the kernel has filled; what is held now is not asked for.
            match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) } {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        };
        // SAFETY: `release` makes one call that is safe between fork and exec.
        unsafe { command.pre_exec(release) };
    }

    /// Calls `send`, on a thread of its own, with each signal that somebody sends to this process. What the
    /// kernel sends is left out: a terminal tells every process in the foreground itself.
    pub fn pass_on(self, send: impl Fn(libc::c_int) + Send + 'static) {
        thread::spawn(move || {
            loop {
                let mut what = MaybeUninit::<libc::siginfo_t>::uninit();
                // SAFETY: a set that is filled, and a valid place for what is told of a signal.
                let signal = unsafe { libc::sigwaitinfo(&self.signals, what.as_mut_ptr()) };
                if signal < 0 {
                    continue;
                }
                // SAFETY: the call has filled it, as it returned a signal.
                let what = unsafe { what.assume_init() };
                if what.si_code != libc::SI_KERNEL {
                    send(signal);
                }
            }
        });
    }
}
