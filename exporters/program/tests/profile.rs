//! Profiles of real programs, by the endpoint and from outside, as the tools that people use read
//! them.

mod common;

use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, thread};

use common::{exchange, get};
use slackwater_exporters::Endpoint;
use slackwater_exporters::attach::Target;
use slackwater_exporters::profile::modules::Modules;
use slackwater_exporters::profile::names::{Frame, Names};
use slackwater_exporters::profile::pprof::{self, DefaultType};
use slackwater_exporters::profile::{Profile, Stack, Weighted, legacy};

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

fn endpoint() -> SocketAddr {
    let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
    endpoint.detach().tcp().expect("it is TCP")
}

const KINDS: [&str; 5] = ["live", "alloc", "peak", "fragmentation", "release"];

#[test]
fn every_route_answers_in_its_own_form() {
    let address = endpoint();
    for kind in KINDS {
        for query in ["", "?seconds=1"] {
            let response = get(address, &format!("/debug/flame/{kind}.svg{query}"));
            assert_eq!(response.status, 200, "{kind}{query}: {}", response.body);
            assert!(response.head.contains("content-type: image/svg+xml"), "{}", response.head);
            assert!(response.body.trim_end().ends_with("</svg>"), "{}", response.body);
        }
    }
    for (path, start) in [
        ("/debug/pprof/", "<!doctype html>"),
        ("/debug/pprof/heap?debug=1", "heap profile: "),
        ("/debug/pprof/allocs?debug=1&gc=1&seconds=1", "heap profile: "),
        ("/debug/pprof/symbol", "num_symbols: 1\n"),
        ("/debug/leaks", "No call site looks as if it leaks: "),
    ] {
        let response = get(address, path);
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        assert!(response.body.starts_with(start), "{path}: {}", response.body);
    }
    let moved = get(address, "/debug/pprof");
    assert!(moved.status == 301 && moved.head.contains("location: pprof/\r\n"), "{}", moved.head);
}

#[test]
fn what_is_packed_is_not_packed_again() {
    let address = endpoint();
    let head = |path: &str| {
        let request = format!("GET {path} HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n");
        let bytes = common::exchange_bytes(address, request.as_bytes());
        let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
        String::from_utf8(bytes[..end].to_vec()).expect("text").to_ascii_lowercase()
    };
    assert!(head("/debug/pprof/heap?debug=1").contains("content-encoding: gzip"));
    let packed = head("/debug/pprof/heap");
    assert!(!packed.contains("content-encoding") && packed.contains("200 ok"), "{packed}");
    assert!(packed.contains("content-type: application/octet-stream"), "{packed}");
}

#[test]
fn bad_values_are_refused_in_one_line() {
    let address = endpoint();
    for (path, line) in [
        ("/debug/pprof/heap?seconds=x", "seconds=x: expected a whole number from 1 to 600"),
        ("/debug/pprof/allocs?seconds=601", "seconds=601: expected a whole number from 1 to 600"),
        ("/debug/pprof/heap?debug=yes", "debug=yes: expected 0 or 1"),
        ("/debug/flame/live.svg?seconds=-1", "seconds=-1: expected a whole number from 1 to 600"),
        ("/debug/flame/live.svg?debug=1", "debug: expected seconds, symbolize"),
        ("/debug/leaks?x=1", "x: expected symbolize"),
        ("/debug/pprof/heap?symbolize=remote", "symbolize=remote: expected none or local"),
        ("/debug/flame/peak.svg?symbolize=", "symbolize=: expected none or local"),
        ("/debug/leaks?symbolize=1", "symbolize=1: expected none or local"),
        ("/debug/pprof/symbol?main", "main: expected addresses like 0x4010f3+0x401123"),
    ] {
        let response = get(address, path);
        assert_eq!((response.status, response.body), (400, format!("{line}\n")), "{path}");
    }
    for path in ["/debug/flame/banana.svg", "/debug/flame/live", "/debug", "/debug/pprof/heap/x"] {
        let response = get(address, path);
        assert_eq!(response.status, 404, "{path}");
        assert_eq!(response.body.lines().count(), 1, "{}", response.body);
    }
}

