//! Who has SIGSEGV: the program, as if the library were not there.
//!
//! An access to a guarded block is told by a handler of the allocator's that stands in for the default action
//! ([`slackwater::faults`]). The functions here are those by which libc lets a program ask for a signal. They call
//! libc's, and translate: where the program asks for the default, the kernel gets the stand-in; where the kernel
//! has the stand-in, the program is told of the default that it asked for last. Nothing else is kept: who has the
//! signal is known by the kernel alone, for each process, so that a child of `vfork` can do what it likes.
//!
//! A handler of the program's goes to the kernel as it is. The stand-in is gone then, until the program asks for
//! the default again: as those do who let the fault come again when they have said what they had to say.

use core::ffi::{c_int, c_void};
use core::mem::{transmute, zeroed};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use libc::{SA_NODEFER, SA_RESETHAND, SA_RESTART, SIG_DFL, SIGSEGV, sighandler_t};
use slackwater::faults;

use crate::calls::set_errno;
use crate::next::Next;

type Action = libc::sigaction;
type SetAction = unsafe extern "C" fn(c_int, *const Action, *mut Action) -> c_int;
type SetHandler = unsafe extern "C" fn(c_int, sighandler_t) -> sighandler_t;

/// A flag of System V's `signal` that Linux has no use for.
const SA_INTERRUPT: c_int = 0x2000_0000;

/// Does the stand-in take the default's place?
#[unsafe(link_section = ".data.slackwater_start")]
static STANDS_IN: AtomicBool = AtomicBool::new(false);

/// When the library is loaded, and [`NEXT`] has been looked for.
#[unsafe(link_section = "slackwater_start")]
pub(crate) fn start() {
    if !faults::are_to_be_told() {
        return;
    }
    // SAFETY: null, which is none, or the function of that name, which has this type.
    let next = unsafe { transmute::<*mut c_void, Option<SetAction>>(SIGACTION.address()) };
    let Some(next) = next else { return };
    STANDS_IN.store(true, Ordering::Relaxed);
    // Hardly anybody has had a handler by now; it is in force again at once.
    // SAFETY: all-zero is a valid action.
    let mut before: Action = unsafe { zeroed() };
    // SAFETY: both are valid.
    let is_set = unsafe { next(SIGSEGV, &faults::stand_in(), &mut before) } == 0;
    if is_set && before.sa_sigaction != SIG_DFL {
        // SAFETY: the action is the one that was in force.
        unsafe { next(SIGSEGV, &before, ptr::null_mut()) };
    }
}

static SIGACTION: Next = Next::named(c"sigaction");
static SIGNAL: Next = Next::named(c"signal");
static SYSV_SIGNAL: Next = Next::named(c"sysv_signal");
static SIGSET: Next = Next::named(c"sigset");

pub(crate) static NEXT: [&Next; 4] = [&SIGACTION, &SIGNAL, &SYSV_SIGNAL, &SIGSET];

/// The next function, or null, with the error that a system without the function has.
fn address_of(next: &Next) -> *mut c_void {
    let address = next.address();
    if address.is_null() {
        set_errno(libc::ENOSYS);
    }
    address
}

/// The program's own action where it has the default: it decides nothing, but the program may ask for it.
struct Default {
    is_asked_for: AtomicBool,
    flags: AtomicI32,
    mask: AtomicU64,
}

static DEFAULT: Default = Default {
    is_asked_for: AtomicBool::new(false),
    flags: AtomicI32::new(0),
    mask: AtomicU64::new(0),
};

impl Default {
    fn remember(&self, action: &Action) {
        // SAFETY: a set of signals begins with those that the kernel knows, as bits of a word.
        let mask = unsafe { *(&raw const action.sa_mask).cast::<u64>() };
        self.mask.store(mask, Ordering::Relaxed);
        self.flags.store(action.sa_flags, Ordering::Relaxed);
        self.is_asked_for.store(true, Ordering::Relaxed);
    }

    /// What the program would be told of if the kernel had it, and not the stand-in, of which the kernel tells.
    fn in_place_of(&self, stand_in: &Action) -> Action {
        // SAFETY: all-zero is a valid action: that of a signal which nobody has asked for.
        let mut action: Action = unsafe { zeroed() };
        if self.is_asked_for.load(Ordering::Relaxed) {
            // What libc adds to all flags.
            let added = stand_in.sa_flags & !faults::stand_in().sa_flags;
            action.sa_flags = self.flags.load(Ordering::Relaxed) | added;
            action.sa_restorer = stand_in.sa_restorer;
            let mask = self.mask.load(Ordering::Relaxed);
            // SAFETY: as above.
            unsafe { *(&raw mut action.sa_mask).cast::<u64>() = mask };
        }
        action
    }
}

fn stand_in_address() -> sighandler_t {
    faults::tell_and_end as *const () as sighandler_t
}

/// What the program takes `handler` for.
fn as_seen(handler: sighandler_t) -> sighandler_t {
    if handler == stand_in_address() { SIG_DFL } else { handler }
}

