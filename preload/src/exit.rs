//! A word at the end, for who wants to read the heap as it is then.
//!
//! `slackwater profile run` names a socket in the environment. When the program's exit handlers have
//! run, this connects to it, and waits until the other end is closed: until it has been read. Nobody
//! there, or nobody who answers: the program ends all the same, ten seconds later at most. A program
//! that ends by a signal or by `_exit` says nothing.

use core::cell::UnsafeCell;
use core::ffi::c_long;

use crate::syscalls::call;

/// Names the socket.
const VARIABLE: &core::ffi::CStr = c"SLACKWATER_EXIT_SOCKET";

/// The longest that the program waits, if no signal interrupts it.
static PATIENCE: libc::timeval = libc::timeval { tv_sec: 10, tv_usec: 0 };

/// How often it goes on waiting after a signal.
const MAX_INTERRUPTIONS: u32 = 100;

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

#[used]
#[unsafe(link_section = ".fini_array")]
static FINISH: extern "C" fn() = finish;

/// The socket's address, copied when the program starts: later the environment may be anything.
struct Address(UnsafeCell<libc::sockaddr_un>);

// SAFETY: written by `start`, before the program has a second thread, and read by `finish`.
unsafe impl Sync for Address {}

static ADDRESS: Address = Address(UnsafeCell::new(libc::sockaddr_un {
    sun_family: libc::AF_UNIX as libc::sa_family_t,
    sun_path: [0; 108],
}));

#[unsafe(link_section = "slackwater_start")]
extern "C" fn start() {
    let Some(name) = slackwater::environment(VARIABLE) else { return };
    let path = ADDRESS.0.get();
    // SAFETY: a place inside of the static.
    let path = unsafe { &raw mut (*path).sun_path };
    // One that does not fit, with a zero at its end, is none.
    if name.len() < size_of::<[libc::c_char; 108]>() {
        // SAFETY: that many bytes are there, and have room; nobody else looks at them yet.
        unsafe { path.cast::<u8>().copy_from_nonoverlapping(name.as_ptr(), name.len()) };
    }
}

#[unsafe(link_section = "slackwater_start")]
extern "C" fn finish() {
    let address = ADDRESS.0.get();
    // SAFETY: nobody writes to it any more.
    let first = unsafe { (*address).sun_path[0] };
    if first == 0 {
        return;
    }
    let [family, kind] =
        [libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC].map(|n| n as usize);
    // SAFETY: plain numbers.
    let socket = unsafe { call(libc::SYS_socket, [family, kind, 0, 0, 0]) };
    if socket >= 0 {
        let socket = socket as usize;
        wait_at(socket, address);
        // SAFETY: it is ours.
        unsafe { call(libc::SYS_close, [socket, 0, 0, 0, 0]) };
    }
}

fn wait_at(socket: usize, address: *const libc::sockaddr_un) {
    for option in [libc::SO_SNDTIMEO, libc::SO_RCVTIMEO] {
        let bytes = size_of::<libc::timeval>();
        let patience = (&raw const PATIENCE).addr();
        let arguments = [socket, libc::SOL_SOCKET as usize, option as usize, patience, bytes];
        // SAFETY: the value is of that many bytes.
        unsafe { call(libc::SYS_setsockopt, arguments) };
    }
    let target = [socket, address.addr(), size_of::<libc::sockaddr_un>(), 0, 0];
    // SAFETY: the address is of that many bytes, with a zero after the path.
    let connect = || unsafe { call(libc::SYS_connect, target) };
    let mut byte = 0u8;
    let place = [socket, (&raw mut byte).addr(), 1, 0, 0];
    // SAFETY: one byte has room.
    let mut read = || unsafe { call(libc::SYS_read, place) };
    if in_spite_of_signals(connect) == 0 {
        in_spite_of_signals(&mut read);
    }
}

/// A call that a signal has interrupted is made again: what has a limit of time is not restarted by the
/// kernel, and the child of a program that ends is often one that it has just sent a signal.
fn in_spite_of_signals(mut call: impl FnMut() -> c_long) -> c_long {
    for _ in 0..MAX_INTERRUPTIONS {
        let outcome = call();
        // SAFETY: no preconditions.
        let place = unsafe { libc::__errno_location() };
        // SAFETY: the calling thread's own error number.
        if outcome >= 0 || unsafe { *place } != libc::EINTR {
            return outcome;
        }
    }
    -1
}
