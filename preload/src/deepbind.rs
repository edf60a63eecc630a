//! Plugins that are opened with `RTLD_DEEPBIND` have the heap of everybody else.
//!
//! Such a plugin (an extension of PHP, a module of sssd) finds a function in the libraries that it needs itself before
//! it finds it elsewhere. So its `free` would be glibc's own, and what `strdup` or `asprintf` gives it the preload
//! library's, for in glibc these call the `malloc` that all find: `free(strdup(text))` would end the process.
//!
//! Before the first such plugin is loaded, glibc's table of symbols is changed in memory: from then on whoever finds
//! its `malloc`, by whatever way, finds this library's. A program that opens no such plugin is left as it is.

use core::arch::naked_asm;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute;
use core::ptr;

use crate::libc_names as names;
use crate::next::{self, Next};
use crate::once::Once;
use crate::symbols::{LinkMap, Name, Symbols};
use crate::{operators, told};

pub(crate) static DLOPEN: Next = Next::named(c"dlopen");

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
            if let Some(symbols) = symbols_of_libc(open) {
                symbols.change(replacements().map(|(name, ours)| (Name::new(name), ours)));
            }
        });
    }
    open
}

extern "C" fn opens_nothing(_: *const c_char, _: c_int) -> *mut c_void {
    ptr::null_mut()
}

/// What is to be found under glibc's names. Ours, by the names that programs have no functions of their own under
/// where there are such.
fn replacements() -> [(&'static CStr, *const ()); 24] {
    [
        (c"malloc", names::__libc_malloc as *const ()),
        (c"free", names::__libc_free as *const ()),
        (c"cfree", names::__libc_free as *const ()),
        (c"calloc", names::__libc_calloc as *const ()),
        (c"realloc", names::__libc_realloc as *const ()),
        (c"memalign", names::__libc_memalign as *const ()),
        (c"valloc", names::__libc_valloc as *const ()),
        (c"pvalloc", names::__libc_pvalloc as *const ()),
        (c"mallinfo", names::__libc_mallinfo as *const ()),
        (c"mallopt", names::__libc_mallopt as *const ()),
        (c"__libc_malloc", names::__libc_malloc as *const ()),
        (c"__libc_free", names::__libc_free as *const ()),
        (c"__libc_calloc", names::__libc_calloc as *const ()),
        (c"__libc_realloc", names::__libc_realloc as *const ()),
        (c"__libc_memalign", names::__libc_memalign as *const ()),
        (c"__libc_valloc", names::__libc_valloc as *const ()),
        (c"__libc_pvalloc", names::__libc_pvalloc as *const ()),
        (c"aligned_alloc", crate::aligned_alloc as *const ()),
        (c"posix_memalign", crate::posix_memalign as *const ()),
        (c"malloc_usable_size", crate::malloc_usable_size as *const ()),
        (c"malloc_trim", crate::malloc_trim as *const ()),
        (c"mallinfo2", told::mallinfo2 as *const ()),
        (c"malloc_info", told::malloc_info as *const ()),
        (c"malloc_stats", told::malloc_stats as *const ()),
    ]
}

/// The symbols of libc, or none where they cannot be told.
fn symbols_of_libc(open: Open) -> Option<Symbols> {
    // SAFETY: the name ends with a zero. libc is there, and stays.
    let libc = unsafe { open(c"libc.so.6".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    let mut map: *const LinkMap = ptr::null();
    let place = (&raw mut map).cast();
    // SAFETY: `libc` is a handle, and this request writes a pointer there.
    if libc.is_null() || unsafe { libc::dlinfo(libc, libc::RTLD_DI_LINKMAP, place) } != 0 {
        return None;
    }
    // SAFETY: the loader's own record of a module that stays.
    let map = unsafe { &*map };
    // SAFETY: as said.
    unsafe { Symbols::of(map) }
}
