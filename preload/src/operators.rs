//! C++'s `operator new` and `delete`: `malloc` and `free` without the way through the C++ library.
//!
//! Three things are the C++ library's, and stay there. Without memory it asks the program's `new_handler` and throws
//! `bad_alloc`: so each operator here that has no block goes on in the next function of its own name. Its forms for
//! arrays, without exceptions and with sizes call the plain ones, and a program may have plain ones of its own, with
//! a pool behind them or a count. And a library may have operators of its own. Hence one rule: whoever has an operator
//! without this library keeps it, unless that is the C++ library itself. Where anybody else has one of them, all of
//! them here go on in the next functions of their names, as if they were not there.
//!
//! To go on means a jump, with the arguments as they came. Neither an exception nor the end of a thread that is
//! cancelled in a `new_handler` passes through a frame of this library's.
//!
//! The size that a `delete` is given is not looked at. The page map tells what a block is by two loads, where a size
//! takes a load from a table, and it knows blocks of other allocators. Programs delete with wrong sizes: through a
//! pointer to a base class without a virtual destructor, or in a library that was built with another layout.

#![allow(non_snake_case, reason = "these are the names by which compilers know them")]

use core::arch::naked_asm;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use core::{hint, ptr, slice};

use slackwater::malloc;
use slackwater::size_class::{GRANULE, MAX_CLASS_BYTES};

use crate::next::Next;
use crate::once::Once;
use crate::symbols::{self, Dynamic, Function, Symbols};

/// Whose the operators are in this program without this library.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Owner {
    /// Nobody has looked yet.
    Unknown,
    /// The C++ library's: those here take their place.
    CxxLibrary,
    /// At least one is the program's or another library's.
    Another,
    /// There is no C++ library, or only plugins will bring one.
    Nobody,
}

#[unsafe(link_section = ".data.slackwater_start")]
static OWNER: AtomicU8 = AtomicU8::new(Owner::Unknown as u8);

/// Requests below this many bytes are for the thread's cache.
///
/// # Invariants
/// [`SERVED`] where the owner is known to be the C++ library, and 0 elsewhere.
#[unsafe(link_section = ".data.slackwater_start")]
static SERVED_BELOW: AtomicUsize = AtomicUsize::new(0);
const SERVED: usize = MAX_CLASS_BYTES + 1;

/// Looks whose the operators are. When this library is loaded: the loader takes its lock for that. Only constructors
/// of other libraries, which ran before, look for themselves. What is not found is the loader's last error, until
/// something is found.
pub fn find() {
    owner();
}

fn owner() -> Owner {
    // Relaxed: whoever looks finds the same.
    let known = OWNER.load(Ordering::Relaxed);
    for owner in [Owner::CxxLibrary, Owner::Another, Owner::Nobody] {
        if known == owner as u8 {
            return owner;
        }
    }
    let found = look_for_owner();
    if found == Owner::CxxLibrary {
        SERVED_BELOW.store(SERVED, Ordering::Relaxed);
    }
    OWNER.store(found as u8, Ordering::Relaxed);
    found
}

#[unsafe(link_section = "slackwater_start")]
fn look_for_owner() -> Owner {
    if is_surely_nobodys() {
        return Owner::Nobody;
    }
    match Survey::of_modules().ends() {
        Some((Owner::Nobody, _)) => Owner::Nobody,
        // The modules that were gone through may be more than those in which the loader looks for names: plugins are
        // among them. If it finds one form there it finds all there.
        Some((owner, found)) if Form::New.next().address() == found[Form::New as usize] => {
            for (form, found) in FORMS.iter().zip(found) {
                form.set(found);
            }
            owner
        }
        _ => ask_for_owner(),
    }
}

