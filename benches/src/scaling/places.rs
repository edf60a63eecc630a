//! What each read-modify-write of the allocator is for, and which threads write the same line of memory.
//!
//! This is the one place that says so. A place in the source that is not here is [`Class::Other`], and shared by all.

use super::source::Frame;

/// What it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Who owns which pages: its lock, and what grows the arena.
    PageHeap,
    /// The sets of spans with free blocks.
    SpanIndex,
    /// Blocks that leave spans and come back, from whatever thread.
    SpanBitmaps,
    /// Blocks on their way between threads.
    Depot,
    /// The memory of records and of bins' arrays.
    Metadata,
    /// Threads that come and go.
    Registry,
    /// Figures that are counted without a cache.
    Totals,
    /// Countdowns and samples.
    Sampling,
    /// Ticks, purges, take-overs, and what is noted for them.
    Release,
    /// A thread's own cache.
    Caches,
    /// The process's start and end, forks, signals, filters.
    Process,
    /// What nobody has given a class.
    Other,
}

/// All of them, in the order of the tables.
pub const CLASSES: [Class; 12] = [
    Class::PageHeap,
    Class::SpanIndex,
    Class::SpanBitmaps,
    Class::Depot,
    Class::Metadata,
    Class::Registry,
    Class::Totals,
    Class::Sampling,
    Class::Release,
    Class::Caches,
    Class::Process,
    Class::Other,
];

impl Class {
    /// As the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Class::PageHeap => "page heap",
            Class::SpanIndex => "span index",
            Class::SpanBitmaps => "span bitmaps",
            Class::Depot => "depot",
            Class::Metadata => "metadata",
            Class::Registry => "registry",
            Class::Totals => "totals",
            Class::Sampling => "sampling",
            Class::Release => "release",
            Class::Caches => "own cache",
            Class::Process => "process",
            Class::Other => "other",
        }
    }
}

/// Who writes a line of memory, beside the thread that does it just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sharing {
    /// Nobody, as long as the thread does not rest: it is not counted as shared.
    Own,
    /// Threads that have blocks of the same span, or pages of the same segment.
    Span,
    /// Threads that use the same size class.
    SizeClass,
    /// All threads.
    All,
}

impl Sharing {
    /// What the line belongs to.
    pub fn name(self) -> &'static str {
        match self {
            Sharing::Own => "a thread",
            Sharing::Span => "a span or segment",
            Sharing::SizeClass => "a size class",
            Sharing::All => "the process",
        }
    }
}

/// What is said of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// What it is for.
    pub class: Class,
    /// Who else writes the line.
    pub sharing: Sharing,
}

impl Use {
    const fn new(class: Class, sharing: Sharing) -> Use {
        Use { class, sharing }
    }

    /// Of what nobody has said anything.
    pub(super) const UNKNOWN: Use = Use::new(Class::Other, Sharing::All);
}

/// The file of the lock. What it guards says what it is for; the types are as `addr2line` has them.
pub(super) const LOCK: &str = "os/lock.rs";

const LOCKS: [(&str, Use); 7] = [
    ("slackwater::pages::page_heap::PageHeap", Use::new(Class::PageHeap, Sharing::All)),
    ("slackwater::heap::depot::Blocks", Use::new(Class::Depot, Sharing::SizeClass)),
    ("slackwater::pages::metadata::Pool", Use::new(Class::Metadata, Sharing::All)),
    ("slackwater::caches::registry::Unused", Use::new(Class::Registry, Sharing::All)),
    ("slackwater::sampling::sampler::State", Use::new(Class::Sampling, Sharing::All)),
    ("slackwater::release::state::LastTick", Use::new(Class::Release, Sharing::All)),
    ("slackwater::release::state::PurgeLimits", Use::new(Class::Release, Sharing::All)),
];

/// Files whose functions are for whoever calls them.
const TOOLS: [&str; 3] = ["base/bit_pyramid.rs", "base/bits.rs", "base/ring.rs"];

