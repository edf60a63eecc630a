//! The manual's table of system calls is the code's: each call that the sources make has its row, each row its call,
//! and the filters of the preload library's checks allow what the table says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What libc's functions that the allocator calls ask of the kernel. (A wrapper of a system call is not to be used in
/// `src`, but for signals: `os/raw.rs` has them all.)
const LIBC: [(&str, &[&str]); 21] = [
    // Of the preload library's end, which is asked for.
    ("close", &["close"]),
    ("connect", &["connect"]),
    ("read", &["read"]),
    ("setsockopt", &["setsockopt"]),
    ("socket", &["socket"]),
    // Signals, where somebody else may have his own function for them.
    ("sigaction", &["rt_sigaction"]),
    // Of what the preload library changes in others' tables, while it is loaded.
    ("mprotect", &["mprotect"]),
    // None.
    ("__errno_location", &[]),
    ("dladdr", &[]),
    ("dl_iterate_phdr", &[]),
    ("dlinfo", &[]),
    ("dlopen", &[]),
    ("dlsym", &[]),
    ("getauxval", &[]),
    ("getenv", &[]),
    ("pthread_atfork", &[]),
    ("pthread_key_create", &[]),
    ("pthread_setspecific", &[]),
    ("sigaddset", &[]),
    ("sigfillset", &[]),
    ("strlen", &[]),
];

/// Where calls are named that a program makes: the preload library hears of them, and makes none.
const HEARERS: [&str; 2] = ["preload/src/page_flags.rs", "preload/src/syscalls.rs"];

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The code of a folder: without comments and tests, by file.
fn code_below(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() && !["tests", "testing"].contains(&name.as_str()) {
            code_below(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = fs::read_to_string(&path).expect("a source");
            let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let is_code = |line: &&str| !line.trim_start().starts_with("//");
            let code: Vec<&str> = text.lines().filter(is_code).collect();
            found.insert(path, code.join("\n"));
        }
    }
}

/// What follows `mark` in a text, each time, as far as it is a name.
fn names_after(text: &str, mark: &str) -> BTreeSet<String> {
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let rest = text.split(mark).skip(1);
    rest.map(|rest| rest.chars().take_while(|&c| is_of_a_name(c)).collect()).collect()
}

/// The functions of libc that a text calls.
fn libc_functions(text: &str) -> BTreeSet<String> {
    let is_called = |name: &String| text.contains(&format!("libc::{name}("));
    names_after(text, "libc::").into_iter().filter(is_called).collect()
}

/// The rows of the manual's table: call, the program's threads, own threads, born filtered.
fn rows(table: &str) -> BTreeMap<String, [String; 3]> {
    let mut rows = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<String> = line.split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let [_, call, program, own, filtered, ..] = cells.as_slice() else {
            panic!("a short row: {line}");
        };
        let row = [program.clone(), own.clone(), filtered.clone()];
        assert!(rows.insert(call.clone(), row).is_none(), "two rows for {call}");
    }
    rows
}

fn manual() -> BTreeMap<String, [String; 3]> {
    rows(&fs::read_to_string(here("src/manual/system_calls.md")).expect("the manual's page"))
}

/// The package as it is published has the allocator alone.
fn checks() -> Option<String> {
    fs::read_to_string(here("preload/tests/c/filters.c")).ok()
}

/// The calls between a piece of the checks' text and the bracket after it.
fn list(checks: &str, start: &str, end: &str) -> BTreeSet<String> {
    let from = checks.split(start).nth(1).unwrap_or_else(|| panic!("{start} is there"));
    names_after(from.split(end).next().expect("an end"), "SYS_")
}

#[test]
fn every_call_has_its_row_and_every_row_its_call() {
    let mut code = BTreeMap::new();
    code_below(&here("src"), &mut code);
    let is_whole = here("preload/src").exists();
    if is_whole {
        code_below(&here("preload/src"), &mut code);
    }
    let mut made = BTreeSet::new();
    for (file, text) in &code {
        if !HEARERS.iter().any(|hearer| file.ends_with(hearer)) {
            made.extend(names_after(text, "SYS_"));
        }
        for function in libc_functions(text) {
            let Some((_, calls)) = LIBC.iter().find(|(name, _)| *name == function) else {
                panic!("{}: what does libc's {function} ask of the kernel?", file.display());
            };
            made.extend(calls.iter().map(|call| call.to_string()));
        }
    }
    let known: BTreeSet<String> = manual().into_keys().collect();
    let without_row: Vec<&String> = made.difference(&known).collect();
    assert!(without_row.is_empty(), "src/manual/system_calls.md has no row for {without_row:?}");
    let without_call: Vec<&String> = known.difference(&made).collect();
    assert!(without_call.is_empty() || !is_whole, "nobody makes {without_call:?}");
}

/// What is always called is what the checks' own filters allow: the calls of glibc's malloc, which has `brk` besides.
#[test]
fn what_is_always_called_is_what_the_checks_allow() {
    let Some(checks) = checks() else { return };
    let allowed = list(&checks, "#define MALLOC_CALLS", "/*");
    let mut always: BTreeSet<String> = BTreeSet::from(["brk".to_owned()]);
    always.extend(manual().into_iter().filter(|(_, row)| row[0] == "always").map(|(call, _)| call));
    assert_eq!(always, allowed);
}

/// What own threads call under a filter from outside is what systemd's list for services has.
#[test]
fn what_is_called_under_a_services_filter_is_what_that_allows() {
    let Some(checks) = checks() else { return };
    let mut allowed = list(&checks, "allowed_to_services[] = {", "};");
    allowed.extend(list(&checks, "#define MALLOC_CALLS", "/*"));
    allowed.extend(list(&checks, "#define CHECK_CALLS", "static"));
    for (call, [_, own, filtered]) in manual() {
        assert!(own == "yes" || filtered == "no", "{call}: {own}, {filtered}");
        assert!(filtered == "no" || allowed.contains(&call), "{call} is killed for");
    }
    let forbidden = list(&checks, "forbidden_to_services[] = {", "};");
    let called = |row: &[String; 3]| row[2] != "no" || row[0] == "always";
    let killed: Vec<String> = manual()
        .into_iter()
        .filter(|(call, row)| called(row) && forbidden.contains(call))
        .map(|(call, _)| call)
        .collect();
    assert!(killed.is_empty(), "{killed:?}");
}

#[test]
fn a_table_is_read_by_its_cells() {
    let read = rows("text\n| call | a | b | c |\n|---|\n| `mmap` | always | yes | no | x |\n");
    assert_eq!(read["mmap"], ["always", "yes", "no"].map(str::to_owned));
    let functions = libc_functions("libc::read(x); libc::EINVAL; libc::timespec { }");
    assert_eq!(functions, BTreeSet::from(["read".to_owned()]));
}
