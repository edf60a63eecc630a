//! The allocator's own frames: what lies between `malloc` and the code that wanted the memory.
//!
//! Where a stack is shown, these are left out at its inner end. What a person recognises stays: the
//! C++ library's `operator new`, `strdup`, a vector's growth. `pprof` does the same by the
//! expressions that a profile brings along ([`drop_frames`] and [`keep_frames`]).

use super::frame::Frame;

/// Functions of these names.
const EXACT: [&str; 13] = [
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "pvalloc",
    "__libc_malloc",
    "__libc_calloc",
    "__libc_realloc",
    "__libc_memalign",
];

/// Functions whose names begin so.
const PREFIXES: [&str; 14] = [
    "slackwater::",
    "__rust_alloc",
    "__rust_realloc",
    "__rustc::__rust_alloc",
    "__rustc::__rust_realloc",
    "__rustc::__rdl_",
    "__rdl_",
    "__rg_",
    "alloc::alloc::",
    "<alloc::alloc::Global as ",
    // How a vector gets its first memory; how it grows stays.
    "alloc::raw_vec::with_capacity_in",
    "alloc::raw_vec::try_allocate_in",
    "<alloc::raw_vec::RawVecInner>::with_capacity_in",
    "<alloc::raw_vec::RawVecInner>::try_allocate_in",
];

/// Methods of these traits, of whatever type.
const TRAITS: [&str; 1] = [" as core::alloc::global::GlobalAlloc>::"];

/// Of those the ones that are the program's: `slackwater` is the name of our program, too.
const KEPT: [&str; 2] = ["slackwater::program::", "slackwater::main"];

/// Is it one of the allocator's own?
pub fn is_allocator(function: &str) -> bool {
    let is_ours = EXACT.contains(&function)
        || PREFIXES.iter().any(|start| function.starts_with(start))
        || TRAITS.iter().any(|part| function.contains(part));
    is_ours && !KEPT.iter().any(|start| function.starts_with(start))
}

/// Is it where the standard library hands over to a Rust program's own code? Its callers start threads
/// and catch panics; std's own backtraces leave them out, too.
pub fn is_begin(function: &str) -> bool {
    function.contains("__rust_begin_short_backtrace")
}

/// The whole name of a function of which only the last part is known, by the file that it is in: a
/// program with line tables alone does not say more of what was inlined. So the allocator's frames are
/// known there, too; others are as they come.
pub fn qualified(function: &str, file: &str) -> Option<String> {
    // What a generic function is of may have a path all the same.
    let is_bare = !function.starts_with('<')
        && function.split('<').next().is_some_and(|name| !name.contains("::"));
    if !is_bare {
        return None;
    }
    if file.ends_with("/library/alloc/src/alloc.rs") {
        return Some(format!("alloc::alloc::{function}"));
    }
    if file.ends_with("/library/alloc/src/raw_vec/mod.rs") {
        return Some(format!("alloc::raw_vec::{function}"));
    }
    let module = in_own_source(file)?.strip_suffix(".rs")?;
    Some(format!("slackwater::{}::{function}", module.replace('/', "::")))
}

/// Where a file is in the allocator's source: that which this program was built from, or a version
/// of it that cargo has unpacked.
fn in_own_source(file: &str) -> Option<&str> {
    file.strip_prefix(slackwater::SOURCE_FOLDER).or_else(|| {
        let (_, unpacked) = file.rsplit_once("/slackwater-")?;
        let (version, place) = unpacked.split_once("/src/")?;
        version.starts_with(|c: char| c.is_ascii_digit()).then_some(place)
    })
}

/// Is it one of the Rust standard library's own? Who asks which line of the program wanted memory
/// does not mean the inside of a vector.
pub fn is_standard_library(frame: &Frame) -> bool {
    // Where the library is built, and how its functions are called that were not traced to a file.
    frame.file.starts_with("/rustc/")
        || frame.file.contains("/lib/rustlib/src/rust/library/")
        || ["alloc::", "core::", "std::"]
            .iter()
            .any(|library| frame.function.trim_start_matches(['<', '&']).starts_with(library))
}

