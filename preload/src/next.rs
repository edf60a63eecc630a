//! The allocator that the program would have without this library: that of the library that comes next in the
//! order in which names are looked for, mostly glibc's own.
//!
//! Each function that is given a foreign block hands it on to the next function of its own name. So a library
//! whose `free` is a wrapper around `__libc_free` finds there what it would find without this library, and not
//! itself again.

use core::ffi::{CStr, c_void};
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use slackwater::malloc::NextAllocator;

use crate::symbols::{self, Function, Name, Symbols};

type Free = unsafe extern "C" fn(*mut c_void);
type Reallocate = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
type UsableBytes = unsafe extern "C" fn(*mut c_void) -> usize;

/// A function of a library that comes after this one.
pub struct Next {
    name: Name,
    /// Null until it has been looked for, and where there is none.
    address: AtomicPtr<c_void>,
}

impl Next {
    pub const fn named(name: &'static CStr) -> Next {
        Next { name: Name::new(name), address: AtomicPtr::new(ptr::null_mut()) }
    }

    pub fn name(&self) -> Name {
        self.name
    }

    /// What has been found; nothing is looked for.
    pub fn known(&self) -> *mut c_void {
        // Relaxed: whoever looks finds the same.
        self.address.load(Ordering::Relaxed)
    }

    /// What somebody has found who did not ask the loader.
    pub fn set(&self, found: *mut c_void) {
        self.address.store(found, Ordering::Relaxed);
    }

    /// The function of that name that everybody finds: the next one, this library's, or that of what comes before.
    pub fn first(&self) -> *mut c_void {
        // SAFETY: a name with a zero at its end.
        unsafe { libc::dlsym(libc::RTLD_DEFAULT, self.name.text.as_ptr()) }
    }

    /// Looks for it: the loader takes its lock for that. So it is done when this library is loaded; only constructors
    /// of other libraries, which ran before that, look for themselves.
    pub fn address(&self) -> *mut c_void {
        let known = self.known();
        if !known.is_null() {
            return known;
        }
        // SAFETY: a name with a zero at its end.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.text.as_ptr()) };
        self.set(found);
        found
    }
}

static FREE: Next = Next::named(c"free");
static LIBC_FREE: Next = Next::named(c"__libc_free");
static REALLOC: Next = Next::named(c"realloc");
static LIBC_REALLOC: Next = Next::named(c"__libc_realloc");
static USABLE_SIZE: Next = Next::named(c"malloc_usable_size");

/// The next allocator's functions.
pub static ALLOCATOR: [&Next; 5] = [&FREE, &LIBC_FREE, &REALLOC, &LIBC_REALLOC, &USABLE_SIZE];

/// Looks for all of these, in one pass through the modules that come after this one, as far as libc. When this library
/// is loaded: a signal's handler, which may not ask the loader, then has nothing to look for.
#[unsafe(link_section = "slackwater_start")]
pub fn find(all: &[&[&Next]]) {
    let each = || all.iter().copied().flatten();
    for map in symbols::modules_after_this() {
        // SAFETY: the loader's record. Up to libc, which has all of them, there are only modules that the program
        // started with.
        let Some(symbols) = (unsafe { Symbols::of(map) }) else { break };
        let mut are_all_found = true;
        for next in each().filter(|next| next.known().is_null()) {
            match symbols.function(next.name) {
                Function::At(found) => next.set(found),
                Function::Unclear => _ = next.address(),
                Function::Missing => are_all_found = false,
            }
        }
        if are_all_found {
            return;
        }
    }
    for next in each() {
        next.address();
    }
}

/// What the allocator hands foreign blocks to.
#[unsafe(export_name = "slackwater_next_allocator")]
static NEXT_ALLOCATOR: NextAllocator = NextAllocator { free, reallocate, usable_bytes };

unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: the caller's contract is the same.
    unsafe { free_with(&FREE, block) };
}

unsafe extern "C" fn reallocate(block: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: the caller's contract is the same.
    unsafe { reallocate_with(&REALLOC, block, bytes) }
}

unsafe extern "C" fn usable_bytes(block: *mut c_void) -> usize {
    // SAFETY: null, which is none, or the function that has this type under this name.
    let function = unsafe { transmute::<*mut c_void, Option<UsableBytes>>(USABLE_SIZE.address()) };
    // SAFETY: the caller vouches for the block.
    function.map_or(0, |usable_bytes| unsafe { usable_bytes(block) })
}

/// The next `__libc_free`.
///
/// # Safety
/// `block` is a foreign one that is not used any more.
pub unsafe fn libc_free(block: *mut c_void) {
    // SAFETY: the caller's contract is the same.
    unsafe { free_with(&LIBC_FREE, block) };
}

/// The next `__libc_realloc`.
///
/// # Safety
/// As [`libc_free`].
pub unsafe fn libc_realloc(block: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: the caller's contract is the same.
    unsafe { reallocate_with(&LIBC_REALLOC, block, bytes) }
}

unsafe fn free_with(next: &Next, block: *mut c_void) {
    // SAFETY: null, which is none, or a function that frees.
    let function = unsafe { transmute::<*mut c_void, Option<Free>>(next.address()) };
    if let Some(free) = function {
        // SAFETY: the caller vouches for the block.
        unsafe { free(block) };
    }
}

unsafe fn reallocate_with(next: &Next, block: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: null, which is none, or a function that changes a block's size.
    let function = unsafe { transmute::<*mut c_void, Option<Reallocate>>(next.address()) };
    match function {
        // SAFETY: the caller vouches for the block.
        Some(reallocate) => unsafe { reallocate(block, bytes) },
        None => slackwater::malloc::refuse().cast(),
    }
}
