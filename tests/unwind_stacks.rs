//! Real stacks: what sampling finds of them is what libgcc and framehop find.
#![cfg(target_arch = "x86_64")]

#[path = "unwinding/mod.rs"]
mod common;
mod surroundings;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_int, c_void};
use std::hint::black_box;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::framehop::Framehop;
use common::reference::{Both, both};
use common::{built, skip};
use slackwater::stack::{CopiedStack, MAX_FRAMES, Registers, Scratch, address_in_frame, capture};
use slackwater::unwind::{install, walk};

/// Counts what the calling thread allocates.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all is left to the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + 1);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls `then` from so many frames further in.
#[inline(never)]
fn deep(frames: usize, then: &mut dyn FnMut()) {
    let local = black_box([frames; 3]);
    if frames == 0 {
        then();
    } else {
        deep(frames - 1, then);
    }
    black_box(local);
}

/// A generic function for each length, as user crates are full of.
#[inline(never)]
fn generic<T: Copy, const N: usize>(of: T, then: &mut dyn FnMut()) -> [T; N] {
    let local = black_box([of; N]);
    let mut numbers = [3, 1, 2];
    numbers.sort_by_key(|&n| {
        if n == 2 {
            then();
        }
        n
    });
    local
}

/// Walks the stack here, and fails where the two differ. Says how many frames there are.
#[inline(never)]
fn check() -> usize {
    both().assert_same(0)
}

#[test]
fn recursion() {
    assert!(install());
    let mut counts = [0; 4];
    for (depth, count) in [0, 10, 35, 90].into_iter().zip(&mut counts) {
        deep(depth, &mut || *count = check());
    }
    assert_eq!([counts[1] - counts[0], counts[2] - counts[0], counts[3] - counts[0]], [10, 35, 90]);
}

#[test]
fn a_stack_with_more_frames_than_are_kept_is_kept_as_far_as_that_goes() {
    assert!(install());
    deep(300, &mut || {
        let found = both();
        assert_eq!(found.ours.len(), MAX_FRAMES);
        assert_eq!(found.ours, found.libgcc[..MAX_FRAMES]);
    });
}

#[test]
fn a_stack_longer_than_the_copy_is_walked_as_far_as_that_goes() {
    #[inline(never)]
    fn wide(frames: usize, then: &mut dyn FnMut()) {
        let local = black_box([frames as u8; 3000]);
        if frames == 0 {
            then()
        } else {
            wide(frames - 1, then)
        }
        black_box(local);
    }
    assert!(install());
    wide(60, &mut || {
        let found = both();
        let count = found.ours.len();
        assert!(count > 5 && count < 60, "{count}");
        assert_eq!(found.ours, found.libgcc[..count]);
    });
}

#[test]
fn generic_code_and_closures() {
    assert!(install());
    generic::<u8, 5>(1, &mut || {
        generic::<[u64; 40], 9>([2; 40], &mut || {
            generic::<(), 1>((), &mut || assert!(check() > 10));
        });
    });
}

#[test]
fn the_caller_of_the_allocators_function_is_the_first() {
    /// Stands for an allocator's function that everybody's code has inlined.
    #[inline(always)]
    fn allocate(by: fn(usize) -> Vec<u64>) -> Vec<u64> {
        by(address_in_frame())
    }
    #[inline(never)]
    fn slow(skip_to: usize) -> Vec<u64> {
        slower(black_box(skip_to)).into_iter().collect()
    }
    #[inline(never)]
    fn slower(skip_to: usize) -> Vec<u64> {
        let mut scratch = Box::new(Scratch::new());
        let mut frames = [0; MAX_FRAMES];
        let count = capture(&mut scratch, &mut frames, skip_to);
        frames[..count].to_vec()
    }
    /// Its last act is the call: a compiler may jump instead.
    #[inline(never)]
    fn malloc_that_jumps() -> Vec<u64> {
        allocate(slow)
    }
    #[inline(never)]
    fn malloc_that_calls() -> (Vec<u64>, usize) {
        let local = black_box([7; 20]);
        let frames = allocate(slower);
        (frames, local.len())
    }
    assert!(install());
    let here = both().ours;
    for frames in [malloc_that_jumps(), malloc_that_calls().0] {
        // Returns into this function, a bit behind the call of `both`; the rest is the same.
        assert!(frames[0].wrapping_sub(here[0]) < 4096, "{frames:#x?}\n{here:#x?}");
        assert_eq!(frames[1..], here[1..]);
    }
}

