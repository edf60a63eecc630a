//! Bad input: exit code 2 and one line that names the value and what was expected.

mod common;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output};

/// Checks the shape of a refusal; `mentions` are the value and what was expected instead.
fn assert_refused(output: &Output, mentions: &[&str]) {
    let stderr = String::from_utf8(output.stderr.clone()).expect("text");
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("slackwater: ") && stderr.ends_with('\n'), "{stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains('\x1b'), "{stderr}");
    for mention in mentions {
        assert!(stderr.contains(mention), "{mention} is not named: {stderr}");
    }
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn each_bad_command_line_is_refused_in_one_line() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--bogus"], &["--bogus", "usage: slackwater"]),
        (&["bogus"], &["'bogus'", "usage: slackwater"]),
        (&["demo", "bogus"], &["bogus", "usage: slackwater demo"]),
        (&["demo", "--seconds", "abc"], &["abc", "--seconds", "whole number of seconds"]),
        (&["--seconds", "abc"], &["abc", "whole number of seconds"]),
        (&["--seconds", "0"], &["'0'", "from 1"]),
        (&["--seconds=-1"], &["-1", "from 1"]),
        (&["--seconds", "1.5"], &["1.5", "whole number"]),
        (&["--seconds", "99999999999999999999"], &["99999999999999999999", "whole number"]),
        (&["--seconds", "18446744073709551615"], &["18446744073709551615", "whole number"]),
        (&["--seconds"], &["--seconds", "value is required"]),
        (&["--seconds", "1", "--seconds", "2"], &["--seconds"]),
        (&["--listen", "banana"], &["banana", "IP address and a port"]),
        (&["--listen", "127.0.0.1"], &["127.0.0.1", "IP address and a port"]),
        (&["--listen", "127.0.0.1:99999"], &["127.0.0.1:99999", "IP address and a port"]),
        (&["--listen", "localhost:x"], &["localhost:x", "IP address and a port"]),
        (&["--listen", "a\nb\x1b[31m\n\nc"], &["a b", "IP address and a port"]),
        (&["--listen", ""], &["--listen", "IP address and a port"]),
        (&["--listen", "unix:"], &["unix:", "a path of 1 to 107 bytes"]),
        (&["--listen", "unix:/no/such/x"], &["unix:/no/such/x", "expected a free address"]),
        // TEST-NET-1: an address that no machine has.
        (&["--listen", "192.0.2.1:9464"], &["192.0.2.1:9464", "expected a free address"]),
        (&["run"], &["CMD", "usage: slackwater run"]),
        (&["run", "--"], &["CMD", "usage: slackwater run"]),
        (&["run", "--bogus", "true"], &["--bogus", "usage: slackwater run"]),
        (&["run", "--", ""], &["''", "expected the name of a program"]),
        (&["run", "--", "no-such-program"], &["no-such-program", "PATH"]),
        (&["run", "--", "/no/such/program"], &["/no/such/program", "expected a path"]),
        (&["run", "--", "/etc/passwd"], &["/etc/passwd", "expected an executable"]),
        (&["run", "--", "/"], &["/: ", "expected an executable"]),
        (&["top"], &["PID", "usage: slackwater top PID"]),
        (&["top", "1", "2"], &["'2'", "usage: slackwater top PID"]),
        (&["top", "abc", "--once"], &["abc", "expected the id of a process"]),
        (&["top", "0", "--once"], &["'0'", "expected the id of a process"]),
        (&["top", "-1", "--once"], &["-1", "usage: slackwater top PID"]),
        (&["top", "99999999999", "--once"], &["99999999999", "expected the id of a process"]),
        (&["top", "2147483648", "--once"], &["2147483648", "expected the id of a process"]),
        (&["top", "2147483647", "--once"], &["2147483647 does not exist", "expected the id"]),
        (&["top", "2147483647", "--json"], &["2147483647 does not exist", "expected the id"]),
        (&["top", "1", "--once", "--interval", "0"], &["'0'", "seconds from 0.1 to 3600"]),
        (&["top", "1", "--once", "--interval", "NaN"], &["NaN", "seconds from 0.1 to 3600"]),
        (&["top", "1", "--once", "--interval", "1e9"], &["1e9", "seconds from 0.1 to 3600"]),
        (&["top", "1"], &["standard output is not a terminal", "expected one, or --once"]),
        (&["report"], &["PID", "usage: slackwater report PID"]),
        (&["report", "2147483647"], &["2147483647 does not exist", "expected the id"]),
        (&["report", "1", "--seconds", "0"], &["'0'", "whole number of seconds"]),
        (&["report", "1", "--perf", "0"], &["'0'", "whole number of seconds"]),
        (&["report", "1", "--perf", "x"], &["'x'", "whole number of seconds"]),
        (&["report", "1", "--perf"], &["--perf", "value is required"]),
        (
            &["report", "1", "--perf", "1", "--seconds", "1"],
            &["--perf", "usage: slackwater report"],
        ),
        (&["report", "2147483647", "--perf", "1"], &["2147483647 does not exist"]),
        (&["demo", "--perf=yes"], &["'yes'", "--perf"]),
        (&["snapshot"], &["PID", "usage: slackwater snapshot PID"]),
        (&["snapshot", "2147483647"], &["2147483647 does not exist", "expected the id"]),
        (&["snapshot", "1", "-o"], &["--output", "value is required"]),
        (&["diff"], &["A", "usage: slackwater diff A B"]),
        (&["diff", "a"], &["B", "usage: slackwater diff A B"]),
        (&["diff", "/no/such", "/no/such"], &["/no/such: cannot be read", "slackwater snapshot"]),
        (&["diff", "/", "/"], &["/: cannot be read", "slackwater snapshot"]),
        (&["diff", "/dev/zero", "/"], &["/dev/zero: larger than any", "slackwater snapshot"]),
        (&["diff", "/etc/passwd", "/"], &["/etc/passwd: not a snapshot", "slackwater snapshot"]),
        (&["flame"], &["PID", "usage: slackwater flame PID"]),
        (&["flame", "abc"], &["abc", "expected the id of a process"]),
        (&["flame", "1", "--kind", "dead"], &["dead", "expected live, alloc, peak"]),
        (&["flame", "1", "--seconds", "0"], &["'0'", "whole number of seconds"]),
        (&["flame", "2147483647"], &["2147483647 does not exist", "expected the id"]),
        (&["profile"], &["PID", "usage: slackwater profile PID"]),
        (&["profile", "abc"], &["abc", "expected the id of a process"]),
        (&["profile", "2147483647"], &["2147483647 does not exist", "expected the id"]),
        (&["profile", "1", "--format", "x"], &["'x'", "expected pprof, folded or text"]),
        (&["profile", "1", "run", "true"], &["run", "usage: slackwater profile PID"]),
        (&["profile", "run"], &["CMD", "usage: slackwater profile run"]),
        (&["profile", "run", "--", "no-such-program"], &["no-such-program", "PATH"]),
        (&["profile", "run", "--", ""], &["''", "expected the name of a program"]),
        (&["profile", "run", "--format", "pprof", "true"], &["--format pprof", "expected -o FILE"]),
        (&["export", "bogus"], &["bogus", "usage: slackwater export"]),
        (&["export", "--listen", "banana"], &["banana", "IP address and a port"]),
        (&["export", "--by", "name"], &["'name'", "expected pid, comm, cgroup or unit"]),
        (&["export", "--match", "a[b"], &["'a[b'", "a pattern like 'redis*'"]),
        (&["export", "--except", ""], &["--except", "expected a name"]),
        (&["export", "--min-rss", "1X"], &["'1X'", "expected a number of bytes, like 65536"]),
        (&["export", "--min-rss", "99999999999G"], &["'99999999999G'", "a number of bytes"]),
        (&["export", "--min-rss", "é"], &["'é'", "a number of bytes"]),
        (&["export", "--listen", "192.0.2.1:9465"], &["192.0.2.1:9465", "expected a free address"]),
        (&["completions"], &["SHELL", "usage: slackwater completions"]),
        (&["completions", "dos"], &["dos", "possible values: bash, elvish"]),
        (&["man", "bogus"], &["bogus", "usage: slackwater man"]),
        (&["man", "-o", "/no/such"], &["/no/such/", "expected a file in a folder that exists"]),
        (&["man", "-o", "/etc/passwd"], &["/etc/passwd/", "expected a file in a folder"]),
    ];
    for (arguments, mentions) in cases {
        let output = common::slackwater().args(*arguments).output().expect("it starts");
        assert_refused(&output, mentions);
    }
}