/// On demand: without names a profile has addresses, and the builds by which a reader finds them.
#[test]
fn names_are_left_to_the_reader_where_that_is_asked_for() {
    let address = endpoint();
    let held = hold_in_rust(16);
    let name = "profile::hold_in_rust";
    for path in
        ["/debug/pprof/heap?debug=1", "/debug/pprof/allocs?debug=1", "/debug/flame/live.svg?"]
    {
        let body = |value: &str| get(address, &format!("{path}&symbolize={value}")).body;
        assert!(body("local").contains(name), "{path}");
        let bare = body("none");
        // In this very file: as it is mapped.
        assert!(!bare.contains(name) && bare.contains("profile-"), "{path}: {bare}");
    }
    let url = format!("http://{address}/debug/pprof/heap?symbolize=none");
    if let Some(raw) = go_pprof_of(&["-raw", "-symbolize=none"], &url) {
        assert!(!raw.contains("hold_in_rust"), "{raw}");
        let top = go_pprof_of(&["-top"], &url).expect("go is there");
        assert!(top.contains("hold_in_rust"), "the tool looks names up itself: {top}");
    }
    drop(held);

    // The program's own command, of this process.
    let process = std::process::id().to_string();
    let text = |value: &str| {
        let arguments = ["profile", &process, "--format", "folded", "--symbolize", value];
        let output = common::slackwater().args(arguments).output().expect("it starts");
        (
            output.status.code(),
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()),
        )
    };
    let held = hold_in_rust(16);
    assert!(text("local").1[0].contains(name));
    let (_, [bare, _]) = text("none");
    assert!(!bare.contains(name) && bare.contains("profile-"), "{bare}");
    drop(held);
    let (code, [_, line]) = text("remote");
    assert!(code == Some(2) && line.contains("remote") && line.contains("none or local"), "{line}");
}

#[test]
fn addresses_are_named_as_pprof_asks_for_them() {
    let address = endpoint();
    let here = every_route_answers_in_its_own_form as *const () as usize;
    let asked = format!("0x8+{here:#x}");
    let expected =
        format!("num_symbols: 1\n{here:#x} profile::every_route_answers_in_its_own_form\n");
    assert_eq!(get(address, &format!("/debug/pprof/symbol?{asked}")).body, expected);
    let length = asked.len();
    let post = format!(
        "POST /debug/pprof/symbol HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{asked}"
    );
    assert_eq!(exchange(address, post.as_bytes()).body, expected);
    let elsewhere = post.replace("symbol", "heap");
    assert_eq!(exchange(address, elsewhere.as_bytes()).status, 405);
}

/// A profile with names, as there is none: one call site holds, another has freed what it took.
fn made_up() -> (Profile, Names) {
    let maps = "00400000-00401000 r--p 00000000 fe:01 11 /srv/app\n\
        00401000-00402000 r-xp 00001000 fe:01 11 /srv/app\n\
        7f0000000000-7f0000001000 r-xp 00000000 fe:01 12 /lib/libx.so.1\n";
    let mut profile = Profile::empty(Modules::parse(maps), SystemTime::UNIX_EPOCH);
    profile.rate_bytes = 512 << 10;
    let objects = |objects: f64, bytes: f64| Weighted { objects, bytes: objects * bytes };
    profile.stacks = vec![
        Stack {
            frames: vec![0x40_1011, 0x40_1101, 0x40_1201],
            allocated: objects(100.0, 1024.0),
            samples: 4,
            ..Stack::default()
        },
        Stack {
            frames: vec![0x7f00_0000_0021, 0x40_1101, 0x40_1201],
            allocated: objects(5000.0, 64.0),
            freed: objects(4000.0, 64.0),
            samples: 9,
            ..Stack::default()
        },
    ];
    let frame = |function: &str, line| Frame {
        function: function.to_string(),
        file: "/src/app.rs".to_string(),
        line,
    };
    let names = Names::new([
        (
            0x40_1011,
            vec![
                frame(
                    "<slackwater::global::Slackwater as core::alloc::global::GlobalAlloc>::alloc",
                    1,
                ),
                frame("alloc::alloc::exchange_malloc", 2),
                frame("app::keep", 7),
                frame("app::leak", 30),
            ],
        ),
        (0x40_1101, vec![frame("slackwater::program::serve", 12)]),
        (0x40_1201, vec![frame("main", 3)]),
    ]);
    (profile, names)
}

/// What Go's `pprof` makes of a file; `None` where there is no Go, which is said, and in CI fails.
fn go_pprof(arguments: &[&str], name: &str, content: &[u8]) -> Option<String> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&file, content).expect("a writable place");
    go_pprof_of(arguments, file.to_str().expect("text"))
}

/// The same of a file or an address.
fn go_pprof_of(arguments: &[&str], source: &str) -> Option<String> {
    if !Command::new("go").arg("version").output().is_ok_and(|output| output.status.success()) {
        common::skip("go");
        return None;
    }
    let mut command = Command::new("go");
    command.args(["tool", "pprof"]).args(arguments).arg(source);
    // It looks for programs there, and leaves there what it has fetched.
    let folder = env!("CARGO_TARGET_TMPDIR");
    command.env("PPROF_BINARY_PATH", "/none").env("PPROF_TMPDIR", folder).env("HOME", folder);
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    Some(String::from_utf8(output.stdout).expect("text"))
}

