//! SIGSEGV, which an access to a guarded block raises: who tells what the access means, where that harms nobody.
//!
//! A crash is the program's own. Its runtime, its crash reporter and whoever waits for it must find the signal as
//! if the allocator were not there. So no allocation installs a handler, at any time, and there are two ways to a
//! report at the fault:
//!
//! - **Under the preload library** [`tell_and_end`] stands in for the default action, and for nothing else: the
//!   kernel has it exactly where the program has asked for the default, or for nothing. The library sees the calls
//!   of `sigaction` and its kin, and translates (`preload/src/signals.rs`): the program is told that it has the
//!   default; a handler that it installs takes the place of ours, with its own flags; and one that gives the
//!   signal back to the default, to let the fault come again, gives it to ours. So ours never stands on somebody's
//!   handler, has nobody to hand on to, and is called once.
//! - **A program that has the allocator linked in** has handlers that nobody here sees come and go: std's, before
//!   all others. It gets no handler unless it asks for one by [`report`], when all who want the signal have had
//!   their turn. That one hands on.
//!
//! Everywhere else a guard is a page that cannot be touched, and the program ends as by any other wild access.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::api::start;
use crate::base::units::PAGE_BYTES;
use crate::heap::HEAP;
use crate::heap::knobs::{self, Knobs};
use crate::os::{self, signals};
use crate::stack::{self, Registers};

/// Are there guarded blocks, or will there be, so that something could be told of a fault? Decided when the process
/// starts. To be asked outside malloc.
#[unsafe(link_section = "slackwater_start")]
pub fn are_to_be_told() -> bool {
    // Where the defaults hold the heap need not start for the answer.
    if !knobs::are_set() {
        return const { Knobs::DEFAULT.profile_rate_bytes != 0 };
    }
    start::is_ready() && HEAP.sampler.is_guarding()
}

/// Has [`tell_and_end`] been called? The kernel does it once for each time that it is installed, which is mostly the
/// last thing that happens to a process.
static WAS_CALLED: AtomicBool = AtomicBool::new(false);

/// A handler in place of the default action of SIGSEGV: tells what the access means if it was one to a guarded
/// block, and then the process ends as by default.
///
/// To be installed as [`stand_in`] says.
///
/// # Safety
/// The arguments are those that the kernel gives to a handler of SIGSEGV.
pub unsafe extern "C" fn tell_and_end(
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    let errno = os::errno();
    // SAFETY: the kernel has filled it in.
    let cause = unsafe { &*info };
    if let Some(address) = address_of_sample(cause) {
        tell(address, context);
    }
    // Called again: by a handler that was installed past libc, found this one before it, and hands on to it.
    if WAS_CALLED.swap(true, Ordering::Relaxed) {
        os::set_default_action(signal);
    }
    if !is_repeated(cause) {
        // SAFETY: it is what the kernel handed in.
        unsafe { signals::send_again(signal, info) };
    }
    os::set_errno(errno);
}

/// How [`tell_and_end`] is installed: called once, all signals blocked, and not on an alternate stack, which is the
/// program's. So the default is in force when the kernel calls it: a fault in there ends the process, and so does the
/// access when it is made again, without a system call if the block was none that is guarded.
#[unsafe(link_section = "slackwater_start")]
pub fn stand_in() -> libc::sigaction {
    // SAFETY: all-zero is a valid action.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = tell_and_end as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
    // libc's own signals are never blocked.
    const OF_LIBC: u64 = 1 << (32 - 1) | 1 << (33 - 1);
    // SAFETY: a set of signals begins with those that the kernel knows, as bits of a word: the first is 1.
    unsafe { *(&raw mut action.sa_mask).cast::<u64>() = !OF_LIBC };
    action
}

/// Will the signal be raised again when its handler returns, because the access is made again? One that was sent is
/// not, nor are those that the kernel raises for other reasons than an address.
fn is_repeated(info: &libc::siginfo_t) -> bool {
    const NO_MAPPING: c_int = 1;
    const NO_RIGHT: c_int = 2;
    matches!(info.si_code, NO_MAPPING | NO_RIGHT)
}

/// The address of an access, if it is one of the samples'.
fn address_of_sample(info: &libc::siginfo_t) -> Option<usize> {
    // SAFETY: of a fault it has the address, and of any signal there are as many bytes.
    let address = unsafe { info.si_addr() } as usize;
    let arena = &HEAP.pages.arena;
    let samples = arena.sample_range();
    // Positive codes are the kernel's own; others were sent by somebody.
    let is_samples = info.si_code > 0 && address.wrapping_sub(samples.start) < samples.bytes;
    is_samples.then_some(address)
}

/// Tells what an access to a sample means. `context` is what the handler was given.
fn tell(address: usize, context: *const c_void) {
    HEAP.sampler.explain_fault(&HEAP.pages, address, Registers::of_context(context));
}

