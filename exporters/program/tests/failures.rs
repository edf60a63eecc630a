//! Allocations that get no memory are counted, whichever function was asked.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{have_tool, output_of, slackwater};
use slackwater_exporters::attach::Target;

/// Asks for what nobody has in every way that there is; says how often it got nothing, with the right
/// error, and waits.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
static int failed;
static void is_null(void *block) { failed += block == NULL && errno == ENOMEM; errno = 0; }
int main(void) {
    volatile size_t much = (size_t)1 << 46, half = SIZE_MAX / 2 + 2;
    void *block = malloc(100), *into = NULL;
    is_null(malloc(much));
    is_null(calloc(much, 1));
    is_null(calloc(half, 2));
    is_null(realloc(block, much));
    is_null(reallocarray(block, half, 2));
    is_null(aligned_alloc(64, much));
    is_null(memalign(64, much));
    is_null(valloc(much));
    is_null(pvalloc(SIZE_MAX));
    failed += posix_memalign(&into, 64, much) == ENOMEM;
    printf("%d\n", failed);
    fflush(stdout);
    getchar();
    free(block);
}
"#;

#[test]
fn allocations_that_fail_are_counted_by_whatever_function() {
    if !have_tool("gcc") {
        return;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failing");
    let mut gcc = Command::new("gcc");
    output_of(gcc.args(["-O1", "-w", "-xc", "-", "-o"]).arg(&program), PROGRAM.as_bytes());
    let mut child = slackwater()
        .args(["run", "--"])
        .arg(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    output.read_line(&mut line).expect("readable");
    assert_eq!(line, "10\n", "each returns null with ENOMEM");
    let sample = Target::open(child.id()).expect("a heap").sample().expect("readable");
    assert_eq!(sample.snapshot.allocation_failures_total, 10);
    let mut report = slackwater();
    let text = output_of(report.arg("report").arg(child.id().to_string()), b"");
    assert!(text.contains("10 allocations got no memory"), "{text}");
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
}
