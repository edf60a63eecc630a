//! Completion scripts and man pages: they come from the definition, so they are tried, not compared.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

fn printed(arguments: &[&str]) -> String {
    let output = common::slackwater().args(arguments).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
    String::from_utf8(output.stdout).expect("text")
}

/// What bash offers for the last of `words`.
fn completed(script: &Path, words: &[&str]) -> Vec<String> {
    let ask = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
         _slackwater slackwater \"${!#}\" \"${@: -2:1}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", ask, "bash"]).arg(script).args(words).output();
    let output = output.expect("bash starts");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(str::to_string).collect()
}

#[test]
fn bash_completes_commands_and_flags() {
    if !common::have_tool("bash") {
        return;
    }
    let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join("slackwater.bash");
    fs::write(&script, printed(&["completions", "bash"])).expect("writable");
    assert_eq!(completed(&script, &["slackwater", "rep"]), ["report"]);
    assert_eq!(completed(&script, &["slackwater", "top", "--on"]), ["--once"]);
    assert_eq!(completed(&script, &["slackwater", "completions", "z"]), ["zsh"]);
}

#[test]
fn every_shell_has_its_script() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["completions", shell]);
        for command in [
            "demo", "run", "top", "report", "snapshot", "diff", "flame", "profile", "export",
            "doctor",
        ] {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
    }
}

#[test]
fn every_command_has_a_man_page_that_groff_takes() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("man");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a writable place");
    assert_eq!(printed(&["man", "-o", &folder.to_string_lossy()]), "");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let expected = [
        "slackwater-completions.1",
        "slackwater-demo.1",
        "slackwater-diff.1",
        "slackwater-doctor.1",
        "slackwater-export.1",
        "slackwater-flame.1",
        "slackwater-man.1",
        "slackwater-profile-run.1",
        "slackwater-profile.1",
        "slackwater-report.1",
        "slackwater-run.1",
        "slackwater-snapshot.1",
        "slackwater-top.1",
        "slackwater.1",
    ];
    assert_eq!(names, expected);
    let main = fs::read_to_string(folder.join("slackwater.1")).expect("readable");
    assert_eq!(main, printed(&["man"]));
    assert!(main.contains("Exit codes:"), "{main}");
    if !common::have_tool("groff") {
        return;
    }
    for name in names {
        let groff = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww"])
            .arg(folder.join(&name))
            .stdin(Stdio::null())
            .output()
            .expect("groff starts");
        let warnings = String::from_utf8_lossy(&groff.stderr).into_owned();
        assert!(groff.status.success() && warnings.is_empty(), "{name}: {warnings}");
        assert!(!groff.stdout.is_empty(), "{name}");
    }
}
