//! Perf events as the program shows them: of what is there, of what is not, and where they are refused.

mod common;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use common::{Demo, Scraped, Shell};
use slackwater::sections::{PerfEvent, Section};
use slackwater_exporters::attach;
use slackwater_exporters::perf::Plan;
use slackwater_exporters::perf::threads::{ThreadCounts, Watch};

const EVENTS: &str = "slackwater_perf_events_total";
const UNCOUNTED: &str = "slackwater_perf_uncounted_sections_total";

/// What can be counted on this machine by this user; `None`, and a word about it, where nothing can.
fn plan() -> Option<Plan> {
    Plan::probe().map_err(|error| common::skip_because(&error.to_string())).ok()
}

/// The demo after its first burst and idle time, and what it says on stderr.
fn demo(program: Command) -> (Option<Scraped>, Option<Scraped>, String) {
    let mut demo = Demo::start_by(program, "127.0.0.1:0", &["--perf", "--seconds", "4"]);
    demo.read_until("idle");
    let page = common::get(demo.address, "/metrics").body;
    common::assert_complete(&page);
    let mut families = common::parse(&page);
    let json = common::get(demo.address, "/snapshot.json").body;
    assert_eq!(json.contains("\"perf_events_total\":{"), families.contains_key(EVENTS), "{json}");
    let output = demo.finish();
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).expect("text");
    (families.remove(EVENTS), families.remove(UNCOUNTED), said)
}

#[test]
fn the_demo_counts_what_is_there_and_says_once_what_is_not() {
    let Some(plan) = plan() else { return };
    let (events, uncounted, said) = demo(common::slackwater());
    let events = events.expect("it was asked to count").series;
    for event in PerfEvent::ALL {
        for section in Section::ALL {
            let labels = format!("event=\"{}\",scope=\"{}\"", event.name(), section.name());
            let value = events.get(&labels);
            assert_eq!(value.is_some(), plan.events().any(|one| one == event), "{labels}");
            if event == PerfEvent::TaskClock {
                assert!(value > Some(&0.0), "{labels}: {events:?}");
            }
        }
    }
    let uncounted = uncounted.expect("it was asked to count").series;
    assert!(uncounted.values().all(|&sections| sections == 0.0), "{uncounted:?}");
    let expected = match plan.to_string() {
        absent if absent.is_empty() => absent,
        absent => format!("slackwater: --perf: {absent}\n"),
    };
    assert_eq!(said, expected);
}

#[test]
fn nothing_is_counted_unless_it_is_asked_for() {
    let demo = Demo::start(&["--seconds", "1"]);
    let families = common::parse(&common::get(demo.address, "/metrics").body);
    assert!(!families.contains_key(EVENTS) && !families.contains_key(UNCOUNTED));
}

#[test]
fn threads_without_descriptors_are_left_out_and_their_sections_said() {
    if plan().is_none() {
        return;
    }
    let mut shell = Command::new("sh");
    // Room for the counters of a thread or two; four work.
    shell.args(["-c", "ulimit -n 32; exec \"$0\" \"$@\""]);
    shell.arg(common::slackwater().get_program());
    let (events, uncounted, _) = demo(shell);
    assert!(events.is_some());
    let refills = uncounted.expect("it counts").series["scope=\"refill\""];
    assert!(refills > 0.0);
}

#[test]
fn a_report_shows_threads_and_sections() {
    let Some(plan) = plan() else { return };
    let demo = Demo::start(&["--perf"]);
    let text = report(&mut common::slackwater(), demo.id());
    let sections = section(&text, "Perf events in slow sections, as the process has counted them");
    let names: Vec<&str> =
        sections[1..5].iter().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, Section::ALL.map(Section::name), "{text}");
    let threads = section(&text, "Perf events of its threads");
    assert!(threads[0].starts_with("  thread            number     on CPU     faults"), "{text}");
    assert_eq!(
        threads[0].contains("cycles"),
        plan.events().any(|event| event == PerfEvent::Cycles)
    );
    for name in ["worker-0 ", "worker-3 ", "slackwater ", "all "] {
        let is_named = |line: &&&str| line.trim_start().starts_with(name);
        assert!(threads.iter().find(is_named).is_some(), "{name}: {text}");
    }
    let absent = plan.to_string();
    assert_eq!(text.matches(&absent).count(), usize::from(!absent.is_empty()).max(1), "{text}");
}