/// The lines of `pprof -top`: flat, cumulative, and the function.
fn rows(top: &str) -> Vec<(String, String, String)> {
    let rows = top.lines().skip_while(|line| !line.trim_start().starts_with("flat ")).skip(1);
    rows.map(|line| {
        let mut words = line.split_whitespace();
        let mut word = |skip| words.nth(skip).unwrap_or_default().to_string();
        let (flat, cumulative) = (word(0), word(2));
        (flat, cumulative, words.skip(1).collect::<Vec<_>>().join(" "))
    })
    .collect()
}

#[test]
fn the_reference_tool_reads_a_profile() {
    let (profile, names) = made_up();
    let heap = pprof::render(&profile, &names, DefaultType::InuseSpace, None);
    let Some(top) = go_pprof(&["-top", "-unit=B"], "made-up.pb.gz", &heap) else { return };
    assert!(top.contains("Type: inuse_space"), "{top}");
    let expected = [
        ("102400B", "102400B", "app::keep (inline)"),
        ("64000B", "64000B", "[libx.so.1]"),
        ("0", "102400B", "app::leak"),
        ("0", "166400B", "main"),
        ("0", "166400B", "slackwater::program::serve"),
    ];
    let expected = expected.map(|(a, b, c)| (a.to_string(), b.to_string(), c.to_string()));
    assert_eq!(rows(&top), expected, "the allocator's frames are dropped: {top}");
    let arguments = ["-top", "-sample_index=alloc_objects", "-lines"];
    let lines = go_pprof(&arguments, "made-up.pb.gz", &heap).expect("go is there");
    assert!(lines.contains("100  1.96%") && lines.contains("app::leak /src/app.rs:30"), "{lines}");
    let allocs = pprof::render(&profile, &names, DefaultType::AllocSpace, None);
    let top = go_pprof(&["-top"], "allocs.pb.gz", &allocs).expect("go is there");
    assert!(top.contains("Type: alloc_space"), "{top}");

    let mut after = profile.clone();
    after.stacks[1].freed = after.stacks[1].allocated;
    let window = pprof::render(&after.since(&profile), &names, DefaultType::InuseSpace, Some(2.0));
    let top = go_pprof(&["-top", "-unit=B"], "window.pb.gz", &window).expect("go is there");
    assert!(top.contains("Duration: 2s") && rows(&top)[0].0 == "-64000B", "{top}");
}

#[test]
fn the_reference_tool_reads_the_text_too() {
    let (profile, names) = made_up();
    let text = legacy::render(&profile, &names);
    let arguments = ["-raw", "-symbolize=none"];
    let Some(raw) = go_pprof(&arguments, "made-up.txt", text.as_bytes()) else { return };
    let line = |start: &str| raw.lines().any(|line| line.trim_start().starts_with(start));
    assert!(raw.contains("inuse_objects/count inuse_space/bytes"), "{raw}");
    assert!(line("100     102400        100     102400: "), "{raw}");
    assert!(line("5000     320000       1000      64000: "), "{raw}");
    assert!(raw.contains(" /srv/app") && raw.contains("1: 0x401010 M=1"), "{raw}");
}

/// Has a child that ends; holds 40,000,000 bytes by `hold`, `outer` and `inlined`, has freed a million
/// elsewhere, says so, and waits for a line. What it ends with: `exit`, or with an argument `_exit`.
const HOLDER: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *held[4000];

__attribute__((noinline)) void *take(size_t bytes) {
    void *block = malloc(bytes);
    __asm__ volatile("" : : "r"(block) : "memory");
    return block;
}

static inline __attribute__((always_inline)) void *inlined(size_t bytes) {
    void *block = take(bytes);
    memset(block, 1, bytes);
    return block;
}

__attribute__((noinline)) void *outer(size_t bytes) {
    void *block = inlined(bytes);
    __asm__ volatile("" ::: "memory");
    return block;
}

__attribute__((noinline)) void hold(void) {
    for (int i = 0; i < 4000; i++) held[i] = outer(10000);
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) void churn(void) {
    for (int i = 0; i < 1000; i++) {
        free(take(1000));
    }
}

int main(int count, char **arguments) {
    (void)arguments;
    if (fork() == 0) exit(0);
    wait(NULL);
    hold();
    churn();
    puts("ready");
    fflush(stdout);
    getchar();
    if (count > 1) _exit(7);
    return 3;
}
"#;

const HELD: f64 = 40e6;

