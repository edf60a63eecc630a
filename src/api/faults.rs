//! The handler of SIGSEGV that tells of accesses to guarded blocks. What it says is `sampling`'s; who had the
//! signal before has it again afterwards.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::heap::HEAP;
use crate::os;
use crate::stack::Registers;

/// Who had the signal before. Written once, before our handler is in force.
struct Before(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written before the handler that reads it is installed.
unsafe impl Sync for Before {}

static BEFORE: Before = Before(UnsafeCell::new(MaybeUninit::uninit()));
static IS_WATCHING: AtomicBool = AtomicBool::new(false);

/// Installs the handler, once for the process, when its first guarded block is handed out. A handler
/// that the program installs later takes its place: then faults go unexplained.
#[cold]
pub(crate) fn watch() {
    if IS_WATCHING.swap(true, Ordering::Relaxed) {
        return;
    }
    // SAFETY: nobody reads it before the handler is installed, and this is done once.
    let before = unsafe { &mut *BEFORE.0.get() };
    // SAFETY: a valid place; nothing is installed yet.
    if unsafe { libc::sigaction(libc::SIGSEGV, ptr::null(), before.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: all-zero is a valid sigaction.
    let mut ours: libc::sigaction = unsafe { core::mem::zeroed() };
    ours.sa_sigaction = on_fault as *const () as usize;
    // SAFETY: the call above has filled it.
    let before = unsafe { before.assume_init_ref() };
    ours.sa_mask = before.sa_mask;
    ours.sa_flags = before.sa_flags | libc::SA_SIGINFO | libc::SA_ONSTACK;
    ours.sa_flags &= !libc::SA_RESETHAND;
    // SAFETY: the handler is a function of the right type.
    unsafe { libc::sigaction(libc::SIGSEGV, &ours, ptr::null_mut()) };
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = os::errno();
    // SAFETY: the kernel hands in what it promises for SA_SIGINFO.
    let cause = unsafe { &*info };
    // SAFETY: of a fault it has the address, and of any signal there are as many bytes.
    let address = unsafe { cause.si_addr() } as usize;
    let arena = &HEAP.pages.arena;
    let samples = arena.sample_range();
    // Positive codes are the kernel's own; others were sent by somebody.
    let is_ours = cause.si_code > 0 && address.wrapping_sub(samples.start) < samples.bytes;
    if is_ours {
        HEAP.sampler.explain_fault(&HEAP.pages, address, Registers::of_context(context));
    }
    os::set_errno(errno);
    hand_on(signal, info, context);
}

/// Leaves the signal to whoever had it before.
fn hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: not written since this handler was installed.
    let before = unsafe { &*BEFORE.0.get() };
    // SAFETY: filled before this handler was installed.
    let before = unsafe { before.assume_init_ref() };
    if before.sa_flags & libc::SA_RESETHAND != 0 {
        leave_to_default(signal);
    }
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // The access is made again, and ends the process. A signal that somebody sent is not
            // repeated by itself.
            // SAFETY: what was in force before.
            unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
            // SAFETY: `info` is the kernel's.
            if unsafe { (*info).si_code } <= 0 && before.sa_sigaction == libc::SIG_DFL {
                // SAFETY: no preconditions; it arrives when this handler returns.
                unsafe { libc::raise(signal) };
            }
        }
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the program installed it as a function of this type.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { core::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: the program installed it as a function of this type.
            let handler: extern "C" fn(c_int) = unsafe { core::mem::transmute(handler) };
            handler(signal);
        }
    }
}

/// From now on the system's own way with the signal holds, unless the program has put a handler in the
/// place of ours.
///
/// A handler that was to be called once trusts in that: it returns, or raises the signal again, to end
/// the process.
fn leave_to_default(signal: c_int) {
    // SAFETY: all-zero is a valid sigaction, and means the default.
    let default: libc::sigaction = unsafe { core::mem::zeroed() };
    let mut now = default;
    // SAFETY: a valid place.
    unsafe { libc::sigaction(signal, ptr::null(), &mut now) };
    if now.sa_sigaction == on_fault as *const () as usize {
        // SAFETY: a valid action.
        unsafe { libc::sigaction(signal, &default, ptr::null_mut()) };
    }
}
