//! Other processes, read from outside: what they are, what they do meanwhile, and what they are not
//! allowed to do to the reader.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::{env, fs, thread};

use common::Demo;
use slackwater_exporters::Observation;
use slackwater_exporters::attach::Target;
use slackwater_exporters::fleet::Fleet;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// A child that is killed when the test is done with it.
struct Running {
    child: Child,
    /// Taken out, or the child would write into a closed pipe.
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts the command and waits for its first line of output.
    fn start(command: &mut Command) -> (Running, String) {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("it says something");
        (Running { child, output }, line.trim().to_string())
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it says something");
        line.trim().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `slackwater run -- …`
fn under_slackwater(arguments: &[&str]) -> Command {
    let mut command = common::slackwater();
    command.args(["run", "--"]).args(arguments);
    command
}

/// Holds 48 MiB it has written to, says its process id (as it sees it), and waits for ever.
const HOLDER: &str = "import os, sys, time\n\
    blocks = [bytes([7]) * 100_000 for _ in range(503)]\n\
    print(os.getpid(), flush=True)\n\
    time.sleep(3600)\n";

const HELD: u64 = 503 * 100_000;

fn assert_holds(target: &mut Target) {
    assert_is_held(&target.observe().expect("readable"));
}

fn assert_is_held(observation: &Observation) {
    let live = observation.snapshot.memory_bytes.live;
    assert!((HELD..HELD + (32 << 20)).contains(&live), "{live} live");
    let parts = observation.breakdown().expect("the kernel tells its side");
    let kernel = observation.process.expect("it has /proc").resident_bytes();
    assert_eq!(parts.sum(), kernel);
    assert!(parts.live >= HELD && parts.unattributed < kernel / 50, "{parts:?}");
}

fn pid_of(line: &str) -> u32 {
    line.parse().unwrap_or_else(|_| panic!("no process id: {line:?}"))
}

#[test]
fn a_preloaded_program_is_read_and_so_is_one_that_hangs() {
    if !common::have_tool("python3") {
        return;
    }
    let (running, line) = Running::start(&mut under_slackwater(&["python3", "-c", HOLDER]));
    let mut target = Target::open(pid_of(&line)).expect("readable");
    assert!(target.comm().starts_with("python"), "{}", target.comm());
    assert_holds(&mut target);
    let place = target.place().expect("readable").expect("it has a heap");
    let segments = target.segments(0, place.segments).expect("readable");
    assert_eq!(segments.len(), place.segments as usize);
    assert!(target.spans(0).expect("readable").iter().flatten().count() > 0);

    // SAFETY: a signal to a child of ours.
    unsafe { libc::kill(running.child.id() as libc::pid_t, libc::SIGSTOP) };
    assert_holds(&mut target);
    assert_holds(&mut Target::open(pid_of(&line)).expect("readable"));

    drop(running);
    let error = target.observe().expect_err("it has ended");
    assert!(error.is_gone(), "{error}");
}

#[test]
fn a_linked_program_is_read_stripped_and_deleted() {
    if !common::have_tool("strip") {
        return;
    }
    let path = env::temp_dir().join(format!("slackwater-stripped-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_slackwater"), &path).expect("a writable place");
    assert!(Command::new("strip").arg(&path).status().expect("strip starts").success());
    let mut command = Command::new(&path);
    command.args(["demo", "--listen", "127.0.0.1:0"]);
    let (running, _) = Running::start(&mut command);
    fs::remove_file(&path).expect("it was there");
    let mut target = Target::open(running.child.id()).expect("readable");
    let first = target.observe().expect("readable").snapshot;
    let second = target.observe().expect("readable").snapshot;
    assert!(second.allocated_bytes_total >= first.allocated_bytes_total);
    assert!(first.mapped_bytes > 0 && first.threads > 0);
}

/// What a process says of itself and what is read of it is the same, but for what moved meanwhile.
#[test]
fn figures_are_those_that_the_process_has_itself() {
    let demo = Demo::start(&[]);
    let mut target = Target::open(demo.id()).expect("readable");
    let before = target.observe().expect("readable").snapshot;
    let json = common::get(demo.address, "/snapshot.json").body;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let after = target.observe().expect("readable").snapshot;
    let total = |value: &serde_json::Value| -> u64 {
        let values = value.as_object().expect("labelled").values();
        values.map(|value| value.as_u64().expect("a count")).sum()
    };
    for (name, inside, low, high) in [
        (
            "release_enqueued_total",
            total(&json["release_enqueued_total"]),
            before.release_enqueued_total.sum(),
            after.release_enqueued_total.sum(),
        ),
        (
            "refills_total",
            json["refills_total"].as_u64().expect("a count"),
            before.refills_total,
            after.refills_total,
        ),
        (
            "allocated_bytes_total",
            json["allocated_bytes_total"].as_u64().expect("a count"),
            before.allocated_bytes_total,
            after.allocated_bytes_total,
        ),
    ] {
        assert!((low..=high).contains(&inside), "{name}: {low} {inside} {high}");
    }
}

#[test]
fn a_process_in_other_namespaces_is_read() {
    let holder = "mount -t tmpfs none /mnt && exec \"$0\" run -- python3 -c \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", holder]);
    command.arg(env!("CARGO_BIN_EXE_slackwater")).arg(HOLDER);
    let may = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--mount-proc", "true"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !may || !common::have_tool("python3") {
        assert!(env::var_os("CI").is_none(), "no namespaces here, and this is CI");
        eprintln!("SKIPPED: this user may not make namespaces");
        return;
    }
    let (running, line) = Running::start(&mut command);
    // It is the first process of its namespace; outside it has another number.
    assert_eq!(line, "1");
    let children = format!("/proc/{0}/task/{0}/children", running.child.id());
    let inside = fs::read_to_string(children).expect("it has children");
    let outside = pid_of(inside.split_whitespace().next().expect("one child"));
    assert_holds(&mut Target::open(outside).expect("readable"));
    // SAFETY: a signal to the first process of a namespace that is ours.
    unsafe { libc::kill(outside as libc::pid_t, libc::SIGKILL) };
}

