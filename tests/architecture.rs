//! The house keeps its shape: what ARCHITECTURE.md says of folders and imports is so.
//!
//! A folder of `src` and of `exporters/src` is a tier. The tables in ARCHITECTURE.md say in which order, and are
//! read here: to give a new file its place, or a folder another rank, change them. Each rule is a function from
//! texts to complaints, and has a test below that plants what it forbids.
//!
//! What else is held, and where: the README's table of knobs is the code's (`src/heap/knobs.rs`); files,
//! commands and routes that documents name exist (`exporters/program/tests/documents.rs`), and so do metrics
//! (`exporters/program/tests/metric_names.rs`).

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use imports::{
    Files, Import, Library, Module, code, declares, ends_item, identifier, indentation, module,
};

/// How long a function may be, and how wide a comment. (Code has 100 columns, by rustfmt.)
const MOST_LINES: usize = 70;
const MOST_COLUMNS: usize = 120;

/// Methods that a later tier gives to an earlier one's type so that users find them there; the type's own tier
/// never calls them. File and type.
const LENT: [(&str, &str); 1] = [("profile/reading.rs", "Target")];

/// The functions that are longer: file, name, lines. The list only shrinks.
const LONG_FUNCTIONS: [(&str, &str, usize); 1] = [("src/stack/unwind/tables.rs", "execute", 77)];

#[test]
fn folders_are_the_tiers_and_imports_run_one_way() {
    if !is_repository() {
        return;
    }
    let tables = tables_of_tiers(&read("ARCHITECTURE.md"));
    assert_eq!(tables.len(), 2, "ARCHITECTURE.md has a table of tiers for each library");
    let mut told = Vec::new();
    for (folder, tiers) in ["src", "exporters/src"].iter().zip(&tables) {
        let files = files_below(folder);
        let complaints = [evasions(&files), shape(&Library::new(files), tiers)].concat();
        told.extend(complaints.iter().map(|complaint| format!("{folder}: {complaint}")));
    }
    assert_none(&told);
}

#[test]
fn functions_are_short_and_comments_narrow() {
    if !is_repository() {
        return;
    }
    let mut files = Files::new();
    for folder in ["src", "exporters", "preload", "benches", "tests"] {
        let below = files_below(folder).into_iter();
        files.extend(below.map(|(path, text)| (format!("{folder}/{path}"), text)));
    }
    assert_none(&[too_long(&files, &LONG_FUNCTIONS), too_wide(&files)].concat());
}

/// The package as it is published has the allocator alone.
fn is_repository() -> bool {
    let is_whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("exporters").exists();
    if !is_whole {
        eprintln!("SKIPPED: this is not the whole repository");
    }
    is_whole
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The Rust files below a folder of the repository, by their paths from there.
fn files_below(folder: &str) -> Files {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Files::new();
    let mut folders: Vec<PathBuf> = vec![top.clone()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.map(|entry| entry.expect("it is listed").path()) {
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&top).expect("it is below").display().to_string();
                found.insert(name, read(&path));
            }
        }
    }
    found
}

/// A tier: its name, and its folders (with a slash at the end) and files.
type Tier = (String, Vec<String>);

/// Each table of a document that begins with the columns tier and files: its rows, lowest tier first.
fn tables_of_tiers(document: &str) -> Vec<Vec<Tier>> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let places = cells[2].split('`').skip(1).step_by(2).map(str::to_string);
        (cells[1].to_string(), places.collect())
    };
    let tables = document.split("\n| tier | files |").skip(1);
    let rows = |table: &str| {
        table.lines().skip(2).take_while(|line| line.starts_with('|')).map(row).collect()
    };
    tables.map(rows).collect()
}

/// A folder stands for all that is below it.
fn stands_in(file: &str, (_, places): &Tier) -> bool {
    places.iter().any(|place| file == place || (place.ends_with('/') && file.starts_with(place)))
}

// The rules.

fn shape(library: &Library, tiers: &[Tier]) -> Vec<String> {
    [
        misplaced(library, tiers),
        upward(library, tiers),
        lent(library, tiers),
        circle(library),
        orphans(library),
    ]
    .concat()
}

