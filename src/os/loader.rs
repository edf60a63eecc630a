//! Which module, as a program or library that is loaded, an address belongs to, by the word of the C
//! library's loader.

use core::ffi::{CStr, c_int, c_void};
use core::mem::transmute;
use core::slice;

use libc::{Elf64_Ehdr, Elf64_Phdr};

use super::weak::address_of;
use crate::base::units::PAGE_BYTES;

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

/// A module that is loaded: the program, or a library.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    /// Where its first page is, with the ELF header.
    pub start: u64,
    pub end: u64,
    /// The address of its `.eh_frame_hdr`; 0 if it has none.
    pub header: u64,
    /// What the loader knows of it.
    link_map: u64,
    /// Tells it from whatever is loaded at the same addresses before or after it: its build id (or else its
    /// contents) counts, and of its unwind tables the number of functions and the sizes of sections.
    pub identity: u64,
}

/// `struct link_map` of `<link.h>`, as far as every libc promises it.
#[repr(C)]
struct LinkMap {
    /// What is added to the module's own addresses.
    bias: u64,
    name: *const u8,
}

/// glibc's `_dl_find_object`, if this libc has it: since glibc 2.35.
fn find_object() -> Option<FindObject> {
    let address = address_of!("_dl_find_object");
    // SAFETY: null, which is none, or the function that has this type under this name.
    unsafe { transmute::<*mut c_void, Option<FindObject>>(address) }
}

/// Whether this libc says where unwind tables are.
pub(crate) fn is_there() -> bool {
    find_object().is_some()
}

/// What the loader knows of the module that `address` is in. Takes no lock, and reads nothing of the module:
/// any address may be asked for at any time.
fn find(address: u64) -> Option<Object> {
    let find = find_object()?;
    let mut object = Object { flags: 0, start: 0, end: 0, link_map: 0, header: 0, rest: [0; 8] };
    // SAFETY: any address may be asked for, and `object` is a place for the answer.
    let result = unsafe { find(address as *mut c_void, &mut object) };
    (result == 0).then_some(object)
}

/// The first address of the module that `address` is in. Nothing is read there, so it may be an address
/// that was guessed.
pub(crate) fn start_of(address: u64) -> Option<u64> {
    find(address).map(|object| object.start)
}

/// The address of the loader's record of the module that `address` is in, or 0.
pub(crate) fn link_map_of(address: u64) -> u64 {
    find(address).map_or(0, |object| object.link_map)
}

/// The module that `address` is in, which is read: another thread may unload a module while this one looks at
/// it. So it must be one that cannot go away, as those on the stack and the [`lasting`] ones.
#[unsafe(link_section = "slackwater_start")]
pub(crate) fn module_of(address: u64) -> Option<Module> {
    let Object { start, end, header, link_map, .. } = find(address)?;
    let mut module = Module { start, end, header, link_map, identity: 0 };
    let mut identity = mix(mix(start, end), header);
    if header != 0 {
        // SAFETY: a module has its header where the loader says. It begins with the encodings, the
        // tables' distance and their number of entries, at four bytes each.
        let [encodings, distance, entries] =
            unsafe { (header as *const [u32; 3]).read_unaligned() };
        identity = mix(identity, (distance as u64) << 32 | (entries ^ encodings) as u64);
    }
    let build = match module.build_id() {
        [] => module.contents(),
        build_id => contents_of(build_id),
    };
    module.identity = mix(identity, build);
    Some(module)
}

/// The first addresses of modules that are never unloaded: the program, the C library, and the one that this
/// is part of.
pub(crate) fn lasting() -> [u64; 3] {
    // SAFETY: no preconditions.
    let entry = unsafe { libc::getauxval(libc::AT_ENTRY) };
    let [library, own] = [libc::getauxval as *const (), lasting as *const ()];
    [entry, library as u64, own as u64].map(|address| start_of(address).unwrap_or(0))
}

/// One word of many bytes, of which every bit counts.
pub(crate) fn contents_of(bytes: &[u8]) -> u64 {
    let word = |part: &[u8]| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(word)
    };
    contents_of_words(bytes.chunks(8).map(word))
}

/// The same of words, as the machine has them.
pub(crate) fn contents_of_words(words: impl Iterator<Item = u64>) -> u64 {
    words.fold(1, mix)
}

