//! `slackwater doctor`: what it says of this machine, of limits and filters, and of programs of every kind.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn doctor(arguments: &[&str]) -> Command {
    let mut command = common::slackwater();
    command.arg("doctor").args(arguments);
    command
}

/// What it said, and its exit code.
fn said(command: &mut Command) -> (String, Option<i32>) {
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    let text = String::from_utf8(stdout).expect("text");
    let complaint = String::from_utf8_lossy(&stderr);
    assert!(!complaint.contains("panicked"), "{complaint}");
    (text, status.code())
}

/// Asserts that there is exactly one line of `what`, with this mark, that says all of these.
fn assert_line(text: &str, mark: &str, what: &str, says: &[&str]) {
    let is_it =
        |line: &&str| line.get(8..).is_some_and(|rest| rest.starts_with(&format!("{what}: ")));
    let lines: Vec<&str> = text.lines().filter(is_it).collect();
    assert_eq!(lines.len(), 1, "{what}: {text}");
    assert!(lines[0].starts_with(&format!("  {mark:<4}  ")), "{}", lines[0]);
    for part in says {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
}

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("doctor-{name}"))
}

/// A program made of C; `None` without a compiler.
fn compiled(name: &str, flags: &[&str], source: &str) -> Option<String> {
    if !common::have_tool("gcc") {
        return None;
    }
    let program = place(name);
    let mut gcc = Command::new("gcc");
    gcc.args(flags).args(["-w", "-xc", "-", "-o"]).arg(&program);
    common::output_of(&mut gcc, source.as_bytes());
    Some(program.to_str().expect("text").to_string())
}

#[test]
fn of_this_machine_each_thing_has_a_line_and_memory_is_given_back() {
    let (text, code) = said(&mut doctor(&[]));
    assert_eq!(code, Some(0), "{text}");
    for what in ["kernel", "process_madvise", "membarrier", "MADV_DONTNEED_LOCKED", "guard markers"]
        .into_iter()
        .chain(["huge pages", "filters of system calls", "ticker", "address space", "data"])
        .chain(["locked memory", "threads", "mappings", "overcommit", "control group"])
        .chain(["other processes", "PAGEMAP_SCAN", "perf events"])
    {
        assert_eq!(text.matches(&format!("  {what}: ")).count(), 1, "{what}: {text}");
    }
    assert_line(&text, "ok", "madvise", &["zero"]);
    assert_line(&text, "ok", "library", &["libslackwater_preload.so"]);
    assert_line(&text, "ok", "loads", &[]);
    assert!(text.lines().last().is_some_and(|line| line.starts_with("Memory will be given")));
    assert!(!text.contains("The program"), "{text}");
}

#[test]
fn as_json_it_is_one_object_with_the_same_lines() {
    let (text, code) = said(&mut doctor(&["--json"]));
    assert_eq!(code, Some(0), "{text}");
    let found: Value = serde_json::from_str(&text).expect("one object");
    assert_eq!(found["works"], true);
    assert_eq!(found["program_exit_code"], Value::Null);
    let sections = found["sections"].as_array().expect("sections");
    let lines = sections.iter().flat_map(|section| section["lines"].as_array().expect("lines"));
    let lines: Vec<&Value> = lines.collect();
    assert!(lines.len() > 15, "{text}");
    for line in lines {
        let mark = line["mark"].as_str().expect("a mark");
        assert!(["ok", "less", "no"].contains(&mark), "{line}");
        assert!(line["says"].as_str().is_some_and(|says| !says.is_empty()), "{line}");
    }
}

#[test]
fn what_the_environment_switches_off_is_told() {
    let (text, code) = said(doctor(&[]).env("SLACKWATER_RELEASE", "off"));
    assert_eq!(code, Some(1), "{text}");
    assert_line(&text, "no", "knobs", &["SLACKWATER_RELEASE=off", "expected on"]);
    assert!(text.ends_with("\nMemory will not be given back: see knobs.\n"), "{text}");
    let (text, code) = said(doctor(&[]).env("SLACKWATER_TICKER", "off"));
    assert_eq!(code, Some(0), "{text}");
    assert_line(&text, "less", "ticker", &["SLACKWATER_TICKER=off"]);
    let named = place("no-library.so");
    fs::write(&named, "no library").expect("writable");
    let (text, code) = said(doctor(&["--", "true"]).env("SLACKWATER_PRELOAD_LIB", &named));
    assert_eq!(code, Some(1), "{text}");
    assert_line(&text, "no", "library", &["is not Slackwater's library"]);
    assert_line(&text, "no", "run", &["was not started"]);
}