/// What a file's read-modify-writes are for, or those of one function of it; the first row that fits counts.
const FILES: [(&str, Option<&str>, Use); 30] = [
    ("geometry/span_index.rs", None, Use::new(Class::SpanIndex, Sharing::SizeClass)),
    ("geometry/span.rs", None, Use::new(Class::SpanBitmaps, Sharing::Span)),
    ("geometry/arena.rs", None, Use::new(Class::PageHeap, Sharing::All)),
    ("pages/page_heap.rs", None, Use::new(Class::PageHeap, Sharing::All)),
    ("pages/boundary.rs", None, Use::new(Class::PageHeap, Sharing::All)),
    ("pages/metadata.rs", None, Use::new(Class::Metadata, Sharing::All)),
    // A word has a bit for each of 64 segments.
    ("pages/touched.rs", None, Use::new(Class::Release, Sharing::All)),
    ("pages/clock.rs", None, Use::new(Class::Release, Sharing::All)),
    ("heap/depot.rs", None, Use::new(Class::Depot, Sharing::SizeClass)),
    // What is counted without a cache.
    ("heap/central.rs", None, Use::new(Class::Totals, Sharing::All)),
    ("heap/large.rs", None, Use::new(Class::PageHeap, Sharing::All)),
    ("heap/altered.rs", None, Use::new(Class::PageHeap, Sharing::All)),
    ("heap/mod.rs", None, Use::new(Class::Totals, Sharing::All)),
    ("caches/registry.rs", None, Use::new(Class::Registry, Sharing::All)),
    ("caches/", None, Use::new(Class::Caches, Sharing::Own)),
    ("os/biased_lock.rs", None, Use::new(Class::Caches, Sharing::Own)),
    ("os/tls.rs", None, Use::new(Class::Caches, Sharing::Own)),
    ("api/malloc.rs", None, Use::new(Class::Totals, Sharing::All)),
    ("api/foreign.rs", None, Use::new(Class::Totals, Sharing::All)),
    ("api/fork_handlers.rs", None, Use::new(Class::Process, Sharing::All)),
    ("api/exit_summary.rs", None, Use::new(Class::Process, Sharing::All)),
    ("api/faults.rs", None, Use::new(Class::Process, Sharing::All)),
    ("api/thread_exit.rs", None, Use::new(Class::Process, Sharing::All)),
    ("sampling/", None, Use::new(Class::Sampling, Sharing::All)),
    ("hooks/sections.rs", None, Use::new(Class::Totals, Sharing::All)),
    ("release/", None, Use::new(Class::Release, Sharing::All)),
    ("os/purge.rs", None, Use::new(Class::Release, Sharing::All)),
    ("os/raw_thread.rs", None, Use::new(Class::Release, Sharing::All)),
    ("os/seccomp.rs", None, Use::new(Class::Process, Sharing::All)),
    ("os/copy_mark.rs", None, Use::new(Class::Process, Sharing::All)),
];

/// What the frames of an instruction, those in the allocator's source, say of it. `None`: it is a function of the
/// tools, and whoever calls it knows.
pub(super) fn use_of(frames: &[Frame]) -> Option<Use> {
    if let Some(guarded) = frames.iter().find_map(guarded) {
        let lock = LOCKS.iter().find(|(named, _)| *named == guarded);
        return Some(lock.map_or(Use::UNKNOWN, |(_, lock)| *lock));
    }
    site_of(frames).map(|frame| {
        let fits = |(file, function, _): &&(&str, Option<&str>, Use)| {
            let in_file = if file.ends_with('/') {
                frame.file.starts_with(file)
            } else {
                frame.file == *file
            };
            in_file && function.is_none_or(|function| name(&frame.function) == function)
        };
        FILES.iter().find(fits).map_or(Use::UNKNOWN, |(_, _, known)| *known)
    })
}

/// The innermost frame that is neither of the lock nor of the tools.
pub(super) fn site_of(frames: &[Frame]) -> Option<&Frame> {
    let is_tool = |frame: &&Frame| TOOLS.contains(&&*frame.file) || frame.file == LOCK;
    frames.iter().find(|frame| !is_tool(frame))
}

/// The type that a function of the lock is of: that of `lock<slackwater::heap::depot::Blocks>`.
fn guarded(frame: &Frame) -> Option<&str> {
    if frame.file != LOCK {
        return None;
    }
    let (_, types) = frame.function.split_once('<')?;
    types.strip_suffix('>')
}

/// Does an instruction with these frames give a lock back? Each that was taken is given back once.
pub(super) fn is_unlock(frames: &[Frame]) -> bool {
    let innermost = frames.first();
    innermost.is_some_and(|frame| frame.file == LOCK && name(&frame.function) == "unlock")
}

