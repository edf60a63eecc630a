//! The tables of symbols of modules that are loaded, read here and not by the loader.
//!
//! A question to the loader takes its lock, and a thousand instructions for each name; a process that starts would ask
//! for fifty. What is read stays: the modules that a program starts with are never unloaded. What is not understood
//! is not guessed: then the loader is asked.
//!
//! Where nothing less reaches those that look in such a table first, it is changed.

use core::ffi::{CStr, c_char, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use slackwater::units::PAGE_BYTES;

/// `struct link_map` of `<link.h>`, as far as libc promises it.
#[repr(C)]
pub struct LinkMap {
    bias: u64,
    name: *const c_char,
    dynamic: *const Dynamic,
    next: *const LinkMap,
}

/// `Elf64_Dyn`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Dynamic {
    tag: u64,
    value: u64,
}

const DT_NULL: u64 = 0;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERSYM: u64 = 0x6fff_fff0;

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

impl Symbol {
    /// The loader takes a symbol without a value for none.
    const NO_VALUE: u64 = 0;

    fn is_defined(&self) -> bool {
        self.section != 0 && self.value.load(Ordering::Relaxed) != Symbol::NO_VALUE
    }
}

/// A name and its hash, which is reckoned when this library is compiled.
#[derive(Clone, Copy)]
pub struct Name {
    pub text: &'static CStr,
    hash: u32,
}

impl Name {
    pub const fn new(text: &'static CStr) -> Name {
        let bytes = text.to_bytes();
        let mut hash = 5381u32;
        let mut at = 0;
        while at < bytes.len() {
            hash = hash.wrapping_mul(33).wrapping_add(bytes[at] as u32);
            at += 1;
        }
        Name { text, hash }
    }
}

/// The modules that the loader has after this one, in the order in which it looks for names. Empty where it does not
/// say.
pub fn modules_after_this() -> impl Iterator<Item = &'static LinkMap> {
    let own = slackwater::unwind::link_map_of_this_library().cast::<LinkMap>();
    // SAFETY: null, or the loader's own record of this module, which stays.
    let own: Option<&'static LinkMap> = unsafe { own.as_ref() };
    // SAFETY: each record leads to the next one, or to none; callers stop at libc, and so far all stay.
    let next = |map: &&'static LinkMap| unsafe { map.next.as_ref() };
    core::iter::successors(own.and_then(|own| next(&own)), next)
}

/// What the loader has added to this library's addresses.
pub fn bias_of_this_library() -> u64 {
    unsafe extern "C" {
        /// The linker's name of the file's first byte, whose address in the file is 0.
        static __ehdr_start: u8;
    }
    &raw const __ehdr_start as u64
}

/// What a module has under a function's name.
pub enum Function {
    Missing,
    At(*mut c_void),
    /// Something whose address the loader knows.
    Unclear,
}

/// The table of a module's symbols, and how they are found in it by name.
///
/// # Invariants
/// The tables are those of a module that is loaded, and stays at least as long as this is there.
pub struct Symbols {
    bias: u64,
    symbols: *const Symbol,
    names: *const c_char,
    /// Four words: how many buckets, the first symbol that is in one, the filter's words, a shift; then the filter,
    /// the buckets, and a word for each symbol from that first one on.
    hash: *const u32,
    /// A half word for each symbol, or null.
    versions: *const u16,
}

impl Symbols {
    /// `None`: the module has no such tables, or this loader has left their addresses as the file has them.
    ///
    /// # Safety
    /// It is the loader's record of a module that stays.
    pub unsafe fn of(map: &LinkMap) -> Option<Symbols> {
        // SAFETY: the caller's contract is the same.
        unsafe { Symbols::listed(map.bias, map.dynamic) }
    }

    /// Those of this library.
    pub fn of_this_library() -> Option<Symbols> {
        unsafe extern "C" {
            /// The linker's name of the list.
            static _DYNAMIC: Dynamic;
        }
        // SAFETY: this library is loaded while its code runs, and stays.
        unsafe { Symbols::listed(bias_of_this_library(), &raw const _DYNAMIC) }
    }

    /// As [`Symbols::of`], for a module whose addresses the loader has moved by `bias`.
    ///
    /// # Safety
    /// `dynamic` is the list of a module that stays at least as long as the result is there.
    pub unsafe fn listed(bias: u64, dynamic: *const Dynamic) -> Option<Symbols> {
        let mut found = [0; 4];
        let mut entry = dynamic;
        loop {
            // SAFETY: within the module's list, which ends with a null.
            let Dynamic { tag, value } = unsafe { *entry };
            match tag {
                DT_NULL => break,
                DT_SYMTAB => found[0] = value,
                DT_STRTAB => found[1] = value,
                DT_GNU_HASH => found[2] = value,
                DT_VERSYM => found[3] = value,
                _ => {}
            }
            // SAFETY: the one before was not the last.
            entry = unsafe { entry.add(1) };
        }
        let [symbols, names, hash, versions] = found;
        // An address of the file's is one that this loader has not made one of the process.
        let is_there = |address: u64| address > bias;
        let are_all_there = [symbols, names, hash].into_iter().all(is_there);
        (are_all_there && (versions == 0 || is_there(versions))).then_some(Symbols {
            bias,
            symbols: symbols as *const Symbol,
            names: names as *const c_char,
            hash: hash as *const u32,
            versions: versions as *const u16,
        })
    }