/// Files that stand in no row or in several, and rows that name what is not there.
fn misplaced(library: &Library, tiers: &[Tier]) -> Vec<String> {
    let mut told = Vec::new();
    for file in library.modules.values().filter(|file| *file != "lib.rs") {
        let rows = tiers.iter().filter(|tier| stands_in(file, tier)).count();
        if rows != 1 {
            told.push(format!("{file} stands in {rows} rows of ARCHITECTURE.md's table, not in 1"));
        }
    }
    for place in tiers.iter().flat_map(|(_, places)| places) {
        let row = (String::new(), vec![place.clone()]);
        if !library.files.iter().any(|file| stands_in(file, &row)) {
            told.push(format!("ARCHITECTURE.md's table names {place}, which is not there"));
        }
    }
    told
}

/// Imports from a tier that comes later. lib.rs comes last: it names the others for those outside.
fn upward(library: &Library, tiers: &[Tier]) -> Vec<String> {
    let rank = |file: &str| {
        let row = tiers.iter().position(|tier| stands_in(file, tier));
        row.or_else(|| (file == "lib.rs").then_some(tiers.len()))
    };
    let mut seen = BTreeSet::new();
    let mut told = Vec::new();
    for Import { file, line, path, from, .. } in &library.imports {
        let (Some(own), Some(other)) = (rank(file), rank(from)) else { continue };
        if other > own && seen.insert((file, from)) {
            let tier = tiers.get(other).map_or("lib.rs", |(name, _)| name);
            told.push(format!("{file}:{line} imports {path} of a later tier, {tier}"));
        }
    }
    told
}

/// Methods that a file gives to a type of an earlier tier: by them that tier calls a later one, and names it
/// nowhere.
fn lent(library: &Library, tiers: &[Tier]) -> Vec<String> {
    let rank = |file: &str| tiers.iter().position(|tier| stands_in(file, tier));
    let is_listed = |file: &str, name: &str| LENT.contains(&(file, name));
    let lent = library.methods.iter().filter(|(file, _, _, whose)| rank(file) > rank(whose));
    let lent = lent.filter(|(file, _, name, _)| !is_listed(file, name));
    lent.map(|(file, line, name, whose)| {
        format!("{file}:{line} gives methods to {name}, which is {whose}'s, of an earlier tier")
    })
    .collect()
}

/// Ways past the reader of imports, of which no code here has any need.
fn evasions(files: &Files) -> Vec<String> {
    const EVASIONS: [&str; 3] = ["#[path", "include!(", "extern crate self"];
    let mut told = Vec::new();
    for (file, text) in files {
        for (index, line) in code(text).iter().enumerate() {
            for evasion in EVASIONS.iter().filter(|evasion| line.trim_start().starts_with(*evasion))
            {
                told.push(format!(
                    "{file}:{} has {evasion}, which hides what is imported",
                    index + 1
                ));
            }
        }
    }
    told
}

/// One circle of files, if there is any.
fn circle(library: &Library) -> Vec<String> {
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in library.imports.iter().filter(|import| !import.is_passed_on) {
        imports.entry(&import.file).or_default().insert(&import.from);
    }
    // Who imports nobody that is left is in no circle.
    let free = |imports: &BTreeMap<&str, BTreeSet<&str>>| {
        let free = imports.iter().find(|(_, all)| !all.iter().any(|one| imports.contains_key(one)));
        free.map(|(file, _)| file.to_string())
    };
    while let Some(file) = free(&imports) {
        imports.remove(file.as_str());
    }
    // From any other one comes back to where one was.
    let mut way: Vec<&str> = imports.keys().take(1).copied().collect();
    while let Some(last) = way.last() {
        let next = imports[last].iter().find(|one| imports.contains_key(*one)).expect("it is left");
        if let Some(was) = way.iter().position(|file| file == next) {
            return vec![format!("a circle: {} → {next}", way[was..].join(" → "))];
        }
        way.push(next);
    }
    Vec::new()
}

/// Files that nobody names. A folder's mod.rs is named with what is in it.
fn orphans(library: &Library) -> Vec<String> {
    let imported = library.imports.iter().map(|import| module(&import.from));
    let named: BTreeSet<Module> = imported.chain(library.entries.iter().cloned()).collect();
    let orphans = library.modules.iter().filter(|(at, _)| !named.iter().any(|n| n.starts_with(at)));
    orphans.map(|(_, file)| format!("{file} is imported by nobody")).collect()
}