/// A function's name without path and types: `f` of `a::f<b::C>` as of `a::<impl b::C>::f`.
pub(super) fn name(function: &str) -> &str {
    let plain = match function.split_once('<') {
        Some((before, _)) if function.ends_with('>') => before,
        _ => function,
    };
    plain.rsplit("::").next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn frame(function: &str, file: &str) -> Frame {
        Frame { function: function.to_owned(), file: file.to_owned(), line: 1 }
    }

    #[test]
    fn a_lock_is_known_by_what_it_guards_and_a_tool_by_who_uses_it() {
        let unlock = "unlock<slackwater::pages::metadata::Pool>";
        let frames = [frame(unlock, LOCK), frame("give_back", "pages/metadata.rs")];
        assert_eq!(use_of(&frames), Some(Use::new(Class::Metadata, Sharing::All)));
        assert!(is_unlock(&frames) && !is_unlock(&frames[1..]));
        assert_eq!(site_of(&frames), Some(&frames[1]));
        let unknown = [frame("unlock<slackwater::heap::New>", LOCK)];
        assert_eq!(use_of(&unknown), Some(Use::UNKNOWN));
        let frames =
            [frame("insert", "base/bit_pyramid.rs"), frame("list", "geometry/span_index.rs")];
        assert_eq!(use_of(&frames).unwrap().class, Class::SpanIndex);
        assert_eq!(use_of(&frames[..1]), None);
        let [bin, all] = ["caches/bin.rs", "caches/registry.rs"]
            .map(|file| use_of(&[frame("slackwater::caches::f", file)]).unwrap());
        assert_eq!((bin.sharing, all.sharing), (Sharing::Own, Sharing::All));
        assert_eq!(use_of(&[frame("f", "heap/new.rs")]), Some(Use::UNKNOWN));
        assert_eq!(use_of(&[frame("f", "sampling/new.rs")]).unwrap().class, Class::Sampling);
    }

    #[test]
    fn a_name_has_neither_path_nor_types() {
        for function in ["f", "a::f", "f<b::C>", "a::<impl b::C>::f", "a::f<b::C<d::E>>"] {
            assert_eq!(name(function), "f", "{function}");
        }
    }

    fn source() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../src")
    }

    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of the source").flatten() {
            let path = entry.path();
            if path.is_dir() {
                files(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    /// What a file's code does, without its tests.
    fn code(path: &Path) -> String {
        let text = fs::read_to_string(path).expect("a file of the source");
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The files with read-modify-writes, and the types that locks guard.
    #[test]
    fn every_place_has_its_row_and_every_row_its_place() {
        const WRITES: [&str; 4] = [".fetch_", ".compare_exchange", ".swap(", ".compare_and_swap"];
        let mut all = Vec::new();
        files(&source(), &mut all);
        let (mut with_writes, mut guarded) = (BTreeSet::new(), BTreeSet::new());
        for path in &all {
            let file = path.strip_prefix(source()).expect("found there").to_str().expect("UTF-8");
            if file.ends_with("tests.rs") || file.contains("/tests/") || file.starts_with("testing")
            {
                continue;
            }
            let code = code(path);
            if WRITES.iter().any(|write| code.contains(write)) {
                with_writes.insert(file.to_owned());
            }
            for (at, _) in code.match_indices(": Lock<") {
                let rest = &code[at + ": Lock<".len()..];
                guarded.extend(rest.split('>').next().map(str::to_owned));
            }
        }
        let known = |file: &str| {
            file == LOCK
                || TOOLS.contains(&file)
                || FILES.iter().any(|(row, _, _)| row.ends_with('/') && file.starts_with(row))
                || FILES.iter().any(|(row, _, _)| *row == file)
        };
        let unknown: Vec<_> = with_writes.iter().filter(|file| !known(file)).collect();
        assert!(unknown.is_empty(), "of these the table of places says nothing: {unknown:?}");
        for row in FILES.iter().map(|(row, _, _)| row).chain(&TOOLS) {
            assert!(all.contains(&source().join(row)) || row.ends_with('/'), "no file {row}");
        }
        let named: BTreeSet<_> = LOCKS
            .iter()
            .filter_map(|(lock, _)| lock.rsplit("::").next())
            .map(str::to_owned)
            .collect();
        assert_eq!(guarded, named, "the locks of the source, and those of the table");
    }
}
