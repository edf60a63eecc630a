//! Bad input: exit code 2 and one line that names the value and what was expected.

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

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
    for arguments in [&["demo", "--listen", &address][..], &["--listen", &address]] {
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

    // LD_PRELOAD separates by spaces and colons, and has no way to write one.
    fs::write(folder.join("libslackwater_preload.so"), "").expect("a writable place");
    assert_refused(&run(""), &["slackwater alone", "a space or a colon"]);
    fs::remove_dir_all(folder).expect("made by this test");
}