#[test]
fn thirty_two_processes_are_read_at_once() {
    if !common::have_tool("python3") {
        return;
    }
    let start = |_| Running::start(&mut under_slackwater(&["python3", "-c", HOLDER]));
    let running: Vec<(Running, String)> = (0..32).map(start).collect();
    let (seen, figures) = Fleet::default().look();
    assert!(figures.read >= 33, "this process is one of them: {figures:?}");
    for (_, pid) in &running {
        let of_pid = seen.iter().find(|seen| seen.labels[0] == ("pid", pid.clone()));
        assert_is_held(&of_pid.unwrap_or_else(|| panic!("{pid} was not read")).observation);
    }
}

/// Forks, execs, ends: what is read is either right, or refused with a word.
#[test]
fn processes_that_change_while_they_are_read_give_no_wrong_figures() {
    // A shell that executes itself again and again, under one process id.
    let again = "exec sh -c \"$0\" \"$0\"";
    let (running, _) = Running::start(&mut under_slackwater(&[
        "sh",
        "-c",
        "echo go; sleep 0.2; exec sh -c \"$0\" \"$0\"",
        again,
    ]));
    let pid = running.child.id();
    let (mut read, mut refused) = (0, 0);
    for _ in 0..200 {
        match Target::open(pid).and_then(|mut target| target.observe()) {
            Ok(observation) => {
                read += 1;
                let snapshot = &observation.snapshot;
                assert!(snapshot.resident_bytes < 1 << 30, "{snapshot:?}");
                assert!(snapshot.mapped_bytes < 1 << 34 && snapshot.threads <= 1, "{snapshot:?}");
                assert_eq!(snapshot.release_dropped_total, 0);
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().contains('\n') && !error.is_gone(), "{error}");
            }
        }
    }
    assert!(read > 0, "{read} read, {refused} refused");
    drop(running);

    // Children that come and go.
    let (running, _) = Running::start(&mut under_slackwater(&[
        "sh",
        "-c",
        "echo go; while :; do sh -c 'exit 0' & sh -c 'exit 0'; done",
    ]));
    let mut fleet = Fleet::default();
    for _ in 0..30 {
        for seen in fleet.look().0 {
            assert!(seen.observation.snapshot.mapped_bytes < 1 << 34, "{:?}", seen.observation);
        }
    }
    drop(running);
}

/// Where addresses are not random, the program that is executed has its heap where the last one had.
#[test]
fn a_program_that_takes_the_place_of_another_has_its_own_figures() {
    if !common::have_tool("python3") {
        return;
    }
    let first = format!(
        "import os, sys\n\
         print('first', flush=True)\n\
         sys.stdin.read(1)\n\
         os.execvp('python3', ['python3', '-c', {HOLDER:?}])\n"
    );
    let mut command = under_slackwater(&["python3", "-c", &first]);
    command.stdin(Stdio::piped());
    let keep_addresses = || {
        // Where it is not allowed, addresses are random: the easier case.
        // SAFETY: no preconditions.
        unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
        Ok(())
    };
    // SAFETY: one system call, between fork and exec.
    unsafe { command.pre_exec(keep_addresses) };
    let (mut running, line) = Running::start(&mut command);
    assert_eq!(line, "first");
    let mut target = Target::open(running.child.id()).expect("readable");
    target.observe().expect("readable");
    drop(running.child.stdin.take());
    pid_of(&running.next_line());
    assert_holds(&mut target);
    // It gives back what it freed as it began; from then on every look sees the same.
    common::wait_until("the kept one sees what a new one does", || {
        let anew = Target::open(target.pid()).and_then(|mut anew| anew.observe());
        let kept = target.observe().expect("readable").residency;
        kept == anew.expect("readable").residency
    });
}

