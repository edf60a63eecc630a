//! What the tests of programs share: directories of their own, the comparison with the system's allocator,
//! servers.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{LIMIT, Outcome, library, plain, preloaded, run, unique_path};

/// A directory that is gone when the test is over.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = unique_path(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: a test that failed has more to say than this.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs what `prepare` makes of a fresh directory without the library and then under it; both must succeed.
pub fn without_and_under(
    name: &str,
    program: &Path,
    input: &str,
    prepare: impl Fn(&mut Command, &Scratch),
) -> [Outcome; 2] {
    [plain(program), preloaded(program)].map(|mut command| {
        let scratch = Scratch::new(name);
        prepare(command.current_dir(&scratch.0), &scratch);
        run(&mut command, input, LIMIT).expect_success()
    })
}

/// The same, and both print the same, which is returned.
pub fn same_under_library(
    name: &str,
    program: &Path,
    input: &str,
    prepare: impl Fn(&mut Command, &Scratch),
) -> String {
    let outcomes = without_and_under(name, program, input, prepare);
    let [without, under] = outcomes.map(|outcome| outcome.stdout);
    expect_same(name, &without, &under);
    under
}

/// What was printed without the library is there, and was printed under it.
pub fn expect_same(name: &str, without: &str, under: &str) {
    assert!(!without.is_empty(), "{name} prints something to compare");
    let differ = without.lines().zip(under.lines()).position(|(one, other)| one != other);
    let from = |text: &str| {
        let lines = text.lines().skip(differ.unwrap_or(0)).take(40);
        lines.collect::<Vec<_>>().join("\n")
    };
    let [one, other] = [without, under].map(from);
    assert!(without == under, "{name}, without the library:\n{one}\nunder it:\n{other}");
}

/// Whether the process has the library mapped: `LD_PRELOAD` alone proves nothing.
pub fn expect_library_in(maps: &str) {
    if let Some(name) = library_name() {
        assert!(maps.contains(&name), "{name} is not mapped:\n{maps}");
    }
}

/// The library's name as the maps of a process have it, in whatever folder a copy lies.
pub fn library_name() -> Option<String> {
    let library = fs::canonicalize(library()?).expect("the library exists");
    let name = library.file_name().expect("the name of a file");
    Some(format!("/{}", name.to_str().expect("a name in UTF-8")))
}

/// A server of the test's own, with the processes that it starts; it and they are gone when the test is over.
pub struct Server {
    process: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it in a group of its own; what it says goes to the file `log` in `directory`.
    pub fn start(mut command: Command, directory: &Scratch) -> Self {
        let log = directory.join("log");
        let output = File::options().create(true).append(true).open(&log).expect("open the log");
        let name = format!("{command:?}");
        let process = command
            .process_group(0)
            .stdout(output.try_clone().expect("duplicate a descriptor"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { process, log }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn wait_until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !is_so() {
            assert!(Instant::now() < deadline, "never: {what}: {}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The processes that it has started, and not theirs.
    pub fn children(&self) -> Vec<u32> {
        let id = self.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.expect("the server runs");
        children.split_whitespace().map(|child| child.parse().expect("a number")).collect()
    }

    /// It and what it has started have the library.
    pub fn expect_library(&self) {
        for process in self.children().into_iter().chain([self.id()]) {
            // A child may have come to its end.
            if let Ok(maps) = fs::read_to_string(format!("/proc/{process}/maps"))
                && !maps.is_empty()
            {
                expect_library_in(&maps);
            }
        }
    }

    /// Waits until it has ended, as it must after what was asked of it.
    pub fn expect_end(mut self) {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.process.try_wait().expect("wait for the server") {
                break status;
            }
            assert!(Instant::now() < deadline, "does not stop: {}", self.said());
            thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{status}: {}", self.said());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            // SAFETY: kill reads and writes no memory; the child is not reaped, so the group is the one made above.
            unsafe { libc::kill(-self.id().cast_signed(), libc::SIGKILL) };
            let _ = self.process.wait();
        }
    }
}