/// Functions that are longer than they may be, or than the list of the long ones says; and what that list
/// says of functions that are shorter by now, or gone. Tests may be as long as they like.
fn too_long(files: &Files, list: &[(&str, &str, usize)]) -> Vec<String> {
    let mut told = Vec::new();
    let mut seen = BTreeSet::new();
    let is_test =
        |file: &str| ["/tests/", "/tests.rs", "/testing/"].iter().any(|t| file.contains(t));
    for (file, text) in files.iter().filter(|(file, _)| !is_test(file)) {
        let lines = code(text);
        for (index, line) in lines.iter().enumerate() {
            let Some(name) = declares(line, "fn").map(identifier) else { continue };
            let mut below = lines[index..].iter();
            let end = below.position(|line_below| ends_item(line_below, indentation(line)));
            let length = 1 + end.unwrap_or(0);
            let listed = list.iter().find(|entry| (entry.0, entry.1) == (file, name));
            let most = listed.map_or(MOST_LINES, |entry| entry.2);
            if length > most {
                let line = index + 1;
                told.push(format!("{file}:{line} {name} has {length} lines, not {most} at most"));
            }
            seen.insert((file.as_str(), name, length));
        }
    }
    for (file, name, lines) in list {
        if *lines <= MOST_LINES || !seen.contains(&(*file, *name, *lines)) {
            told.push(format!(
                "the list has {name} of {file} with {lines} lines: it has fewer now"
            ));
        }
    }
    told
}

/// Comments that are wider than they may be.
fn too_wide(files: &Files) -> Vec<String> {
    let mut told = Vec::new();
    for (file, text) in files {
        for (index, line) in text.lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//") || line.contains(" // ");
            let columns = line.chars().count();
            if is_comment && columns > MOST_COLUMNS {
                told.push(format!("{file}:{} a comment has {columns} columns", index + 1));
            }
        }
    }
    told
}

// Each rule finds what it is for.

/// A small library and its tiers, with files that a test adds or puts in others' place.
fn house(planted: &[(&str, &str)]) -> (Library, Vec<Tier>) {
    let document = "\n| tier | files | what is there |\n|---|---|---|\n| low | `base/` `words.rs` | \
        … |\n| high | `heap/` | … |\n| tests | `testing/` | … |\n\nAnd so on.";
    let sound = [
        ("lib.rs", "mod base;\nmod heap;\n#[cfg(test)]\nmod testing;\npub use heap::Heap;\n"),
        ("base/mod.rs", "mod bits;\nmod ring;\npub use bits::Bits;\npub use ring::Ring;\n"),
        ("base/bits.rs", "pub struct Bits;\n#[cfg(test)]\nmod tests {\n    use crate::Heap;\n}\n"),
        ("base/ring.rs", "use super::Bits;\n/// As crate::heap::Heap does.\npub struct Ring;\n"),
        ("words.rs", "pub struct Word;\n"),
        ("heap/mod.rs", "use crate::{\n    base::Ring,\n    words,\n};\nstatic W: words::Word;\n"),
        ("testing/mod.rs", "use crate::heap::Heap;\n"),
    ];
    let files = sound.iter().chain(planted);
    let files = files.map(|(file, text)| (file.to_string(), text.to_string())).collect();
    (Library::new(files), tables_of_tiers(document).remove(0))
}

#[test]
fn a_sound_house_is_not_complained_of() {
    let (library, tiers) = house(&[]);
    assert_none(&shape(&library, &tiers));
    let of_heap = library.imports.iter().filter(|import| import.file == "heap/mod.rs");
    let told: Vec<_> = of_heap.map(|i| format!("{} {} {}", i.line, i.path, i.from)).collect();
    let expected =
        ["2 crate::base::Ring base/ring.rs", "3 crate::words words.rs", "5 words::Word words.rs"];
    assert_eq!(told, expected);
}

#[test]
fn a_file_without_a_row_is_found_and_a_row_without_a_file() {
    let (library, mut tiers) = house(&[("lost.rs", "")]);
    tiers[1].1.push("gone/".to_string());
    let told = [
        "lost.rs stands in 0 rows of ARCHITECTURE.md's table, not in 1",
        "ARCHITECTURE.md's table names gone/, which is not there",
    ];
    assert_eq!(misplaced(&library, &tiers), told);
}

