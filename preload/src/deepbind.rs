//! Plugins that are opened with `RTLD_DEEPBIND` have the heap of everybody else.
//!
//! Such a plugin (an extension of PHP, a module of sssd) finds a function in the libraries that it needs itself before
//! it finds it elsewhere. So its `free` would be glibc's own, and what `strdup` or `asprintf` gives it the preload
//! library's, for in glibc these call the `malloc` that all find: `free(strdup(text))` would end the process.
//!
//! Before the first such plugin is loaded, glibc's table of symbols is changed in memory: from then on whoever finds
//! its `malloc`, by whatever way, finds this library's. A program that opens no such plugin is left as it is.

use core::arch::naked_asm;
use core::array;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute;
use core::ptr;

use crate::next::{self, Next};
use crate::once::Once;
use crate::operators;
use crate::symbols::{Function, LinkMap, Name, Symbols};

pub(crate) static DLOPEN: Next = Next::named(c"dlopen");
static DLINFO: Next = Next::named(c"dlinfo");

/// `dlopen(3)`: prepares for what is to be opened and goes on in libc's, which sees by its return address who has
/// called, and looks for libraries where that one's are.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
#[unsafe(naked)]
#[cfg(target_arch = "x86_64")]
pub unsafe extern "C" fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void {
    naked_asm!(
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "mov edi, esi",
        "call {prepare}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "jmp rax",
        prepare = sym prepare,
    )
}

/// `dlopen(3)`: as above.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
#[unsafe(naked)]
#[cfg(target_arch = "aarch64")]
pub unsafe extern "C" fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void {
    naked_asm!(
        "stp x0, x1, [sp, #-32]!",
        "str x30, [sp, #16]",
        "mov w0, w1",
        "bl {prepare}",
        "mov x16, x0",
        "ldr x30, [sp, #16]",
        "ldp x0, x1, [sp], #32",
        "br x16",
        prepare = sym prepare,
    )
}

type Tell = unsafe extern "C" fn(*mut c_void, c_int, *mut c_void) -> c_int;
type Open = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;

/// What is to be done before something is opened. Returns libc's `dlopen`.
extern "C" fn prepare(flags: c_int) -> Open {
    static REDIRECTED: Once = Once::new();
    // SAFETY: null, which is none, or the function that has this type under this name.
    let open = unsafe { transmute::<*mut c_void, Option<Open>>(DLOPEN.address()) };
    let open = open.unwrap_or(opens_nothing);
    if flags & libc::RTLD_NOLOAD == 0 {
        operators::before_plugins();
    }
    if flags & libc::RTLD_DEEPBIND != 0 {
        REDIRECTED.call(|| {
            // Afterwards nobody finds glibc's own.
            next::find(&[&next::ALLOCATOR]);
            redirect(open);
        });
    }
    open
}

extern "C" fn opens_nothing(_: *const c_char, _: c_int) -> *mut c_void {
    ptr::null_mut()
}

/// What is to be found under glibc's names, each with the name that this library has it under: one that programs have
/// no function of their own under, where there is such. One text, for the loader would have to relocate a table of
/// many.
const REPLACEMENTS: &str = "\
    malloc\0__libc_malloc\0\
    free\0__libc_free\0\
    cfree\0__libc_free\0\
    calloc\0__libc_calloc\0\
    realloc\0__libc_realloc\0\
    memalign\0__libc_memalign\0\
    valloc\0__libc_valloc\0\
    pvalloc\0__libc_pvalloc\0\
    mallinfo\0__libc_mallinfo\0\
    mallopt\0__libc_mallopt\0\
    __libc_malloc\0__libc_malloc\0\
    __libc_free\0__libc_free\0\
    __libc_calloc\0__libc_calloc\0\
    __libc_realloc\0__libc_realloc\0\
    __libc_memalign\0__libc_memalign\0\
    __libc_valloc\0__libc_valloc\0\
    __libc_pvalloc\0__libc_pvalloc\0\
    aligned_alloc\0aligned_alloc\0\
    posix_memalign\0posix_memalign\0\
    malloc_usable_size\0malloc_usable_size\0\
    malloc_trim\0malloc_trim\0\
    mallinfo2\0mallinfo2\0\
    malloc_info\0malloc_info\0\
    malloc_stats\0malloc_stats\0";

const REPLACED: usize = 24;

/// The names of [`REPLACEMENTS`]: glibc's, and this library's.
fn replacements() -> [(Name, Name); REPLACED] {
    let mut texts = REPLACEMENTS.as_bytes().split_inclusive(|&byte| byte == 0);
    let mut name = || {
        let text = texts.next().and_then(|text| CStr::from_bytes_with_nul(text).ok());
        // Nothing has a name without a letter.
        Name::new(text.unwrap_or(c""))
    };
    array::from_fn(|_| (name(), name()))
}

fn redirect(open: Open) {
    let (Some(libcs), Some(ours)) = (symbols_of_libc(open), Symbols::of_this_library()) else {
        return;
    };
    let changes: [(Name, *const ()); REPLACED] =
        replacements().map(|(name, own)| match ours.function(own) {
            Function::At(function) => (name, function.cast_const().cast()),
            _ => (name, ptr::null()),
        });
    // All are to be of one allocator.
    if changes.iter().all(|(_, function)| !function.is_null()) {
        libcs.change(changes);
    }
}

/// The symbols of libc, or none where they cannot be told.
fn symbols_of_libc(open: Open) -> Option<Symbols> {
    // SAFETY: the name ends with a zero. libc is there, and stays.
    let libc = unsafe { open(c"libc.so.6".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    let mut map: *const LinkMap = ptr::null();
    let place = (&raw mut map).cast();
    // SAFETY: null, which is none, or the function of that name, which has this type.
    let tell = unsafe { transmute::<*mut c_void, Option<Tell>>(DLINFO.address()) }?;
    // SAFETY: `libc` is a handle, and this request writes a pointer there.
    if libc.is_null() || unsafe { tell(libc, libc::RTLD_DI_LINKMAP, place) } != 0 {
        return None;
    }
    // SAFETY: the loader's own record of a module that stays.
    let map = unsafe { &*map };
    // SAFETY: as said.
    unsafe { Symbols::of(map) }
}
