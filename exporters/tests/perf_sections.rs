//! Perf events in the slow sections of this very program, whose allocator Slackwater is. One test:
//! what it counts is the whole process's.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::hint::black_box;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::thread;

use slackwater::sections::{PerfEvent, Section, counts};
use slackwater_exporters::Observation;
use slackwater_exporters::perf;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// Fills and empties bins until they spill: with more blocks than the longest one holds.
fn work() {
    for round in 0..3 {
        let blocks: Vec<Box<[u8; 100]>> = (0..40_000).map(|_| Box::new([round; 100])).collect();
        black_box(&blocks);
    }
}

/// The descriptors of this process that are perf events.
fn descriptors() -> BTreeSet<RawFd> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fd").expect("readable").flatten() {
        let is_event =
            fs::read_link(entry.path()).is_ok_and(|to| to.ends_with("anon_inode:[perf_event]"));
        let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        found.extend(number.filter(|_| is_event));
    }
    found
}

fn nanos(section: Section) -> u64 {
    counts().count(PerfEvent::TaskClock, section).expect("counted")
}

#[test]
fn sections_are_counted_wherever_the_process_goes() {
    assert!(!Observation::take().sections.is_counted(), "nobody has asked yet");
    let plan = match perf::count_sections() {
        Ok(plan) => plan,
        Err(error) => return common::skip_because(&error.to_string()),
    };
    assert_eq!(perf::count_sections(), Ok(plan));
    let per_thread = plan.events().count();

    work_is_counted();
    a_threads_descriptors_end_with_it(per_thread);
    the_ticker_is_counted_and_its_descriptors_are_its_own(per_thread);
    a_program_that_closes_everything_loses_nothing();
    a_forked_child_counts_for_itself(per_thread);
    an_executed_program_has_none();
    assert_eq!(counts().uncounted, [0; 4]);
}

fn work_is_counted() {
    work();
    slackwater::release_now();
    let observation = Observation::take();
    for section in [Section::Refill, Section::Spill, Section::Purge] {
        let nanos = observation.sections.count(PerfEvent::TaskClock, section);
        assert!(nanos > Some(0), "{section:?}: {:?}", observation.sections);
    }
}

fn a_threads_descriptors_end_with_it(per_thread: usize) {
    let before = descriptors();
    assert!(before.iter().all(|&descriptor| descriptor >= 256), "{before:?} are low numbers");
    let during = thread::spawn(|| {
        work();
        descriptors()
    });
    let during = during.join().expect("it works");
    assert_eq!(during.len(), before.len() + per_thread);
    assert_eq!(descriptors(), before);
}

fn the_ticker_is_counted_and_its_descriptors_are_its_own(per_thread: usize) {
    let before = nanos(Section::Tick);
    // Enough for a ticker, which ticks while this waits.
    let large: Vec<Vec<u8>> = (0..16).map(|_| vec![1; 1 << 20]).collect();
    while nanos(Section::Tick) == before {
        work();
        thread::yield_now();
    }
    drop(large);
    // This thread's, and the test harness's main thread's.
    assert!(descriptors().len() <= 2 * per_thread, "{:?}", descriptors());
}

/// What is at the numbers then is another's, and not read.
fn a_program_that_closes_everything_loses_nothing() {
    let closed = descriptors();
    let mut pipe = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) }, 0);
    let [reader, writer] = pipe.map(|end| {
        // SAFETY: just opened.
        unsafe { OwnedFd::from_raw_fd(end) }
    });
    let text = [7u8; 256];
    let write = || {
        // SAFETY: `text` has so many bytes.
        unsafe { libc::write(writer.as_raw_fd(), text.as_ptr().cast(), text.len()) }
    };
    assert_eq!(write(), 256);
    for &descriptor in &closed {
        // SAFETY: what was there is nobody's but the counters'.
        assert!(unsafe { libc::dup2(reader.as_raw_fd(), descriptor) } >= 0);
    }
    let before = nanos(Section::Refill);
    work();
    assert!(nanos(Section::Refill) > before, "it counts on");
    let mut waiting = 0;
    // SAFETY: the number of bytes is written to `waiting`.
    unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &raw mut waiting) };
    assert_eq!(waiting, 256, "somebody has read from the pipe");
    for &descriptor in &closed {
        let is_pipe = fs::read_link(format!("/proc/self/fd/{descriptor}"))
            .is_ok_and(|to| to.to_string_lossy().starts_with("pipe:"));
        assert!(is_pipe, "{descriptor} was closed, and was not the counters'");
        // SAFETY: this test's own.
        unsafe { libc::close(descriptor) };
    }
}

fn a_forked_child_counts_for_itself(per_thread: usize) {
    // A second thread's descriptors, which a child has no use for.
    let (tell, stop) = std::sync::mpsc::channel::<()>();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let other = thread::spawn(move || {
        work();
        ready.send(()).expect("it waits");
        let _ = stop.recv();
    });
    is_ready.recv().expect("it works");
    let before = descriptors();
    assert!(before.len() >= 2 * per_thread);
    // SAFETY: the child allocates, which Slackwater lets it, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let counted = nanos(Section::Refill);
        work();
        let is_right = descriptors().len() == per_thread && nanos(Section::Refill) > counted;
        // SAFETY: no preconditions.
        unsafe { libc::_exit(if is_right { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: `status` is a valid place.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the child has others' descriptors, or counts nothing");
    assert_eq!(descriptors(), before);
    drop(tell);
    other.join().expect("it ends");
}

fn an_executed_program_has_none() {
    let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output().expect("coreutils");
    let listed = String::from_utf8_lossy(&output.stdout);
    assert!(listed.contains("->") && !listed.contains("perf_event"), "{listed}");
}