/// Who had the signal when [`report`] was called.
///
/// # Invariants
/// Written by the one call of `report` that found [`IS_ASKED`] false, before [`tell_and_hand_on`] is in force; not
/// changed afterwards.
struct Before(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: it is read by the handler alone, which is installed when it has been written.
unsafe impl Sync for Before {}

static BEFORE: Before = Before(UnsafeCell::new(MaybeUninit::uninit()));
static IS_ASKED: AtomicBool = AtomicBool::new(false);

/// A stack for [`tell`], below which lies a page that cannot be touched: the program's handler may have a small one
/// of its own. One thread has it at a time.
static STACK_END: AtomicUsize = AtomicUsize::new(0);
const STACK_BYTES: usize = 64 << 10;
static IS_TELLING: AtomicBool = AtomicBool::new(false);

/// What was handed on last: by where the kernel's account of it lies, and where our frame was then.
static HANDED_ON: AtomicUsize = AtomicUsize::new(0);
static HANDED_ON_FROM: AtomicUsize = AtomicUsize::new(0);

/// Has an access to a guarded block told on stderr as it happens, with the stacks of the access, of the allocation
/// and of the free. Returns whether it will be. For a program that has the allocator linked in; under the preload
/// library it is so without a call.
///
/// To be called in `main`, once, when all who want SIGSEGV have installed their handlers. The handler that is
/// there by then, std's for one, is called afterwards, by the same signal, with the flags that it has. `false`, and
/// nothing has changed, if the program ignores the signal or its handler takes no `siginfo_t`. A handler that is
/// installed later takes the place of this one: then nothing is told, unless it hands on.
pub fn report() -> bool {
    if !are_to_be_told() || IS_ASKED.swap(true, Ordering::Relaxed) {
        return false;
    }
    // SAFETY: nobody reads it before the handler is installed, and this is done once.
    let before = unsafe { &mut *BEFORE.0.get() };
    // SAFETY: a valid place; nothing is installed yet.
    if unsafe { libc::sigaction(libc::SIGSEGV, ptr::null(), before.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call above has filled it.
    let mut ours = *unsafe { before.assume_init_ref() };
    match ours.sa_sigaction {
        libc::SIG_IGN => return false,
        libc::SIG_DFL => ours = stand_in(),
        _ if ours.sa_flags & libc::SA_SIGINFO == 0 => return false,
        _ => {
            let Some(stack) = os::map_stack(STACK_BYTES, PAGE_BYTES) else { return false };
            STACK_END.store(stack + STACK_BYTES, Ordering::Relaxed);
            ours.sa_sigaction = tell_and_hand_on as *const () as usize;
        }
    }
    // SAFETY: the handler is a function of the right type.
    unsafe { libc::sigaction(libc::SIGSEGV, &ours, ptr::null_mut()) == 0 }
}

/// The handler in front of that of the program.
///
/// # Safety
/// The arguments are those that the kernel gives to a handler of SIGSEGV.
unsafe extern "C" fn tell_and_hand_on(
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    // It has come back: the handler before ours was installed once more, over ours, and hands on to it. All have
    // been asked. (A handler that was left by a jump is not meant: then our frame is where it was.)
    let frame = stack::address_in_frame();
    let is_handed_on = HANDED_ON.swap(info as usize, Ordering::Relaxed) == info as usize;
    let is_deeper = HANDED_ON_FROM.swap(frame, Ordering::Relaxed) > frame;
    if is_handed_on && is_deeper {
        os::set_default_action(signal);
        return;
    }
    // SAFETY: the kernel has filled it in.
    if let Some(address) = address_of_sample(unsafe { &*info }) {
        tell_on_another_stack(Access { address, context });
    }
    // SAFETY: not written since this handler was installed.
    let before = unsafe { &*BEFORE.0.get() };
    // SAFETY: filled before this handler was installed.
    let before = unsafe { before.assume_init_ref() };
    // SAFETY: the program installed it as a function of this type.
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
        unsafe { core::mem::transmute(before.sa_sigaction) };
    handler(signal, info, context);
}

/// The arguments of [`tell`].
struct Access {
    address: usize,
    context: *const c_void,
}

/// Nothing is told while another thread does.
fn tell_on_another_stack(mut access: Access) {
    unsafe extern "C" fn run(access: *mut c_void) {
        // SAFETY: it is what is handed in below.
        let access = unsafe { &*access.cast::<Access>() };
        tell(access.address, access.context);
    }
    if IS_TELLING.swap(true, Ordering::Acquire) {
        return;
    }
    let errno = os::errno();
    // A signal's handler on the alternate stack would begin where this one has its frame: the kernel takes the
    // stack for unused.
    let mask = os::set_signal_mask(u64::MAX);
    let stack_end = STACK_END.load(Ordering::Relaxed);
    // SAFETY: mapped before the handler was installed, and this thread's as long as the flag is set; nothing in
    // this library unwinds.
    unsafe { signals::call_on_stack(stack_end, run, (&raw mut access).cast()) };
    os::set_signal_mask(mask);
    os::set_errno(errno);
    IS_TELLING.store(false, Ordering::Release);
}