/// A process may write what it likes where its heap's root and records are.
#[test]
fn a_process_that_lies_is_read_without_harm() {
    let program = env::current_exe().expect("this test has a file");
    let mut command = Command::new(program);
    command.args(["--exact", "liar", "--nocapture", "--ignored"]).env("SLACKWATER_TEST_LIAR", "1");
    let (mut running, mut line) = Running::start(&mut command);
    while !line.starts_with("lying") {
        line = running.next_line();
    }
    let pid = running.child.id();
    let mut outcomes = [0; 2];
    for _ in 0..1000 {
        let outcome = Target::open(pid).and_then(|mut target| {
            target.knobs()?;
            target.observe()
        });
        outcomes[usize::from(outcome.is_ok())] += 1;
    }
    assert!(outcomes[0] > 0, "it never lied: {outcomes:?}");
}

/// The other process of the test above, which starts it.
#[test]
#[ignore = "it is a child's part"]
fn liar() {
    if env::var_os("SLACKWATER_TEST_LIAR").is_none() {
        return;
    }
    let root = slackwater::remote::own_root() as usize;
    let page = root & !4095;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the pages of the root, which is constant data; making them writable harms nobody.
    let changed = unsafe { libc::mprotect(page as *mut libc::c_void, 8192, protection) };
    assert_eq!(changed, 0);
    println!("lying");
    let mut state = 1u64;
    loop {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Beyond the magic number and the version, which would end the reader's interest at once.
        let word = (root + 16 + (state >> 33) as usize % 12 * 8) as *mut u64;
        // SAFETY: inside the root, which this process itself never reads.
        let was = unsafe { word.read_volatile() };
        // SAFETY: as above.
        unsafe { word.write_volatile(was ^ (state >> 20)) };
        thread::yield_now();
        // SAFETY: as above.
        unsafe { word.write_volatile(was) };
    }
}

#[test]
fn without_the_right_to_read_one_line_names_the_capability() {
    // SAFETY: no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root {
        let error = Target::open(1).err().expect("a user may not read what root runs");
        assert!(error.is_refusal() && error.to_string().contains("CAP_SYS_PTRACE"), "{error}");
        return;
    }
    // As nobody, this test's own program looks at this process, which is root's.
    let program = env::temp_dir().join(format!("slackwater-nobody-{}", std::process::id()));
    fs::copy(env::current_exe().expect("this test has a file"), &program).expect("writable");
    let output = Command::new(&program)
        .args(["--exact", "nobody", "--nocapture", "--ignored"])
        .env("SLACKWATER_TEST_READ", std::process::id().to_string())
        .uid(65534)
        .gid(65534)
        .output();
    fs::remove_file(&program).expect("it was there");
    let output = output.expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("may not be read: that takes the capability CAP_SYS_PTRACE"), "{text}");
    assert!(text.contains("refused: true"), "{text}");
}

/// The other process of the test above, which starts it.
#[test]
#[ignore = "it is a child's part"]
fn nobody() {
    let Ok(pid) = env::var("SLACKWATER_TEST_READ") else { return };
    let error = Target::open(pid_of(&pid)).err().expect("it is root's");
    println!("{error}");
    println!("refused: {}", error.is_refusal() && Fleet::default().look().1.refused > 0);
}

/// `hidepid=1` shows a user that others' processes are there, and no more.
#[test]
fn a_process_that_proc_hides_is_refused_and_not_gone() {
    let program = env::temp_dir().join(format!("slackwater-hidden-{}", std::process::id()));
    let hidden = "mount -o remount,hidepid=1 /proc && \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" report 1";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--pid", "--fork", "--mount-proc"]);
    // The mount is this namespace's alone, and the shell its first process, which is root's.
    let unshare = unshare.args(["sh", "-c", "(eval \"$1\"); exit $?"]).arg(&program).arg(hidden);
    fs::copy(env!("CARGO_BIN_EXE_slackwater"), &program).expect("writable");
    let output = unshare.output();
    fs::remove_file(&program).expect("it was there");
    let output = output.expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr);
    if !text.starts_with("slackwater: ") {
        assert!(env::var_os("CI").is_none(), "no namespaces here, and this is CI: {text}");
        eprintln!("SKIPPED: this user may not make namespaces: {text}");
        return;
    }
    assert!(text.starts_with("slackwater: process 1 () may not be read"), "{text}");
}

#[test]
fn a_program_without_slackwater_is_told_so() {
    let (running, _) = Running::start(Command::new("sh").args(["-c", "echo go; exec sleep 3600"]));
    let error = Target::open(running.child.id()).err().expect("it has none");
    assert!(error.is_no_heap(), "{error}");
    assert!(error.to_string().contains("slackwater run"), "{error}");
}