    /// Lets each of the names stand for what is given beside it, or for nothing where that is null. If the system does
    /// not let the table be written to, all stays as it is.
    pub fn change<const N: usize>(&self, changes: [(Name, *const ()); N]) {
        let found = changes.map(|(name, what)| (self.find(name), what));
        let places =
            found.iter().filter_map(|(symbol, _)| symbol.map(|s| ptr::from_ref(s) as usize));
        let (Some(first), Some(last)) = (places.clone().min(), places.max()) else { return };
        let start = first / PAGE_BYTES * PAGE_BYTES;
        let bytes = last + size_of::<Symbol>() - start;
        let protect = |rights| {
            // SAFETY: pages of a table that is only read.
            unsafe { libc::mprotect(start as *mut c_void, bytes, rights) }
        };
        if protect(libc::PROT_READ | libc::PROT_WRITE) != 0 {
            return;
        }
        for (symbol, what) in found {
            if let Some(symbol) = symbol {
                let value = match what.is_null() {
                    true => Symbol::NO_VALUE,
                    false => (what as u64).wrapping_sub(self.bias),
                };
                // Another thread finds the one or the other.
                symbol.value.store(value, Ordering::Relaxed);
            }
        }
        protect(libc::PROT_READ);
    }

    /// The function of this name.
    pub fn function(&self, name: Name) -> Function {
        const NO_TYPE: u8 = 0;
        const FUNCTION: u8 = 2;
        const INDIRECT_FUNCTION: u8 = 10;
        let Some(symbol) = self.find(name) else { return Function::Missing };
        let address = self.bias.wrapping_add(symbol.value.load(Ordering::Relaxed)) as *mut c_void;
        match symbol.info & 15 {
            NO_TYPE | FUNCTION => Function::At(address),
            INDIRECT_FUNCTION => resolve(address),
            _ => Function::Unclear,
        }
    }

    /// The symbol of that name, in the version that is meant where none is named.
    #[unsafe(link_section = "slackwater_start")]
    fn find(&self, name: Name) -> Option<&Symbol> {
        let Name { hash, .. } = name;
        let [buckets, first, filter_words, shift] = [0, 1, 2, 3].map(|at| self.word(at));
        if buckets == 0 || filter_words == 0 {
            return None;
        }
        // Most names that are not there end here.
        let filter_at = 4 + 2 * (hash / 64 % filter_words) as usize;
        let filter = (self.word(filter_at + 1) as u64) << 32 | self.word(filter_at) as u64;
        if filter >> (hash % 64) & filter >> (hash.wrapping_shr(shift) % 64) & 1 == 0 {
            return None;
        }
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
            let has_name = word | 1 == hash | 1 && self.name_of(symbol) == name.text;
            if has_name && symbol.is_defined() && self.is_meant_without_version(at) {
                return Some(symbol);
            }
            // The last one of a bucket is odd.
            if word & 1 != 0 {
                return None;
            }
            at += 1;
        }
    }

    /// Not one of an older version than the one that is linked with today.
    fn is_meant_without_version(&self, at: u32) -> bool {
        const HIDDEN: u16 = 0x8000;
        const FIRST_VERSION: u16 = 2;
        if self.versions.is_null() {
            return true;
        }
        // SAFETY: there is a half word for each symbol.
        let version = unsafe { self.versions.add(at as usize) };
        // SAFETY: as said; nobody writes to it.
        let version = unsafe { *version };
        version & HIDDEN == 0 || version & !HIDDEN < FIRST_VERSION
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

/// Asks a function that chooses another one by the processor, as the loader does.
#[cfg(target_arch = "x86_64")]
fn resolve(chooser: *mut c_void) -> Function {
    // SAFETY: what such a symbol stands for is a function of this type, which may be called when its module has been
    // relocated; all that a program starts with are, before the first constructor is called.
    let choose =
        unsafe { core::mem::transmute::<*mut c_void, extern "C" fn() -> *mut c_void>(chooser) };
    Function::At(choose())
}

/// Here they have arguments that are the loader's business.
#[cfg(target_arch = "aarch64")]
fn resolve(_: *mut c_void) -> Function {
    Function::Unclear
}