#[test]
fn a_call_that_never_returns_may_be_a_functions_last_instruction() {
    #[inline(never)]
    fn diverges(count: &Cell<usize>) -> ! {
        count.set(check());
        panic::resume_unwind(Box::new(()))
    }
    #[inline(never)]
    fn ends_with_a_call(count: &Cell<usize>) -> ! {
        diverges(black_box(count))
    }
    assert!(install());
    let count = Cell::new(0);
    panic::catch_unwind(AssertUnwindSafe(|| ends_with_a_call(&count))).unwrap_err();
    assert!(count.get() > 3);
}

#[test]
fn the_c_librarys_callbacks() {
    extern "C" fn compare(a: *const c_void, b: *const c_void) -> c_int {
        note();
        // SAFETY: one of the numbers.
        let a = unsafe { *a.cast::<c_int>() };
        // SAFETY: another.
        a - unsafe { *b.cast::<c_int>() }
    }
    assert!(install());
    let mut numbers = [3, 1, 2, 5, 4];
    let (start, size) = (numbers.as_mut_ptr().cast(), size_of::<c_int>());
    // SAFETY: the array, and a function that compares its elements.
    unsafe { libc::qsort(start, numbers.len(), size, Some(compare)) };
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    let seen = SEEN.take();
    assert!(seen.len() > 4);
    seen.iter().for_each(|both| assert!(both.assert_same(0) > 5));
}

thread_local! {
    /// What was found where a test cannot fail: no panic gets past functions that are not Rust's.
    static SEEN: RefCell<Vec<Both>> = const { RefCell::new(Vec::new()) };
}

/// Walks the stack here, and keeps what was found in [`SEEN`].
extern "C" fn note() {
    // Not while the interrupted code has it.
    let _ = SEEN.try_with(|seen| seen.try_borrow_mut().map(|mut seen| seen.push(both())));
}

extern "C" fn look(_: c_int) {
    note();
}

/// Has `look` called for a signal; the flags are `sigaction`'s.
fn look_at_signal(signal: c_int, flags: c_int) {
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = look as extern "C" fn(c_int) as usize;
    action.sa_flags = flags | libc::SA_RESTART;
    // SAFETY: a valid action; the old one is not wanted.
    assert_eq!(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) }, 0);
}

#[test]
fn signal_handlers() {
    assert!(install());
    look_at_signal(libc::SIGUSR1, 0);
    // SAFETY: raising a signal that has a handler.
    deep(20, &mut || assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0));
    let seen = SEEN.take();
    assert!(seen[0].assert_same(1) > 22);
}

#[test]
fn signal_handlers_on_a_stack_of_their_own() {
    assert!(install());
    let mut stack = vec![0u8; 256 << 10];
    let own = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
    let mut before = own;
    // SAFETY: the stack is there until it is given back below.
    assert_eq!(unsafe { libc::sigaltstack(&own, &mut before) }, 0);
    look_at_signal(libc::SIGUSR2, libc::SA_ONSTACK);
    // SAFETY: raising a signal that has a handler.
    deep(20, &mut || assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0));
    // SAFETY: as it was.
    assert_eq!(unsafe { libc::sigaltstack(&before, ptr::null_mut()) }, 0);
    let seen = SEEN.take();
    assert!(seen[0].assert_same(1) > 22);
}

