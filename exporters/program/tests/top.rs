//! `slackwater top`: on a terminal, as text and as JSON.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZeroU16;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Demo, PATIENCE, Shell};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use serde_json::Value;
use slackwater_exporters::families::FAMILIES;

/// `top` on a terminal of its own; killed if the test ends before it does.
struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    parser: Arc<Mutex<vt100::Parser>>,
    /// How the terminal was set before.
    settings: String,
}

impl Terminal {
    fn start(process: u32, columns: u16, rows: u16) -> Terminal {
        let size = PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).expect("Linux has them");
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_slackwater"));
        command.args(["top", &process.to_string(), "--interval", "0.1"]);
        command.env("TERM", "xterm-256color");
        let settings = settings(&*pair.master);
        let child = pair.slave.spawn_command(command).expect("it starts");
        let whole = |n| NonZeroU16::new(n).expect("not 0");
        let parser = Arc::new(Mutex::new(vt100::Parser::new(whole(rows), whole(columns), 0)));
        let mut output = pair.master.try_clone_reader().expect("readable");
        let screen = parser.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Until the terminal has no other end any more.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                screen.lock().expect("no panic").process(&bytes[..count]);
            }
        });
        let keys = pair.master.take_writer().expect("writable");
        Terminal { child, master: pair.master, keys, parser, settings }
    }

    fn contents(&self) -> String {
        self.parser.lock().expect("no panic").screen().contents()
    }

    /// Waits until the screen shows `text`.
    fn shows(&self, text: &str) {
        self.becomes(text, |contents| contents.contains(text));
    }

    fn becomes(&self, what: &str, is: impl Fn(&str) -> bool) {
        // Not an asserted time: a test that hangs says nothing.
        let end = Instant::now() + PATIENCE;
        while !is(&self.contents()) {
            assert!(Instant::now() < end, "the screen is never {what:?}:\n{}", self.contents());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("it reads");
        self.keys.flush().expect("it reads");
    }

    /// Waits for the end; the terminal must be as it was.
    fn finish(mut self) -> (u32, String) {
        let end = Instant::now() + PATIENCE;
        let code = loop {
            match self.child.try_wait().expect("it is a child") {
                Some(status) => break status.exit_code(),
                None => assert!(Instant::now() < end, "it never ends:\n{}", self.contents()),
            }
            thread::sleep(Duration::from_millis(10));
        };
        // What it has written may still be on its way.
        let end = Instant::now() + PATIENCE;
        let is_back = || {
            let parser = self.parser.lock().expect("no panic");
            !parser.screen().alternate_screen() && !parser.screen().hide_cursor()
        };
        while !is_back() {
            assert!(Instant::now() < end, "screen or cursor is not given back");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(settings(&*self.master), self.settings, "the terminal is set otherwise");
        (code, self.contents())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn settings(master: &dyn MasterPty) -> String {
    format!("{:?}", master.get_termios().expect("a terminal has settings"))
}

fn signal(process: u32, signal: libc::c_int) {
    // SAFETY: plain numbers; the process is a child that has not been waited for.
    let sent = unsafe { libc::kill(process as libc::pid_t, signal) };
    assert_eq!(sent, 0);
}

#[test]
fn the_screen_shows_the_process_and_follows_the_keys() {
    let demo = Demo::start(&[]);
    let mut top = Terminal::start(demo.id(), 80, 24);
    top.shows(&format!("slackwater top: slackwater ({})  every 100 ms", demo.id()));
    for text in ["RSS ", "live ", "gate ", "drop 0", "why RSS is what it is", "unattributed"] {
        top.shows(text);
    }
    for text in ["span▼", "allocations/s", "q quit"] {
        top.shows(text);
    }
    assert_ne!(settings(&*top.master), top.settings, "keys come one by one, and unseen");
    assert!(top.parser.lock().expect("no panic").screen().alternate_screen());
    top.press("s");
    top.shows("free▼");
    top.press("r");
    top.shows("free▲");
    top.press("p");
    top.shows("every 100 ms, paused");
    top.press("p+");
    top.becomes("slower", |contents| {
        contents.contains("every 250 ms") && !contents.contains(", paused")
    });
    top.press("-");
    top.shows("every 100 ms");
    // To the panel of system calls, there and back.
    top.press("\t\t\t\t");
    top.shows("membarrier");
    top.press("\x1b[D");
    top.shows("allocations/s");
    top.press("h");
    top.shows("sort the other way round");
    top.press("h");
    top.becomes("without help", |contents| !contents.contains("sort the other way round"));
    top.press("q");
    let (code, contents) = top.finish();
    assert_eq!(code, 0, "{contents}");
    assert!(!contents.contains("slackwater"), "{contents}");
}

#[test]
fn another_size_is_another_screen() {
    let shell = Shell::start();
    let mut top = Terminal::start(shell.id(), 80, 24);
    top.shows("q quit");
    assert!(!top.contents().contains("take-overs"), "no room for it");
    let size = PtySize { rows: 50, cols: 160, pixel_width: 0, pixel_height: 0 };
    let whole = |n| NonZeroU16::new(n).expect("not 0");
    top.parser.lock().expect("no panic").screen_mut().set_size(whole(50), whole(160));
    top.master.resize(size).expect("it takes a size");
    top.shows("take-overs taken");
    top.press("\x03");
    assert_eq!(top.finish().0, 0);
}

#[test]
fn a_tiny_screen_is_enough() {
    let shell = Shell::start();
    let mut top = Terminal::start(shell.id(), 20, 5);
    top.shows("slackwater top");
    top.press("hhsrp\t\tq");
    assert_eq!(top.finish().0, 0);
}

#[test]
fn signals_end_it_and_the_terminal_comes_back() {
    let shell = Shell::start();
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let top = Terminal::start(shell.id(), 80, 24);
        top.shows("q quit");
        signal(top.child.process_id().expect("it runs"), number);
        let (code, contents) = top.finish();
        assert_eq!(code, 0, "{number}: {contents}");
    }
}

#[test]
fn a_terminal_that_goes_away_ends_it() {
    let shell = Shell::start();
    let size = PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 };
    let pair = native_pty_system().openpty(size).expect("Linux has them");
    let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_slackwater"));
    command.args(["top", &shell.id().to_string(), "--interval", "0.1"]);
    let mut child = pair.slave.spawn_command(command).expect("it starts");
    let mut reader = pair.master.try_clone_reader().expect("readable");
    let (mut seen, mut bytes) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&seen).contains("h help") {
        let count = reader.read(&mut bytes).expect("readable");
        seen.extend_from_slice(&bytes[..count]);
    }
    // Something of the next view: the first one is complete.
    assert_ne!(reader.read(&mut bytes).expect("readable"), 0);
    drop((reader, pair));
    // Not an asserted time: a test that hangs says nothing.
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is a child") {
            break status;
        }
        if Instant::now() > end {
            child.kill().expect("it runs");
            panic!("it never ends");
        }
        thread::sleep(Duration::from_millis(10));
    };
    // Neither by a panic nor by a signal.
    assert!(status.signal().is_none() && status.exit_code() <= 1, "{status:?}");
}