/// `sigaction(2)`.
///
/// # Safety
/// As for libc's: each of `action` and `before` is null or a valid place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(
    signal: c_int,
    action: *const Action,
    before: *mut Action,
) -> c_int {
    // SAFETY: the caller's contract is the same.
    unsafe { set_action(signal, action, before) }
}

/// What [`sigaction`] does. Nothing here calls that by its name, for the loader may know another library's by it:
/// one that calls ours, and holds a lock of its own meanwhile.
///
/// # Safety
/// As [`sigaction`].
unsafe fn set_action(signal: c_int, action: *const Action, before: *mut Action) -> c_int {
    // SAFETY: null, which is none, or the function of that name, which has this type.
    let next = unsafe { transmute::<*mut c_void, Option<SetAction>>(address_of(&SIGACTION)) };
    let Some(next) = next else { return -1 };
    if signal != SIGSEGV || !STANDS_IN.load(Ordering::Relaxed) {
        // SAFETY: the caller's arguments.
        return unsafe { next(signal, action, before) };
    }
    // SAFETY: null or a valid place, the caller says. Copied: it may be the place of `before`.
    let default = unsafe { action.as_ref() }.copied();
    let default = default.filter(|asked| as_seen(asked.sa_sigaction) == SIG_DFL);
    let stand_in = faults::stand_in();
    let action = if default.is_some() { &raw const stand_in } else { action };
    // SAFETY: all-zero is a valid action.
    let mut was: Action = unsafe { zeroed() };
    // SAFETY: the caller's action or a valid one, and a valid place.
    if unsafe { next(signal, action, &mut was) } != 0 {
        return -1;
    }
    if was.sa_sigaction == stand_in_address() {
        was = DEFAULT.in_place_of(&was);
    }
    if !before.is_null() {
        // SAFETY: a valid place, the caller says.
        unsafe { *before = was };
    }
    if let Some(asked) = default {
        DEFAULT.remember(&asked);
    }
    0
}

/// glibc's other name of [`sigaction`].
///
/// # Safety
/// As [`sigaction`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sigaction(
    signal: c_int,
    action: *const Action,
    before: *mut Action,
) -> c_int {
    // SAFETY: the caller's contract is the same.
    unsafe { set_action(signal, action, before) }
}

/// `signal(2)`, with BSD's meaning: the handler stays, calls are restarted.
///
/// # Safety
/// As for libc's: `handler` is a function that may be called for the signal.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's contract is the same.
    unsafe { set_handler(&SIGNAL, signal, handler) }
}

/// An older name of [`signal`].
///
/// # Safety
/// As [`signal`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bsd_signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's contract is the same.
    unsafe { set_handler(&SIGNAL, signal, handler) }
}

/// An older name of [`signal`].
///
/// # Safety
/// As [`signal`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ssignal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's contract is the same.
    unsafe { set_handler(&SIGNAL, signal, handler) }
}

/// `signal` with System V's meaning: the handler is called once, and may be interrupted by itself.
///
/// # Safety
/// As [`signal`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's contract is the same.
    unsafe { set_handler(&SYSV_SIGNAL, signal, handler) }
}

/// What `signal` is in programs that were compiled for System V's meaning.
///
/// # Safety
/// As [`signal`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's contract is the same.
    unsafe { set_handler(&SYSV_SIGNAL, signal, handler) }
}

/// `sigset(3)`. Who sets the default by it has the default: there is no stand-in until somebody asks for it otherwise.
///
/// # Safety
/// As [`signal`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigset(signal: c_int, disposition: sighandler_t) -> sighandler_t {
    // SAFETY: the caller's arguments.
    unsafe { call(&SIGSET, signal, disposition) }
}

/// One of the functions that take a handler alone.
///
/// # Safety
/// As [`signal`].
unsafe fn set_handler(next: &Next, signal: c_int, handler: sighandler_t) -> sighandler_t {
    if signal != SIGSEGV || handler != SIG_DFL {
        // SAFETY: the caller's arguments.
        return unsafe { call(next, signal, handler) };
    }
    // SAFETY: all-zero is a valid action.
    let [mut action, mut before]: [Action; 2] = unsafe { zeroed() };
    // What libc makes of it.
    if ptr::eq(next, &SYSV_SIGNAL) {
        action.sa_flags = SA_RESETHAND | SA_NODEFER | SA_INTERRUPT;
    } else {
        action.sa_flags = SA_RESTART;
        // SAFETY: a set of signals begins with those that the kernel knows, as bits of a word: the first is 1.
        unsafe { *(&raw mut action.sa_mask).cast::<u64>() = 1 << (signal - 1) };
    }
    // SAFETY: both are valid.
    match unsafe { set_action(signal, &action, &mut before) } {
        0 => before.sa_sigaction,
        _ => libc::SIG_ERR,
    }
}

/// Calls libc's function, and says what the program had before.
///
/// # Safety
/// As [`signal`].
unsafe fn call(next: &Next, signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: null, which is none, or the function of that name, which has this type.
    let next = unsafe { transmute::<*mut c_void, Option<SetHandler>>(address_of(next)) };
    match next {
        // SAFETY: the caller's arguments.
        Some(next) => as_seen(unsafe { next(signal, handler) }),
        None => libc::SIG_ERR,
    }
}