#[test]
fn a_taken_port_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    for arguments in [
        &["demo", "--listen", &address][..],
        &["--listen", &address],
        &["export", "--listen", &address],
    ] {
        let output = common::slackwater().args(arguments).output().expect("it starts");
        assert_refused(&output, &[&address, "in use", "expected a free address"]);
    }
}

#[test]
fn a_missing_library_is_refused() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("slackwater alone");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a writable place");
    let alone = folder.join("slackwater");
    // A link: a copy would be "busy" while a child forked by another test holds it open.
    fs::hard_link(env!("CARGO_BIN_EXE_slackwater"), &alone).expect("a place on the same disk");
    let run = |variable: &str| {
        let mut command = std::process::Command::new(&alone);
        command.args(["run", "--", "true"]).env("SLACKWATER_PRELOAD_LIB", variable);
        command.output().expect("it starts")
    };
    let lost = run("");
    assert_refused(&lost, &["libslackwater_preload.so not found", "SLACKWATER_PRELOAD_LIB"]);
    let misnamed = run("/no/such.so");
    assert_refused(&misnamed, &["SLACKWATER_PRELOAD_LIB=/no/such.so", "expected the path"]);
    let another = run("/bin/sh");
    assert_refused(&another, &["SLACKWATER_PRELOAD_LIB=/bin/sh", "is not Slackwater's library"]);

    // LD_PRELOAD separates by spaces and colons, and has no way to write one.
    fs::write(folder.join("libslackwater_preload.so"), "").expect("a writable place");
    assert_refused(&run(""), &["slackwater alone", "a space or a colon"]);
    fs::remove_dir_all(folder).expect("made by this test");
}

