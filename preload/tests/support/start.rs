//! What a process start costs under the library, as counts: what it needs, what the loader has to do for it, and which
//! calls it makes before `main`. Times would be another matter on each machine; these are not.
//!
//! The library of a release is looked at, which these tests build: a test build has the standard library, for its
//! panics unwind.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::callgrind::{counting, instructions};
use crate::programs_in_c::built;
use crate::support::{LIMIT, installed, plain, run, skipped};

/// The library that `cargo build --release` makes.
fn release() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let target = env::current_exe().expect("a test knows its own path");
        let target = target.ancestors().nth(3).expect("target/<profile>/deps/<test>").to_owned();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--release", "--package", "slackwater-preload"]);
        build.arg("--target-dir").arg(&target);
        assert!(build.status().expect("cargo").success());
        target.join("release/libslackwater_preload.so")
    })
}

/// What `readelf` writes of the library.
fn readelf(test: &str, option: &str) -> Option<String> {
    let mut command = plain(installed(test, "readelf")?);
    command.arg(option).arg(release());
    Some(run(&mut command, "", LIMIT).expect_success().stdout)
}

#[test]
fn libc_alone_is_needed() {
    let Some(dynamic) = readelf("libc_alone_is_needed", "-dW") else { return };
    let needed: Vec<_> = dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split(['[', ']']).nth(1))
        .collect();
    assert_eq!(needed, ["libc.so.6"]);
    assert!(dynamic.contains("NODELETE"), "nobody asks the loader to keep it: {dynamic}");
}

/// What is in the file and is written to is read from there, and each of its pages copied: the heap and what gives its
/// memory back, 60 KiB of zeros, are not.
#[test]
fn what_is_written_to_is_not_in_the_file() {
    let Some(sections) = readelf("what_is_written_to_is_not_in_the_file", "-SW") else { return };
    let bytes = |name: &str| {
        let mut words = sections.lines().flat_map(|line| line.split_whitespace());
        words.find(|&word| word == name);
        let bytes = words.nth(3).and_then(|bytes| u64::from_str_radix(bytes, 16).ok());
        bytes.unwrap_or_else(|| panic!("no section {name}: {sections}"))
    };
    let (data, bss) = (bytes(".data"), bytes(".bss"));
    assert!(data <= 2048 && bss > 32 << 10, "{data} bytes, and {bss} that are zeros");
}

/// The loader writes each, and looks for each name in all that is loaded.
#[test]
fn relocations_are_few() {
    let Some(relocations) = readelf("relocations_are_few", "-rW") else { return };
    let of = |kind: &str| relocations.lines().filter(|line| line.contains(kind)).count();
    let (own, names) = (of("R_X86_64_RELATIVE"), of("R_X86_64_GLOB_DAT") + of("_JUMP_SLOT"));
    if cfg!(target_arch = "x86_64") {
        assert!((1..=390).contains(&own), "{own} of its own addresses");
        assert!((1..=18).contains(&names), "{names} of names");
    }
}

/// A copy of the program that does what its name says.
fn named(program: &Path, kind: &str) -> PathBuf {
    let path = program.with_file_name(format!("start-{}-{kind}", std::process::id()));
    std::fs::copy(program, &path).expect("a copy");
    path
}

/// The calls that a program makes from its start to its end, as `strace` writes them.
fn calls(test: &str, program: &Path, library: Option<&Path>) -> Option<Vec<String>> {
    let mut command = plain(installed(test, "strace")?);
    if let Some(library) = library {
        command.arg("-E").arg(format!("LD_PRELOAD={}", library.display()));
    }
    // Where cargo's tests look for libraries is of no interest.
    command.env_remove("LD_LIBRARY_PATH");
    let said = run(command.arg(program), "", LIMIT);
    if said.stderr.contains("ptrace") {
        skipped(test, "tracing is not allowed");
        return None;
    }
    Some(said.expect_success().stderr.lines().map(str::to_owned).collect())
}

/// So many more calls there may be. The loader's own for a library are nine, and the library asks for its process and
/// puts its word in for a signal; the heap's start and its first block are the rest.
const MOST_CALLS: [(&str, usize); 2] = [("silent", 12), ("allocating", 27)];

#[test]
fn calls_before_main_are_few() {
    let test = "calls_before_main_are_few";
    let Some(program) = built("start.c") else { return };
    for (kind, most) in MOST_CALLS {
        let path = named(&program, kind);
        let both = [None, Some(release())].map(|library| calls(test, &path, library));
        std::fs::remove_file(&path).expect("the copy is there");
        let [Some(without), Some(with)] = both else { return };
        let more = with.len().saturating_sub(without.len());
        println!("{kind}: {} calls, and {more} more", without.len());
        assert!(more <= most, "{more} more for a {kind} program:\n{}", with.join("\n"));
        let opened = with.iter().filter(|call| call.starts_with("openat"));
        assert_eq!(opened.count(), 3, "the library, the loader's cache, libc");
        assert!(!with.iter().any(|call| call.starts_with("clone")), "a thread for nothing");
    }
}

/// What is resident in `main`, and how often the kernel was asked for a page until then. Both depend on where modules
/// lie, for the kernel maps the pages around one that is missed: so the least of many starts is meant.
#[test]
fn little_is_resident_after_a_start() {
    let Some(program) = built("start.c") else { return };
    let path = named(&program, "telling");
    let least = |library: Option<&Path>| {
        let starts = (0..20).map(|_| {
            let mut command = plain(&path);
            command.env_remove("LD_LIBRARY_PATH").env_remove("SLACKWATER_TEST_LIBRARY");
            if let Some(library) = library {
                command.env("LD_PRELOAD", library);
            }
            let said = run(&mut command, "", LIMIT).expect_success().stdout;
            ["Rss:", "Faults:"].map(|name| {
                let line = said.lines().find_map(|line| line.strip_prefix(name));
                let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
                number.unwrap_or_else(|| panic!("no {name} in {said}"))
            })
        });
        let starts: Vec<[u64; 2]> = starts.collect();
        [0, 1].map(|which| starts.iter().map(|start| start[which]).min().unwrap_or_default())
    };
    let (without, with) = (least(None), least(Some(release())));
    std::fs::remove_file(&path).expect("the copy is there");
    let [kib, faults] = [0, 1].map(|which| with[which].saturating_sub(without[which]));
    println!("{kib} KiB and {faults} faults more than {without:?}");
    assert!(kib <= 300, "{kib} KiB more than {without:?}");
    assert!(faults <= 11, "{faults} faults more than {without:?}");
}

/// Instructions, to the last one where nothing else is drawn by chance: the loader's and the library's own.
#[test]
fn instructions_of_a_start_are_few() {
    let test = "instructions_of_a_start_are_few";
    let (Some(valgrind), Some(program)) = (installed(test, "valgrind"), built("start.c")) else {
        return;
    };
    let count = |library: Option<&Path>| {
        let mut command = plain(&valgrind);
        counting(&mut command, &program);
        // With a variable of the allocator's, whichever, it asks for all of them.
        command.env_remove("LD_LIBRARY_PATH").env_remove("SLACKWATER_TEST_LIBRARY");
        if let Some(library) = library {
            command.env("LD_PRELOAD", library);
        }
        instructions(&mut command)
    };
    let more = count(Some(release())) - count(None);
    println!("{more} instructions more");
    assert!(more <= 40_000, "{more} instructions more");
}
