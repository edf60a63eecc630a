//! Programs that shut themselves or others in: namespaces, filters of system calls, users who may do less.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::shared::{
    Nobody, Scratch, expect_library_in, expect_same, is_root, library_name, same_under_library,
};
use crate::support::{LIMIT, installed, library, plain, preloaded, run, skipped};

/// Makes of bubblewrap's command one that runs a program in namespaces of its own, without capabilities, where all
/// but the library's folder is as outside, and nothing else is in /tmp.
fn shut_in(command: &mut Command) {
    command.args(["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]);
    command.args(["--ro-bind", "/", "/", "--dev", "/dev", "--tmpfs", "/tmp"]);
    command.args(["--hostname", "inside", "--uid", "1234", "--gid", "1234", "--chdir", "/tmp"]);
    if let Some(folder) = library().as_deref().and_then(Path::parent) {
        command.arg("--ro-bind").arg(folder).arg(folder);
    }
}

#[test]
fn bubblewrap_runs_programs_in_namespaces() {
    const TEST: &str = "bubblewrap_runs_programs_in_namespaces";
    const SCRIPT: &str = r#"
set -euo pipefail
echo "$(id -u) $(uname -n)"
seq 1 100000 | awk '{ print $1 * 7919 % 10007 }' | sort -S 20M --parallel=2 -n | uniq -c | cksum
for i in $(seq 1 20); do (text=$(seq 1 2000); echo ${#text}) & done | sort | uniq -c
wait
echo $$ > /dev/shm/number && cat /dev/shm/number
"#;
    let Some(bwrap) = installed(TEST, "bwrap") else { return };
    let mut probe = plain(&bwrap);
    shut_in(&mut probe);
    let allowed = run(probe.arg("true"), "", LIMIT);
    if !allowed.status.success() {
        return skipped(TEST, &format!("no namespaces are to be had: {}", allowed.said()));
    }
    let printed = same_under_library("bwrap", &bwrap, SCRIPT, |command, _| {
        shut_in(command);
        command.args(["bash", "-s"]);
    });
    assert!(printed.starts_with("1234 inside\n"), "{printed}");
    let mut maps = preloaded(&bwrap);
    shut_in(&mut maps);
    maps.args(["sh", "-c", "cat < /proc/self/maps; true"]);
    expect_library_in(&run(&mut maps, "", LIMIT).expect_success().stdout);
}

#[test]
fn man_reads_its_pages_behind_its_filter() {
    const TEST: &str = "man_reads_its_pages_behind_its_filter";
    const PAGE: &str = ".TH TIDE 1\n.SH NAME\ntide \\- comes in and goes out\n.SH DESCRIPTION\n\
        Slack water is when the tide turns.\n.PP\n.TS\nl l.\nhigh\tlow\nnoon\tsix\n.TE\n";
    const SCRIPT: &str = "set -eu
mkdir -p pages/man1 pages/cat1
for number in 1 2 3 4 5 6 7 8; do cp page pages/man1/tide$number.1; done
gzip pages/man1/tide[1-4].1
mandb --quiet --create pages
for number in 1 3 5 7; do man --pager=cat -M pages tide$number; done
man --pager=cat -l page
whatis -M pages tide2 tide6
apropos -M pages goes | sort
lexgrog page pages/man1/*
";
    if installed(TEST, "man").is_none() || installed(TEST, "groff").is_none() {
        return;
    }
    let Some(shell) = installed(TEST, "sh") else { return };
    let printed = same_under_library("man", &shell, SCRIPT, |command, scratch| {
        scratch.write("page", &PAGE.repeat(20));
        for variable in ["MAN_DISABLE_SECCOMP", "MANOPT", "MANWIDTH", "MANPATH", "PAGER"] {
            command.env_remove(variable);
        }
        command.arg("-s");
    });
    assert!(printed.contains("Slack water is when the tide turns."), "{printed}");
}

/// The loader does not preload what a caller names into a program that runs as another user: nothing is
/// different then, not even by a word.
#[test]
fn programs_with_the_rights_of_another_user_run_without_the_library() {
    const TEST: &str = "programs_with_the_rights_of_another_user_run_without_the_library";
    let [Some(id), Some(cat)] = ["id", "cat"].map(|program| installed(TEST, program)) else {
        return;
    };
    if !is_root() {
        return skipped(TEST, "only root makes such a program");
    }
    let nobody = Nobody::new("caller");
    let directory = Scratch::new("rights");
    let with_rights = |program: &Path| {
        let copy = directory.join(program.file_name().and_then(|name| name.to_str()).expect("one"));
        fs::copy(program, &copy).expect("copy a program");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).expect("change its mode");
        copy
    };
    let [id, cat] = [id, cat].map(|program| with_rights(&program));
    let identity = run(nobody.plain(&id).arg("-u"), "", LIMIT).expect_success().stdout;
    if identity != "0\n" {
        return skipped(TEST, &format!("the rights are not given: {identity}"));
    }
    let under = run(nobody.preloaded(&id).arg("-u"), "", LIMIT).expect_success();
    assert_eq!((under.stdout, under.stderr), (identity, String::new()));
    let maps =
        run(nobody.preloaded(&cat).arg("/proc/self/maps"), "", LIMIT).expect_success().stdout;
    if let Some(name) = library_name() {
        assert!(!maps.contains(&name), "{maps}");
    }
    // One that every system has.
    let Some(passwd) = installed(TEST, "passwd") else { return };
    let status = |mut command: Command| run(command.arg("-S"), "", LIMIT).expect_success().stdout;
    expect_same("passwd", &status(nobody.plain(&passwd)), &status(nobody.preloaded(&passwd)));
}

#[test]
fn root_becomes_somebody_else_under_the_library() {
    const TEST: &str = "root_becomes_somebody_else_under_the_library";
    const SCRIPT: &str = "id -u; seq 1 50000 | sort -S 10M -n | tail -n 1; cat /proc/$$/maps >&2";
    let [Some(su), Some(setpriv)] = ["su", "setpriv"].map(|tool| installed(TEST, tool)) else {
        return;
    };
    if !is_root() {
        return skipped(TEST, "only root becomes somebody else unasked");
    }
    let nobody = Nobody::new("became");
    let through_su = ["nobody", "-s", "/bin/sh", "-c", SCRIPT];
    let through_setpriv =
        ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--", "sh", "-c", SCRIPT];
    for (program, arguments) in [(&su, &through_su[..]), (&setpriv, &through_setpriv[..])] {
        let without = run(plain(program).args(arguments), "", LIMIT).expect_success();
        let mut command = plain(program);
        nobody.preload(&mut command);
        let under = run(command.args(arguments), "", LIMIT).expect_success();
        expect_same("what somebody else does", &without.stdout, &under.stdout);
        assert!(under.stdout.starts_with("65534\n"), "{}", under.stdout);
        expect_library_in(&under.stderr);
    }
}
