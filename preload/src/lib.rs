//! The C allocation interface, for `LD_PRELOAD`.
//!
//! Every function that glibc lets a program replace, with glibc's own meaning where the standards
//! leave one open; and C++'s `operator new` and `delete`, as far as they are nobody else's (`operators`).
//! Besides, functions that tell the allocator what it has to know, and go on to libc's (`atfork`, `page_flags`).
//!
//! This package is the only place with `no_mangle`, and here nothing happens but argument checks, and a few questions
//! to the loader: where this library is, whose functions are no part of its users' stacks, and which functions come
//! before and after its own. What is not found by its name alone is found all the same (`deepbind.rs`). What else of
//! libc's is replaced has a module each: who forks first (`atfork`), who has a signal (`signals`).
//!
//! A program may have a function of each of these names itself, and mean this library's by the name that begins
//! with `__libc_` (`libc_names.rs`). So nothing here calls a function by a name that is exported: what two of them
//! do is in `calls.rs`.

#![cfg_attr(panic = "abort", no_std)]

#[cfg(panic = "abort")]
mod alone;
mod atfork;
#[cfg(target_arch = "x86_64")]
mod bytes;
mod calls;
mod deepbind;
mod exit;
mod libc_names;
mod loaded;
mod namespaces;
mod next;
mod once;
mod operators;
mod page_flags;
mod signals;
mod symbols;
mod syscalls;
mod told;

use core::ffi::{c_int, c_void};
use core::hint;

use slackwater::malloc;

/// When the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

#[unsafe(link_section = "slackwater_start")]
extern "C" fn start() {
    slackwater::unwind::leave_out_this_library();
    next::find(&[
        #[cfg(target_arch = "x86_64")]
        bytes::NEXT,
        &[&atfork::REGISTER, &deepbind::DLOPEN],
        &next::ALLOCATOR,
        &namespaces::NEXT,
        page_flags::NEXT,
        &syscalls::NEXT,
        &signals::NEXT,
    ]);
    #[cfg(target_arch = "x86_64")]
    bytes::start();
    operators::find();
    signals::start();
}

/// `malloc(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn malloc(bytes: usize) -> *mut c_void {
    malloc::allocate(bytes).cast()
}

/// `free(3)`. Leaves `errno` alone.
///
/// # Safety
/// `block` is null or a block that is not used any more, of this allocator or of the next one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: the caller's contract is the same.
    unsafe { malloc::free(block.cast()) };
}

/// `cfree`: the old name of `free`.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(block: *mut c_void) {
    // SAFETY: the caller's contract is the same.
    unsafe { malloc::free(block.cast()) };
}

/// `free_sized` (C23). The size is a hint that is not needed.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(block: *mut c_void, _bytes: usize) {
    // SAFETY: the caller's contract is the same.
    unsafe { malloc::free(block.cast()) };
}

/// `free_aligned_sized` (C23). Size and alignment are hints that are not needed.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(block: *mut c_void, _align: usize, _bytes: usize) {
    // SAFETY: the caller's contract is the same.
    unsafe { malloc::free(block.cast()) };
}

/// `calloc(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, bytes: usize) -> *mut c_void {
    calls::calloc(count, bytes)
}

/// `realloc(3)`. As in glibc, a size of 0 frees and returns null.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: the caller's contract is the same.
    unsafe { calls::realloc(block, bytes) }
}

/// `reallocarray(3)`. As glibc's it calls the program's `realloc`, which may be another one than this library's.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(
    block: *mut c_void,
    count: usize,
    bytes: usize,
) -> *mut c_void {
    // The compiler knows one function of that name, and would call it without asking the loader.
    let realloc = hint::black_box(libc::realloc as unsafe extern "C" fn(_, _) -> _);
    match count.checked_mul(bytes) {
        // SAFETY: the caller's contract is the same.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => malloc::refuse().cast(),
    }
}

/// `posix_memalign(3)`. Returns the error and leaves `*result` alone. As in glibc, `errno` is left alone where the
/// alignment is wrong, and is `ENOMEM` where memory ran out.
///
/// # Safety
/// `result` is a valid place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(
    result: *mut *mut c_void,
    align: usize,
    bytes: usize,
) -> c_int {
    if !align.is_power_of_two() || align < size_of::<*mut c_void>() {
        return libc::EINVAL;
    }
    let block = malloc::allocate_aligned(bytes, align);
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller says that the place is valid.
    unsafe { *result = block.cast() };
    0
}

/// `aligned_alloc(3)`. As in glibc, the size need not be a multiple of the alignment.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, bytes: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        return calls::invalid();
    }
    malloc::allocate_aligned(bytes, align).cast()
}

/// `memalign(3)`. As in glibc, an alignment that is no power of two counts as the next one.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, bytes: usize) -> *mut c_void {
    calls::memalign(align, bytes)
}

/// `valloc(3)`: aligned to a page.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(bytes: usize) -> *mut c_void {
    calls::valloc(bytes)
}

/// `pvalloc(3)`: whole pages.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(bytes: usize) -> *mut c_void {
    calls::pvalloc(bytes)
}

/// `malloc_usable_size(3)`.
///
/// # Safety
/// `block` is null or a block in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    // SAFETY: the caller's contract is the same.
    unsafe { malloc::usable_bytes(block.cast()) }
}

/// `malloc_trim(3)`: gives back all that can be; 1 if that was anything. There is no top to pad.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_pad: usize) -> c_int {
    (slackwater::release_now().get() > 0) as c_int
}

/// `mallopt(3)`: glibc's parameters mean nothing here. Returns 1 as for a success, for programs that
/// tune glibc and check.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(_parameter: c_int, _value: c_int) -> c_int {
    1
}
