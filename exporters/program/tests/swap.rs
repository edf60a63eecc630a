//! What is swapped out is told as that, and not as memory that nobody has written to.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Shell, have_tool, note, output_of, slackwater};
use slackwater_exporters::attach::Target;

/// Writes to 100 MiB, asks the kernel to swap 80 of it out, says so, and waits.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
int main(void) {
    char *block = malloc(100 << 20);
    memset(block, 1, 100 << 20);
    char *start = (char *)(((unsigned long)block + (1 << 20)) & ~((1ul << 20) - 1));
    madvise(start, 80 << 20, 21 /* MADV_PAGEOUT */);
    puts("ready");
    fflush(stdout);
    getchar();
    return block[7] - 1;
}
"#;

/// A swap file of the test's own; off again when the test ends.
struct Swap(PathBuf);

impl Swap {
    /// `None` where there may be none, which is said: without the right to, or on such a file system.
    fn on() -> Option<Swap> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("swap");
        let file = File::create(&path).expect("a writable place");
        let bytes = vec![0; 1 << 20];
        for at in 0..192 {
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes, at << 20).expect("room");
        }
        drop(file);
        let runs = |command: &mut Command| {
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
            quiet.status().is_ok_and(|status| status.success())
        };
        let path_and = |program: &str| {
            let mut command = Command::new(program);
            command.arg(&path);
            command
        };
        let swap = Swap(path.clone());
        if runs(Command::new("chmod").arg("600").arg(&path))
            && runs(&mut path_and("mkswap"))
            && runs(&mut path_and("swapon"))
        {
            return Some(swap);
        }
        note("SKIPPED: no swap can be had here, which takes root and a file system that allows it");
        None
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let mut off = Command::new("swapoff");
        let _ = off.arg(&self.0).stderr(Stdio::null()).status();
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn swapped_out_is_not_untouched() {
    if !have_tool("gcc") {
        return;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("swapping");
    let mut gcc = Command::new("gcc");
    output_of(gcc.args(["-O1", "-xc", "-", "-o"]).arg(&program), PROGRAM.as_bytes());
    let Some(_swap) = Swap::on() else { return };
    let mut child = Shell::of(&program, &[]);
    let observation = Target::open(child.id()).expect("a heap").observe().expect("readable");
    let process = observation.process.expect("Linux tells");
    let out = process.swapped_bytes.expect("the kernel has swap");
    if out < 40 << 20 {
        note("SKIPPED: this kernel swaps nothing out when it is asked to");
    } else {
        let parts = observation.breakdown().expect("residency is known");
        assert!(parts.swapped.abs_diff(out) < 4 << 20, "{parts:?}: {out}");
        assert!(parts.untouched < 4 << 20, "{parts:?}");
        assert_eq!(parts.sum(), process.resident_bytes());
        let mut report = slackwater();
        let text = output_of(report.arg("report").arg(child.id().to_string()), b"");
        assert!(text.contains(" swapped out, "), "{text}");
    }
    child.finish();
}