#[test]
fn limits_are_told_as_they_are_set() {
    let mut shell = Command::new("bash");
    shell.args(["-c", "ulimit -v 2097152 -d 1048576 -l 64; exec \"$0\" doctor"]);
    let (text, code) = said(shell.arg(env!("CARGO_BIN_EXE_slackwater")));
    assert_eq!(code, Some(0), "{text}");
    assert_line(&text, "less", "address space", &["2.0 GiB (ulimit -v)", "keeps its addresses"]);
    assert_line(&text, "less", "data", &["1.0 GiB (ulimit -d)"]);
    assert_line(&text, "ok", "locked memory", &[]);
}

fn under_filter(command: &mut Command, calls: &'static [libc::c_long], answer: u32) {
    // SAFETY: it makes two system calls, and allocates nothing.
    unsafe { command.pre_exec(move || common::filter::set(calls, answer)) };
}

/// A filter that kills would end the doctor, too, if it did not ask in children.
#[test]
fn a_filter_that_kills_is_told_of_and_survived() {
    let mut command = doctor(&[]);
    let calls = &[libc::SYS_perf_event_open, libc::SYS_process_vm_readv];
    under_filter(&mut command, calls, libc::SECCOMP_RET_KILL_PROCESS);
    let (text, code) = said(&mut command);
    assert_eq!(code, Some(0), "{text}");
    let ends = "a filter of system calls ends the program for it";
    assert_line(&text, "no", "perf events", &[ends]);
    assert_line(&text, "no", "other processes", &[ends]);
    assert_line(&text, "less", "filters of system calls", &["1 in force", "no_new_privs"]);
    assert_line(&text, "ok", "loads", &[]);
}

