//! What a profile costs the service that is looked at, and what of it stays: a small service with a large
//! program file, which this test program is as a child of itself.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, io, ptr, thread};

use common::get;
use slackwater_exporters::process::ProcessMemory;
use slackwater_exporters::{Endpoint, attach};

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// Says that this process is the service, and of which kind.
const SERVICE: &str = "SLACKWATER_TEST_SERVICE";

/// What the service holds.
#[inline(never)]
fn keep_rows(mib: usize) -> Vec<Vec<u8>> {
    (0..mib * 1024).map(|_| vec![7; 1024]).collect()
}

/// The service, if it is asked for: it holds 12 MiB and serves until its input ends.
#[test]
fn service() {
    let Ok(kind) = env::var(SERVICE) else { return };
    if kind == "watching" {
        watch_for_children();
    }
    if kind == "no clone" {
        filter_clone(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    }
    let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
    if kind == "deadly clone" {
        filter_clone(libc::SECCOMP_RET_KILL_PROCESS);
    }
    let rows = keep_rows(12);
    say(&format!("ready {}", endpoint.address()));
    for _line in io::stdin().lines() {
        say(&format!("seen {}", SEEN.load(Ordering::Relaxed)));
    }
    drop(rows);
}

/// What the service has seen of children: each signal, each that was waited for, each handler around a fork.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// As supervisors do it.
fn watch_for_children() {
    extern "C" fn see() {
        SEEN.fetch_add(1, Ordering::Relaxed);
    }
    extern "C" fn handle(_: libc::c_int) {
        see();
    }
    // SAFETY: the handlers count, and stay.
    assert_eq!(unsafe { libc::pthread_atfork(Some(see), Some(see), Some(see)) }, 0);
    let handler = handle as extern "C" fn(libc::c_int);
    // SAFETY: the handler counts, and may run anywhere.
    unsafe { libc::signal(libc::SIGCHLD, handler as libc::sighandler_t) };
    thread::spawn(|| {
        loop {
            // SAFETY: nobody wants to know how it ended.
            if unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) } > 0 {
                see();
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
}

/// From now on, on all threads, `clone` has that outcome where it makes a process.
fn filter_clone(outcome: u32) {
    let jump = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let give = (libc::BPF_RET | libc::BPF_K) as u16;
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        // The call's number; the lower half of its first argument.
        line(load, 0, 0, 0),
        line(equal, 0, 3, libc::SYS_clone as u32),
        line(load, 0, 0, 16),
        line(jump, 1, 0, libc::CLONE_VM as u32),
        line(give, 0, 0, outcome),
        line(give, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: no privileges are gained from now on.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let (set, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: a filter of so many lines.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, set, flags, &raw const program) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// Not `println!`, which the test runner keeps to itself.
fn say(line: &str) {
    let mut output = io::stdout();
    writeln!(output, "\n{line}").and_then(|()| output.flush()).expect("somebody listens");
}

/// A service of a kind; killed if the test ends before it does.
struct Service {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Service {
    fn start(kind: &str) -> Service {
        let mut child = Command::new(env::current_exe().expect("known"))
            .args(["--exact", "service", "--nocapture"])
            .env(SERVICE, kind)
            // Enough samples for shares.
            .env("SLACKWATER_PROFILE_RATE_BYTES", "16384")
            .env("SLACKWATER_PROFILE_EPOCH_SAMPLES", "100000")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let input = child.stdin.take().expect("piped");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let address = loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).expect("text") > 0, "it ended");
            if let Some(address) = line.strip_prefix("ready ") {
                break address.trim().parse().expect("an address");
            }
        };
        Service { child, input, output, address }
    }

    /// What it has seen of children.
    fn seen(&mut self) -> u64 {
        writeln!(self.input).expect("it listens");
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).expect("text") > 0, "it ended");
            if let Some(number) = line.strip_prefix("seen ") {
                return number.trim().parse().expect("a number");
            }
        }
    }

    /// What is resident, and what has been at the most, in bytes.
    fn resident(&self) -> (u64, u64) {
        let memory = ProcessMemory::of(self.child.id()).expect("it is there");
        (memory.resident_bytes(), memory.peak_bytes)
    }

    /// The processes that it has made.
    fn children(&self) -> Vec<u32> {
        attach::processes()
            .filter(|&process| attach::parent(process) == Some(self.child.id()))
            .collect()
    }

    fn get(&self, path: &str) -> String {
        let response = get(self.address, path);
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        response.body
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of a flamegraph: the bytes of all, and those of functions whose names contain `part`.
fn bytes_in(picture: &str, part: &str) -> (f64, f64) {
    let mut all = 0.0;
    let mut of_part: f64 = 0.0;
    for title in picture.split("<title>").skip(1) {
        let title = title.split("</title>").next().expect("it ends");
        let Some((name, rest)) = title.rsplit_once(" (") else { continue };
        let Some((number, _)) = rest.split_once(" bytes") else { continue };
        let bytes: f64 = number.replace(',', "").parse().expect("a number");
        if name == "all" {
            all = bytes;
        } else if name.contains(part) {
            of_part = of_part.max(bytes);
        }
    }
    (all, of_part)
}

/// However often somebody looks, the program's call sites are as if nobody did.
#[test]
fn what_looking_allocates_has_a_name_of_its_own() {
    let service = Service::start("plain");
    for _ in 0..3 {
        service.get("/debug/pprof/allocs?debug=1");
        service.get("/metrics");
    }
    for kind in ["alloc", "live", "peak"] {
        let picture = service.get(&format!("/debug/flame/{kind}.svg"));
        let (all, rows) = bytes_in(&picture, "keep_rows");
        assert!(all > 11e6 && rows > 11e6, "{kind}: {all} {rows}");
        for part in ["slackwater_exporters::profile", "slackwater_exporters::http", "blazesym"] {
            let (_, looked) = bytes_in(&picture, part);
            assert!(looked < 0.01 * all, "{kind}: {looked} of {all} are {part}'s");
        }
        let (_, observer) = bytes_in(&picture, "[slackwater observer]");
        assert!(kind != "alloc" || observer > 0.0, "{kind}: it is in the sum");
    }
}

const TEXT: &str = "/debug/pprof/heap?debug=1";
const MIB: u64 = 1 << 20;

/// The lookup's memory is a child's, and that is gone.
#[test]
fn a_profile_with_names_leaves_the_service_as_small_as_it_was() {
    let service = Service::start("plain");
    // What every profile takes for its own rendering.
    service.get(&format!("{TEXT}&symbolize=none"));
    let (before, peak_before) = service.resident();
    assert!(service.get(TEXT).contains("keep_rows"));
    let (after, peak_after) = service.resident();
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    let figures = format!(
        "{:.1} -> {:.1} MiB, at most {:.1} -> {:.1}",
        mib(before),
        mib(after),
        mib(peak_before),
        mib(peak_after)
    );
    assert!(after < before + 3 * MIB && peak_after < peak_before + 5 * MIB, "{figures}");
    assert_eq!(service.children(), [0; 0]);
    let picture = service.get("/debug/flame/alloc.svg");
    let (all, observer) = bytes_in(&picture, "[slackwater observer]");
    assert!(observer < 0.5 * all, "{observer} of {all}: not the lookup's");
}

#[test]
fn the_program_does_not_see_the_child() {
    let mut service = Service::start("watching");
    assert!(service.get(TEXT).contains("keep_rows"));
    thread::sleep(Duration::from_millis(50));
    assert_eq!(service.seen(), 0);
    assert_eq!(service.children(), [0; 0]);
}

/// Names are wanted more than the memory is.
#[test]
fn where_no_process_may_be_made_names_are_looked_up_in_the_service() {
    for kind in ["no clone", "deadly clone"] {
        let service = Service::start(kind);
        let text = service.get(TEXT);
        assert!(text.contains("keep_rows") && !text.contains("no names"), "{kind}: {text}");
    }
}

#[test]
fn profiles_at_the_same_time_all_have_names() {
    let service = Service::start("plain");
    thread::scope(|scope| {
        let ask = || scope.spawn(|| service.get("/debug/flame/live.svg"));
        for one in [ask(), ask(), ask(), ask()] {
            assert!(one.join().expect("an answer").contains("keep_rows"));
        }
    });
    assert_eq!(service.children(), [0; 0]);
}

/// A child that does not come to an end, or is ended by somebody else, is not waited for without end, and the
/// profile says why it has no names.
#[test]
fn a_lost_child_costs_the_names_alone() {
    for (signal, says) in [(libc::SIGSTOP, "was ended after 15 s"), (libc::SIGKILL, "by signal 9")]
    {
        let patience = Instant::now() + common::PATIENCE;
        loop {
            assert!(Instant::now() < patience, "a child is never caught");
            let service = Service::start("plain");
            let text = thread::scope(|scope| {
                let asked = scope.spawn(|| service.get(TEXT));
                while !asked.is_finished() {
                    if let Some(&child) = service.children().first() {
                        // SAFETY: a signal to a process that another one waits for.
                        unsafe { libc::kill(child as libc::pid_t, signal) };
                        break;
                    }
                }
                asked.join().expect("an answer")
            });
            assert_eq!(service.children(), [0; 0]);
            // It may have been done already.
            if !text.contains("keep_rows") {
                let why = text.lines().find(|line| line.contains("functions have no names"));
                let why = why.unwrap_or_else(|| panic!("{text}"));
                assert!(why.contains(says) && text.contains("cost-"), "{why}");
                // The next one has them.
                assert!(service.get(TEXT).contains("keep_rows"));
                break;
            }
        }
    }
}
