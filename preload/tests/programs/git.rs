//! Git: its threads, its children and all that it keeps in memory.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::shared::Scratch;
use crate::support::{LIMIT, installed, preloaded, run, skipped};

/// Runs git in a directory under the library, as nobody in particular and with no one's settings.
fn git(program: &Path, settings: &Path, directory: &Path, arguments: &[&OsStr]) -> String {
    let mut command = preloaded(program);
    command.current_dir(directory).env("GIT_CONFIG_GLOBAL", settings);
    command.env("GIT_CONFIG_NOSYSTEM", "1").args(arguments);
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(variable);
    }
    run(&mut command, "", LIMIT).expect_success().stdout
}

#[test]
fn git_clones_packs_and_checks_this_repository() {
    const TEST: &str = "git_clones_packs_and_checks_this_repository";
    const SETTINGS: &str = "[safe]\n\tdirectory = *\n\
        [user]\n\tname = Tide\n\temail = tide@example.invalid\n[gc]\n\tauto = 0\n";
    let Some(program) = installed(TEST, "git") else { return };
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace above");
    if !here.join(".git").exists() {
        return skipped(TEST, "this is not a checkout by git");
    }
    let directory = Scratch::new("git");
    let settings = directory.write("settings", SETTINGS);
    let git = |directory: &Path, arguments: &[&str]| {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        git(&program, &settings, directory, &arguments)
    };
    let objects = |directory: &Path| {
        let listed = git(directory, &["rev-list", "--objects", "HEAD"]);
        let mut objects: Vec<String> = listed.lines().map(str::to_owned).collect();
        objects.sort();
        objects
    };
    let source = here.to_str().expect("a path in UTF-8");
    git(&directory.0, &["clone", "--quiet", "--no-local", source, "clone"]);
    let clone = directory.join("clone");
    assert_eq!(objects(&clone), objects(here));

    // A history of its own on top, so that there is something to pack.
    for commit in 0..20 {
        for file in 0..60 {
            let mut text = String::new();
            for line in 0..200 {
                let number = (line * 7 + file * 31 + line / (commit + 1)) % 997;
                writeln!(text, "{file} {line} {number}").expect("a String takes it");
            }
            fs::write(clone.join(format!("file-{file}")), text).expect("write into the clone");
        }
        git(&clone, &["add", "--all"]);
        git(&clone, &["commit", "--quiet", "--message", &format!("tide {commit}")]);
    }
    let before = objects(&clone);
    git(&clone, &["-c", "pack.threads=4", "gc", "--quiet", "--aggressive", "--prune=now"]);
    git(&clone, &["fsck", "--full", "--strict", "--no-dangling"]);
    assert_eq!(objects(&clone), before);
    assert_eq!(git(&clone, &["status", "--porcelain"]), "");
    assert!(git(&clone, &["log", "--patch", "--stat"]).len() > 100_000);
    git(&clone, &["grep", "-c", "99[0-9]$"]);
    git(&clone, &["blame", "file-7"]);
    git(&directory.0, &["clone", "--quiet", "--bare", "clone", "bare"]);
    assert_eq!(objects(&directory.join("bare")), before);
}
