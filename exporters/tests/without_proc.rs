//! A process that has no `/proc`: what only the kernel knows is absent, the rest is served.

mod common;

use std::env;
use std::fs;
use std::os::unix::fs::chroot;
use std::path::Path;
use std::process::Command;

use common::get;
use slackwater_exporters::Endpoint;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// Set for the child, which loses its `/proc`.
const CHILD: &str = "SLACKWATER_TEST_WITHOUT_PROC";

#[test]
fn figures_of_the_kernel_are_absent_and_others_are_served() {
    if env::var_os(CHILD).is_some() {
        serve_without_proc();
        return;
    }
    let program = env::current_exe().expect("Linux tells");
    // SAFETY: it has no arguments and does not fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    let mut command = match is_root {
        true => Command::new(program),
        // As root of a user namespace, which may change its own root.
        false if common::have_tool("unshare") => {
            let mut unshare = Command::new("unshare");
            unshare.args(["--user", "--map-root-user"]).arg(program);
            unshare
        }
        false => return,
    };
    let output = command.args(["--nocapture"]).env(CHILD, "1").output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("served without /proc"), "{text}");
}

fn serve_without_proc() {
    let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
    let address = endpoint.address().tcp().expect("it is TCP");
    let empty = Path::new(env!("CARGO_TARGET_TMPDIR")).join("without_proc");
    fs::create_dir_all(&empty).expect("a writable place");
    chroot(&empty).expect("root may");
    env::set_current_dir("/").expect("there");
    assert!(!Path::new("/proc").exists());

    let scrape = get(address, "/metrics");
    assert_eq!(scrape.status, 200);
    let families = common::parse(&scrape.body);
    for there in ["memory_bytes", "threads", "observer_cpu_seconds_total", "build_info"] {
        assert!(families.contains_key(&format!("slackwater_{there}")), "{there}");
    }
    for absent in ["process_resident_bytes", "rss_bytes", "rss_peak_bytes", "huge_backed_bytes"] {
        assert!(!families.contains_key(&format!("slackwater_{absent}")), "{absent}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&get(address, "/snapshot.json").body).expect("valid JSON");
    assert!(json["memory_bytes"].is_object() && json["rss_bytes"].is_null(), "{json}");
    let map = get(address, "/map.json");
    assert_eq!((map.status, map.body.lines().count()), (500, 1));
    assert!(map.body.starts_with("the heap cannot be read: its page map "), "{}", map.body);
    let profile = get(address, "/debug/pprof/heap");
    assert_eq!((profile.status, profile.body.lines().count()), (500, 1));
    let start = "the heap cannot be read: its mappings ";
    assert!(profile.body.starts_with(start), "{}", profile.body);
    println!("served without /proc");
}
