//! What the processor and the kernel counted: of a process's threads while it was watched, and in the
//! slow sections of its allocator where it counts them itself.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use slackwater::sections::{PerfEvent, Section, SectionCounts};
use slackwater_exporters::perf::PerfError;
use slackwater_exporters::perf::threads::{ThreadCounts, Watch};

use crate::amounts::{count, seconds};
use crate::descriptors;

/// How often to look for new threads.
const LOOK: Duration = Duration::from_millis(100);

/// So many threads have a line of their own.
const MAX_LINES: usize = 20;

/// Threads that were watched.
pub struct Watched {
    /// What they did.
    pub threads: Vec<ThreadCounts>,
    /// For how long they were watched.
    pub seconds: f64,
    /// What cannot be counted here; nothing if everything can.
    pub absent: String,
    /// There were more threads than descriptors for them.
    pub has_left_some_out: bool,
}

/// Watches the threads of a process for so many seconds; returns once they are over, come what may.
pub fn watch(process: u32, seconds: u64) -> Result<Watched, PerfError> {
    descriptors::raise_limit();
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    let mut watch = Watch::begin(process);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        thread::sleep(if watch.is_ok() { left.min(LOOK) } else { left });
        watch = watch.and_then(|mut watch| watch.look().map(|()| watch));
    }
    watch.map(|watch| Watched {
        threads: watch.read(),
        seconds: begin.elapsed().as_secs_f64(),
        absent: watch.plan().to_string(),
        has_left_some_out: watch.has_left_some_out(),
    })
}

/// The section on threads.
pub fn write_threads(text: &mut String, watched: &Result<Watched, PerfError>) {
    text.push_str("\nPerf events of its threads\n");
    let watched = match watched {
        Ok(watched) => watched,
        Err(error) => {
            let _ = writeln!(text, "  none: {error}");
            return;
        }
    };
    let mut threads: Vec<&ThreadCounts> = watched.threads.iter().collect();
    threads.sort_by_key(|thread| {
        (std::cmp::Reverse(thread.counts[PerfEvent::TaskClock as usize]), thread.thread)
    });
    let counted =
        |event: &PerfEvent| threads.iter().any(|one| one.counts[*event as usize].is_some());
    let events: Vec<PerfEvent> = ORDER.into_iter().filter(counted).collect();
    write_head(text, &format!("  {:<15} {:>8}", "thread", "number"), &events);
    for one in threads.iter().take(MAX_LINES) {
        let mut name = one.name.clone();
        if one.is_scaled {
            name.push('~');
        }
        let head = format!("  {name:<15} {:>8}", one.thread);
        write_row(text, &head, &events, |event| one.counts[event as usize]);
    }
    let sum = |threads: &[&ThreadCounts], event: PerfEvent| {
        let counts = threads.iter().filter_map(|one| one.counts[event as usize]);
        counts.reduce(u64::saturating_add)
    };
    if let Some(others @ [_, ..]) = threads.get(MAX_LINES..) {
        let head = format!("  {:<15} {:>8}", "others", others.len());
        write_row(text, &head, &events, |event| sum(others, event));
    }
    let head = format!("  {:<15} {:>8}", "all", threads.len());
    write_row(text, &head, &events, |event| sum(&threads, event));
    let _ = writeln!(text, "  (watched for {})", seconds(watched.seconds));
    if threads.iter().any(|one| one.is_scaled) {
        text.push_str("  (~: scaled, for the events took turns on the processor)\n");
    }
    if watched.has_left_some_out {
        text.push_str("  (some threads are left out: too many files would be open)\n");
    }
    if !watched.absent.is_empty() {
        let _ = writeln!(text, "  ({})", watched.absent);
    }
}

/// The section on the allocator's slow sections.
pub fn write_sections(text: &mut String, sections: &SectionCounts) {
    text.push_str("\nPerf events in slow sections, as the process has counted them\n");
    let counted = |event: &PerfEvent| sections.count(*event, Section::Refill).is_some();
    let events: Vec<PerfEvent> = ORDER.into_iter().filter(counted).collect();
    write_head(text, &format!("  {:<10}", "section"), &events);
    for section in Section::ALL {
        let head = format!("  {:<10}", section.name());
        write_row(text, &head, &events, |event| sections.count(event, section));
    }
    let uncounted: u64 = sections.uncounted.iter().fold(0, |sum, &one| sum.saturating_add(one));
    if uncounted > 0 {
        let uncounted = count(uncounted as f64);
        let _ = writeln!(text, "  (and {uncounted} sections not counted, for want of descriptors)");
    }
}

