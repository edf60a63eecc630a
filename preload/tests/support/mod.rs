//! What the tests of the preload library share: where the library is, how a program is run under it
//! with a limit on its time, and what happens on a machine where a program is missing.

#[path = "../../../tests/surroundings/mod.rs"]
mod surroundings;

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LIBRARY: &str = "libslackwater_preload.so";

/// Another library to run the same tests against, for comparison; empty means the system's own malloc.
pub const OTHER_LIBRARY: &str = "SLACKWATER_TEST_LIBRARY";

/// Generous: what takes this long hangs. An unoptimised library on a busy machine is far below it.
pub const LIMIT: Duration = Duration::from_secs(300);

/// The shared object that cargo built for this test, or none if the system's malloc was asked for.
pub fn library() -> Option<PathBuf> {
    if let Some(other) = env::var_os(OTHER_LIBRARY) {
        return (!other.is_empty()).then(|| other.into());
    }
    // This program is target/<profile>/deps/<test>-<hash>. Cargo leaves the library beside it, or
    // one level up after `cargo build`, which may be older.
    let test = env::current_exe().expect("a test knows its own path");
    let beside = test.with_file_name(LIBRARY);
    let above = test.parent().and_then(Path::parent).map(|profile| profile.join(LIBRARY));
    let newest = [Some(beside), above]
        .into_iter()
        .flatten()
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max();
    match newest {
        Some((_, path)) => Some(path),
        None => panic!("{LIBRARY} is not near {}", test.display()),
    }
}

/// A command that runs under the library.
pub fn preloaded(program: impl AsRef<OsStr>) -> Command {
    let mut command = plain(program);
    if let Some(library) = library() {
        command.env("LD_PRELOAD", library);
    }
    command
}

/// A command that runs without it.
pub fn plain(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_PRELOAD").env("LC_ALL", "C");
    command
}

/// A program that ended, and what it wrote.
pub struct Outcome {
    command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Panics with everything the program said, unless it succeeded.
    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "{}: {}\n{}", self.command, self.status, self.said());
        self
    }

    /// The end of what the program wrote, for a failed test's message.
    pub fn said(&self) -> String {
        format!("stdout: {}\nstderr: {}", tail(&self.stdout), tail(&self.stderr))
    }
}

fn tail(text: &str) -> &str {
    const ENOUGH: usize = 8000;
    let start = text.len().saturating_sub(ENOUGH);
    text.get(start..).unwrap_or(text)
}

/// Runs a command to its end; kills it and its children, and panics, when it passes `limit`.
pub fn run(command: &mut Command, input: &str, limit: Duration) -> Outcome {
    let name = format!("{command:?}");
    let mut stdin = unnamed_file();
    stdin.write_all(input.as_bytes()).expect("write the input");
    stdin.rewind().expect("rewind the input");
    // Files, not pipes: a grandchild that outlives the program holds nobody up.
    let mut stdout = unnamed_file();
    let mut stderr = unnamed_file();
    let copy = |file: &File| Stdio::from(file.try_clone().expect("duplicate a descriptor"));
    let mut child = command
        .stdin(stdin)
        .stdout(copy(&stdout))
        .stderr(copy(&stderr))
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for the program") {
            break Some(status);
        }
        if Instant::now() > deadline {
            // SAFETY: kill reads and writes no memory; the child is not reaped, so the group that
            // bears its number is the one made above.
            unsafe { libc::kill(-child.id().cast_signed(), libc::SIGKILL) };
            child.wait().expect("wait for the killed program");
            break None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    let (stdout, stderr) = (all_of(&mut stdout), all_of(&mut stderr));
    let Some(status) = status else {
        panic!("{name}: not done after {limit:?}\n{}\n{}", tail(&stdout), tail(&stderr));
    };
    let complaint = stderr.lines().find(|line| line.contains("cannot be preloaded"));
    assert_eq!(complaint, None, "{name} ran without the library");
    Outcome { command: name, status, stdout, stderr }
}

fn unnamed_file() -> File {
    let path = unique_path("output");
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .open(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fs::remove_file(&path).expect("remove the name of an open file");
    file
}

fn all_of(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().expect("rewind the output");
    file.read_to_end(&mut bytes).expect("read the output");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A name in the temporary directory that nobody else uses. Not under target/: a Unix socket's path
/// must be short.
pub fn unique_path(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Relaxed: only the number itself must be unique.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    env::temp_dir().join(format!("slackwater-{}-{number}-{name}", std::process::id()))
}

/// The path of an installed program. A missing one fails a test in CI; elsewhere it skips the test,
/// with a line that no captured output hides.
pub fn installed(test: &str, program: &str) -> Option<PathBuf> {
    let found = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|directory| directory.join(program))
        .find(|path| path.is_file());
    if found.is_none() {
        skipped(test, &format!("{program} is not installed"));
    }
    found
}

/// Says that a test did not run, and why; in CI that is a failure.
pub fn skipped(test: &str, reason: &str) {
    assert!(env::var_os("CI").is_none(), "{test} must run in CI: {reason}");
    // The test harness captures what goes through print!, not what is written to the stream.
    let line = format!("SKIPPED: {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("write to stderr");
}
