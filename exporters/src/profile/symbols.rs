//! What addresses are called: functions, the functions that were inlined into them, files and lines.
//!
//! The names come from the files that are mapped, or from their separate debug files (found by build
//! id under `/usr/lib/debug`, the process's own first, or by debug link). A file counts only if it is
//! the very build that is mapped. So names are right in other mount namespaces too, and for deleted
//! files as far as they can still be had: the program's own always, a library's where this process
//! may look into `/proc/PID/map_files` (as root may).
//!
//! Modules are read one after the other and let go, and of what was found at most `CACHE_BYTES`
//! are kept. Reading a module with debug information takes tens of milliseconds, and for that time
//! some memory: it is never done inside `malloc`, and never unasked.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use blazesym::helper::read_elf_build_id;
use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolizer};

use super::compiled;
use super::modules::{Mapping, Modules, hex};
use super::names::{Frame, Frames, Names};
use super::prune::qualified;

/// Names that are kept for the next time, in bytes.
const CACHE_BYTES: usize = 8 << 20;

/// Of larger files the symbol table alone is read.
const MAX_DEBUG_FILE_BYTES: u64 = 1 << 30;

/// Longer names of functions are cut: some generic ones have no end.
const MAX_NAME_BYTES: usize = 1000;

/// Finds the names of return addresses: of the calls that they return to.
pub(super) fn find(modules: &Modules, addresses: &[u64]) -> Names {
    let mut by_mapping: HashMap<usize, Vec<u64>> = HashMap::new();
    let mut in_no_file = Vec::new();
    for &address in addresses {
        // A call may be the last instruction of its function, and of its mapping.
        match modules.find(address.wrapping_sub(1)) {
            Some(found) if !modules.mappings()[found].is_compiled() => {
                by_mapping.entry(found).or_default().push(address);
            }
            _ => in_no_file.push(address),
        }
    }
    let mut names = Names::default();
    if let Some(process) = modules.process()
        && !in_no_file.is_empty()
    {
        for (address, frame) in compiled::find(process, &in_no_file) {
            names.add(address, [frame].into());
        }
    }
    for (found, addresses) in by_mapping {
        find_in(&mut names, modules, &modules.mappings()[found], addresses);
    }
    names
}

fn find_in(names: &mut Names, modules: &Modules, mapping: &Mapping, mut addresses: Vec<u64>) {
    let own = |address: u64| mapping.own_address(address.wrapping_sub(1));
    let file = FileKey::of(mapping);
    let cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    addresses.retain(|&address| match cache.get(&file, own(address)) {
        Some(known) => {
            names.add(address, known);
            false
        }
        None => true,
    });
    drop(cache);
    if addresses.is_empty() {
        return;
    }
    let calls: Vec<u64> = addresses.iter().map(|&address| own(address)).collect();
    let found = read(modules, mapping, &calls);
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    for ((address, call), frames) in addresses.into_iter().zip(calls).zip(found) {
        cache.put(&file, call, frames.clone());
        names.add(address, frames);
    }
}

/// The functions at addresses of a mapped file, by the file's own count; nothing where they are not
/// known.
fn read(modules: &Modules, mapping: &Mapping, addresses: &[u64]) -> Vec<Frames> {
    let debug_folders = modules.debug_folders();
    let is_same = |file: &PathBuf| is_of(file, mapping);
    // A debug file has everything that its program lacks. Without one the program may still have
    // names, or say by a link where they are.
    let debug_file = debug_folders.iter().filter_map(|at| debug_file(at, mapping)).find(is_same);
    let program = modules.files(mapping).into_iter().find(is_same);
    let mut found = vec![Frames::default(); addresses.len()];
    for file in debug_file.into_iter().chain(program) {
        let left: Vec<usize> = (0..found.len()).filter(|&i| found[i].is_empty()).collect();
        if left.is_empty() {
            break;
        }
        let asked: Vec<u64> = left.iter().map(|&i| addresses[i]).collect();
        for (i, frames) in left.into_iter().zip(read_file(&file, &debug_folders, &asked)) {
            found[i] = frames;
        }
    }
    found
}

/// Where a debug file of that build would be.
fn debug_file(folder: &Path, mapping: &Mapping) -> Option<PathBuf> {
    let (start, rest) = mapping.build_id.split_at_checked(2)?;
    Some(folder.join(format!(".build-id/{start}/{rest}.debug")))
}

fn read_file(file: &Path, debug_folders: &[PathBuf], addresses: &[u64]) -> Vec<Frames> {
    let bytes = fs::metadata(file).map_or(0, |metadata| metadata.len());
    // Where its debug information cannot be read, there are its symbols.
    for debug_syms in [true, false] {
        if debug_syms && bytes > MAX_DEBUG_FILE_BYTES {
            continue;
        }
        let symbolizer = Symbolizer::builder().set_debug_dirs(Some(debug_folders)).build();
        let mut elf = Elf::new(file);
        elf.debug_syms = debug_syms;
        if let Ok(found) = symbolizer.symbolize(&Source::Elf(elf), Input::VirtOffset(addresses)) {
            let frames = found.iter().map(|found| found.as_sym().map(frames_of));
            return frames.map(Option::unwrap_or_default).collect();
        }
    }
    vec![Frames::default(); addresses.len()]
}

