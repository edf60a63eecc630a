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
//! memory of the order of the module's file: it is never done inside `malloc`, never unasked, and of the
//! process's own modules in a child ([`apart`]), so that this memory was never the process's own. Where no child
//! can be had it is done here all the same: who asks for a profile wants names. Where the control group has no
//! room for it, or the child was lost, there are addresses, and the profile says why.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use blazesym::helper::read_elf_build_id;
use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolizer};

use super::apart;
use super::compiled;
use super::frame::{Frame, Frames, printable};
use super::modules::{Mapping, Modules, hex};
use super::prune::qualified;
use crate::figures::amounts;
use crate::kernel::cgroup::CgroupMemory;

/// Names that are kept for the next time, in bytes.
const CACHE_BYTES: usize = 8 << 20;

/// Of larger files the symbol table alone is read.
const MAX_DEBUG_FILE_BYTES: u64 = 1 << 30;

/// How long a child may take to look names up.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a lookup takes beside what it takes of a file's bytes.
const LEAST_BYTES: u64 = 32 << 20;

/// What was found out.
#[derive(Default)]
pub(super) struct Found {
    /// The functions at each address of which anything is known.
    pub frames: HashMap<u64, Frames>,
    /// Why there are not more, for the end of a sentence about them.
    pub lack: Option<String>,
}

impl Found {
    /// Adds what was found out of an address; nothing, if it was nothing.
    fn add(&mut self, address: u64, frames: Frames) {
        if !frames.is_empty() {
            self.frames.insert(address, frames);
        }
    }
}

/// Finds the names of return addresses: of the calls that they return to. Those of this process are looked up in a
/// child, if one can be had.
pub(super) fn find(modules: &Modules, addresses: &[u64]) -> Found {
    let mut found = Found::default();
    let mut questions = questions(modules, addresses);
    questions.retain_mut(|question| !question.answer_from_cache(&mut found));
    if questions.is_empty() {
        return found;
    }
    if modules.process() != Some(std::process::id()) {
        let answers = answers(modules, &questions);
        keep(&mut found, &questions, answers);
        return found;
    }
    let failures = FAILURES.load(Ordering::Relaxed);
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // Somebody else may have asked the same meanwhile.
    questions.retain_mut(|question| !question.answer_from_cache(&mut found));
    if questions.is_empty() {
        return found;
    }
    if FAILURES.load(Ordering::Relaxed) != failures {
        found.lack = Some("their lookup failed for another profile at the same time".to_string());
        return found;
    }
    match answers_apart(modules, &questions) {
        Ok(answers) => keep(&mut found, &questions, answers),
        Err(why) => {
            FAILURES.fetch_add(1, Ordering::Relaxed);
            found.lack = Some(why);
        }
    }
    found
}

/// Who looks names of this process up, one at a time: it takes memory, and the next one may find them known.
static TURN: Mutex<()> = Mutex::new(());

/// How often that failed.
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// Addresses whose names are asked for.
struct Question<'a> {
    /// The file that they are in; `None`: in none.
    mapping: Option<&'a Mapping>,
    addresses: Vec<u64>,
}

impl Question<'_> {
    /// The calls that return to the addresses, by the file's own count.
    fn calls(&self) -> Vec<u64> {
        let Some(mapping) = self.mapping else { return Vec::new() };
        self.addresses.iter().map(|address| mapping.own_address(address.wrapping_sub(1))).collect()
    }

    /// Adds the names that are known already; whether that are all.
    fn answer_from_cache(&mut self, found: &mut Found) -> bool {
        let Some(mapping) = self.mapping else { return self.addresses.is_empty() };
        let file = FileKey::of(mapping);
        let cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        self.addresses.retain(|&address| {
            match cache.get(&file, mapping.own_address(address.wrapping_sub(1))) {
                Some(known) => {
                    found.add(address, known);
                    false
                }
                None => true,
            }
        });
        self.addresses.is_empty()
    }
}

/// What has to be asked: one question for each file, and one for all that is in none.
fn questions<'a>(modules: &'a Modules, addresses: &[u64]) -> Vec<Question<'a>> {
    let mut by_mapping: BTreeMap<Option<usize>, Vec<u64>> = BTreeMap::new();
    for &address in addresses {
        // A call may be the last instruction of its function, and of its mapping.
        let found = modules.find(address.wrapping_sub(1));
        let found = found.filter(|&found| !modules.mappings()[found].is_compiled());
        by_mapping.entry(found).or_default().push(address);
    }
    by_mapping
        .into_iter()
        .map(|(found, addresses)| Question {
            mapping: found.map(|found| &modules.mappings()[found]),
            addresses,
        })
        .collect()
}