/// [`is_allocator`] as a regular expression, which must match a whole name.
pub fn drop_frames() -> String {
    let exact = EXACT.iter().map(|name| name.to_string());
    let prefixes = PREFIXES.iter().map(|start| format!("{start}.*"));
    let traits = TRAITS.iter().map(|part| format!(".*{part}.*"));
    exact.chain(prefixes).chain(traits).collect::<Vec<_>>().join("|")
}

/// Those that stay although they match.
pub fn keep_frames() -> String {
    KEPT.map(|start| format!("{start}.*")).join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allocators_frames_are_told_from_the_programs() {
        for ours in [
            "malloc",
            "posix_memalign",
            "slackwater::malloc::allocate",
            "<slackwater::global::Slackwater as core::alloc::global::GlobalAlloc>::alloc",
            "__rustc::__rust_alloc",
            "__rust_alloc_zeroed",
            "__rustc::__rdl_realloc",
            "alloc::alloc::exchange_malloc",
            "alloc::alloc::Global::alloc_impl_runtime",
            "<alloc::alloc::Global as core::alloc::Allocator>::allocate",
            "<app::Counting as core::alloc::global::GlobalAlloc>::alloc",
        ] {
            assert!(is_allocator(ours), "{ours}");
        }
        for theirs in [
            "operator new(unsigned long)",
            "xmalloc",
            "malloc_or_die",
            "__rust_begin_short_backtrace",
            "__rust_try",
            "strdup",
            "main",
            "alloc::raw_vec::finish_grow",
            "alloc::vec::Vec<T>::with_capacity",
            "slackwater::program::demo::work",
            "slackwater::main",
            "slackwater_exporters::json::render",
        ] {
            assert!(!is_allocator(theirs), "{theirs}");
        }
    }

    #[test]
    fn the_standard_library_is_told_from_the_program() {
        let frame = |function: &str, file: &str| Frame {
            function: function.to_string(),
            file: file.to_string(),
            line: 1,
        };
        for (function, file) in [
            ("<alloc::raw_vec::RawVecInner>::try_allocate_in", ""),
            ("<u8 as alloc::vec::spec_from_elem::SpecFromElem>::from_elem", "/rustc/5980/vec.rs"),
            ("std::thread::spawn", "/home/me/.rustup/x/lib/rustlib/src/rust/library/std/thread.rs"),
        ] {
            assert!(is_standard_library(&frame(function, file)), "{function}");
        }
        for (function, file) in [("app::std::thread", "/src/app.rs"), ("main", ""), ("strdup", "")]
        {
            assert!(!is_standard_library(&frame(function, file)), "{function}");
        }
    }

    #[test]
    fn the_allocators_functions_are_known_by_their_files() {
        let own = format!("{}release/tick.rs", slackwater::SOURCE_FOLDER);
        for (function, file, name) in [
            ("tick", &own[..], "slackwater::release::tick::tick"),
            (
                "allocate",
                "/r/src/i-1/slackwater-0.1.0/src/malloc.rs",
                "slackwater::malloc::allocate",
            ),
            ("alloc", "/rustc/5980/library/alloc/src/alloc.rs", "alloc::alloc::alloc"),
            ("tick<a::B>", &own, "slackwater::release::tick::tick<a::B>"),
        ] {
            assert_eq!(qualified(function, file).as_deref(), Some(name));
            assert!(is_allocator(name));
        }
        for (function, file) in [
            ("slackwater::malloc::allocate", &own[..]),
            ("<a::B as c::D>::tick", &own),
            ("render", "/r/src/i-1/slackwater-exporters-0.1.0/src/json.rs"),
            ("alloc", "/src/alloc.rs"),
            ("main", ""),
        ] {
            assert_eq!(qualified(function, file), None, "{function} {file}");
        }
    }

    #[test]
    fn nothing_in_the_names_is_special_in_an_expression() {
        let special = |c: char| "\\.+*?()[]{}^$|".contains(c);
        let all = EXACT.iter().chain(&PREFIXES).chain(&TRAITS).chain(&KEPT);
        assert!(all.clone().all(|name| !name.contains(special)));
        assert!(drop_frames().starts_with("malloc|calloc|"));
        assert!(drop_frames().contains("|slackwater::.*|"));
    }
}
