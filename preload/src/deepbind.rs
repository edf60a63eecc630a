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
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Once;

use slackwater::units::PAGE_BYTES;

use crate::libc_names as names;
use crate::next::{self, Next};
use crate::told;

static DLOPEN: Next = Next::named(c"dlopen");

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

/// What is to be done before something is opened so. Returns libc's `dlopen`.
extern "C" fn prepare(flags: c_int) -> Open {
    static REDIRECTED: Once = Once::new();
    // SAFETY: null, which is none, or the function that has this type under this name.
    let open = unsafe { transmute::<*mut c_void, Option<Open>>(DLOPEN.address()) };
    let open = open.unwrap_or(opens_nothing);
    if flags & libc::RTLD_DEEPBIND != 0 {
        REDIRECTED.call_once(|| {
            // Afterwards nobody finds glibc's own.
            next::find();
            if let Some(symbols) = Symbols::of_libc(open) {
                symbols.redirect();
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

/// `struct link_map` of `<link.h>`, as far as libc promises it.
#[repr(C)]
struct LinkMap {
    bias: u64,
    name: *const c_char,
    dynamic: *const Dynamic,
}

/// `Elf64_Dyn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Dynamic {
    tag: u64,
    value: u64,
}

const DT_NULL: u64 = 0;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6fff_fef5;

/// `Elf64_Sym`. The value is what the loader adds the module's bias to.
#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: AtomicU64,
    size: u64,
}

/// The table of a module's symbols, and how they are found in it by name.
///
/// # Invariants
/// The tables are those of a module that is loaded and stays.
struct Symbols {
    bias: u64,
    symbols: *const Symbol,
    names: *const c_char,
    /// Four words: how many buckets, the first symbol that is in one, the filter's words, a shift; then the filter,
    /// the buckets, and a word for each symbol from that first one on.
    hash: *const u32,
}

impl Symbols {
    fn of_libc(open: Open) -> Option<Symbols> {
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
        let mut found = [0; 3];
        let mut entry = map.dynamic;
        loop {
            // SAFETY: within the module's list, which ends with a null.
            let Dynamic { tag, value } = unsafe { *entry };
            match tag {
                DT_NULL => break,
                DT_SYMTAB => found[0] = value,
                DT_STRTAB => found[1] = value,
                DT_GNU_HASH => found[2] = value,
                _ => {}
            }
            // SAFETY: the one before was not the last.
            entry = unsafe { entry.add(1) };
        }
        let [symbols, names, hash] = found;
        // An address of the file's is one that this loader has not made one of the process.
        let are_all_there = found.iter().all(|&address| address > map.bias);
        are_all_there.then_some(Symbols {
            bias: map.bias,
            symbols: symbols as *const Symbol,
            names: names as *const c_char,
            hash: hash as *const u32,
        })
    }

    /// Lets each of the names be ours. If the system does not let the table be written to, all stays as it is.
    fn redirect(&self) {
        let found = replacements().map(|(name, ours)| (self.find(name), ours));
        let places =
            found.iter().filter_map(|(symbol, _)| symbol.map(|s| ptr::from_ref(s) as usize));
        let (Some(first), Some(last)) = (places.clone().min(), places.max()) else { return };
        let start = first / PAGE_BYTES * PAGE_BYTES;
        let bytes = last + size_of::<Symbol>() - start;
        let protect = |rights| {
            // SAFETY: pages of a table of libc's, which is only read, and by the loader.
            unsafe { libc::mprotect(start as *mut c_void, bytes, rights) }
        };
        if protect(libc::PROT_READ | libc::PROT_WRITE) != 0 {
            return;
        }
        for (symbol, ours) in found {
            if let Some(symbol) = symbol {
                // Another thread finds the one or the other.
                symbol.value.store((ours as u64).wrapping_sub(self.bias), Ordering::Relaxed);
            }
        }
        protect(libc::PROT_READ);
    }

    /// The symbol of that name.
    fn find(&self, name: &CStr) -> Option<&Symbol> {
        let hash = name
            .to_bytes()
            .iter()
            .fold(5381u32, |hash, &byte| hash.wrapping_mul(33).wrapping_add(byte as u32));
        let [buckets, first, filter_words, _] = [0, 1, 2, 3].map(|at| self.word(at));
        let first_bucket = 4 + 2 * filter_words as usize;
        let mut at = self.word(first_bucket + (hash % buckets) as usize);
        if at < first {
            return None;
        }
        loop {
            let word = self.word(first_bucket + buckets as usize + (at - first) as usize);
            // SAFETY: a symbol that the table of hashes has a word for is there.
            let symbol = unsafe { self.symbols.add(at as usize) };
            // SAFETY: as said; nothing but its value ever changes.
            let symbol = unsafe { &*symbol };
            if word | 1 == hash | 1 && self.name_of(symbol) == name {
                return Some(symbol);
            }
            // The last one of a bucket is odd.
            if word & 1 != 0 {
                return None;
            }
            at += 1;
        }
    }

    fn name_of(&self, symbol: &Symbol) -> &CStr {
        // SAFETY: the names are as many bytes long as the symbols need.
        let name = unsafe { self.names.add(symbol.name as usize) };
        // SAFETY: each ends with a zero.
        unsafe { CStr::from_ptr(name) }
    }

    /// A word of the table of hashes.
    fn word(&self, at: usize) -> u32 {
        // SAFETY: callers stay in the table, by what its first four words say.
        let word = unsafe { self.hash.add(at) };
        // SAFETY: as said; nobody writes to it.
        unsafe { *word }
    }
}
