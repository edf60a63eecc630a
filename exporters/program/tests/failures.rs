//! Allocations that get no memory are counted, whichever function was asked.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Shell, have_tool, output_of, slackwater};
use slackwater_exporters::attach::Target;

/// Asks for what nobody has in every way that there is; is ready if it got nothing each time, with the
/// right error.
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
    if (failed == 10) puts("ready"); else printf("%d of 10\n", failed);
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
    // It says so if each returned null with ENOMEM.
    let mut child = Shell::of(&program, &[]);
    let observation = Target::open(child.id()).expect("a heap").observe().expect("readable");
    assert_eq!(observation.snapshot.allocation_failures_total, 10);
    let mut report = slackwater();
    let text = output_of(report.arg("report").arg(child.id().to_string()), b"");
    assert!(text.contains("10 allocations got no memory"), "{text}");
    child.finish();
}