/// What `slackwater report --perf 1` says; nothing on stderr.
fn report(program: &mut Command, process: u32) -> String {
    let output = program.args(["report", &process.to_string(), "--perf", "1"]).output();
    let output = output.expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    String::from_utf8(output.stdout).expect("text")
}

/// The lines of the section of this name.
fn section<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let mut lines = text.lines().skip_while(|line| *line != name);
    assert!(lines.next().is_some(), "no section {name}: {text}");
    lines.take_while(|line| !line.is_empty()).collect()
}

#[test]
fn a_refusal_is_said_once_and_leaves_the_rest_as_it_is() {
    let shell = Shell::start();
    let text = report(&mut without_perf(), shell.id());
    let lines = section(&text, "Perf events of its threads");
    assert_eq!(lines.len(), 1, "{text}");
    assert!(lines[0].starts_with("  none: the kernel does not permit perf events"), "{text}");
    assert!(text.contains("Why RSS is what it is\n  live"), "{text}");

    let (events, uncounted, said) = demo(without_perf());
    assert!(events.is_none() && uncounted.is_none());
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("slackwater: --perf: the kernel does not permit"), "{said}");
}

/// The program under test where perf_event_open is forbidden.
fn without_perf() -> Command {
    let mut command = common::slackwater();
    let refusal = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let forbid = move || common::filter::set(&[libc::SYS_perf_event_open], refusal);
    // SAFETY: system calls and nothing else.
    unsafe { command.pre_exec(forbid) };
    command
}

#[test]
fn without_the_right_to_the_kernels_mode_there_are_no_context_switches() {
    let Some(plan) = plan() else { return };
    // SAFETY: it has no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    let limit = paranoid.ok().and_then(|text| text.trim().parse::<i32>().ok());
    if !is_root || plan.is_user_only() || limit != Some(2) {
        common::note("kernel.perf_event_paranoid is not 2, or this is not root");
        return;
    }
    let mut command = common::slackwater();
    // SAFETY: a system call and nothing else.
    unsafe { command.pre_exec(give_up_perfmon) };
    let (events, _, said) = demo(command);
    let events = events.expect("user mode is counted").series;
    assert!(events.keys().any(|labels| labels.contains("page_faults")), "{events:?}");
    assert!(!events.keys().any(|labels| labels.contains("context_switches")), "{events:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("user mode alone, so no context_switches"), "{said}");
}

/// What root executes from here on has the kernel's events no more.
fn give_up_perfmon() -> io::Result<()> {
    const CAP_SYS_ADMIN: libc::c_ulong = 21;
    const CAP_PERFMON: libc::c_ulong = 38;
    for capability in [CAP_SYS_ADMIN, CAP_PERFMON] {
        // SAFETY: plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[test]
fn a_process_is_watched_from_outside_to_its_end() {
    let Some(plan) = plan() else { return };
    let mut child = Command::new("sh")
        .args(["-c", "read line; echo $((1 + 1))"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut watch = Watch::begin(child.id()).expect("own child");
    // It has the name of this program for a moment yet.
    while only(&watch).name != "sh" {
        watch.look().expect("own child");
    }
    let before = only(&watch).counts[PerfEvent::TaskClock as usize];
    drop(child.stdin.take());
    child.wait().expect("it ends");
    watch.look().expect("that it has ended is no error");
    let after = only(&watch);
    assert_eq!(after.thread, child.id());
    assert!(after.counts[PerfEvent::TaskClock as usize] > before);
    for event in PerfEvent::ALL {
        let is_counted = after.counts[event as usize].is_some();
        assert_eq!(is_counted, plan.events().any(|one| one == event), "{}", event.name());
    }
}

#[test]
fn a_process_that_has_ended_has_no_threads() {
    if plan().is_none() {
        return;
    }
    let mut child = Command::new("true").spawn().expect("coreutils");
    // It is still there, as a number: nobody has asked for its exit code.
    while attach::start_time(child.id()).is_some() {
        std::thread::yield_now();
    }
    let watch = Watch::begin(child.id()).expect("that it has ended is no error");
    assert!(watch.read().is_empty() && !watch.has_left_some_out());
    child.wait().expect("it has ended");
}

fn only(watch: &Watch) -> ThreadCounts {
    let mut threads = watch.read();
    assert_eq!(threads.len(), 1);
    threads.remove(0)
}