/// What most programs are that are not C++'s: the modules after this one are understood, and none has the first form.
#[unsafe(link_section = "slackwater_start")]
fn is_surely_nobodys() -> bool {
    let mut are_there_others = false;
    let none_has_it = symbols::modules_after_this().all(|map| {
        are_there_others = true;
        // SAFETY: the loader's record. When this library is loaded all are modules that the program started with.
        let symbols = unsafe { Symbols::of(map) };
        symbols.is_some_and(|s| matches!(s.function(Form::New.next().name()), Function::Missing))
    });
    are_there_others && none_has_it
}

/// Goes through the modules in the order in which names are looked for, and reads their tables: the loader takes a
/// hundred thousand instructions for the same.
struct Survey {
    is_past_this: bool,
    /// A module that is no C++ library comes before this one and has a form that others call.
    is_another_before: bool,
    next: NextForms,
}

/// The forms of the modules after this one.
enum NextForms {
    Missing,
    /// One module has them all, and is the first to have any.
    Found {
        by_cxx_library: bool,
        functions: [*mut c_void; 20],
    },
    /// The loader knows.
    Unclear,
}

impl Survey {
    fn of_modules() -> Survey {
        let mut survey =
            Survey { is_past_this: false, is_another_before: false, next: NextForms::Missing };
        each_module(|module| survey.go_on_with(module));
        survey
    }

    /// Whose the operators are, and the next ones; none where that is unclear.
    fn ends(self) -> Option<(Owner, [*mut c_void; 20])> {
        match self.next {
            NextForms::Unclear => None,
            NextForms::Missing => Some((Owner::Nobody, [ptr::null_mut(); 20])),
            NextForms::Found { by_cxx_library, functions } => {
                let owner = match by_cxx_library && !self.is_another_before {
                    true => Owner::CxxLibrary,
                    false => Owner::Another,
                };
                Some((owner, functions))
            }
        }
    }

    /// Whether there is more to be seen.
    fn go_on_with(&mut self, module: &libc::dl_phdr_info) -> bool {
        if module.dlpi_addr == symbols::bias_of_this_library() {
            self.is_past_this = true;
            return true;
        }
        // SAFETY: no preconditions.
        if module.dlpi_addr == unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } {
            // The kernel's, in which the loader looks for no name.
            return true;
        }
        // SAFETY: the loader's record, which is there while this is called; the symbols are not kept.
        let symbols = unsafe { symbols_of(module) };
        // SAFETY: the loader's name of the module.
        let is_cxx_library = unsafe { is_cxx_library(module.dlpi_name) };
        match symbols {
            None => self.next = NextForms::Unclear,
            Some(symbols) if self.is_past_this => {
                self.next = NextForms::of(&symbols, is_cxx_library);
            }
            Some(symbols) => {
                let has = |form: &Form| {
                    !matches!(symbols.function(form.next().name()), Function::Missing)
                };
                self.is_another_before |= !is_cxx_library && CALLED.iter().any(has);
            }
        }
        matches!(self.next, NextForms::Missing)
    }
}

/// Programs without a C++ library never ask for it, so it is looked for here, where the loader is asked anyway.
static DL_ITERATE_PHDR: Next = Next::named(c"dl_iterate_phdr");

/// Calls `visit` with each module in turn, as long as it returns `true`.
fn each_module<V: FnMut(&libc::dl_phdr_info) -> bool>(mut visit: V) {
    type Step = unsafe extern "C" fn(*mut libc::dl_phdr_info, usize, *mut c_void) -> c_int;
    type Iterate = unsafe extern "C" fn(Step, *mut c_void) -> c_int;

    unsafe extern "C" fn step<V: FnMut(&libc::dl_phdr_info) -> bool>(
        module: *mut libc::dl_phdr_info,
        _bytes: usize,
        visit: *mut c_void,
    ) -> c_int {
        // SAFETY: the place that is handed over below.
        let visit = unsafe { &mut *visit.cast::<V>() };
        // SAFETY: the loader's record, which is there while this is called.
        let goes_on = visit(unsafe { &*module });
        !goes_on as c_int
    }

    // SAFETY: null, which is none, or the function of that name, which has this type.
    let iterate = unsafe { transmute::<*mut c_void, Option<Iterate>>(DL_ITERATE_PHDR.address()) };
    if let Some(iterate) = iterate {
        // SAFETY: it calls `step` with each module and with the place of `visit`, which is of that type.
        unsafe { iterate(step::<V>, (&raw mut visit).cast()) };
    }
}