/// The program, compiled as `name`; `None` without a compiler.
fn holder(name: &str) -> Option<PathBuf> {
    if !common::have_tool("gcc") {
        return None;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("profile-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a writable place");
    let program = folder.join(name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-g", "-O2", "-Wl,--build-id=sha1", "-xc", "-", "-o"]);
    common::output_of(gcc.arg(&program), HOLDER.as_bytes());
    Some(program)
}

/// Makes samples of so many allocations that estimates are right to a few percent.
fn with_many_samples(command: &mut Command) -> &mut Command {
    command
        .env("SLACKWATER_PROFILE_RATE_BYTES", "16384")
        .env("SLACKWATER_PROFILE_EPOCH_SAMPLES", "100000")
}

/// A program that waits for a line; killed if the test ends before it does.
struct Waiting(Child);

impl Waiting {
    /// Starts it, and waits until it says that it is ready.
    fn start(command: &mut Command) -> Waiting {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = with_many_samples(piped).spawn().expect("it starts");
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("readable");
        assert_eq!(line, "ready\n");
        Waiting(child)
    }

    fn under_slackwater(program: &Path) -> Waiting {
        Waiting::start(common::slackwater().args(["run", "--"]).arg(program))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `slackwater` writes on its standard output.
fn written(arguments: &[&str]) -> Vec<u8> {
    let output = common::slackwater().args(arguments).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{arguments:?}: {said}");
    output.stdout
}

fn folded(process: u32) -> String {
    let process = process.to_string();
    String::from_utf8(written(&["profile", &process, "--format", "folded"])).expect("text")
}

/// The value of the stacks that have this part.
fn value_of(folded: &str, part: &str) -> f64 {
    let values = folded.lines().filter_map(|line| {
        let (path, value) = line.rsplit_once(' ')?;
        format!("{path};").contains(part).then(|| value.parse::<f64>().expect("a number"))
    });
    values.sum()
}

/// What the C program's function is said to hold; 0: it is not named.
fn held(folded: &str) -> f64 {
    value_of(folded, ";main;hold;outer;inlined;take;")
}

/// The C functions have their names and what they hold.
fn assert_named(folded: &str) {
    let held = held(folded);
    assert!((held - HELD).abs() < 0.15 * HELD, "{held}:\n{folded}");
}

#[test]
fn functions_of_a_c_program_are_named_also_inlined_ones() {
    let Some(program) = holder("named") else { return };
    let waiting = Waiting::under_slackwater(&program);
    assert_named(&folded(waiting.0.id()));

    // The very same file gone: it is found by the process.
    fs::remove_file(&program).expect("it was there");
    assert_named(&folded(waiting.0.id()));
    // Another in its place is not taken for it.
    fs::copy("/bin/true", &program).expect("a writable place");
    assert_named(&folded(waiting.0.id()));
}

#[test]
fn a_stripped_program_is_named_by_its_debug_file() {
    let Some(program) = holder("stripped").filter(|_| common::have_tool("objcopy")) else { return };
    let debug = program.with_extension("debug");
    let objcopy = |arguments: &[&str], files: &[&Path]| {
        common::output_of(Command::new("objcopy").args(arguments).args(files), b"");
    };
    objcopy(&["--only-keep-debug"], &[&program, &debug]);
    objcopy(&["--strip-all", &format!("--add-gnu-debuglink={}", debug.display())], &[&program]);
    let waiting = Waiting::under_slackwater(&program);
    assert_named(&folded(waiting.0.id()));

    // Without it there is nothing but places in the file.
    fs::remove_file(&debug).expect("it was there");
    let unnamed = folded(waiting.0.id());
    assert!(!unnamed.contains("outer"), "{unnamed}");
    assert!(unnamed.contains(";stripped+0x"), "{unnamed}");
}

/// The program stands on a file system that only the process sees, and so does its debug file, where
/// distributions have theirs.
#[test]
fn a_process_in_another_mount_namespace_is_named() {
    let Some(program) = holder("elsewhere").filter(|_| common::have_tool("objcopy")) else {
        return;
    };
    let script = "set -e; mkdir -p /usr/lib/debug; mount -t tmpfs none /usr/lib/debug; \
         id=$(readelf -n \"$1\" | sed -n 's/.*Build ID: //p'); \
         folder=/usr/lib/debug/.build-id/$(echo $id | cut -c1-2); mkdir -p $folder; \
         objcopy --only-keep-debug \"$1\" $folder/$(echo $id | cut -c3-).debug; \
         mount -t tmpfs none /mnt; objcopy --strip-all \"$1\" /mnt/elsewhere; \
         exec \"$0\" run -- /mnt/elsewhere";
    let unshare = ["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_slackwater")];
    let may = Command::new("unshare").args(["--mount", "true"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        common::skip("the right to make a mount namespace");
        return;
    }
    let waiting = Waiting::start(Command::new("unshare").args(unshare).arg(&program));
    assert!(!Path::new("/mnt/elsewhere").exists());
    assert_named(&folded(waiting.0.id()));
}

#[test]
fn pprof_and_the_table_and_the_picture_agree() {
    let Some(program) = holder("agree") else { return };
    let waiting = Waiting::under_slackwater(&program);
    let process = &waiting.0.id().to_string();
    let file = program.with_extension("pb.gz");
    let path = file.to_str().expect("text");
    assert!(written(&["profile", process, "-o", path]).is_empty());
    let content = fs::read(&file).expect("written");
    if let Some(top) = go_pprof(&["-top", "-unit=B"], "agree.pb.gz", &content) {
        for function in ["inlined (inline)", "outer", "hold", "main"] {
            let row = rows(&top).into_iter().find(|row| row.2 == function);
            let held = row.unwrap_or_else(|| panic!("no {function}: {top}")).1;
            let held: f64 = held.trim_end_matches('B').parse().expect("a number");
            assert!((held - HELD).abs() < 0.15 * HELD, "{function}: {top}");
        }
        let allocated = go_pprof(&["-top", "-sample_index=alloc_space"], "agree.pb.gz", &content);
        let allocated = allocated.expect("go is there");
        assert!(allocated.contains("churn"), "what was freed counts there: {allocated}");
    }
    let table = String::from_utf8(written(&["profile", process])).expect("text");
    let first = table.lines().nth(3).expect("a row");
    assert!(first.contains(" MiB ") && first.contains("  take "), "{table}");
    let svg = String::from_utf8(written(&["flame", process])).expect("text");
    assert!(svg.contains("<title>inlined (") && !svg.contains("<title>churn ("), "{svg}");
    let svg = String::from_utf8(written(&["flame", process, "--kind", "alloc"])).expect("text");
    assert!(svg.contains("<title>churn ("), "{svg}");
    let svg = written(&["flame", process, "--kind", "alloc", "--seconds", "1"]);
    assert!(String::from_utf8_lossy(&svg).contains("Nothing yet."), "it waits all the time");
}

#[test]
fn a_program_is_profiled_to_its_end() {
    let Some(program) = holder("ending") else { return };
    let run = |arguments: &[&str]| {
        let mut command = common::slackwater();
        command.args(["profile", "run", "--format", "folded", "--"]).arg(&program).args(arguments);
        with_many_samples(&mut command).stdin(Stdio::null()).output().expect("it starts")
    };
    let output = run(&[]);
    assert_eq!(output.stdout, b"ready\n", "it has standard output for itself");
    assert_eq!(output.status.code(), Some(3), "the exit code is the program's");
    assert_named(&String::from_utf8_lossy(&output.stderr));
}

/// Programs that it starts have the socket's name, too, and end before it; nobody waits for them.
#[test]
fn a_programs_children_are_let_go() {
    let mut command = common::slackwater();
    let script = "for i in 1 2 3; do bash -c 'exit 0'; (exit 0); done; echo done; exit 5";
    command.args(["profile", "run", "--", "bash", "-c", script]);
    let output = command.output().expect("it starts");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(5), &b"done\n"[..]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("live ") && said.contains("call site"), "{said}");
}

/// A folder of a test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a writable place");
    folder
}

/// The profiles in a folder but the program's own, as texts.
fn childrens(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("there").map(|entry| entry.expect("one").path());
    // What is being written has a name that begins with a point, and is no file of theirs before it has its own.
    let is_written = |path: &PathBuf| !path.to_string_lossy().contains("/.");
    let files = entries.filter(|path| !path.ends_with("p.folded") && is_written(path));
    files.map(|path| fs::read_to_string(path).expect("text")).collect()
}

/// A script's own profile says nothing: those of the programs that it runs have files of their own, whether
/// they end with their exit handlers or suddenly.
#[test]
fn a_scripts_programs_have_profiles_of_their_own() {
    let Some(program) = holder("child") else { return };
    let folder = folder("profiles-of-children");
    let file = folder.join("p.folded");
    let script = "(\"$0\" </dev/null; true) | cat >/dev/null; exit 5";
    let mut command = common::slackwater();
    command.args(["profile", "run", "--format", "folded", "-o"]).arg(&file);
    command.args(["--", "sh", "-c", script]).arg(&program);
    let output = with_many_samples(&mut command).output().expect("it starts");
    assert_eq!(output.status.code(), Some(5));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("slackwater: child child (") && said.contains("/p."), "{said}");
    let named = childrens(&folder).into_iter().filter(|text| text.contains(";main;hold;"));
    let named: Vec<String> = named.collect();
    assert_eq!(named.len(), 1, "{said}");
    assert_named(&named[0]);

    // Without a file they are counted. Standard output is none, also by its name: it gets text.
    let empty = self::folder("no-profiles-of-children");
    for place in [&[][..], &["-o", "-"]] {
        let mut command = common::slackwater();
        command.current_dir(&empty).args(["profile", "run"]).args(place);
        command.args(["--", "sh", "-c", script]).arg(&program);
        let output = with_many_samples(&mut command).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(" children had profiles of their own: -o FILE keeps each"), "{said}");
        let own = if place.is_empty() { said } else { String::from_utf8_lossy(&output.stdout) };
        assert!(own.contains("estimated from"), "{place:?}: {own}");
        assert_eq!(fs::read_dir(&empty).expect("there").count(), 0, "{place:?}");
    }
}