/// One word of two, of which every bit counts.
fn mix(identity: u64, word: u64) -> u64 {
    (identity.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The type of the note (named `GNU`) by which linkers tell builds apart.
const BUILD_ID: u32 = 3;

impl Module {
    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.end - self.start
    }

    /// What is added to the module's own addresses.
    pub fn bias(&self) -> u64 {
        // SAFETY: the loader's own record of a module that is loaded.
        unsafe { (*(self.link_map as *const LinkMap)).bias }
    }

    /// The name by which it was loaded, which may be relative to the folder of then; that of the program
    /// is empty.
    pub fn name(&self) -> &'static [u8] {
        // SAFETY: as in `bias`.
        let name = unsafe { (*(self.link_map as *const LinkMap)).name };
        if name.is_null() {
            return &[];
        }
        // SAFETY: the loader ends it with a zero.
        unsafe { CStr::from_ptr(name.cast()) }.to_bytes()
    }

    /// What its linker called this very build; nothing if it did not.
    #[unsafe(link_section = "slackwater_start")]
    pub fn build_id(&self) -> &'static [u8] {
        let Some((headers, bias)) = self.segments() else { return &[] };
        let notes = headers.iter().filter(|header| header.p_type == libc::PT_NOTE);
        let mut found = notes.filter_map(|header| {
            let notes = self.rest_of_segment(bias.wrapping_add(header.p_vaddr))?;
            build_id_in(notes.get(..header.p_filesz as usize)?)
        });
        found.next().unwrap_or(&[])
    }

    /// [`contents_of`] its first page, by which modules are told apart whose linker has left no build id: names
    /// of functions and their number are mostly there.
    pub fn contents(&self) -> u64 {
        // SAFETY: the first page of a module is mapped, to its end whatever the segment's size.
        contents_of(unsafe { slice::from_raw_parts(self.start as *const u8, PAGE_BYTES) })
    }

    /// What is mapped from `address` to the end of the module's segment that it lies in. `None` if it
    /// lies in none, or the module does not begin with its program headers.
    pub fn rest_of_segment(&self, address: u64) -> Option<&'static [u8]> {
        self.rest(address, libc::PF_R)
    }

    /// The same of code. `None` also where it may not be read.
    pub fn code(&self, address: u64) -> Option<&'static [u8]> {
        self.rest(address, libc::PF_R | libc::PF_X)
    }

    fn rest(&self, address: u64, rights: u32) -> Option<&'static [u8]> {
        let (headers, bias) = self.segments()?;
        let loaded = |segment: &&Elf64_Phdr| {
            segment.p_type == libc::PT_LOAD && segment.p_flags & rights == rights
        };
        headers.iter().filter(loaded).find_map(|segment| {
            let offset = address.wrapping_sub(bias.wrapping_add(segment.p_vaddr));
            let bytes = segment.p_filesz.checked_sub(offset).filter(|&bytes| bytes > 0)?;
            // SAFETY: the loader has mapped the segment from the file. It stays while its code is on
            // the stack, and nobody writes to tables and notes.
            Some(unsafe { slice::from_raw_parts(address as *const u8, bytes as usize) })
        })
    }

    /// Its program headers, and what is added to the addresses in them.
    fn segments(&self) -> Option<(&'static [Elf64_Phdr], u64)> {
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
        let loaded = headers.iter().find(|header| header.p_type == libc::PT_LOAD)?;
        let first_page = loaded.p_vaddr & !(PAGE_BYTES as u64 - 1);
        Some((headers, self.start.wrapping_sub(first_page)))
    }
}

/// The build id among these notes, each of which is three words (how long its name and its content are,
/// and its type), the name and the content, padded to words.
fn build_id_in(mut notes: &[u8]) -> Option<&[u8]> {
    while let Some((head, rest)) = notes.split_first_chunk::<12>() {
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let padded = |at: usize| (word(at) as usize).next_multiple_of(4);
        let content = rest.get(padded(0)..)?;
        if word(8) == BUILD_ID && rest.starts_with(b"GNU\0") && word(0) == 4 {
            return content.get(..word(4) as usize);
        }
        notes = content.get(padded(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::String;
    use std::vec::Vec;

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, content.len() as u32, kind] {
            note.extend(word.to_le_bytes());
        }
        for part in [name, content] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn a_build_id_is_found_among_other_notes() {
        let others = [note(b"GNU\0", 1, &[1; 16]), note(b"stapsdt\0", 3, &[2; 21])].concat();
        assert_eq!(build_id_in(&others), None);
        let mut notes = [others, note(b"GNU\0", 3, &[7; 20])].concat();
        assert_eq!(build_id_in(&notes), Some(&[7; 20][..]));
        notes.extend(note(b"x\0", 3, &[9; 3]));
        assert_eq!(build_id_in(&notes), Some(&[7; 20][..]));
        for bytes in 0..notes.len() {
            // Cut off anywhere, it is there or not.
            let found = build_id_in(&notes[..bytes]);
            assert!(found.is_none() || found == Some(&[7; 20]), "{bytes}");
        }
        assert_eq!(build_id_in(&[0xff; 40]), None);
    }

    #[test]
    fn this_program_and_libc_are_modules_and_no_code_is_in_none() {
        if !is_there() {
            return;
        }
        let own = module_of(module_of as *const () as u64).expect("this program");
        assert!(own.contains(module_of as *const () as u64));
        assert!(own.name().is_empty(), "the program itself");
        let libc = module_of(libc::atoi as *const () as u64).expect("libc");
        assert!(String::from_utf8_lossy(libc.name()).contains("libc"));
        assert_ne!(own.identity, libc.identity);
        assert_eq!(module_of(libc.start).map(|again| again.identity), Some(libc.identity));
        assert!(module_of(8).is_none());
    }
}
