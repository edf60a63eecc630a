//! Debuggers, tracers and valgrind's tools: under the library themselves, as is what they look at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs_in_c::built;
use crate::shared::{Scratch, Server, expect_same, same_under_library, without_and_under};
use crate::support::{LIMIT, Outcome, installed, plain, preloaded, run};

/// What differs between any two runs is not printed: addresses, and numbers of threads and processes.
const QUIET: [&str; 6] = [
    "set print address off",
    "set print thread-events off",
    "set print inferior-events off",
    "set print frame-arguments none",
    "set confirm off",
    "set width 0",
];

/// Has gdb carry out `script` on a program.
fn gdb(command: &mut Command, home: &Path, script: &[&str]) {
    command.env("HOME", home).env_remove("DEBUGINFOD_URLS").args(["-nx", "-nh", "-batch"]);
    for line in QUIET.iter().chain(script) {
        command.args(["-ex", line]);
    }
}

/// The lines that a program printed and that are to be kept.
fn lines(outcome: &Outcome, is_kept: impl Fn(&&str) -> bool) -> String {
    outcome.stdout.lines().filter(is_kept).collect::<Vec<_>>().join("\n")
}

#[test]
fn gdb_debugs_the_same() {
    const TEST: &str = "gdb_debugs_the_same";
    let (Some(debugger), Some(program)) = (installed(TEST, "gdb"), built("debugged.c")) else {
        return;
    };
    // The program's output stands between gdb's at a place that depends on buffers.
    let script = [
        "break stop_here",
        "run > printed",
        "bt",
        "print round",
        "print list->number",
        "print list->next->text",
        "print sum(list)",
        "print grow(1000)",
        "print *(char *)memset((void *)malloc(100000), 7, 100000)",
        "delete",
        "break stop_here if round == 3",
        "continue",
        "print sum(list)",
        "watch list->number",
        "set variable list->number = 77",
        "delete",
        "finish",
        "kill",
        "run > printed",
        "print $_exitcode",
        "shell cat printed",
    ];
    let outcomes = without_and_under("gdb", &debugger, "", |command, scratch| {
        gdb(command, &scratch.0, &script);
        command.arg(&program);
    });
    // In brackets stand the numbers of processes.
    let printed = outcomes.map(|outcome| lines(&outcome, |line| !line.starts_with('[')));
    expect_same("gdb", &printed[0], &printed[1]);
    assert!(printed[0].contains("= \"node 299\""), "{}", printed[0]);
}

/// A core file that gcore makes of a running program: how large it is, and what gdb finds in it.
fn core_of_a_running_program(
    gcore: &Path,
    debugger: &Path,
    program: &Path,
    under: bool,
) -> (u64, String) {
    let command = |name: &Path| if under { preloaded(name) } else { plain(name) };
    let directory = Scratch::new("gcore");
    let mut running = command(program);
    running.arg("wait");
    let server = Server::start(running, &directory);
    server.wait_until("it has printed and waits", || server.said().ends_with('\n'));
    let core = directory.join("core");
    let id = server.id().to_string();
    let mut dump = command(gcore);
    run(dump.env("HOME", &directory.0).arg("-o").arg(&core).arg(&id), "", LIMIT).expect_success();
    // It runs on as if nothing had been.
    server.wait_until("it still runs", || Path::new("/proc").join(&id).join("maps").exists());
    let core: PathBuf = directory.join(&format!("core.{id}"));
    let size = fs::metadata(&core).expect("gcore has made a core file").len();
    let mut read = command(debugger);
    let script = ["print list->number", "print list->next->text", "print list->next->next->text"];
    gdb(&mut read, &directory.0, &script);
    let read = run(read.arg(program).arg(&core), "", LIMIT).expect_success();
    // Above what is asked for stand the numbers of threads.
    (size, lines(&read, |line| line.starts_with('$')))
}

#[test]
fn gcore_dumps_what_is_in_use() {
    const TEST: &str = "gcore_dumps_what_is_in_use";
    const MOST_ADDED: u64 = 32 << 20;
    let [Some(gcore), Some(debugger)] = ["gcore", "gdb"].map(|tool| installed(TEST, tool)) else {
        return;
    };
    let Some(program) = built("debugged.c") else { return };
    let [without, under] =
        [false, true].map(|under| core_of_a_running_program(&gcore, &debugger, &program, under));
    expect_same("the core file", &without.1, &under.1);
    assert!(under.0 < without.0 + MOST_ADDED, "{} bytes, {} without", under.0, without.0);
}

#[test]
fn strace_follows_the_same_program() {
    const TEST: &str = "strace_follows_the_same_program";
    let Some(strace) = installed(TEST, "strace") else { return };
    let Some(program) = built("debugged.c") else { return };
    same_under_library("strace", &strace, "", |command, _| {
        command.args(["-f", "-o", "trace", "sh", "-c"]);
        command.arg("\"$0\"; seq 1 20000 | sort -n | tail -n 1; grep -o -m 1 execve trace");
        command.arg(&program);
    });
    // By a name for each process, and with the stack of each call.
    same_under_library("strace", &strace, "", |command, _| {
        command.args(["-ff", "-k", "-o", "trace"]).arg(&program);
    });
}

/// With valgrind's own allocator in the place of the library's, as is the default, and with the library's.
#[test]
fn valgrinds_tools_run_the_same_program() {
    const TEST: &str = "valgrinds_tools_run_the_same_program";
    const KEEPS_THE_LIBRARY: &str = "--soname-synonyms=somalloc=nouserintercepts";
    let Some(valgrind) = installed(TEST, "valgrind") else { return };
    let Some(program) = built("debugged.c") else { return };
    for tool in ["memcheck", "helgrind", "massif", "callgrind"] {
        let arguments = |command: &mut Command| {
            command.env_remove("VALGRIND_OPTS").arg(format!("--tool={tool}"));
            if ["massif", "callgrind"].contains(&tool) {
                command.arg(format!("--{tool}-out-file=profile"));
            }
        };
        same_under_library(tool, &valgrind, "", |command, _| {
            arguments(command);
            command.arg("--error-exitcode=9").arg(&program);
        });
        same_under_library(tool, &valgrind, "", |command, _| {
            arguments(command);
            // What an allocator does with its memory and among threads looks to these tools like errors.
            command.arg(KEEPS_THE_LIBRARY).arg(&program);
        });
    }
}