/// Who is killed with the program that it profiles leaves what it had read.
#[test]
fn a_profile_is_written_as_it_goes() {
    let Some(program) = holder("going") else { return };
    let folder = folder("profiles-as-they-go");
    let file = folder.join("p.folded");
    let mut command = common::slackwater();
    command.args(["profile", "run", "--format", "folded", "-o"]).arg(&file);
    command.args(["--", "sh", "-c", "\"$0\"; true"]).arg(&program);
    let mut waiting = Waiting::start(&mut command);
    // It may still be at work when it is read for the first time.
    let is_whole = |text: &String| held(text) >= 0.85 * HELD;
    common::wait_until("both have their files", || {
        file.exists() && childrens(&folder).iter().any(is_whole)
    });
    waiting.0.kill().expect("it runs");
    waiting.0.wait().expect("it ends");
    assert!(file.exists(), "a shell holds little, which takes a file all the same");
    let named = childrens(&folder).into_iter().find(|text| text.contains(";main;hold;"));
    assert_named(&named.expect("it is left"));
}

/// Who named a socket may be gone by the end, or never have been there.
#[test]
fn an_end_that_nobody_waits_for_comes_all_the_same() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let silent = folder.join("profile-silent.sock");
    let _ = fs::remove_file(&silent);
    // It accepts nobody, and answers nobody.
    let _silent = UnixListener::bind(&silent).expect("a writable place");
    for socket in [silent, "/no/such/socket".into(), "x".repeat(200).into(), "".into()] {
        let mut command = common::slackwater();
        let command = command.args(["run", "--", "true"]).env("SLACKWATER_EXIT_SOCKET", &socket);
        let output = command.output().expect("it starts");
        assert!(output.status.success() && output.stderr.is_empty(), "{socket:?}: {output:?}");
    }
}