/// Signals that arrive anywhere: in prologues, in linkage tables, in libc's leaves, in the vdso.
#[test]
fn signals_at_any_instruction() {
    assert!(install());
    look_at_signal(libc::SIGPROF, 0);
    // SAFETY: no preconditions.
    let process = unsafe { libc::getpid() };
    // SAFETY: no preconditions.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let (number, signal) = (libc::SYS_tgkill, libc::SIGPROF);
                // SAFETY: the thread has a handler for it, and lives until this one has ended.
                unsafe { libc::syscall(number, process, thread, signal) };
                thread::sleep(Duration::from_micros(300));
            }
        });
        // Nothing here allocates: the handler does.
        let mut numbers: [u64; 300] = std::array::from_fn(|n| n as u64);
        while SEEN.with_borrow(|seen| seen.len() < 500) {
            deep(5, &mut || numbers.sort_unstable_by_key(|n| n.wrapping_mul(0x9e37_79b9) >> 7));
            numbers.reverse();
            for _ in 0..100 {
                black_box(Instant::now());
                // SAFETY: two strings.
                black_box(unsafe { libc::strcoll(c"some text".as_ptr(), c"some test".as_ptr()) });
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let seen = SEEN.take();
    let different: Vec<_> = seen.iter().filter_map(|both| both.agree(1).err()).collect();
    assert!(different.is_empty(), "{} of {}: {}", different.len(), seen.len(), different[0]);
}

/// Opens a shared object that `built` made.
fn open(path: &Path) -> *mut c_void {
    let name = CString::new(path.to_str().expect("a name")).expect("a name");
    // SAFETY: our own object, whose constructors do nothing.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null(), "{}", path.display());
    handle
}

/// Calls a function of `calls.cpp`, which calls back. What was found each time, which is the same to
/// all.
fn call(handle: *mut c_void, name: &str) -> Vec<Both> {
    let symbol = CString::new(name).expect("a name");
    // SAFETY: the handle is open.
    let function = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
    assert!(!function.is_null(), "{name}");
    // SAFETY: all functions of that file have this type.
    let function =
        unsafe { mem::transmute::<*mut c_void, unsafe extern "C" fn(extern "C" fn())>(function) };
    // SAFETY: the object is loaded.
    unsafe { function(note) };
    let seen = SEEN.take();
    seen.iter().for_each(|both| assert!(both.assert_same(0) > 5));
    seen
}

#[test]
fn libraries_that_are_opened_and_their_exceptions() {
    assert!(install());
    let Some(path) = built("calls.cpp", "calls.so", &[]) else { return };
    let handle = open(&path);
    assert!(call(handle, "through_templates")[0].ours.len() > 22);
    assert_eq!(call(handle, "through_sort").len(), 1);
    assert_eq!(call(handle, "through_exceptions").len(), 2);
    assert_eq!(call(handle, "through_odd_frames").len(), 3);
}

/// What is remembered of an address is of the module that was there.
#[test]
fn another_library_at_the_same_addresses() {
    assert!(install());
    // The same code but for the size of frames, and a function more at the end.
    let flags = [["-DLOCAL_BYTES=1024", "-UANOTHER"], ["-DLOCAL_BYTES=2048", "-DANOTHER"]];
    let Some(one) = built("calls.cpp", "one.so", &flags[0]) else { return };
    let Some(other) = built("calls.cpp", "other.so", &flags[1]) else { return };
    let walk_and_close = |path| {
        let handle = open(path);
        let found = call(handle, "through_templates").remove(0).ours;
        // SAFETY: nothing of it is in use.
        assert_eq!(unsafe { libc::dlclose(handle) }, 0);
        found
    };
    // Other tests map memory, too: it is not in the same place each time.
    let mut in_the_same_place = 0;
    for _ in 0..50 {
        let frames = walk_and_close(&one);
        let frames_of_other = walk_and_close(&other);
        let common = frames.iter().filter(|frame| frames_of_other.contains(frame)).count();
        in_the_same_place += (common > 20) as usize;
    }
    assert!(in_the_same_place > 0);
}

#[test]
fn a_stack_of_makecontext() {
    extern "C" fn on_it() {
        deep(10, &mut || note());
    }
    assert!(install());
    let mut stack = vec![0u8; 256 << 10];
    // SAFETY: all-zero is a valid place for a context.
    let (mut here, mut there): (libc::ucontext_t, libc::ucontext_t) = unsafe { mem::zeroed() };
    // SAFETY: a valid place.
    assert_eq!(unsafe { libc::getcontext(&mut there) }, 0);
    there.uc_stack.ss_sp = stack.as_mut_ptr().cast();
    there.uc_stack.ss_size = stack.len();
    there.uc_link = &mut here;
    // SAFETY: the context has a stack, and the function takes no arguments.
    unsafe { libc::makecontext(&mut there, on_it, 0) };
    // SAFETY: both contexts and the stack are there until it comes back.
    assert_eq!(unsafe { libc::swapcontext(&mut here, &there) }, 0);
    assert!(SEEN.take()[0].assert_same(0) > 12);
}

/// Code that is in no module, and has no tables: a page of its own, unmapped at the end.
struct CompiledCode(*mut c_void);

impl CompiledCode {
    fn new(code: &[u8]) -> CompiledCode {
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        // SAFETY: a new page, at a place of the kernel's choice.
        let page = unsafe {
            libc::mmap(ptr::null_mut(), 4096, rights, flags | libc::MAP_ANONYMOUS, -1, 0)
        };
        assert_ne!(page, libc::MAP_FAILED);
        // SAFETY: the page is larger than the code.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len()) };
        // SAFETY: the page is this test's own.
        assert_eq!(unsafe { libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC) }, 0);
        CompiledCode(page)
    }

    fn has(&self, address: u64) -> bool {
        address.wrapping_sub(self.0 as u64) < 4096
    }

    /// The code as a function that calls its first argument. The second may be anything.
    fn function(&self) -> extern "C" fn(extern "C" fn(), u64) {
        // SAFETY: that is what the tests' code is.
        unsafe { mem::transmute(self.0) }
    }
}

