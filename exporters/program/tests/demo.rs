//! `slackwater demo` as a newcomer meets it.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::Demo;

#[test]
fn it_serves_while_it_works_and_ends_with_proof_and_summary() {
    let mut demo = Demo::start(&["--seconds", "8"]);
    demo.read_until("burst");
    let scrape = common::get(demo.address, "/metrics");
    assert_eq!(scrape.status, 200);
    common::assert_complete(&scrape.body);
    common::assert_promtool_is_silent(&scrape.body);
    assert!(common::get(demo.address, "/").body.contains("<title>Slackwater</title>"));
    demo.read_until("idle");

    let output = demo.finish();
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    for part in ["burst 1: RSS ", "RSS fell by ", "madvise_calls=", "drop=", "[slackwater] enq="] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    assert!(text.contains("  as promised: ") != text.contains("  NOT as promised: "), "{text}");
}

#[test]
fn a_signal_ends_it_with_the_summary() {
    for signal in ["INT", "TERM"] {
        let mut demo = Demo::start(&[]);
        demo.read_until("burst");
        let kill = format!("kill -s {signal} {}", demo.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh starts").success());
        let output = demo.finish();
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{signal}: {text}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(text.contains("[slackwater] enq="), "{signal}: {text}");
    }
}

#[test]
fn its_unix_socket_goes_with_it() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("demo.sock");
    let _ = fs::remove_file(&path);
    let output = common::slackwater()
        .args(["--seconds", "1", "--listen", &format!("unix:{}", path.display())])
        .output()
        .expect("the demo starts");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(text.contains(&format!("curl --unix-socket {} ", path.display())), "{text}");
    assert!(!path.exists(), "{} is left", path.display());
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let mut demo = common::slackwater()
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the demo starts");
    drop(demo.stdout.take());
    let output = demo.wait_with_output().expect("the demo ends");
    assert!(output.status.success(), "{:?}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
