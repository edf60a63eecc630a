//! Git: its threads, its children and all that it keeps in memory.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::shared::{Scratch, same_under_library};
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

#[test]
fn a_session_of_git_ends_the_same() {
    const SCRIPT: &str = r#"
set -euo pipefail
commit() { git add --all && git commit --quiet --message "$1" && git rev-parse HEAD; }
git init --quiet --initial-branch main work && cd work
for file in $(seq 1 40); do for line in $(seq 1 120); do echo "$file $((line * 7919 % 997))"; done > "file-$file"; done
commit first
git checkout --quiet -b flood
for file in $(seq 1 20); do sed -i "s/ 9/ nine/; 5,9d" "file-$file"; done
git mv file-20 moved && commit flood
git checkout --quiet main
for file in $(seq 11 30); do sed -i "100,110s/^/ebb /" "file-$file"; done
commit ebb
git merge --quiet --no-edit flood && git rev-parse HEAD
for number in $(seq 1 30); do echo "$number" >> log && commit "step $number"; done | tail -n 1
git checkout --quiet -b topic main~25
for number in $(seq 1 8); do echo "$number" >> topic && commit "topic $number"; done | tail -n 1
git rebase --quiet main && git rev-parse HEAD
git checkout --quiet main
git merge --quiet --no-edit topic && git rev-parse HEAD
git tag -a -m release v1 && git describe
git log --graph --oneline --numstat --find-renames --all | cksum
git diff --word-diff --patience v1~25 v1 | cksum
git blame -C -C moved | cksum
git log -G nine --format=%H | cksum
git shortlog -sn HEAD
git format-patch --quiet -o patches v1~5 && git stash --quiet --include-untracked && git stash list
git bisect start HEAD HEAD~12 > /dev/null && git bisect run sh -c 'test $(wc -l < topic) -lt 5' | grep topic
git bisect reset > /dev/null
git repack --quiet -a -d -f --depth=20 --window=20 --threads=2 && git commit-graph write --reachable
git multi-pack-index write && git fsck --full --strict && git count-objects -v | grep -E 'count|in-pack|packs'
git archive --format=tar v1 | cksum
git bundle create --quiet ../all.bundle --all
cd .. && git clone --quiet all.bundle copy && git -C copy rev-parse HEAD
git clone --quiet --no-local --depth 3 "file://$PWD/work" shallow && git -C shallow rev-list --count HEAD
git -C shallow fetch --quiet --unshallow && git -C shallow rev-list --count HEAD
git -C copy worktree add --quiet ../tree v1 && git -C tree status --short --branch
git -C copy fast-export --all | git -C shallow fast-import --quiet --force && git -C shallow rev-parse v1
git -C work gc --quiet --prune=now && git -C work fsck && git -C work log --format=%H | cksum
"#;
    const TEST: &str = "a_session_of_git_ends_the_same";
    let [Some(bash), Some(_)] = ["bash", "git"].map(|tool| installed(TEST, tool)) else { return };
    same_under_library("session", &bash, SCRIPT, |command, scratch| {
        command.env("HOME", &scratch.0).env("GIT_CONFIG_NOSYSTEM", "1");
        for whose in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{whose}_NAME"), "Tide");
            command.env(format!("GIT_{whose}_EMAIL"), "tide@example.invalid");
            command.env(format!("GIT_{whose}_DATE"), "2020-02-02T02:02:02Z");
        }
        let settings =
            "[gc]\n\tauto = 0\n[core]\n\tpager = cat\n[protocol \"file\"]\n\tallow = always\n";
        command.env("GIT_CONFIG_GLOBAL", scratch.write("settings", settings));
        for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_EDITOR"] {
            command.env_remove(variable);
        }
        command.arg("-s");
    });
}