impl NextForms {
    fn of(symbols: &Symbols, by_cxx_library: bool) -> NextForms {
        let mut functions = [ptr::null_mut(); 20];
        let mut found = 0;
        for (form, place) in FORMS.iter().zip(&mut functions) {
            match symbols.function(form.name()) {
                Function::At(function) => (*place, found) = (function, found + 1),
                Function::Missing => {}
                Function::Unclear => return NextForms::Unclear,
            }
        }
        match found {
            0 => NextForms::Missing,
            20 => NextForms::Found { by_cxx_library, functions },
            // An old C++ library, or operators from several modules.
            _ => NextForms::Unclear,
        }
    }
}

/// # Safety
/// The loader's record of a module that is there as long as the symbols are looked at.
unsafe fn symbols_of(module: &libc::dl_phdr_info) -> Option<Symbols> {
    let list = headers_of(module).iter().find(|header| header.p_type == libc::PT_DYNAMIC)?;
    let list = module.dlpi_addr.wrapping_add(list.p_vaddr) as *const Dynamic;
    // SAFETY: the module's own list.
    unsafe { Symbols::listed(module.dlpi_addr, list) }
}

fn headers_of(module: &libc::dl_phdr_info) -> &[libc::Elf64_Phdr] {
    // SAFETY: the module's headers, as many as it says.
    unsafe { slice::from_raw_parts(module.dlpi_phdr, module.dlpi_phnum as usize) }
}

/// The same by the loader's word for each name.
#[cold]
fn ask_for_owner() -> Owner {
    if Form::New.next().address().is_null() {
        return Owner::Nobody;
    }
    let modules = Modules::find();
    let is_nobodys_own = |function: *mut c_void| modules.contain(function as usize);
    // An old C++ library has not all forms, and nobody calls the others. Each is looked for now: later it might be in
    // the handler of a signal.
    let mut are_next_ones = true;
    for form in &FORMS {
        let next = form.address();
        are_next_ones &= next.is_null() || is_nobodys_own(next);
    }
    match are_next_ones && CALLED.iter().all(|form| is_nobodys_own(form.next().first())) {
        true => Owner::CxxLibrary,
        false => Owner::Another,
    }
}

/// Before something is opened that may have operators of its own, or bring a C++ library: it finds these where it
/// would find them without this library. In a program that has a C++ library already it finds that one's first.
pub fn before_plugins() {
    static HIDDEN: Once = Once::new();
    if owner() == Owner::CxxLibrary {
        return;
    }
    HIDDEN.call(|| {
        if let Some(symbols) = Symbols::of_this_library() {
            symbols.change(FORMS.each_ref().map(|form| (form.name(), ptr::null())));
        }
    });
}

/// The modules whose operators are nobody's own: this library, and C++ libraries, of which LLVM's are two.
struct Modules {
    /// Where each begins and ends.
    ranges: [(usize, usize); 8],
    found: usize,
}

impl Modules {
    /// What the names of GNU's C++ library begin with, and LLVM's.
    const CXX_LIBRARIES: [&[u8]; 3] = [b"libstdc++.so", b"libc++.so", b"libc++abi.so"];

    fn find() -> Modules {
        let mut modules = Modules { ranges: [(0, 0); 8], found: 0 };
        each_module(|module| {
            modules.look_at(module);
            true
        });
        modules
    }