/// The functions at each address of each question, in their order. Takes no lock, so that a child can do it.
fn answers(modules: &Modules, questions: &[Question<'_>]) -> Vec<Frames> {
    let mut answers = Vec::new();
    for question in questions {
        match question.mapping {
            Some(mapping) => answers.extend(read(modules, mapping, &question.calls())),
            None => {
                let process = modules.process();
                let found = process.map(|process| compiled::find(process, &question.addresses));
                let found: BTreeMap<u64, Frame> = found.unwrap_or_default().into_iter().collect();
                answers.extend(question.addresses.iter().map(|address| -> Frames {
                    found.get(address).cloned().into_iter().collect()
                }));
            }
        }
    }
    answers
}

/// The same in a child, or here where there is none to be had. The error says why there are no names.
fn answers_apart(modules: &Modules, questions: &[Question<'_>]) -> Result<Vec<Frames>, String> {
    let bytes = LEAST_BYTES + bytes_of_largest_file(modules, questions);
    let left = CgroupMemory::read().and_then(|group| room(&group));
    if let Some(left) = left.filter(|&left| left < bytes) {
        return Err(format!(
            "their lookup takes up to {}, and the control group's limit leaves {}",
            amounts::bytes(bytes as f64),
            amounts::bytes(left as f64)
        ));
    }
    let work = || message::write(&answers(modules, questions));
    match apart::run(bytes, PATIENCE, work) {
        Ok(message) => {
            let asked = questions.iter().map(|question| question.addresses.len()).sum();
            message::read(&message, asked)
                .ok_or_else(|| "their lookup, in a child process, failed".to_string())
        }
        Err(apart::ApartError::NoChild) => Ok(answers(modules, questions)),
        Err(apart::ApartError::Lost(how)) => {
            Err(format!("their lookup, in a child process, {how}"))
        }
    }
}

/// Files are read one after the other, so the largest one counts.
fn bytes_of_largest_file(modules: &Modules, questions: &[Question<'_>]) -> u64 {
    let folders = modules.debug_folders();
    let files = |mapping: &Mapping| {
        let debug_files = folders.iter().filter_map(|at| debug_file(at, mapping));
        let files: Vec<PathBuf> = debug_files.chain(modules.files(mapping)).collect();
        files.into_iter().filter_map(|file| fs::metadata(file).ok()).map(|found| found.len()).max()
    };
    questions.iter().filter_map(|question| files(question.mapping?)).max().unwrap_or(0)
}

/// What is left up to the limit of a control group, or to where it is slowed down, not counting what the kernel
/// would drop; `None`: there is no limit.
fn room(group: &CgroupMemory) -> Option<u64> {
    let room = |limit: Option<u64>, need: Option<u64>| Some(limit?.saturating_sub(need?));
    let rooms = [
        room(group.limit_bytes, group.need_bytes.or(group.current_bytes)),
        room(group.high_bytes, group.high_need_bytes),
    ];
    rooms.into_iter().flatten().min()
}

/// Adds the answers to what was found, and keeps it for the next time.
fn keep(found: &mut Found, questions: &[Question<'_>], answers: Vec<Frames>) {
    let mut answers = answers.into_iter();
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    for question in questions {
        let file = question.mapping.map(|mapping| (FileKey::of(mapping), question.calls()));
        for (i, (&address, frames)) in question.addresses.iter().zip(&mut answers).enumerate() {
            // What is compiled may be another function's soon.
            if let Some((file, calls)) = &file {
                cache.put(file, calls[i], frames.clone());
            }
            found.add(address, frames);
        }
    }
}

/// Names on their way from a child: for each address how many functions there are, and for each of these its
/// line, and its name and its file, which are as long as is said before them. Numbers are of four bytes.
mod message {
    use super::{Frame, Frames};

    pub fn write(answers: &[Frames]) -> Vec<u8> {
        let mut message = Vec::new();
        let number = |message: &mut Vec<u8>, number: usize| {
            message.extend((number as u32).to_le_bytes());
        };
        number(&mut message, answers.len());
        for frames in answers {
            number(&mut message, frames.len());
            for frame in frames.iter() {
                number(&mut message, frame.line as usize);
                for text in [&frame.function, &frame.file] {
                    number(&mut message, text.len());
                    message.extend(text.as_bytes());
                }
            }
        }
        message
    }

    /// `None`: it is not whole, or not about so many addresses.
    pub fn read(mut message: &[u8], asked: usize) -> Option<Vec<Frames>> {
        let rest = &mut message;
        if number(rest)? as usize != asked {
            return None;
        }
        let answers = (0..asked)
            .map(|_| {
                let count = number(rest)?;
                let frame = |_| {
                    let (line, function, file) = (number(rest)?, text(rest)?, text(rest)?);
                    Some(Frame { function, file, line })
                };
                (0..count).map(frame).collect::<Option<Vec<Frame>>>().map(Frames::from)
            })
            .collect::<Option<Vec<Frames>>>()?;
        rest.is_empty().then_some(answers)
    }

    fn number(rest: &mut &[u8]) -> Option<u32> {
        let (number, after) = rest.split_first_chunk::<4>()?;
        *rest = after;
        Some(u32::from_le_bytes(*number))
    }

    fn text(rest: &mut &[u8]) -> Option<String> {
        let length = number(rest)? as usize;
        let (text, after) = rest.split_at_checked(length)?;
        *rest = after;
        String::from_utf8(text.to_vec()).ok()
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

static CACHE: Mutex<NameCache> = Mutex::new(NameCache { files: BTreeMap::new(), bytes: 0 });

/// What was found before. When it is full it begins anew: what is asked for again comes back.
///
/// # Invariants
///
/// - `bytes` is about what the names take, and at most `CACHE_BYTES`.
struct NameCache {
    files: BTreeMap<FileKey, BTreeMap<u64, Frames>>,
    bytes: usize,
}

impl NameCache {
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
            *self = NameCache { files: BTreeMap::new(), bytes: 0 };
        }
        if self.files.entry(file.clone()).or_default().insert(address, frames).is_none() {
            self.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::memory::ProcessMemoryReader;

    #[inline(never)]
    fn a_function_of_this_test() {}

    #[test]
    fn own_functions_are_found_and_what_is_no_code_is_not() {
        let modules = Modules::read(std::process::id(), &ProcessMemoryReader::own());
        let modules = modules.expect("readable");
        // As if its first byte was the last of a call.
        let address = a_function_of_this_test as *const () as u64 + 1;
        for _ in 0..2 {
            let names = find(&modules, &[8, address, u64::MAX]).frames;
            let frames = names.get(&address).expect("this program has symbols");
            let function = &frames.last().expect("one at least").function;
            assert!(function.ends_with("::tests::a_function_of_this_test"), "{function}");
            assert_eq!(names.len(), 1);
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
    fn the_room_is_up_to_the_nearest_limit_whatever_is_cached() {
        let none = CgroupMemory { current_bytes: Some(700), ..CgroupMemory::default() };
        assert_eq!(room(&none), None);
        let limited = CgroupMemory { limit_bytes: Some(1000), need_bytes: Some(400), ..none };
        assert_eq!(room(&limited), Some(600));
        assert_eq!(room(&CgroupMemory { need_bytes: None, ..limited }), Some(300));
        let slowed = CgroupMemory { high_bytes: Some(500), high_need_bytes: Some(400), ..limited };
        assert_eq!(room(&slowed), Some(100));
        assert_eq!(room(&CgroupMemory { high_need_bytes: Some(900), ..slowed }), Some(0));
    }

    #[test]
    fn a_message_has_what_was_written_or_is_none() {
        let frame = |function: &str, line| Frame {
            function: function.to_string(),
            file: "/a.rs".to_string(),
            line,
        };
        let frames: Frames = [frame("a", 7), frame("ä<b>", u32::MAX)].into();
        let answers = [frames, Frames::default(), [Frame::default()].into()];
        let written = message::write(&answers);
        assert_eq!(message::read(&written, 3).as_deref(), Some(&answers[..]));
        assert_eq!(message::read(&written, 2), None);
        for end in 0..written.len() {
            assert_eq!(message::read(&written[..end], 3), None, "cut off");
        }
        let more = [&written[..], &[0]].concat();
        assert_eq!(message::read(&more, 3), None);
        let endless = [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(message::read(&endless, 1), None);
    }

    #[test]
    fn the_cache_has_a_bound() {
        let mut cache = NameCache { files: BTreeMap::new(), bytes: 0 };
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
}
