//! `slackwater report`: what it says of processes whose state is known.

mod common;

use common::{Demo, Shell};

fn report(process: u32, arguments: &[&str]) -> String {
    let mut command = common::slackwater();
    let output = command.arg("report").arg(process.to_string()).args(arguments).output();
    let output = output.expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    String::from_utf8(output.stdout).expect("text")
}

/// The percentages of the parts of RSS.
fn percentages(text: &str) -> Vec<f64> {
    let section = text.split("\n\n").nth(1).expect("three sections after the verdict");
    let lines = section.lines().skip(1).take_while(|line| !line.starts_with("  RSS "));
    lines
        .map(|line| {
            let percent = line.split_whitespace().find_map(|word| word.strip_suffix('%'));
            percent.expect("a share of RSS").parse().expect("a number")
        })
        .collect()
}

#[test]
fn a_program_under_the_preload_library_is_explained() {
    let shell = Shell::start();
    let text = report(shell.id(), &[]);
    let verdict = text.lines().next().expect("a verdict");
    assert!(verdict.starts_with(&format!("sh ({}): RSS ", shell.id())), "{verdict}");
    assert!(verdict.contains("nothing much is due to be given back"), "{verdict}");
    for section in ["Why RSS is what it is", "What would be released", "Suspects"] {
        assert!(text.contains(&format!("\n\n{section}\n  ")), "{text}");
    }
    let percentages = percentages(&text);
    assert_eq!(percentages.len(), 12, "{text}");
    // Twelve shares, each rounded by at most a twentieth.
    assert!((percentages.iter().sum::<f64>() - 100.0).abs() <= 0.6, "{text}");
}

#[test]
fn memory_that_is_held_back_is_named_with_the_reason() {
    let environment = [("SLACKWATER_RELEASE", "off"), ("SLACKWATER_COVERAGE", "small")];
    let mut program = common::slackwater();
    program.envs(environment);
    let mut demo = Demo::start_by(program, "127.0.0.1:0", &[]);
    demo.read_until("idle");
    let text = report(demo.id(), &[]);
    let verdict = text.lines().next().expect("a verdict");
    assert!(verdict.contains("MiB is due to be given back (release off, coverage"), "{text}");
    assert!(text.contains("\n  - release off: "), "{text}");
    assert!(text.contains("kind sub4k, medium, large stay"), "{text}");
}

#[test]
fn growth_is_seen_between_two_looks() {
    // Every second another 16 MiB, written to, and none given back.
    let script = "i=0; v=; echo ready; while :; do v=$v$(head -c 16777216 /dev/zero | tr '\\0' x); \
         sleep 1; done";
    let shell = Shell::run(script);
    let text = report(shell.id(), &["--seconds", "4"]);
    let verdict = text.lines().next().expect("a verdict");
    assert!(verdict.contains("suspects: growth"), "{text}");
    assert!(text.contains("what grew while it was watched: live by "), "{text}");
    assert!(text.contains("(watched for 4."), "{text}");
}

#[test]
fn a_process_that_ends_meanwhile_is_said_to_have_ended() {
    let mut shell = Shell::run("echo ready; sleep 1");
    let output = common::slackwater()
        .args(["report", &shell.id().to_string(), "--seconds", "2"])
        .spawn()
        .and_then(|report| {
            shell.finish();
            report.wait_with_output()
        })
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
}

/// Thirty threads that have a MiB of their stacks each, and mappings of different kinds.
const STACKS_AND_MAPPINGS: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static pthread_barrier_t begun;
static void *deep(void *unused) {
    volatile char bytes[1 << 20];
    memset((char *)bytes, 1, sizeof bytes);
    pthread_barrier_wait(&begun);
    for (;;) pause();
}
int main(void) {
    pthread_t thread;
    pthread_barrier_init(&begun, NULL, 31);
    for (int i = 0; i < 30; i++) pthread_create(&thread, NULL, deep, NULL);
    pthread_barrier_wait(&begun);
    char *own = mmap(NULL, 48 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(own, 1, 48 << 20);
    int file = memfd_create("a cache", 0);
    ftruncate(file, 24 << 20);
    memset(mmap(NULL, 24 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), 1, 24 << 20);
    puts("ready");
    fflush(stdout);
    getchar();
    _exit(0);
}
"#;

#[test]
fn stacks_are_told_from_mappings_and_the_largest_of_these_are_named() {
    if !common::have_tool("gcc") {
        return;
    }
    let program = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("stacks-and-mappings");
    let mut gcc = std::process::Command::new("gcc");
    let source = STACKS_AND_MAPPINGS.as_bytes();
    common::output_of(
        gcc.args(["-O0", "-w", "-xc", "-", "-o"]).arg(&program).arg("-lpthread"),
        source,
    );
    let mut child = Shell::of(&program, &[]);
    let text = report(child.id(), &[]);
    let mib = |part: &str| -> f64 {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(part)).expect(part);
        let mut words = line.split_whitespace();
        let amount: f64 = words.next().expect("an amount").parse().expect("a number");
        match words.next() {
            Some("MiB") => amount,
            Some("KiB") => amount / 1024.0,
            unit => panic!("{unit:?}: {text}"),
        }
    };
    assert!((30.0..34.0).contains(&mib("stacks ")), "{text}");
    assert!((48.0..52.0).contains(&mib("other_anon ")), "{text}");
    assert!((24.0..25.0).contains(&mib("shmem ")), "{text}");
    let named: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.contains("the largest mappings beside"))
        .skip(1)
        .take(2)
        .collect();
    // One without a name is told by its addresses; its neighbours may have joined it.
    assert!(named[0].trim_start().starts_with("48.") && named[0].contains('-'), "{text}");
    assert!(named[1].ends_with("24.0 MiB  /memfd:a cache (deleted)"), "{text}");
    let suspect = text.lines().find(|line| line.starts_with("  - not the heap: "));
    let suspect = suspect.unwrap_or_else(|| panic!("it is suspected: {text}"));
    assert!(suspect.contains("stacks 3") && suspect.contains("largest mapping is "), "{text}");
    child.finish();
}