    fn look_at(&mut self, module: &libc::dl_phdr_info) {
        let loaded = headers_of(module).iter().filter(|header| header.p_type == libc::PT_LOAD);
        let bytes = loaded.map(|header| (header.p_vaddr + header.p_memsz) as usize).max();
        let start = module.dlpi_addr as usize;
        let end = start + bytes.unwrap_or(0);
        let is_this = (start..end).contains(&(look_for_owner as *const () as usize));
        // SAFETY: the loader's name of the module.
        let is_one = is_this || unsafe { is_cxx_library(module.dlpi_name) };
        if is_one && let Some(range) = self.ranges.get_mut(self.found) {
            *range = (start, end);
            self.found += 1;
        }
    }

    fn contain(&self, address: usize) -> bool {
        self.ranges[..self.found].iter().any(|&(start, end)| (start..end).contains(&address))
    }
}

/// # Safety
/// `name` is null or ends with a zero.
unsafe fn is_cxx_library(name: *const c_char) -> bool {
    if name.is_null() {
        return false;
    }
    // SAFETY: the caller's contract is the same.
    let path = unsafe { CStr::from_ptr(name) }.to_bytes();
    let file = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    Modules::CXX_LIBRARIES.iter().any(|known| file.starts_with(known))
}

/// How an operator ends that has come past the thread's cache.
#[repr(C)]
struct End {
    /// What it returns, if the next one is null.
    block: *mut u8,
    /// Where it goes on else.
    next: *const c_void,
}

impl End {
    fn returns(block: *mut u8) -> End {
        End { block, next: ptr::null() }
    }

    fn goes_on(next: *const c_void) -> End {
        End { block: ptr::null_mut(), next }
    }
}

/// Where a form goes on; null where there is nothing of that name. Who knows the owner has looked for it.
fn next_of(form: Form) -> *mut c_void {
    match owner() {
        Owner::Nobody => ptr::null_mut(),
        _ => form.next().known(),
    }
}

/// `operator new` past the thread's cache. Without memory it may return null only if it `is_nothrow`.
fn allocate(form: Form, bytes: usize, align: usize, is_nothrow: bool) -> End {
    let next = next_of(form);
    if owner() == Owner::Another && !next.is_null() {
        return End::goes_on(next);
    }
    // What is no alignment is refused by the C++ library.
    let block = match align.is_power_of_two() {
        true => malloc::try_allocate(bytes, align),
        false => None,
    };
    match block {
        Some(block) => End::returns(block),
        None if !next.is_null() => End::goes_on(next),
        None if is_nothrow => End::returns(malloc::refuse()),
        None => malloc::end_without_memory(bytes),
    }
}

/// `operator delete` where it is not known whether the C++ library's is meant.
///
/// # Safety
/// As [`malloc::free`].
unsafe fn deallocate(form: Form, block: *mut u8) -> End {
    let next = next_of(form);
    if owner() == Owner::Another && !next.is_null() {
        return End::goes_on(next);
    }
    // SAFETY: the caller's contract is the same.
    unsafe { malloc::free(block) };
    End::returns(ptr::null_mut())
}

/// Whether those here take the place of the C++ library's.
#[inline(always)]
fn are_in_place() -> bool {
    // Relaxed: who sees 0 though it is known by now comes to know it himself.
    SERVED_BELOW.load(Ordering::Relaxed) != 0
}

/// The same, and that requests of so many bytes are for the thread's cache: one comparison for both.
#[inline(always)]
fn is_served(bytes: usize) -> bool {
    // Relaxed: as above.
    let is_served = bytes < SERVED_BELOW.load(Ordering::Relaxed);
    // SAFETY: the static's invariant.
    unsafe { hint::assert_unchecked(!is_served || bytes < SERVED) };
    is_served
}