/// Whether the file is what is mapped.
fn is_of(file: &Path, mapping: &Mapping) -> bool {
    let Some(metadata) = fs::metadata(file).ok().filter(fs::Metadata::is_file) else {
        return false;
    };
    match &mapping.build_id[..] {
        "" => metadata.ino() == mapping.inode,
        build_id => read_elf_build_id(file).ok().flatten().is_some_and(|id| hex(&id) == build_id),
    }
}

fn frames_of(sym: &Sym<'_>) -> Frames {
    let inlined = sym.inlined.iter().rev();
    let inlined = inlined.map(|inlined| frame(&inlined.name, inlined.code_info.as_ref()));
    inlined.chain([frame(&sym.name, sym.code_info.as_deref())]).collect()
}

fn frame(name: &str, place: Option<&CodeInfo<'_>>) -> Frame {
    let file = place.map_or(String::new(), |place| printable(&place.to_path().to_string_lossy()));
    Frame {
        function: qualified(name, &file).unwrap_or_else(|| printable(name)),
        line: place.and_then(|place| place.line).unwrap_or(0),
        file,
    }
}

/// Names come from files that anybody may have written, and end up on terminals and in pages.
pub(super) fn printable(name: &str) -> String {
    let short = name.char_indices().take_while(|(at, c)| at + c.len_utf8() <= MAX_NAME_BYTES);
    short.map(|(_, c)| if c.is_control() { '?' } else { c }).collect()
}

/// Which build of which file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileKey(String);

impl FileKey {
    fn of(mapping: &Mapping) -> FileKey {
        FileKey(match &mapping.build_id[..] {
            "" => format!("{} {}", mapping.inode, mapping.path),
            build_id => build_id.to_string(),
        })
    }
}

static CACHE: Mutex<Cache> = Mutex::new(Cache { files: BTreeMap::new(), bytes: 0 });

/// What was found before. When it is full it begins anew: what is asked for again comes back.
///
/// # Invariants
///
/// - `bytes` is about what the names take, and at most `CACHE_BYTES`.
struct Cache {
    files: BTreeMap<FileKey, BTreeMap<u64, Frames>>,
    bytes: usize,
}

impl Cache {
    fn get(&self, file: &FileKey, address: u64) -> Option<Frames> {
        self.files.get(file)?.get(&address).cloned()
    }

    fn put(&mut self, file: &FileKey, address: u64, frames: Frames) {
        // An entry of the map, and the head of what it points to.
        const ENTRY_BYTES: usize = 64;
        let names = frames.iter();
        let names = names.map(|one| size_of::<Frame>() + one.function.len() + one.file.len());
        let bytes = ENTRY_BYTES + names.sum::<usize>();
        if self.bytes + bytes > CACHE_BYTES {
            *self = Cache { files: BTreeMap::new(), bytes: 0 };
        }
        if self.files.entry(file.clone()).or_default().insert(address, frames).is_none() {
            self.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ProcessMemoryReader;

    #[inline(never)]
    fn a_function_of_this_test() {}

    #[test]
    fn own_functions_are_found_and_what_is_no_code_is_not() {
        let modules = Modules::read(std::process::id(), &ProcessMemoryReader::own());
        let modules = modules.expect("readable");
        // As if its first byte was the last of a call.
        let address = a_function_of_this_test as *const () as u64 + 1;
        for _ in 0..2 {
            let names = Names::find(&modules, &[8, address, u64::MAX]);
            let frames = names.get(address).expect("this program has symbols");
            let function = &frames.last().expect("one at least").function;
            assert!(function.ends_with("::tests::a_function_of_this_test"), "{function}");
            assert!(names.get(8).is_none() && names.get(u64::MAX).is_none());
        }
    }

    #[test]
    fn a_file_that_is_another_build_does_not_count() {
        let exe = std::env::current_exe().expect("known");
        let modules = Modules::read(std::process::id(), &ProcessMemoryReader::own());
        let modules = modules.expect("readable");
        let here = modules.find(a_function_of_this_test as *const () as u64).expect("mapped");
        let mut mapping = modules.mappings()[here].clone();
        assert!(is_of(&exe, &mapping));
        mapping.build_id = "00".repeat(20);
        assert!(!is_of(&exe, &mapping));
        mapping.build_id.clear();
        assert!(is_of(&exe, &mapping), "the same inode");
        mapping.inode += 1;
        assert!(!is_of(&exe, &mapping));
    }

    #[test]
    fn the_cache_has_a_bound() {
        let mut cache = Cache { files: BTreeMap::new(), bytes: 0 };
        let file = FileKey("file".to_string());
        let frames = |number: u64| -> Frames {
            let function = format!("{number:0>1000}");
            [Frame { function, ..Frame::default() }].into()
        };
        let mut most = 0;
        for number in 0..20_000 {
            cache.put(&file, number, frames(number));
            assert_eq!(cache.get(&file, number), Some(frames(number)));
            most = most.max(cache.bytes);
        }
        assert!((CACHE_BYTES * 9 / 10..=CACHE_BYTES).contains(&most), "{most}");
        let bytes = cache.bytes;
        cache.put(&file, 19_999, frames(19_999));
        assert_eq!(cache.bytes, bytes, "counted once");
    }

    #[test]
    fn names_are_fit_to_be_shown() {
        assert_eq!(printable("a\x1b[31m\nb"), "a?[31m?b");
        assert_eq!(printable(&"ä".repeat(1000)).len(), MAX_NAME_BYTES);
    }
}