/// The columns, from left to right.
const ORDER: [PerfEvent; PerfEvent::ALL.len()] = [
    PerfEvent::TaskClock,
    PerfEvent::PageFaults,
    PerfEvent::ContextSwitches,
    PerfEvent::Cycles,
    PerfEvent::Instructions,
    PerfEvent::CacheMisses,
    PerfEvent::DtlbMisses,
];

fn heading(event: PerfEvent) -> &'static str {
    match event {
        PerfEvent::Cycles => "cycles",
        PerfEvent::Instructions => "instrs",
        PerfEvent::CacheMisses => "LLC misses",
        PerfEvent::DtlbMisses => "TLB misses",
        PerfEvent::TaskClock => "on CPU",
        PerfEvent::PageFaults => "faults",
        PerfEvent::ContextSwitches => "switches",
    }
}

fn write_head(text: &mut String, head: &str, events: &[PerfEvent]) {
    text.push_str(head);
    for &event in events {
        let _ = write!(text, " {:>10}", heading(event));
    }
    text.push('\n');
}

fn write_row(
    text: &mut String,
    head: &str,
    events: &[PerfEvent],
    value: impl Fn(PerfEvent) -> Option<u64>,
) {
    text.push_str(head);
    for &event in events {
        let shown = match value(event) {
            None => "-".to_string(),
            Some(nanos) if event == PerfEvent::TaskClock => time(nanos),
            Some(number) => count(number as f64),
        };
        let _ = write!(text, " {shown:>10}");
    }
    text.push('\n');
}

fn time(nanos: u64) -> String {
    match nanos {
        0..10_000_000 => format!("{:.1} us", nanos as f64 / 1e3),
        _ => seconds(nanos as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(thread: u32, clock: u64) -> ThreadCounts {
        let mut counts = [None; PerfEvent::ALL.len()];
        counts[PerfEvent::TaskClock as usize] = Some(clock);
        counts[PerfEvent::PageFaults as usize] = Some(u64::from(thread));
        ThreadCounts { thread, name: format!("worker-{thread}"), counts, is_scaled: thread == 7 }
    }

    fn watched(threads: u32) -> Watched {
        let threads = (1..=threads).map(|thread| one(thread, u64::from(thread) * 1000)).collect();
        let absent = "no cycles here".to_string();
        Watched { threads, seconds: 2.0, absent, has_left_some_out: true }
    }

    #[test]
    fn the_busiest_threads_come_first_and_all_are_in_the_sum() {
        let mut text = String::new();
        write_threads(&mut text, &Ok(watched(23)));
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(lines[1], "  thread            number     on CPU     faults");
        assert_eq!(lines[2], "  worker-23             23    23.0 us         23");
        assert!(text.contains("\n  worker-7~              7 "), "{text}");
        assert!(text.contains("\n  others                 3     6.0 us          6\n"), "{text}");
        assert!(text.contains("\n  all                   23   276.0 us        276\n"), "{text}");
        assert!(text.contains("took turns") && text.contains("left out"), "{text}");
        assert!(text.ends_with("\n  (no cycles here)\n"), "{text}");
        assert!(!text.contains("instrs"), "what is not counted has no column: {text}");
    }

    #[test]
    fn sections_have_the_columns_of_what_is_counted() {
        let mut sections = SectionCounts::default();
        sections.counts[PerfEvent::PageFaults as usize] = [Some(1), Some(2), Some(3), Some(4000)];
        sections.uncounted[0] = 5;
        let mut text = String::new();
        write_sections(&mut text, &sections);
        assert!(text.contains("\n  section        faults\n"), "{text}");
        assert!(text.contains("\n  purge            4.0k\n"), "{text}");
        assert!(text.contains("and 5 sections not counted"), "{text}");
    }
}
