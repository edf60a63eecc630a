//! What else the loader brings along: audit libraries, other preloaded libraries, other allocators.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs_in_c::built;
use crate::shared::{expect_library_in, expect_same, same_under_library, without_and_under};
use crate::support::{LIMIT, installed, library, plain, run, skipped};

/// A shell and its children; it says which libraries it has.
const SCRIPT: &str = r#"
set -euo pipefail
seq 1 50000 | awk '{ print $1 * 7919 % 10007, $1 % 13 }' | sort -S 20M --parallel=2 -n | uniq -c | cksum
declare -A seen=()
for word in $(seq 1 2000); do seen[$((word * 31 % 501))]+="$word "; done
for key in "${!seen[@]}"; do echo "$key ${#seen[$key]}"; done | sort -n | cksum
perl -e 'my %h; $h{$_ * 7919 % 10007} .= "x" x ($_ % 50) for 1 .. 50000; print length(join "", values %h), "\n"'
git --version | cut -d' ' -f1
cat /proc/$$/maps >&2
"#;

#[test]
fn an_audited_program_does_the_same() {
    const TEST: &str = "an_audited_program_does_the_same";
    let (Some(bash), Some(audit)) = (installed(TEST, "bash"), built("audit.c")) else { return };
    let [without, under] = without_and_under("audited", &bash, SCRIPT, |command, _| {
        command.env("LD_AUDIT", &audit).arg("-s");
    });
    expect_same("audited", &without.stdout, &under.stdout);
    expect_library_in(&under.stderr);
    for outcome in [&without, &under] {
        assert!(outcome.stderr.contains("audited\n"), "{}", outcome.said());
    }
    let Some(program) = built("debugged.c") else { return };
    same_under_library("audited", &program, "", |command, _| {
        command.env("LD_AUDIT", &audit);
    });
}

/// `LD_PRELOAD` with the library before or behind another one.
fn preload_beside(command: &mut Command, other: &Path, library_first: bool) {
    let ours = library().unwrap_or_default().into_os_string();
    let other = other.as_os_str().to_owned();
    let order = if library_first { [ours, other] } else { [other, ours] };
    command.env("LD_PRELOAD", order.join(&OsString::from(":")));
}

fn does_the_same_beside(test: &str, other: &Path) {
    let Some(bash) = installed(test, "bash") else { return };
    let Some(program) = built("debugged.c") else { return };
    for (program, argument) in [(&bash, Some("-s")), (&program, None)] {
        let input = if argument.is_some() { SCRIPT } else { "" };
        let without = run(plain(program).args(argument), input, LIMIT).expect_success();
        for library_first in [true, false] {
            let mut command = plain(program);
            preload_beside(&mut command, other, library_first);
            let under = run(command.args(argument), input, LIMIT).expect_success();
            expect_same("beside another library", &without.stdout, &under.stdout);
            if argument.is_some() {
                expect_library_in(&under.stderr);
                let other = other.file_name().and_then(|name| name.to_str()).expect("a name");
                assert!(under.stderr.contains(other), "{}", under.said());
            }
        }
    }
}

#[test]
fn a_library_that_records_allocations_stands_before_or_behind() {
    const TEST: &str = "a_library_that_records_allocations_stands_before_or_behind";
    if let Some(recorder) = built("recorder.c") {
        does_the_same_beside(TEST, &recorder);
    }
}

#[test]
fn another_allocator_stands_before_or_behind() {
    const TEST: &str = "another_allocator_stands_before_or_behind";
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    let libraries = folders.map(|folder| PathBuf::from(folder).join("libjemalloc.so.2"));
    match libraries.iter().find(|library| library.exists()) {
        Some(jemalloc) => does_the_same_beside(TEST, jemalloc),
        None => skipped(TEST, "jemalloc (libjemalloc2) is not installed"),
    }
}

#[test]
fn fakeroot_keeps_the_library_and_fakes_the_same() {
    const TEST: &str = "fakeroot_keeps_the_library_and_fakes_the_same";
    const SCRIPT: &str = r#"
set -euo pipefail
mkdir tree
for i in $(seq 1 50); do echo "$i" > "tree/$i"; chown "$((i % 7)):$((i % 5))" "tree/$i"; done
chmod 4755 tree/7
mknod tree/device b 8 1
stat -c '%u:%g %a %F %n' tree/*
tar --mtime=@0 --sort=name -cf tree.tar tree
tar -tvf tree.tar | cksum
id -u
cat /proc/$$/maps >&2
"#;
    let [Some(fakeroot), Some(_)] = ["fakeroot", "bash"].map(|tool| installed(TEST, tool)) else {
        return;
    };
    let [without, under] = without_and_under("fakeroot", &fakeroot, SCRIPT, |command, _| {
        command.args(["--", "bash", "-s"]);
    });
    expect_same("fakeroot", &without.stdout, &under.stdout);
    expect_library_in(&under.stderr);
    assert!(under.stderr.contains("libfakeroot"), "{}", under.said());
    assert!(
        under.stdout.contains("7:2 4755") || under.stdout.contains("0:2 4755"),
        "{}",
        under.stdout
    );
}