/// Whoever sends `slackwater` a signal means the program, which gets that one, and once.
#[test]
fn a_programs_signals_are_its_own() {
    let send = |process: &Child, signal| {
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(process.id() as libc::pid_t, signal) }, 0);
    };
    let script = "for one in HUP INT TERM USR1; do trap \"echo $one\" $one; done; \
                  sleep 600 >/dev/null & trap \"kill $!; exit 5\" USR2; \
                  echo ready; while :; do wait; done";
    for (name, signal) in [("HUP", libc::SIGHUP), ("TERM", libc::SIGTERM), ("USR1", libc::SIGUSR1)]
    {
        let mut command = common::slackwater();
        command.args(["profile", "run", "-o", "/dev/null", "--", "bash", "-c", script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn();
        let mut waiting = Waiting(child.expect("it starts"));
        let mut said = BufReader::new(waiting.0.stdout.take().expect("piped")).lines();
        assert_eq!(said.next().expect("a line").expect("text"), "ready");
        send(&waiting.0, signal);
        assert_eq!(said.next().expect("a line").expect("text"), name);
        send(&waiting.0, libc::SIGUSR2);
        let rest: Vec<String> = said.map(|line| line.expect("text")).collect();
        assert!(rest.is_empty(), "{name} and {rest:?}");
        // That its child ends meanwhile, of which a signal tells it, does not keep it from being read.
        let mut told = String::new();
        waiting.0.stderr.take().expect("piped").read_to_string(&mut told).expect("text");
        assert!(!told.contains("without its exit handlers"), "{told}");
        assert_eq!(waiting.0.wait().expect("it ends").code(), Some(5));
    }
}

/// As `execvp` has it, and `-` is standard output.
#[test]
fn a_script_that_names_nobody_is_the_shells() {
    let script = folder("script-of-nobody").join("script");
    fs::write(&script, "echo from $1; exec bash -c 'exit 6'\n").expect("writable");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("ours");
    let mut command = common::slackwater();
    command.args(["profile", "run", "-o", "-", "--format", "text", "--"]).arg(&script).arg("it");
    let output = command.output().expect("it starts");
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("from it\nlive ") && said.contains("call site"), "{said}");
    assert!(!Path::new("-").exists());
}