#[test]
fn the_end_of_the_process_is_told_on_the_terminal_that_was_before() {
    let mut shell = Shell::start();
    let top = Terminal::start(shell.id(), 80, 24);
    top.shows("q quit");
    shell.finish();
    let line = format!("slackwater: process {} has ended", shell.id());
    top.becomes("told", |contents| contents.trim() == line);
    assert_eq!(top.finish().0, 1);
}

fn text_of(arguments: &[&str]) -> String {
    let output = common::slackwater().arg("top").args(arguments).output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn one_view_is_plain_text() {
    let demo = Demo::start(&[]);
    let text = text_of(&[&demo.id().to_string(), "--once", "--interval", "0.5"]);
    let start = format!("slackwater ({})\nRSS ", demo.id());
    assert!(text.starts_with(&start), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    // The demo is in its burst for two seconds.
    let rate = text.lines().find(|line| line.contains("allocations/s")).expect("a rate");
    assert!(!rate.trim_end().ends_with(" 0"), "{rate}");
    // The bars are laid end to end, and fill their line.
    let bars: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_suffix('|')?.split_once("%  ").map(|(_, bar)| bar))
        .collect();
    assert_eq!(bars.len(), 12, "{text}");
    for column in 0..40 {
        let filled = bars.iter().filter(|bar| bar.as_bytes()[column] == b'#').count();
        assert_eq!(filled, 1, "column {column} in\n{text}");
    }
}

#[test]
fn one_object_has_every_family_and_the_process() {
    let shell = Shell::start();
    let text = text_of(&[&shell.id().to_string(), "--once", "--json"]);
    assert_eq!(text.lines().count(), 1, "{text}");
    let object: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(object["pid"], shell.id());
    assert_eq!(object["comm"], "sh");
    assert!(object["time"].as_f64().expect("a number") > 1.7e9);
    for family in FAMILIES {
        // What observing costs it, another process does not say.
        let may_be_absent = common::dashboards::CONDITIONAL.contains(&family.name)
            || family.name == "observer_cpu_seconds_total";
        if !may_be_absent {
            assert!(object.get(family.name).is_some(), "{} is missing", family.name);
        }
    }
    let sum = |family: &str| {
        let parts = object[family].as_object().expect("labelled").values();
        parts.map(|part| part.as_u64().expect("whole")).sum::<u64>()
    };
    let unattributed = object["rss_unattributed_bytes"].as_u64().expect("whole");
    assert_eq!(sum("rss_bytes") + unattributed, sum("process_resident_bytes"));
}

#[test]
fn objects_come_until_the_process_ends() {
    let mut shell = Shell::start();
    let mut top = common::slackwater()
        .args(["top", &shell.id().to_string(), "--json", "--interval", "0.1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(top.stdout.take().expect("piped")).lines();
    let mut next = || -> Value {
        let line = lines.next().expect("another line").expect("text");
        serde_json::from_str(&line).expect("JSON")
    };
    let times: Vec<f64> = (0..3).map(|_| next()["time"].as_f64().expect("a number")).collect();
    assert!(times.is_sorted() && times[0] < times[2], "{times:?}");
    shell.finish();
    assert!(lines.all(|line| serde_json::from_str::<Value>(&line.expect("text")).is_ok()));
    let output = top.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let line = format!("slackwater: process {} has ended\n", shell.id());
    assert_eq!(String::from_utf8_lossy(&output.stderr), line);
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_well() {
    let shell = Shell::start();
    let mut top = common::slackwater()
        .args(["top", &shell.id().to_string(), "--json", "--interval", "0.1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(top.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
    let output = top.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