#[test]
fn what_a_filter_refuses_is_done_without() {
    let mut command = doctor(&["--", "sh", "-c", "exit 5"]);
    let calls = &[libc::SYS_process_madvise, libc::SYS_membarrier];
    under_filter(&mut command, calls, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    let (text, code) = said(&mut command);
    assert_eq!(code, Some(5), "{text}");
    assert_line(&text, "less", "process_madvise", &["a call of madvise for each range"]);
    assert_line(&text, "less", "membarrier", &["blocked threads keep"]);
    assert_line(&text, "less", "exit code", &["5"]);
}

#[test]
fn a_filter_that_refuses_madvise_keeps_memory_from_going_back() {
    let mut command = doctor(&[]);
    let answer = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    under_filter(&mut command, &[libc::SYS_madvise], answer);
    let (text, code) = said(&mut command);
    assert_eq!(code, Some(1), "{text}");
    assert_line(&text, "no", "madvise", &["MADV_DONTNEED", "stays at its peak"]);
}

/// The program gives its memory back while it sleeps, and is seen to have.
#[test]
fn a_program_is_run_to_its_end_and_what_it_gave_back_is_told() {
    let source = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n\
        #include <unistd.h>\n\
        int main(void) { static char *blocks[20000]; \
        for (int i = 0; i < 20000; i++) memset(blocks[i] = malloc(1000), 1, 1000); \
        for (int i = 0; i < 20000; i++) free(blocks[i]); \
        char line[100]; long resident = 10000; \
        while (resident > 3000) { usleep(50000); FILE *f = fopen(\"/proc/self/statm\", \"r\"); \
        fscanf(f, \"%*d %ld\", &resident); fclose(f); } \
        puts(\"its own words\"); return 3; }";
    let Some(program) = compiled("burst", &["-O1"], source) else { return };
    let (text, code) = said(&mut doctor(&["--", &program, "--json"]));
    assert_eq!(code, Some(3), "{text}");
    assert_line(&text, "ok", "file", &[&program]);
    assert_line(&text, "ok", "allocators", &["none of its own"]);
    assert!(text.contains("\nits own words\n"), "{text}");
    assert_line(&text, "ok", "heap", &["Slackwater's; at its end"]);
    assert_line(&text, "ok", "given back", &["MiB in ", " tick"]);
    assert_line(&text, "less", "exit code", &["3, which is its own"]);
}

#[test]
fn a_static_program_has_nothing_of_it() {
    let source = "#include <unistd.h>\nint main(void) { usleep(100000); return 0; }";
    let Some(program) = compiled("static", &["-static"], source) else { return };
    let (text, code) = said(&mut doctor(&["--", &program]));
    assert_eq!(code, Some(1), "{text}");
    assert_line(&text, "no", "loading", &["statically linked", "links the crate `slackwater`"]);
    assert!(text.lines().last().is_some_and(|line| line.contains("see loading")), "{text}");
}

#[test]
fn a_script_is_what_runs_it() {
    let script = place("script");
    fs::write(&script, "#!/bin/sh\nexec /bin/true\n").expect("writable");
    fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("its owner may");
    let name = script.to_str().expect("text");
    let (text, code) = said(&mut doctor(&["--", name]));
    assert_eq!(code, Some(0), "{text}");
    assert_line(&text, "ok", "file", &[name, ", run by /bin/sh"]);
    assert_line(&text, "ok", "heap", &["Slackwater's"]);
}

#[test]
fn a_program_with_others_rights_is_told_to_be_one() {
    let program = place("set-user-id");
    fs::copy("/bin/true", &program).expect("readable");
    // SAFETY: it has no preconditions.
    if unsafe { libc::geteuid() } != 0 || chown(&program, Some(65534), None).is_err() {
        common::note("only root can give a file away");
        return;
    }
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).expect("root may");
    let (text, code) = said(&mut doctor(&["--", program.to_str().expect("text")]));
    assert_eq!(code, Some(1), "{text}");
    assert_line(&text, "no", "loading", &["set-user-id", "LD_PRELOAD is ignored"]);
    // Where programs get no more rights, it is one as any other.
    let mut command = doctor(&["--", program.to_str().expect("text")]);
    under_filter(&mut command, &[], libc::SECCOMP_RET_ALLOW);
    let (text, code) = said(&mut command);
    assert_eq!(code, Some(0), "{text}");
    assert_line(&text, "ok", "loading", &[]);
    assert_line(&text, "ok", "heap", &["Slackwater's"]);
    let _ = fs::remove_file(program);
}

#[test]
fn allocators_of_its_own_are_named() {
    let source = "#include <stddef.h>\nextern void *__libc_malloc(size_t);\n\
        void *malloc(size_t n) { return __libc_malloc(n); }\n\
        int main(void) { return malloc(1) == NULL; }";
    let Some(own) = compiled("own-malloc", &["-rdynamic"], source) else { return };
    let (text, _) = said(&mut doctor(&["--", &own]));
    assert_line(&text, "less", "allocators", &["exports a malloc of its own"]);
    let source = "void *je_malloc(unsigned long n) { return 0; }\nint main(void) { return 0; }";
    let Some(named) = compiled("named", &[], source) else { return };
    let (text, code) = said(&mut doctor(&["--", &named]));
    assert_eq!(code, Some(0), "{text}");
    assert_line(&text, "less", "allocators", &["calls jemalloc by its own names"]);
}

#[test]
fn a_program_with_the_allocator_linked_in_needs_no_library() {
    let own = env!("CARGO_BIN_EXE_slackwater");
    let (text, code) = said(&mut doctor(&["--", own, "--version"]));
    assert_eq!(code, Some(0), "{text}");
    assert_line(&text, "ok", "loading", &["has Slackwater linked in"]);
    assert_line(&text, "ok", "heap", &["Slackwater's"]);
}

#[test]
fn a_signal_that_ends_it_is_told() {
    let (text, code) = said(&mut doctor(&["--", "sh", "-c", "kill -KILL $$"]));
    assert_eq!(code, Some(137), "{text}");
    assert_line(&text, "less", "exit code", &["signal 9 ended it"]);
}

/// Told before anything else is looked at.
#[test]
fn a_program_that_cannot_be_run_is_refused_in_one_line() {
    for (name, expected) in [
        ("no-such-program-anywhere", "no such program; expected a path or a name found in PATH"),
        ("/etc/passwd", "permission denied; expected an executable file"),
        ("/", "permission denied; expected an executable file"),
        ("", "expected the name of a program"),
    ] {
        let output = doctor(&["--", name]).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(output.stdout.is_empty(), "{name}");
        let line = String::from_utf8(output.stderr).expect("text");
        assert!(line.contains(expected) && line.lines().count() == 1, "{line}");
    }
}
