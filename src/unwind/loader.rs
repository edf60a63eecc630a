//! Which module an address belongs to, and where its unwind tables are.

use core::arch::{asm, global_asm};
use core::ffi::{c_int, c_void};
use core::mem::transmute;
use core::slice;

use crate::units::PAGE_BYTES;
use libc::{Elf64_Ehdr, Elf64_Phdr};

type FindObject = unsafe extern "C" fn(*mut c_void, *mut Object) -> c_int;

/// `struct dl_find_object` of `<dlfcn.h>`, as far as it is used.
#[repr(C)]
struct Object {
    flags: u64,
    start: u64,
    end: u64,
    link_map: u64,
    /// The module's `PT_GNU_EH_FRAME`: the `.eh_frame_hdr`.
    header: u64,
    /// A member that only some architectures have, and seven words of reserve.
    rest: [u64; 8],
}

/// A loaded module with unwind tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    /// Where its first page is, with the ELF header.
    pub start: u64,
    pub end: u64,
    /// The address of its `.eh_frame_hdr`.
    pub header: u64,
    /// Tells it from what may be loaded at the same addresses after it, by the number of functions and
    /// the sizes of sections. A plugin that is built again with neither changed is not told apart: its
    /// stacks may then end early.
    pub identity: u64,
}

// A libc without that function has no value for it, which the linker and the loader let pass. So it is
// known before the first allocation, without a question to the loader, which takes a lock.
global_asm!(".weak _dl_find_object");

/// glibc's `_dl_find_object`, if this libc has it: since glibc 2.35.
fn find_object() -> Option<FindObject> {
    let address: *mut c_void;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: loads what the loader has stored in the module's table.
    unsafe {
        asm!(
            "mov {}, qword ptr [rip + _dl_find_object@GOTPCREL]",
            out(reg) address,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!(
            "adrp {0}, :got:_dl_find_object",
            "ldr {0}, [{0}, :got_lo12:_dl_find_object]",
            out(reg) address,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    // SAFETY: null, which is none, or the function that has this type under this name.
    unsafe { transmute::<*mut c_void, Option<FindObject>>(address) }
}

/// Whether this libc says where unwind tables are.
pub(crate) fn is_there() -> bool {
    find_object().is_some()
}

/// The module that `address` is in, if it has unwind tables.
///
/// `_dl_find_object` takes no lock and is made for being called anywhere. The tables of a module that
/// is on the stack cannot go away meanwhile; what a damaged stack leads to might.
pub(crate) fn module_of(address: u64) -> Option<Module> {
    let find = find_object()?;
    let mut object = Object { flags: 0, start: 0, end: 0, link_map: 0, header: 0, rest: [0; 8] };
    // SAFETY: any address may be asked for, and `object` is a place for the answer.
    let result = unsafe { find(address as *mut c_void, &mut object) };
    if result != 0 || object.header == 0 {
        return None;
    }
    let header = object.header as *const [u32; 3];
    // SAFETY: a module has its header where the loader says. It begins with the encodings, the tables'
    // distance and their number of entries, at four bytes each.
    let [encodings, distance, entries] = unsafe { header.read_unaligned() };
    let tables = (distance as u64) << 32 | (entries ^ encodings) as u64;
    let identity = (object.start.rotate_left(20) ^ object.header.rotate_left(40) ^ tables)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Some(Module { start: object.start, end: object.end, header: object.header, identity })
}

impl Module {
    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.end - self.start
    }

    /// What is mapped from `address` to the end of the module's segment that it lies in. `None` if it
    /// lies in none, or the module does not begin with its program headers.
    pub fn rest_of_segment(&self, address: u64) -> Option<&'static [u8]> {
        // SAFETY: the first page of a module is mapped, and begins with the ELF header.
        let elf = unsafe { (self.start as *const Elf64_Ehdr).read() };
        let headers_end =
            elf.e_phoff.checked_add(elf.e_phnum as u64 * size_of::<Elf64_Phdr>() as u64)?;
        if elf.e_ident[..4] != *b"\x7fELF" || headers_end > PAGE_BYTES as u64 {
            return None;
        }
        let first = self.start.checked_add(elf.e_phoff)? as *const Elf64_Phdr;
        // SAFETY: the headers are in the first page.
        let headers = unsafe { slice::from_raw_parts(first, elf.e_phnum as usize) };
        let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let first_page = loaded().next()?.p_vaddr & !(PAGE_BYTES as u64 - 1);
        let bias = self.start.wrapping_sub(first_page);
        loaded().find_map(|segment| {
            let offset = address.wrapping_sub(bias.wrapping_add(segment.p_vaddr));
            let bytes = segment.p_filesz.checked_sub(offset).filter(|&bytes| bytes > 0)?;
            // SAFETY: the loader has mapped the segment from the file. It stays while its code is on
            // the stack, and nobody writes to tables.
            Some(unsafe { slice::from_raw_parts(address as *const u8, bytes as usize) })
        })
    }
}