#[test]
fn a_sudden_end_is_admitted() {
    let Some(program) = holder("sudden") else { return };
    let mut command = common::slackwater();
    command.args(["profile", "run", "--format", "folded", "--"]).arg(&program).arg("suddenly");
    let mut waiting = Waiting::start(command.stderr(Stdio::piped()));
    // Longer than readings are apart.
    thread::sleep(Duration::from_millis(1500));
    drop(waiting.0.stdin.take());
    let stderr = io::read_to_string(waiting.0.stderr.take().expect("piped")).expect("text");
    assert_eq!(waiting.0.wait().expect("it ends").code(), Some(7));
    let (admission, profile) = stderr.split_once('\n').expect("a line of its own");
    let start = "slackwater: the program ended without its exit handlers; its profile is as of ";
    assert!(admission.starts_with(start), "{stderr}");
    assert_named(profile);
}

/// Every link on the two pages leads somewhere.
#[test]
fn the_pages_lead_to_what_there_is() {
    let address = endpoint();
    for page in ["/", "/debug/pprof/"] {
        let body = get(address, page).body;
        let links: Vec<&str> =
            body.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let links: Vec<&str> =
            links.into_iter().filter(|link| !link.starts_with("data:")).collect();
        assert!(links.len() >= 9, "{page}: {links:?}");
        for link in links {
            // As a browser reads it: a page's folder, and one folder less for each `..`.
            let ups = link.matches("../").count();
            let mut folders: Vec<&str> = page.trim_matches('/').split('/').collect();
            folders.truncate(folders.len() - ups.min(folders.len()));
            let rest = link.trim_start_matches("../");
            let brief = format!("/{}/{rest}", folders.join("/")).replace("//", "/");
            let brief = brief.replace("seconds=10", "seconds=1");
            let path = brief.replace("seconds=5", "seconds=1");
            let request = format!("GET {path} HTTP/1.0\r\n\r\n");
            let bytes = common::exchange_bytes(address, request.as_bytes());
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            assert!(start.starts_with("HTTP/1.0 200"), "{page} -> {path}: {start}");
        }
    }
}

/// So much that few samples suffice: each block is as large as two of them are apart. Nobody writes to
/// it, so it takes no memory.
fn hold_in_rust(blocks: usize) -> Vec<Vec<u8>> {
    (0..blocks).map(|_| Vec::with_capacity(1 << 20)).collect()
}

#[test]
fn a_service_profiles_itself() {
    let address = endpoint();
    let held = hold_in_rust(256);
    let url = |path: &str| format!("http://{address}{path}");
    let Some(top) = go_pprof_of(&["-top", "-unit=MB"], &url("/debug/pprof/heap")) else { return };
    let total = |top: &str| -> f64 {
        let words = top.split_whitespace().rev().skip_while(|word| *word != "total");
        let number = words.filter_map(|word| word.strip_suffix("MB")?.parse().ok()).next();
        number.unwrap_or_else(|| panic!("no total: {top}"))
    };
    assert!(top.contains("Type: inuse_space") && top.contains("profile::hold_in_rust"), "{top}");
    let total = total(top.lines().find(|line| line.contains(" total")).expect("a total"));
    assert!((150.0..400.0).contains(&total), "{total} MB instead of 256 and a little: {top}");
    drop(held);

    // What is allocated in a window, though nothing is left of it.
    let arguments = ["-top", "-sample_index=alloc_space", "-unit=MB"];
    let done = AtomicBool::new(false);
    let window = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                drop(black_box(hold_in_rust(8)));
                thread::sleep(Duration::from_millis(5));
            }
        });
        let window = go_pprof_of(&arguments, &url("/debug/pprof/allocs?seconds=1"));
        done.store(true, Ordering::Relaxed);
        window.expect("go is there")
    });
    assert!(window.contains("Duration: 1") && window.contains("Type: alloc_space"), "{window}");

    // The text has addresses alone; their names come by POST.
    let arguments = ["-top", "-symbolize=remote", "-sample_index=alloc_space"];
    let text = go_pprof_of(&arguments, &url("/debug/pprof/heap?debug=1")).expect("go is there");
    assert!(text.contains("profile::hold_in_rust"), "{text}");
}