#[test]
fn an_upward_import_is_found() {
    for (text, told) in [
        ("use crate::{\n    base::Bits,\n    heap::Heap,\n};\n", "3 imports crate::heap::Heap"),
        ("fn f() {\n    super::heap::start();\n}\n", "2 imports super::heap::start"),
        ("mod m {\n    use super::super::heap;\n}\n", "2 imports super::super::heap"),
        ("use crate::Heap as H;\n", "1 imports crate::Heap"),
    ] {
        let (library, tiers) = house(&[("words.rs", text)]);
        let told = format!("words.rs:{told} of a later tier, high");
        assert_eq!(upward(&library, &tiers), [told]);
    }
    let (library, tiers) = house(&[("heap/mod.rs", "use crate::start;\n")]);
    let told = "heap/mod.rs:1 imports crate::start of a later tier, lib.rs";
    assert_eq!(upward(&library, &tiers), [told]);
}

#[test]
fn methods_for_a_lower_tier_and_ways_past_the_reader_are_found() {
    let text = "use crate::base::Ring;\nimpl Ring {\n    fn f() {}\n}\nimpl Clone for Ring {}\n";
    let (library, tiers) = house(&[("heap/mod.rs", text)]);
    let told = "heap/mod.rs:2 gives methods to Ring, which is base/ring.rs's, of an earlier tier";
    assert_eq!(lent(&library, &tiers), [told]);
    let text = "#[path = \"../heap/mod.rs\"]\nmod heap;\n    extern crate self as me;\n";
    let told = evasions(&Files::from([("a.rs".to_string(), text.to_string())]));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].starts_with("a.rs:3 has extern crate self"), "{told:?}");
}

#[test]
fn a_circle_is_found() {
    let (library, _) = house(&[("base/bits.rs", "use super::Ring;\n")]);
    assert_eq!(circle(&library), ["a circle: base/bits.rs → base/ring.rs → base/bits.rs"]);
    // What a file passes on it may use itself: only a folder's mod.rs and lib.rs do nothing else.
    let (library, _) = house(&[("base/bits.rs", "pub use super::ring::Ring;\n")]);
    assert_eq!(circle(&library).len(), 1);
}

#[test]
fn an_orphan_is_found() {
    let methods = "use super::Heap;\nimpl Heap {}\n";
    let (library, _) = house(&[("heap/left.rs", methods), ("base/ring.rs", "pub struct Ring;\n")]);
    assert_eq!(orphans(&library), ["heap/left.rs is imported by nobody"]);
    let (library, _) = house(&[("heap/mod.rs", "mod left;\n"), ("heap/left.rs", methods)]);
    let told: Vec<_> = orphans(&library);
    assert!(!told.iter().any(|told| told.contains("left")), "it adds methods: {told:?}");
}

#[test]
fn a_long_function_is_found_and_a_list_that_does_not_shrink() {
    let of = |lines: usize| {
        let inside = "        f();\n".repeat(lines - 3);
        let text = format!("impl A {{\n    pub fn grow(\n    ) {{\n{inside}    }}\n}}\n");
        Files::from([("src/a.rs".to_string(), text)])
    };
    let list = [("src/a.rs", "grow", 80)];
    assert_none(&too_long(&of(70), &[]));
    assert_eq!(too_long(&of(71), &[]), ["src/a.rs:2 grow has 71 lines, not 70 at most"]);
    assert_none(&too_long(&of(80), &list));
    assert_eq!(too_long(&of(81), &list)[0], "src/a.rs:2 grow has 81 lines, not 80 at most");
    for fewer in [79, 70] {
        let told = "the list has grow of src/a.rs with 80 lines: it has fewer now";
        assert_eq!(too_long(&of(fewer), &list), [told]);
    }
}

#[test]
fn a_wide_comment_is_found() {
    let text = format!("/// Short.\nf();\n    // {}\n", "é".repeat(MOST_COLUMNS));
    let files = Files::from([("a.rs".to_string(), text)]);
    assert_eq!(too_wide(&files), ["a.rs:3 a comment has 127 columns"]);
}