/// `operator new`, with `go_on` for all that the thread's cache cannot do.
#[inline(always)]
fn new(bytes: usize, align: usize, go_on: impl FnOnce(usize) -> *mut u8) -> *mut c_void {
    // Nobody has more than half of all addresses; GNU's library rounds the size up, and may find it to be 0 then.
    let go_on = || go_on(bytes.min(isize::MAX as usize));
    let block = match align.is_power_of_two() && is_served(bytes) {
        true => malloc::allocate_cached_or(bytes, align, go_on),
        false => go_on(),
    };
    block.cast()
}

/// A function that calls `$end` with its arguments, three at most, and returns or jumps on as that says.
macro_rules! go_on_by {
    ($end:ident, $name:ident($($argument:ident: $type:ty),*)) => {
        #[unsafe(naked)]
        #[cfg(target_arch = "x86_64")]
        extern "C-unwind" fn $name($($argument: $type),*) -> *mut u8 {
            naked_asm!(
                ".cfi_startproc",
                "push rdi",
                ".cfi_adjust_cfa_offset 8",
                "push rsi",
                ".cfi_adjust_cfa_offset 8",
                "push rdx",
                ".cfi_adjust_cfa_offset 8",
                "call {end}",
                "mov rcx, rdx",
                "pop rdx",
                ".cfi_adjust_cfa_offset -8",
                "pop rsi",
                ".cfi_adjust_cfa_offset -8",
                "pop rdi",
                ".cfi_adjust_cfa_offset -8",
                "test rcx, rcx",
                "jne 2f",
                "ret",
                "2:",
                "jmp rcx",
                ".cfi_endproc",
                end = sym $end,
            )
        }

        #[unsafe(naked)]
        #[cfg(target_arch = "aarch64")]
        extern "C-unwind" fn $name($($argument: $type),*) -> *mut u8 {
            naked_asm!(
                ".cfi_startproc",
                "stp x0, x1, [sp, #-32]!",
                ".cfi_def_cfa_offset 32",
                "stp x2, x30, [sp, #16]",
                ".cfi_offset 30, -8",
                "bl {end}",
                "mov x16, x1",
                "ldp x2, x30, [sp, #16]",
                ".cfi_restore 30",
                "cbnz x16, 2f",
                "add sp, sp, #32",
                ".cfi_def_cfa_offset 0",
                "ret",
                "2:",
                ".cfi_def_cfa_offset 32",
                "ldp x0, x1, [sp], #32",
                ".cfi_def_cfa_offset 0",
                "br x16",
                ".cfi_endproc",
                end = sym $end,
            )
        }
    };
}