/// A leak of a megabyte each tenth of a second is told from what else the process does, once it has
/// lasted.
#[test]
fn a_leak_is_told() {
    let address = endpoint();
    let mut leaked = Vec::new();
    let start = Instant::now();
    loop {
        leaked.extend(hold_in_rust(1));
        thread::sleep(Duration::from_millis(100));
        let is_worth_a_look = leaked.len() % 20 == 0;
        if is_worth_a_look && !get(address, "/debug/leaks").body.starts_with("No call site") {
            break;
        }
        // Not an asserted time: a test that hangs says nothing.
        let patience = common::PATIENCE;
        assert!(start.elapsed() < patience, "{}", get(address, "/debug/leaks").body);
    }
    let text = get(address, "/debug/leaks").body;
    let rate: f64 = text
        .lines()
        .find_map(|line| line.split_once(" KiB/s for ")?.0.parse().ok())
        .expect("a suspect");
    assert!((3e3..30e3).contains(&rate), "about ten megabytes a second: {text}");
}

/// What the sampler estimates is what the allocator counts, in programs as they come.
#[test]
fn estimates_agree_with_what_is_counted() {
    let python = "import sys\nheld = [bytes([7]) * 1000 for _ in range(40000)]\n\
        print('ready', flush=True)\nsys.stdin.readline()\n";
    let mut programs = Vec::new();
    if common::have_tool("python3") {
        let mut command = common::slackwater();
        command.args(["run", "--", "python3", "-c", python]);
        programs.push(Waiting::start(&mut command));
    }
    if common::have_tool("redis-server") && common::have_tool("redis-cli") {
        let socket = Path::new(env!("CARGO_TARGET_TMPDIR")).join("profile-redis.sock");
        let _ = fs::remove_file(&socket);
        let mut command = common::slackwater();
        command.args(["run", "--", "redis-server", "--port", "0", "--save", ""]);
        command.args(["--enable-debug-command", "yes", "--unixsocket"]);
        let silent = with_many_samples(command.arg(&socket)).stdout(Stdio::null());
        programs.push(Waiting(silent.spawn().expect("it starts")));
        let is_filled = || {
            let mut client = Command::new("redis-cli");
            client.arg("-s").arg(&socket).args(["debug", "populate", "40000", "key", "1000"]);
            client.output().is_ok_and(|output| output.stdout.starts_with(b"OK"))
        };
        let start = Instant::now();
        while !is_filled() {
            // Not an asserted time: a test that hangs says nothing.
            assert!(start.elapsed() < common::PATIENCE, "redis-server does not answer");
            thread::sleep(Duration::from_millis(50));
        }
    }
    for program in &programs {
        let mut target = Target::open(program.0.id()).expect("readable");
        let reading = target.reading().expect("readable");
        let estimate: f64 = reading.profile.stacks.iter().map(|stack| stack.live().bytes).sum();
        let counted = reading.snapshot.memory_bytes.live as f64;
        let name = target.comm();
        assert!(counted > 30e6, "{name}: {counted} live");
        assert!((estimate / counted - 1.0).abs() < 0.15, "{name}: {estimate} of {counted}");
        let by_sample: f64 =
            reading.profile.live.iter().map(|sample| sample.weight * sample.bytes as f64).sum();
        assert!((by_sample / counted - 1.0).abs() < 0.15, "{name}: {by_sample} of {counted}");
    }
}

/// A Rust program of which the one function allocates, by another that is inlined into it.
const RUST: &str = "
struct Keeper(Vec<Vec<u8>>);

#[inline(never)]
fn take() -> Vec<u8> {
    Vec::with_capacity(10_000)
}

impl Keeper {
    #[inline(always)]
    fn keep(&mut self) {
        self.0.push(take());
    }
}

#[inline(never)]
fn hold(keeper: &mut Keeper) {
    for _ in 0..4000 {
        keeper.keep();
    }
}

fn main() {
    let mut keeper = Keeper(Vec::new());
    hold(&mut keeper);
    println!(\"ready\");
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    std::hint::black_box(keeper);
}
";

#[test]
fn functions_of_a_rust_program_are_named_and_its_allocators_frames_are_not() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (folder.join("rust_holder.rs"), folder.join("rust_holder"));
    fs::write(&source, RUST).expect("a writable place");
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc.args(["-O", "-g", "--edition=2024", "-o"]);
    let output = rustc.arg(&program).arg(&source).output().expect("rustc starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let waiting = Waiting::under_slackwater(&program);
    let folded = folded(waiting.0.id());
    let part = ";rust_holder::main;rust_holder::hold;rust_holder::Keeper::keep;rust_holder::take;";
    let held = value_of(&folded, part);
    assert!((held - HELD).abs() < 0.15 * HELD, "{held}:\n{folded}");
    for hidden in ["__rust_alloc", "alloc::alloc::alloc", "malloc"] {
        let ends = folded.lines().filter_map(|line| line.rsplit_once(' ')?.0.rsplit(';').next());
        assert!(!ends.clone().any(|end| end == hidden), "{hidden}: {folded}");
    }
}
