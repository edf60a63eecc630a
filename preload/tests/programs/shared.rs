//! What the tests of programs share: directories of their own, the comparison with the system's allocator,
//! servers, and a user who is nobody in particular.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{LIMIT, Outcome, library, plain, preloaded, run, skipped, unique_path};

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

/// A program that stands where an ordinary user's PATH does not lead; skipped if it is nowhere.
pub fn installed_in(test: &str, folders: &[PathBuf], program: &str) -> Option<PathBuf> {
    let on_path: Vec<PathBuf> =
        env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let everywhere = on_path.iter().chain(folders).map(|folder| folder.join(program));
    let found = everywhere.into_iter().find(|path| path.is_file());
    if found.is_none() {
        skipped(test, &format!("{program} is not installed"));
    }
    found
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
            .stdin(Stdio::null())
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

    pub fn signal(&self, signal: i32) {
        // SAFETY: kill reads and writes no memory; the child is not reaped, so the number is its own.
        let sent = unsafe { libc::kill(self.id().cast_signed(), signal) };
        assert_eq!(sent, 0, "the server runs: {}", self.said());
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

pub fn is_root() -> bool {
    // SAFETY: it cannot fail, and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// An ordinary user, for programs that refuse to be root's and for those that give their callers more rights: the
/// user nobody where root runs the tests, else who runs them.
pub struct Nobody {
    /// Owned by that user.
    pub home: Scratch,
    /// A copy that is theirs to read, whoever may enter the folder where the library was built.
    library: Option<PathBuf>,
}

impl Nobody {
    /// Debian's user `nobody` and group `nogroup`.
    const ID: u32 = 65534;

    pub fn new(name: &str) -> Self {
        let home = Scratch::new(name);
        let library = library().map(|library| {
            let copy = home.join(library.file_name().and_then(OsStr::to_str).expect("a name"));
            fs::copy(&library, &copy).expect("copy the library");
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("change its mode");
            copy
        });
        if is_root() {
            chown(&home.0, Some(Self::ID), Some(Self::ID)).expect("give a directory away");
        }
        Self { home, library }
    }

    pub fn plain(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = plain(program);
        command.current_dir(&self.home.0).env("HOME", &self.home.0);
        if is_root() {
            command.uid(Self::ID).gid(Self::ID);
        }
        command
    }

    pub fn preloaded(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.plain(program);
        self.preload(&mut command);
        command
    }

    /// Preloads the copy into a command of anybody's: it stays readable when the command becomes this user.
    pub fn preload(&self, command: &mut Command) {
        if let Some(library) = &self.library {
            command.env("LD_PRELOAD", library);
        }
    }
}