/// All forms of the operators. What is known of them is one table, in which the loader has less to relocate than in
/// many objects.
macro_rules! operators {
    (
        new {$(
            $(#[$new_attribute:meta])*
            $new_form:ident $new_name:ident($($new_argument:ident),*): $align:expr, $is_nothrow:expr;
        )*}
        delete {$(
            $(#[$attribute:meta])*
            $form:ident $name:ident($($argument:ident),*);
        )*}
    ) => {
        /// All forms that a program may have its own of.
        #[derive(Clone, Copy)]
        enum Form {
            $($new_form,)*
            $($form,)*
        }

        /// Where each goes on, in the order of [`Form`].
        static FORMS: [Next; 20] = [
            $(Next::named(c_name(concat!(stringify!($new_name), "\0"))),)*
            $(Next::named(c_name(concat!(stringify!($name), "\0"))),)*
        ];

        $(
            $(#[$new_attribute])*
            #[unsafe(no_mangle)]
            pub extern "C-unwind" fn $new_name(bytes: usize $(, $new_argument: usize)*) -> *mut c_void {
                extern "C" fn end(bytes: usize $(, $new_argument: usize)*) -> End {
                    $(let _ = $new_argument;)*
                    allocate(Form::$new_form, bytes, $align, $is_nothrow)
                }
                go_on_by!(end, go_on(bytes: usize $(, $new_argument: usize)*));
                new(bytes, $align, |bytes| go_on(bytes $(, $new_argument)*))
            }
        )*

        $(
            $(#[$attribute])*
            ///
            /// # Safety
            /// `block` is null or a block that is not used any more, of this allocator or of the next one.
            #[unsafe(no_mangle)]
            pub unsafe extern "C-unwind" fn $name(block: *mut c_void $(, $argument: usize)*) {
                unsafe extern "C" fn end(block: *mut c_void $(, $argument: usize)*) -> End {
                    $(let _ = $argument;)*
                    // SAFETY: the caller's contract is the same.
                    unsafe { deallocate(Form::$form, block.cast()) }
                }
                go_on_by!(end, go_on(block: *mut c_void $(, $argument: usize)*));
                if !are_in_place() {
                    go_on(block $(, $argument)*);
                    return;
                }
                // SAFETY: the caller's contract is the same.
                unsafe { malloc::free(block.cast()) };
            }
        )*
    };
}

const fn c_name(with_zero: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(with_zero.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a name has no zero inside"),
    }
}

impl Form {
    fn next(self) -> &'static Next {
        &FORMS[self as usize]
    }
}

operators! {
    new {
        /// `operator new(size)`.
        New _Znwm(): GRANULE, false;
        /// `operator new[](size)`.
        NewArray _Znam(): GRANULE, false;
        /// `operator new(size, align)`.
        NewAligned _ZnwmSt11align_val_t(align): align, false;
        /// `operator new[](size, align)`.
        NewArrayAligned _ZnamSt11align_val_t(align): align, false;
        /// `operator new(size, nothrow)`.
        NewNothrow _ZnwmRKSt9nothrow_t(nothrow): GRANULE, true;
        /// `operator new[](size, nothrow)`.
        NewArrayNothrow _ZnamRKSt9nothrow_t(nothrow): GRANULE, true;
        /// `operator new(size, align, nothrow)`.
        NewAlignedNothrow _ZnwmSt11align_val_tRKSt9nothrow_t(align, nothrow): align, true;
        /// `operator new[](size, align, nothrow)`.
        NewArrayAlignedNothrow _ZnamSt11align_val_tRKSt9nothrow_t(align, nothrow): align, true;
    }
    delete {
        /// `operator delete(block)`.
        Delete _ZdlPv();
        /// `operator delete[](block)`.
        DeleteArray _ZdaPv();
        /// `operator delete(block, align)`.
        DeleteAligned _ZdlPvSt11align_val_t(align);
        /// `operator delete[](block, align)`.
        DeleteArrayAligned _ZdaPvSt11align_val_t(align);
        /// `operator delete(block, size)`.
        DeleteSized _ZdlPvm(bytes);
        /// `operator delete[](block, size)`.
        DeleteArraySized _ZdaPvm(bytes);
        /// `operator delete(block, size, align)`.
        DeleteSizedAligned _ZdlPvmSt11align_val_t(bytes, align);
        /// `operator delete[](block, size, align)`.
        DeleteArraySizedAligned _ZdaPvmSt11align_val_t(bytes, align);
        /// `operator delete(block, nothrow)`.
        DeleteNothrow _ZdlPvRKSt9nothrow_t(nothrow);
        /// `operator delete[](block, nothrow)`.
        DeleteArrayNothrow _ZdaPvRKSt9nothrow_t(nothrow);
        /// `operator delete(block, align, nothrow)`.
        DeleteAlignedNothrow _ZdlPvSt11align_val_tRKSt9nothrow_t(align, nothrow);
        /// `operator delete[](block, align, nothrow)`.
        DeleteArrayAlignedNothrow _ZdaPvSt11align_val_tRKSt9nothrow_t(align, nothrow);
    }
}

/// Those that the C++ library's other forms call.
const CALLED: [Form; 8] = [
    Form::New,
    Form::NewArray,
    Form::NewAligned,
    Form::NewArrayAligned,
    Form::Delete,
    Form::DeleteArray,
    Form::DeleteAligned,
    Form::DeleteArrayAligned,
];