/// A process without a heap of ours.
struct Sleep(Child);

impl Sleep {
    fn start(command: &mut Command) -> Sleep {
        Sleep(command.arg("60").env_remove("LD_PRELOAD").spawn().expect("it starts"))
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every command that reads a process.
const READERS: [&[&str]; 6] =
    [&["top", "--once"], &["top", "--json"], &["report"], &["snapshot"], &["flame"], &["profile"]];

#[test]
fn a_process_without_a_heap_of_ours_is_refused() {
    let sleep = Sleep::start(&mut Command::new("sleep"));
    let process = sleep.0.id().to_string();
    for reader in READERS {
        let output = common::slackwater().args(reader).arg(&process).output().expect("it starts");
        let named = format!("process {process} (sleep)");
        assert_refused(&output, &[&named, "no heap of Slackwater's", "slackwater run"]);
    }
}

#[test]
fn a_process_of_another_user_is_refused() {
    // SAFETY: it has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        assert!(std::env::var_os("CI").is_none(), "this takes root, and this is CI");
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: only root can start a process of another user");
        return;
    }
    let sleep = Sleep::start(Command::new("sleep").uid(65534));
    let process = sleep.0.id().to_string();
    for reader in READERS {
        let mut command = common::slackwater();
        command.args(reader).arg(&process);
        // SAFETY: a system call and nothing else.
        unsafe { command.pre_exec(give_up_reading_others) };
        let output = command.output().expect("it starts");
        assert_refused(&output, &[&process, "may not be read", "CAP_SYS_PTRACE"]);
    }
}

/// What root executes from here on may read its own processes only.
fn give_up_reading_others() -> std::io::Result<()> {
    const CAP_SYS_PTRACE: libc::c_ulong = 19;
    // SAFETY: plain numbers.
    match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn foreign_and_damaged_snapshots_are_refused() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a writable place");
    let good = {
        let shell = common::Shell::start();
        let output = common::slackwater().args(["snapshot", &shell.id().to_string()]).output();
        String::from_utf8(output.expect("it starts").stdout).expect("text")
    };
    let path = folder.join("file.json");
    let cases: &[(&str, String, &str)] = &[
        ("empty", String::new(), "not a snapshot"),
        ("half", good[..good.len() / 2].to_string(), "not a snapshot"),
        ("an object", "{}".to_string(), "not a snapshot"),
        ("a list", "[1]".to_string(), "not a snapshot"),
        ("deep", "[".repeat(100_000), "not a snapshot"),
        (
            "foreign",
            good.replace("slackwater-snapshot", "x\\u001b"),
            "expected 'slackwater-snapshot'",
        ),
        ("newer", good.replace("\"version\": 1", "\"version\": 2"), "expected version 1"),
        ("no pid", good.replace("\"pid\"", "\"dip\""), "missing field `pid`"),
        ("odd", good.replace("\"figures\": {", "\"figures\": 1, \"x\": {"), "damaged"),
    ];
    for (name, text, mention) in cases {
        assert_ne!(text, &good, "{name}");
        fs::write(&path, text).expect("writable");
        let output = common::slackwater().arg("diff").args([&path, &path]).output();
        assert_refused(&output.expect("it starts"), &["file.json", mention, "slackwater"]);
    }
    fs::write(&path, &good).expect("writable");
    let output = common::slackwater().arg("diff").args([&path, &path]).output();
    assert!(output.expect("it starts").status.success());
}

#[test]
fn a_file_that_cannot_be_written_is_refused() {
    let shell = common::Shell::start();
    let process = shell.id().to_string();
    for (path, expected) in [
        ("/no/such/file", "expected a file in a folder that exists"),
        ("/", "expected the name of a file"),
        ("/etc/passwd/x", "expected a file in a folder"),
        ("", "expected"),
    ] {
        let output = common::slackwater().args(["snapshot", &process, "-o", path]).output();
        assert_refused(&output.expect("it starts"), &[path, expected]);
    }
}
