//! `slackwater snapshot` and `slackwater diff`: what is saved is read again, and nothing is lost.

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Demo, Shell};
use serde_json::Value;

/// A folder of the test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("snapshot-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a writable place");
    folder
}

fn snapshot(process: u32, path: &Path) -> Output {
    let mut command = common::slackwater();
    command.arg("snapshot").arg(process.to_string()).arg("-o").arg(path);
    command.output().expect("it starts")
}

fn saved(process: u32, path: &Path) -> Value {
    let output = snapshot(process, path);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    serde_json::from_slice(&fs::read(path).expect("written")).expect("JSON")
}

fn diff(arguments: &[&Path]) -> String {
    let output = common::slackwater().arg("diff").args(arguments).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_snapshot_has_a_head_and_the_figures() {
    let folder = folder("head");
    let shell = Shell::start();
    let file = saved(shell.id(), &folder.join("a.json"));
    assert_eq!((&file["format"], &file["version"]), (&"slackwater-snapshot".into(), &1.into()));
    assert_eq!((&file["pid"], &file["comm"]), (&shell.id().into(), &"sh".into()));
    assert_eq!(file["slackwater"], env!("CARGO_PKG_VERSION"));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    assert_eq!(file["kernel"], kernel.trim());
    assert!(file["figures"]["memory_bytes"]["live"].as_u64().expect("whole") > 0);
    assert!(file["figures"]["purge_batch_pages"]["buckets"].is_array());
    // Without a file it goes to standard output.
    let output = common::slackwater().args(["snapshot", &shell.id().to_string()]).output();
    let printed: Value = serde_json::from_slice(&output.expect("it starts").stdout).expect("JSON");
    assert_eq!(printed["started"], file["started"]);
}

#[test]
fn what_happened_in_between_is_what_differs() {
    let folder = folder("between");
    let mut demo = Demo::start(&[]);
    let (a, b) = (folder.join("a.json"), folder.join("b.json"));
    let before = saved(demo.id(), &a);
    demo.read_until("idle");
    let after = saved(demo.id(), &b);
    let text = diff(&[&a, &b]);
    assert!(text.starts_with(&format!("slackwater ({}), ", demo.id())), "{text}");
    let row = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not in\n{text}"));
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(row("figure"), ["figure", "before", "after", "change", "per second"]);
    let frees = |file: &Value| file["figures"]["frees_total"].as_u64().expect("whole");
    let change = frees(&after) - frees(&before);
    let cells = row("frees_total");
    let expected = [frees(&before).to_string(), frees(&after).to_string(), format!("+{change}")];
    assert_eq!(cells[1..4], expected);
    assert!(!text.contains("build_info"), "it does not differ");

    let object: Value = serde_json::from_str(&diff(&[&a, &b, Path::new("--json")])).expect("JSON");
    let found = &object["changes"]["frees_total"];
    assert_eq!(found["change"].as_f64(), Some(change as f64));
    let seconds = object["seconds"].as_f64().expect("a number");
    let time = |file: &Value| file["time"].as_f64().expect("a number");
    // A number may lose its last bit on its way through text.
    assert!((seconds - (time(&after) - time(&before))).abs() < 1e-6, "{object}");
    let per_second = found["per_second"].as_f64().expect("a number");
    assert!((per_second * seconds - change as f64).abs() < 1e-3, "{found}");

    assert!(diff(&[&a, &a]).ends_with("\nno figure differs\n"));
    let output = common::slackwater().arg("diff").args([&b, &a]).output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("expected the older snapshot first"), "{stderr}");
}

#[test]
fn two_processes_have_no_time_between_them() {
    let folder = folder("two");
    let (one, two) = (Shell::start(), Shell::start());
    let (a, b) = (folder.join("a.json"), folder.join("b.json"));
    saved(two.id(), &a);
    saved(one.id(), &b);
    // Either way round, as neither is the older state of the other.
    for (a, b) in [(&a, &b), (&b, &a)] {
        let text = diff(&[a, b]);
        assert!(text.contains("two processes"), "{text}");
        let object: Value =
            serde_json::from_str(&diff(&[a, b, Path::new("--json")])).expect("JSON");
        assert!(object["seconds"].is_null());
    }
}

/// What is in the folder, and what is in the file `good.json`.
fn state(folder: &Path) -> (Vec<String>, String) {
    let entries = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable"));
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    (names, fs::read_to_string(folder.join("good.json")).expect("it is there"))
}

#[test]
fn a_good_file_outlives_a_failed_write() {
    let folder = folder("failed");
    let shell = Shell::start();
    let good = folder.join("good.json");
    saved(shell.id(), &good);
    let before = state(&folder);
    // No file may become larger than a kilobyte, as on a disk that is full.
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" snapshot \"$1\" -o \"$2\"";
    let mut full = Command::new("bash");
    full.args(["-c", script, env!("CARGO_BIN_EXE_slackwater"), &shell.id().to_string()]).arg(&good);
    let output = full.output().expect("bash starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("good.json: cannot be written: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(state(&folder), before);
    // With room again, the file is replaced.
    saved(shell.id(), &good);
    let after = state(&folder);
    assert_eq!(after.0, ["good.json"]);
    assert_ne!(after.1, before.1);
    let mode = fs::metadata(&good).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o600, 0o600);
}

#[test]
fn links_and_pipes_stay_what_they_are() {
    let folder = folder("links");
    let shell = Shell::start();
    let (file, link) = (folder.join("file.json"), folder.join("link.json"));
    fs::write(&file, "old").expect("writable");
    symlink(&file, &link).expect("a place for a link");
    saved(shell.id(), &link);
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert!(fs::read_to_string(&file).expect("there").contains("slackwater-snapshot"));

    let pipe = folder.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("coreutils").success());
    // Open for both, so that neither side waits for the other and nothing is lost.
    let mut reader = File::options().read(true).write(true).open(&pipe).expect("readable");
    assert!(snapshot(shell.id(), &pipe).status.success());
    assert!(fs::symlink_metadata(&pipe).expect("there").file_type().is_fifo());
    let mut start = [0; 30];
    reader.read_exact(&mut start).expect("it has been written");
    assert!(start.starts_with(b"{\n  \"format\": \"slackwater-"), "{start:?}");
}