thread_local! {
    /// What [`walk_here`] found last.
    static FOUND: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Walks the stack here by our tables alone.
extern "C" fn walk_here() {
    let mut scratch = Box::new(Scratch::new());
    let here = Registers::here();
    let mut frames = [0; MAX_FRAMES];
    let count = walk(&here, &mut CopiedStack::new(&mut scratch, here.sp, 0), &mut frames);
    FOUND.set(frames[..count].to_vec());
}

impl Drop for CompiledCode {
    fn drop(&mut self) {
        // SAFETY: nobody executes it any more.
        unsafe { libc::munmap(self.0, 4096) };
    }
}

/// Python's trampolines (`-X perf`) keep no frame pointer, other compilers' code does, and some has neither that
/// nor so little on the stack.
#[test]
fn code_that_is_compiled_while_the_program_runs() {
    assert!(install());
    let here = both().ours;
    for code in [
        // sub rsp, 8; call rdi; add rsp, 8; ret
        &[0x48u8, 0x83, 0xec, 8, 0xff, 0xd7, 0x48, 0x83, 0xc4, 8, 0xc3][..],
        // push rbp; mov rbp, rsp; sub rsp, 112; call rdi; leave; ret
        &[0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 112, 0xff, 0xd7, 0xc9, 0xc3],
        // sub rsp, 40; call rdi; add rsp, 40; ret: an outer frame pointer may be believed, which leaves out
        // frames between.
        &[0x48, 0x83, 0xec, 40, 0xff, 0xd7, 0x48, 0x83, 0xc4, 40, 0xc3],
    ] {
        let compiled = CompiledCode::new(code);
        compiled.function()(walk_here, 0);
        let frames = FOUND.take();
        let is_compiled = |frame: &u64| compiled.has(*frame);
        let at = frames.iter().position(is_compiled).expect("the compiled code's own frame");
        let [caller, outer @ ..] = &frames[at + 1..] else { panic!("it ends there: {frames:#x?}") };
        assert!(!outer.is_empty() && here[1..].ends_with(outer), "{frames:#x?}\n{here:#x?}");
        if code[3] != 40 {
            assert!(caller.wrapping_sub(here[0]) < 4096, "{frames:#x?}\n{here:#x?}");
            assert_eq!(outer.len(), here.len() - 1);
        }
    }
}

/// A word that was left on the stack may lead into a library that another thread is just unloading. So it is
/// not followed into one that is not on the stack, and nothing is read there.
#[test]
fn a_stale_word_leads_into_no_library_that_may_go_away() {
    unsafe extern "C" {
        fn _Unwind_Backtrace();
    }
    assert!(install());
    let compiled = CompiledCode::new(&[
        0x48, 0x83, 0xec, 40, // sub rsp, 40
        0x48, 0x89, 0x74, 0x24, 8, // mov [rsp + 8], rsi
        0xff, 0xd7, // call rdi
        0x48, 0x83, 0xc4, 40,   // add rsp, 40
        0xc3, // ret
    ]);
    // A place behind a call in a library that is not on this stack.
    let function = _Unwind_Backtrace as *const u8;
    let is_call = |offset: &usize| {
        // SAFETY: a function and what comes behind it, in a library that is larger.
        unsafe { function.wrapping_add(*offset).read() == 0xe8 }
    };
    let stale = function as u64 + (0..2048).find(is_call).expect("it calls") as u64 + 5;
    compiled.function()(walk_here, stale);
    let frames = FOUND.take();
    assert!(frames.iter().any(|&frame| compiled.has(frame)), "{frames:#x?}");
    assert!(!frames.contains(&stale), "{stale:#x}: {frames:#x?}");
}

#[test]
fn the_same_frames_as_framehop() {
    assert!(install());
    let mut framehop = Framehop::new();
    for depth in [0, 10, 35, 100] {
        deep(depth, &mut || {
            generic::<u32, 3>(1, &mut || {
                let mut scratch = Box::new(Scratch::new());
                let here = Registers::here();
                let mut frames = [0; MAX_FRAMES];
                let mut theirs = [0; MAX_FRAMES];
                let mut copied = CopiedStack::new(&mut scratch, here.sp, 0);
                let count = walk(&here, &mut copied, &mut frames);
                let their_count = framehop.walk(&here, &mut copied, &mut theirs);
                assert_eq!(frames[..count], theirs[..their_count]);
                assert!(count > depth);
            });
        });
    }
}

#[test]
fn a_walk_allocates_nothing_and_keeps_errno() {
    assert!(install());
    let mut scratch = Box::new(Scratch::new());
    let mut frames = [0; MAX_FRAMES];
    deep(40, &mut || {
        // SAFETY: no preconditions.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: the thread's own errno.
        unsafe { *errno = 1234 };
        let before = ALLOCATED.get();
        let count = capture(&mut scratch, &mut frames, address_in_frame());
        assert_eq!(ALLOCATED.get(), before);
        // SAFETY: the thread's own errno.
        assert_eq!(unsafe { *errno }, 1234);
        assert!(count > 40);
    });
}

#[test]
fn threads_that_walk_at_the_same_time() {
    assert!(install());
    thread::scope(|scope| {
        for n in 0..4 {
            scope.spawn(move || {
                for round in 0..100 {
                    deep((n * 7 + round) % 30, &mut || {
                        check();
                    });
                }
            });
        }
    });
}

/// The interpreter, its modules in C, and the end of a program's first thread.
#[test]
fn a_program_of_another_language() {
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("python3");
    }
    let tests = std::env::current_exe().expect("a path");
    let probe = tests.ancestors().nth(2).expect("a folder").join("examples/libstack_probe.so");
    assert!(probe.exists(), "built by `cargo test` without a target, or with --examples");
    let script = r#"
import ctypes, sys, threading
probe = ctypes.CDLL(sys.argv[1]).frames_if_same
def deep(n, then): return then() if n == 0 else deep(n - 1, then)
def check(*_):
    count = probe()
    assert count > 0, count
    return 0
check()
deep(30, check)
sorted([3, 1, 2], key=check)
try:
    raise ValueError()
except ValueError:
    check()
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(check)
ctypes.CDLL(None).qsort((ctypes.c_int * 3)(), 3, 4, compare)
thread = threading.Thread(target=deep, args=(5, check))
thread.start(); thread.join()
print("done")
"#;
    let output =
        Command::new("python3").args(["-c", script]).arg(&probe).output().expect("python3");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout == b"done\n" && errors.is_empty(), "{errors}");
}
