//! Limits of control groups: whose are told, of whom, from where, and what of them is need.
//!
//! The kernel's own groups are of the first version where a test can make them; the files of the second
//! are put in the place of the kernel's.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::Shell;
use common::export::Export;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Where the kernel has the memory controller of the first version.
const MEMORY: &str = "/sys/fs/cgroup/memory";

/// A group of the first version. What is in it must have ended before it is dropped.
struct Group(PathBuf);

impl Group {
    /// `None`, and a word about it, where no such group can be made.
    fn make(name: &str, limit: u64) -> Option<Group> {
        let path = Path::new(MEMORY).join(format!("slackwater-{name}-{}", std::process::id()));
        let made = fs::create_dir(&path).is_ok().then_some(Group(path));
        let limited = made.filter(|group| {
            let file = group.0.join("memory.limit_in_bytes");
            file.exists() && fs::write(file, limit.to_string()).is_ok()
        });
        if limited.is_none() {
            common::note("SKIPPED: no control group of the first version can be made here");
        }
        limited
    }

    /// A script's beginning that puts the shell into the group.
    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs || exit 77; ", self.0.display())
    }

    fn stat(&self, name: &str) -> u64 {
        let stat = fs::read_to_string(self.0.join("memory.stat")).expect("readable");
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the kernel tells").parse().expect("a number")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Whether namespaces can be made here; says so where they cannot.
fn can_unshare() -> bool {
    let mut unshare = Command::new("unshare");
    let tried = unshare.args(["-m", "-C", "mount", "-t", "tmpfs", "t", "/sys/fs/cgroup"]);
    let can = tried.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !can {
        common::note("SKIPPED: no namespaces of mounts and control groups can be made here");
    }
    can
}

/// What a script prints that finds the program under test in `$S`.
fn printed(script: &str) -> String {
    let program = common::slackwater().get_program().to_owned();
    let output = Command::new("sh").args(["-c", script]).env("S", program).output();
    let output = output.expect("sh runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {stderr}");
    String::from_utf8(output.stdout).expect("text")
}

/// The figures of a process, as `top` tells them when the script has gone where it is to stand.
fn figures(of: u32, before: &str) -> Value {
    let text = printed(&format!("{before} exec \"$S\" top {of} --once --json"));
    serde_json::from_str(&text).expect("one object")
}

/// A control group namespace and mounts of its own, as a container has; `script` has no quotes.
fn in_a_container(script: &str) -> String {
    format!(
        "unshare -m -C sh -c 'mount -t tmpfs t /sys/fs/cgroup && mkdir {MEMORY} && \
         mount -t cgroup -o memory cgroup {MEMORY} && {script}'"
    )
}

#[test]
fn another_processs_limit_is_its_own_or_is_not_told() {
    let Some(app) = Group::make("app", 400 * MIB) else { return };
    let Some(exporter) = Group::make("exporter", 150 * MIB) else { return };
    if !can_unshare() {
        return;
    }
    let shell = Shell::run(&format!("{} echo ready; read line", app.enter()));
    let own = 400 * MIB;
    let limit = |before: &str| figures(shell.id(), before)["cgroup_limit_bytes"].as_u64();
    // Where the groups' common root is seen, and by name.
    assert_eq!(limit(""), Some(own), "from the same namespace");
    assert_eq!(limit(&exporter.enter()), Some(own), "from another group");

    let top_of = |process: u32| format!("exec \"$S\" top {process} --once --json");
    let top = top_of(shell.id());
    let told = |script: &str| {
        let text = printed(&(exporter.enter() + script));
        serde_json::from_str::<Value>(&text).expect("one object")
    };
    let hosts = told(&format!("unshare -C sh -c '{top}'"));
    assert_eq!(hosts["cgroup_limit_bytes"].as_u64(), Some(own), "with the host's mounts");
    // With the host's mounts, where the kernel leaves out the names that both have in common.
    let below = exporter.0.join("below");
    fs::create_dir(&below).expect("a group can be made in another");
    let enter = format!("echo $$ > {}/cgroup.procs || exit 77; ", below.display());
    let neighbour = Shell::run(&format!("{} echo ready; read line", exporter.enter()));
    let script = format!("{enter} exec unshare -C sh -c '{}'", top_of(neighbour.id()));
    let told_of_neighbour: Value = serde_json::from_str(&printed(&script)).expect("one object");
    assert_eq!(told_of_neighbour["cgroup_limit_bytes"].as_u64(), Some(150 * MIB));
    drop(neighbour);
    fs::remove_dir(&below).expect("nobody is left in it");
    let none = [
        ("a container", in_a_container(&top)),
        (
            "nothing is mounted",
            format!("unshare -m sh -c 'mount -t tmpfs t /sys/fs/cgroup && {top}'"),
        ),
    ];
    for (what, script) in none {
        let told = told(&script);
        let of_groups = told.as_object().expect("an object").keys();
        let of_groups: Vec<_> = of_groups.filter(|name| name.starts_with("cgroup_")).collect();
        assert!(of_groups.is_empty(), "{what}: {of_groups:?}");
    }
    // The container's own process knows its limit, and so does whoever looks at it from outside.
    let mut command = Command::new("sh");
    command.env("S", common::slackwater().get_program());
    let export = "exec \"$S\" export --listen 127.0.0.1:0";
    command.args(["-c", &format!("{} exec {}", exporter.enter(), in_a_container(export))]);
    let export = Export::start_with(command);
    let page = common::get(export.address(), "/metrics").body;
    let limits: Vec<&str> =
        page.lines().filter(|line| line.starts_with("slackwater_cgroup_limit_bytes{")).collect();
    let own = format!(" {}", 150 * MIB);
    assert!(limits.len() == 1 && limits[0].ends_with(&own), "{limits:?}");
    let from_outside = figures(export.child.id(), "");
    assert_eq!(from_outside["cgroup_limit_bytes"].as_u64(), Some(150 * MIB));
}

#[test]
fn cached_files_are_no_need() {
    let Some(group) = Group::make("cache", 64 * MIB) else { return };
    let folder = tempfile::tempdir().expect("writable");
    let file = folder.path().join("large");
    // Cached files are the group's whose task touched them first. What is read again is in use, and can
    // be dropped nevertheless.
    let script = format!(
        "{} head -c 100M /dev/zero > {file} && sync {file}; head -c 30M {file} | cat > /dev/null; \
         cat {file} > /dev/null; cat {file} > /dev/null; echo ready; read line",
        group.enter(),
        file = file.display()
    );
    let shell = Shell::run(&script);
    let cached = group.stat("total_inactive_file") + group.stat("total_active_file");
    if cached < 48 * MIB {
        common::note("SKIPPED: reading a file here leaves nothing in the cache");
        return;
    }
    let figures = figures(shell.id(), "");
    let of = |name: &str| figures[name].as_u64().unwrap_or_else(|| panic!("{name}: {figures}"));
    let (current, need) = (of("cgroup_current_bytes"), of("cgroup_need_bytes"));
    assert!(current > 48 * MIB && need < 32 * MIB, "{current} and {need}");
    let report = printed(&format!("exec \"$S\" report {}", shell.id()));
    assert!(!report.contains("memory limit"), "{report}");
    assert!(report.contains("of its limit of 64.0 MiB (needs "), "{report}");
}

#[test]
fn tasks_that_were_killed_are_told() {
    let Some(group) = Group::make("killed", 48 * MIB) else { return };
    // tail keeps all of a line that does not end.
    let shell = Shell::run(&format!(
        "{} (head -c 200M /dev/zero | tail -n 1 > /dev/null) 2> /dev/null; echo ready; read line",
        group.enter()
    ));
    let control = fs::read_to_string(group.0.join("memory.oom_control")).expect("readable");
    if !control.lines().any(|line| line.starts_with("oom_kill ") && line != "oom_kill 0") {
        common::note("SKIPPED: nothing was killed, or the kernel does not count it");
        return;
    }
    let figures = figures(shell.id(), "");
    let events = &figures["cgroup_events_total"];
    assert!(events["oom_kill"].as_u64() > Some(0) && events["max"].as_u64() > Some(0), "{events}");
    let report = printed(&format!("exec \"$S\" report {}", shell.id()));
    assert!(report.contains("\n  - killed tasks: the kernel has killed "), "{report}");
}

/// The second version's files in place of the kernel's: a group at its memory.high, below one with a
/// limit.
#[test]
fn a_group_at_its_memory_high_is_told_and_what_is_lifted_is_absent() {
    if !can_unshare() {
        return;
    }
    let shell = Shell::start();
    let folder = tempfile::tempdir().expect("writable");
    let place = folder.path().join("cgroup");
    let process = shell.id();
    let script = format!(
        r#"
        put() {{ printf "$2" > $1; }}
        mount -t tmpfs t /sys/fs/cgroup && mkdir -p /sys/fs/cgroup/all/svc || exit 77
        put {place} '0::/all/svc\n'; mount --bind {place} /proc/{process}/cgroup || exit 77
        cd /sys/fs/cgroup/all
        put memory.max '209715200\n'; put memory.high 'max\n'; put memory.current '150000000\n'
        put memory.stat 'anon 1\ninactive_file 1000\n'
        put memory.events 'low 0\nhigh 48300\nmax 7\noom 5\noom_kill 9\n'
        cd svc
        put memory.max 'max\n'; put memory.high '104857600\n'; put memory.current '104800000\n'
        put memory.stat 'anon 104000000\ninactive_file 0\n'
        put memory.events 'low 0\nhigh 48211\nmax 0\noom 3\noom_kill 3\n'
        put memory.pressure 'some avg10=93.00 avg60=90.00 avg300=50.00 total=9000000\n'
        "$S" top {process} --once --json || exit 1
        "$S" report {process} || exit 1
        put memory.high 'max\n'
        "$S" top {process} --once --json"#,
        place = place.display(),
    );
    fs::write(folder.path().join("script"), script).expect("writable");
    let text = printed(&format!("unshare -m sh {}/script", folder.path().display()));
    let (before, rest) = text.split_once('\n').expect("an object a line");
    let (report, after) = rest.trim_end().rsplit_once('\n').expect("an object a line");
    let before: Value = serde_json::from_str(before).expect("an object");
    let after: Value = serde_json::from_str(after).expect("an object");
    for (name, value) in [
        ("cgroup_limit_bytes", 209_715_200),
        ("cgroup_current_bytes", 150_000_000),
        ("cgroup_need_bytes", 149_999_000),
        ("cgroup_high_bytes", 104_857_600),
        ("cgroup_high_need_bytes", 104_800_000),
        ("cgroup_pressure_seconds_total", 9),
    ] {
        assert_eq!(before[name].as_f64(), Some(value as f64), "{name}: {before}");
    }
    let events = serde_json::json!({ "high": 48211, "max": 7, "oom": 5, "oom_kill": 3 });
    assert_eq!(before["cgroup_events_total"], events);
    for told in [
        "  its control group uses 143.1 MiB of its limit of 200.0 MiB (needs 143.1 MiB, ",
        "\n  and is slowed down above its memory.high of 100.0 MiB\n",
        "\n  - memory.high: the control group needs 99.9 MiB of its memory.high of 100.0 MiB (99.9%)",
        "; throttled 48.2k times so far\n",
        "\n  - stalled: tasks of the control group waited for memory in 93% of the last ten seconds",
        "\n  - killed tasks: the kernel has killed 3 tasks of the control group for want of memory",
    ] {
        assert!(report.contains(told), "{told}: {report}");
    }
    assert!(!report.contains("- memory limit"), "{report}");
    // Not 0: that would be a limit that everything is above.
    assert!(after.get("cgroup_high_bytes").is_none_or(Value::is_null), "{after}");
    assert!(after.get("cgroup_high_need_bytes").is_none_or(Value::is_null), "{after}");
    assert_eq!(after["cgroup_limit_bytes"].as_u64(), Some(209_715_200));
}
