//! What looks wrong with a process's memory: a table of rules. Each is a pure function of the
//! evidence, and says what it saw in one sentence.

use slackwater_exporters::breakdown::Breakdown;

use super::evidence::{Evidence, Rule};
use crate::amounts::{bytes, count, percent, share};

/// Every rule, in the order in which suspects are told.
pub const RULES: &[Rule] = &[
    ("growth", growth),
    ("low occupancy", low_occupancy),
    ("untouched", untouched),
    ("thread caches", thread_caches),
    ("refaults", refaults),
    ("metadata", metadata),
    ("not the heap", not_the_heap),
    ("huge pages", huge_pages),
    ("unattributed", unattributed),
    ("memory limit", memory_limit),
    ("memory.high", memory_high),
    ("stalled", stalled),
    ("killed tasks", killed_tasks),
    ("failed allocations", failed_allocations),
];

/// A part of RSS that grows by more than this between two looks is a suspect.
const MIN_GROWTH_SHARE: f64 = 0.01;

/// Spans of a size class should be at least this full.
const MIN_OCCUPANCY: f64 = 0.5;

/// How many size classes are named, the worst first.
const MAX_NAMED: usize = 3;

/// Live memory should be written to, all but this share.
const MAX_UNTOUCHED: f64 = 0.25;

/// The most of RSS that caches and records should be.
const MAX_CACHED: f64 = 0.05;
const MAX_METADATA: f64 = 0.1;

/// Of the purged pages, the most that should come back.
const MAX_REFAULTS: f64 = 0.5;

/// Fewer purged pages than this are no sign of anything.
const MIN_PURGED_PAGES: f64 = 2560.0;

/// From this share of RSS on, anonymous memory that is not the heap is the answer. The program's and
/// its libraries' files are not counted: a small program is mostly that.
const MAX_OTHER: f64 = 0.5;

/// Of the control group's limit, how much may be needed.
const MAX_OF_LIMIT: f64 = 0.9;

/// In how much of the last ten seconds tasks may have waited for memory.
const MAX_STALLED_PERCENT: u64 = 10;

fn growth(evidence: &Evidence) -> Option<String> {
    let earlier = evidence.earlier.as_ref()?;
    // What is known apart in one look and not in the other has no growth.
    let stacks = evidence.breakdown.stacks.and(earlier.breakdown.stacks);
    let alike = |breakdown: &Breakdown| match stacks {
        Some(_) => *breakdown,
        None => breakdown.with_stacks(None),
    };
    let grown: Vec<String> = alike(&evidence.breakdown)
        .parts()
        .zip(alike(&earlier.breakdown).parts())
        .map(|(now, before)| (now.name, now.bytes.saturating_sub(before.bytes)))
        .filter(|&(_, more)| more >= 1 << 20)
        .filter(|&(_, more)| share(more, evidence.rss()) >= MIN_GROWTH_SHARE)
        .map(|(name, more)| {
            let rate = bytes((more as f64 / earlier.seconds) as u64);
            format!("{name} by {} ({rate}/s)", bytes(more))
        })
        .collect();
    (!grown.is_empty()).then(|| format!("what grew while it was watched: {}", grown.join(", ")))
}

fn low_occupancy(evidence: &Evidence) -> Option<String> {
    let free = |class: &slackwater::snapshot::SizeClassBytes| {
        class.span_bytes.saturating_sub(class.live_bytes)
    };
    // What has been purged inside spans pins nothing, whatever the occupancy is.
    if !evidence.matters(evidence.breakdown.free_blocks) {
        return None;
    }
    let mut low: Vec<_> = evidence
        .observation
        .snapshot
        .size_classes
        .iter()
        .filter(|class| share(class.live_bytes, class.span_bytes) < MIN_OCCUPANCY)
        .filter(|class| evidence.matters(free(class)))
        .collect();
    low.sort_by_key(|class| std::cmp::Reverse(free(class)));
    let named: Vec<String> = low
        .iter()
        .take(MAX_NAMED)
        .map(|class| {
            let occupancy = percent(share(class.live_bytes, class.span_bytes));
            format!("{} B ({occupancy} of {})", class.block_bytes, bytes(class.span_bytes))
        })
        .collect();
    (!named.is_empty()).then(|| {
        format!(
            "few live blocks keep many pages: size class {}; {} of free blocks are resident",
            named.join(", "),
            bytes(evidence.breakdown.free_blocks)
        )
    })
}

fn untouched(evidence: &Evidence) -> Option<String> {
    let untouched = evidence.breakdown.untouched;
    let live = evidence.breakdown.live + untouched;
    (evidence.matters(untouched) && share(untouched, live) > MAX_UNTOUCHED).then(|| {
        format!(
            "{} of what is live has never been written to ({}): buffers larger than their use; it \
             is not in RSS yet",
            bytes(untouched),
            percent(share(untouched, live))
        )
    })
}

fn thread_caches(evidence: &Evidence) -> Option<String> {
    let cached = evidence.breakdown.thread_cache;
    let of_rss = share(cached, evidence.rss());
    (evidence.matters(cached) && of_rss > MAX_CACHED).then(|| {
        format!(
            "the caches of {} threads hold {} ({} of RSS): SLACKWATER_CACHE_BYTES bounds each",
            evidence.observation.snapshot.threads,
            bytes(cached),
            percent(of_rss)
        )
    })
}

fn refaults(evidence: &Evidence) -> Option<String> {
    let figures = |observation: &slackwater_exporters::Observation| {
        let snapshot = &observation.snapshot;
        let purged = snapshot.release_purged_pages_total.sum();
        (snapshot.release_refault_pages_total as f64, purged as f64)
    };
    let (refaults, purged) = figures(&evidence.observation);
    let (refaults_before, purged_before) =
        evidence.earlier.as_ref().map_or((0.0, 0.0), |earlier| figures(&earlier.observation));
    let (refaults, purged) = (refaults - refaults_before, purged - purged_before);
    (purged >= MIN_PURGED_PAGES && refaults / purged > MAX_REFAULTS).then(|| {
        format!(
            "{} of {} purged pages came back ({}), each with a page fault: bursts come sooner than \
             the delay expects (SLACKWATER_DELAY_EPOCHS_IDLE)",
            count(refaults),
            count(purged),
            percent(refaults / purged)
        )
    })
}

fn metadata(evidence: &Evidence) -> Option<String> {
    let records = evidence.breakdown.metadata;
    let of_rss = share(records, evidence.rss());
    (evidence.matters(records) && of_rss > MAX_METADATA).then(|| {
        format!(
            "the allocator's records are {} of RSS ({}): of many threads, or of few blocks in many places \
             (those of a heap that was larger go back within seconds)",
            percent(of_rss),
            bytes(records)
        )
    })
}

fn not_the_heap(evidence: &Evidence) -> Option<String> {
    let b = &evidence.breakdown;
    let other = b.stacks.unwrap_or(0) + b.other_anon + b.shmem;
    let of_rss = share(other, evidence.rss());
    (evidence.matters(other) && of_rss > MAX_OTHER).then(|| {
        let stacks = b.stacks.map_or(String::new(), |stacks| format!("stacks {}, ", bytes(stacks)));
        let largest = match evidence.mappings.first() {
            None => String::new(),
            Some(one) => {
                format!("; the largest mapping is {} ({})", one.name, bytes(one.resident_bytes))
            }
        };
        format!(
            "most of RSS is neither the heap nor files ({}): {stacks}other_anon {}, shmem {}{largest}",
            percent(of_rss),
            bytes(b.other_anon),
            bytes(b.shmem)
        )
    })
}

fn huge_pages(evidence: &Evidence) -> Option<String> {
    let huge = evidence.observation.residency.as_ref()?.huge_bytes;
    let free = evidence.breakdown.free_blocks + evidence.breakdown.unattributed;
    (evidence.matters(huge) && evidence.matters(free)).then(|| {
        format!(
            "huge pages back {} of the heap: they fill what was given back (SLACKWATER_HUGE_PAGES)",
            bytes(huge)
        )
    })
}

fn unattributed(evidence: &Evidence) -> Option<String> {
    let unattributed = evidence.breakdown.unattributed;
    evidence.matters(unattributed).then(|| {
        format!(
            "{} at the heap's addresses are resident and in none of its books",
            bytes(unattributed)
        )
    })
}

fn memory_limit(evidence: &Evidence) -> Option<String> {
    let cgroup = evidence.observation.cgroup?;
    let (limit, need) = (cgroup.limit_bytes?, cgroup.need_bytes?);
    let cached = cgroup.current_bytes?.saturating_sub(need);
    near(need, limit).then(|| {
        format!(
            "the control group needs {} of its limit of {} ({}), and has {} of cached files beside \
             it{}",
            bytes(need),
            bytes(limit),
            percent(share(need, limit)),
            bytes(cached),
            times(cgroup.max_events, "came to the limit"),
        )
    })
}

fn memory_high(evidence: &Evidence) -> Option<String> {
    let cgroup = evidence.observation.cgroup?;
    let (high, need) = (cgroup.high_bytes?, cgroup.high_need_bytes?);
    near(need, high).then(|| {
        format!(
            "the control group needs {} of its memory.high of {} ({}), above which the kernel slows \
             its tasks down{}",
            bytes(need),
            bytes(high),
            percent(share(need, high)),
            times(cgroup.high_events, "throttled"),
        )
    })
}

fn stalled(evidence: &Evidence) -> Option<String> {
    let percent = evidence.observation.cgroup?.pressure_percent?;
    (percent >= MAX_STALLED_PERCENT).then(|| {
        format!(
            "tasks of the control group waited for memory in {percent}% of the last ten seconds"
        )
    })
}

fn failed_allocations(evidence: &Evidence) -> Option<String> {
    let failed = evidence.observation.snapshot.allocation_failures_total;
    (failed > 0).then(|| {
        let allocations = if failed == 1 { "allocation" } else { "allocations" };
        format!(
            "{} {allocations} got no memory: a limit (ulimit -v, the control group, overcommit), or \
             a size that nobody has",
            count(failed as f64)
        )
    })
}

fn killed_tasks(evidence: &Evidence) -> Option<String> {
    let killed = evidence.observation.cgroup?.oom_kill_events?;
    let before =
        evidence.earlier.as_ref().and_then(|look| look.observation.cgroup?.oom_kill_events);
    (killed > 0).then(|| {
        let meanwhile = match before.map_or(0, |before| killed.saturating_sub(before)) {
            0 => String::new(),
            more => format!(", {more} of them while it was watched"),
        };
        let tasks = if killed == 1 { "task" } else { "tasks" };
        format!(
            "the kernel has killed {killed} {tasks} of the control group for want of memory{meanwhile}"
        )
    })
}

/// Whether so much of a limit is worth a sentence. Of a limit of nothing everything is.
fn near(need: u64, limit: u64) -> bool {
    need as f64 > MAX_OF_LIMIT * limit as f64
}

/// How often something has happened, if it is known and has.
fn times(events: Option<u64>, what: &str) -> String {
    match events {
        None | Some(0) => String::new(),
        Some(1) => format!("; {what} once so far"),
        Some(events) => format!("; {what} {} times so far", count(events as f64)),
    }
}

#[cfg(test)]
mod tests {
    use slackwater::snapshot::SizeClassBytes;
    use slackwater_exporters::cgroup::CgroupMemory;
    use slackwater_exporters::mappings::MappingUse;

    use super::*;
    use crate::report::evidence::{self, Earlier, Heard};

    fn said(change: impl Fn(&mut Evidence)) -> Vec<Heard> {
        evidence::said(RULES, change)
    }

    fn purge(evidence: &mut Evidence, purged: u64, refaults: u64) {
        evidence.observation.snapshot.release_purged_pages_total.large_free = purged;
        evidence.observation.snapshot.release_refault_pages_total = refaults;
    }

    /// The evidence of a moment before, which `change` makes different.
    fn look_before(evidence: &mut Evidence, change: impl Fn(&mut Evidence)) {
        let mut before = Evidence::made_up();
        change(&mut before);
        let Evidence { observation, breakdown, .. } = before;
        evidence.earlier = Some(Earlier { observation, breakdown, seconds: 10.0 });
    }

    fn class(block_bytes: u64, live_mib: u64, span_mib: u64) -> SizeClassBytes {
        SizeClassBytes { block_bytes, live_bytes: live_mib << 20, span_bytes: span_mib << 20 }
    }

    #[test]
    fn a_process_that_is_well_is_not_suspected() {
        assert_eq!(said(|_| {}), []);
        assert_eq!(said(|e| look_before(e, |_| {})), []);
        assert_eq!(said(|e| look_before(e, |before| before.breakdown.live += 50 << 20)), []);
    }

    #[test]
    fn each_suspect_is_found_alone() {
        type Case = (&'static str, fn(&mut Evidence), &'static str);
        let cases: &[Case] = &[
            (
                "growth",
                |e| look_before(e, |before| before.breakdown.live -= 20 << 20),
                "live by 20.0 MiB (2.0 MiB/s)",
            ),
            (
                "low occupancy",
                |e| {
                    e.breakdown.free_blocks = 30 << 20;
                    e.observation.snapshot.size_classes[3] = class(64, 30, 32);
                    e.observation.snapshot.size_classes[9] = class(112, 4, 40);
                },
                "size class 112 B (10.0% of 40.0 MiB); 30.0 MiB",
            ),
            ("untouched", |e| e.breakdown.untouched = 60 << 20, "60.0 MiB of what is live"),
            (
                "thread caches",
                |e| e.breakdown.thread_cache = 9 << 20,
                "of 4 threads hold 9.0 MiB (8.3%",
            ),
            ("refaults", |e| purge(e, 10_000, 6_000), "6.0k of 10.0k purged pages"),
            (
                "refaults",
                |e| {
                    purge(e, 20_000, 8_000);
                    look_before(e, |before| purge(before, 10_000, 1_000));
                },
                "7.0k of 10.0k purged pages",
            ),
            ("metadata", |e| e.breakdown.metadata = 25 << 20, "20.0% of RSS (25.0 MiB)"),
            (
                "not the heap",
                |e| e.breakdown.other_anon = 200 << 20,
                "nor files (66.7%): other_anon 200.0 MiB, shmem 0 B",
            ),
            (
                "not the heap",
                |e| {
                    e.breakdown.stacks = Some(150 << 20);
                    e.breakdown.other_anon = 50 << 20;
                    let (name, resident_bytes) = ("7f00-7fff".to_string(), 40 << 20);
                    e.mappings = vec![MappingUse { name, resident_bytes }];
                },
                "(66.7%): stacks 150.0 MiB, other_anon 50.0 MiB, shmem 0 B; the largest mapping is \
                 7f00-7fff (40.0 MiB)",
            ),
            (
                "huge pages",
                |e| {
                    e.breakdown.free_blocks = 30 << 20;
                    e.observation.residency.as_mut().expect("made up").huge_bytes = 64 << 20;
                },
                "back 64.0 MiB",
            ),
            ("unattributed", |e| e.breakdown.unattributed = 3 << 20, "3.0 MiB at the heap's"),
            (
                "memory limit",
                |e| {
                    e.observation.cgroup = Some(CgroupMemory {
                        limit_bytes: Some(200 << 20),
                        current_bytes: Some(195 << 20),
                        need_bytes: Some(190 << 20),
                        max_events: Some(1),
                        ..CgroupMemory::default()
                    });
                },
                "190.0 MiB of its limit of 200.0 MiB (95.0%), and has 5.0 MiB of cached files beside \
                 it; came to the limit once so far",
            ),
            (
                "memory.high",
                |e| {
                    e.observation.cgroup = Some(CgroupMemory {
                        high_bytes: Some(200 << 20),
                        high_need_bytes: Some(199 << 20),
                        high_events: Some(48_211),
                        ..CgroupMemory::default()
                    });
                },
                "199.0 MiB of its memory.high of 200.0 MiB (99.5%), above which the kernel slows its \
                 tasks down; throttled 48.2k times so far",
            ),
            (
                "stalled",
                |e| {
                    e.observation.cgroup =
                        Some(CgroupMemory { pressure_percent: Some(93), ..Default::default() });
                },
                "in 93% of the last ten seconds",
            ),
            (
                "failed allocations",
                |e| e.observation.snapshot.allocation_failures_total = 5,
                "5 allocations got no memory",
            ),
            (
                "killed tasks",
                |e| {
                    let killed = |tasks| {
                        Some(CgroupMemory { oom_kill_events: Some(tasks), ..Default::default() })
                    };
                    e.observation.cgroup = killed(3);
                    look_before(e, |before| before.observation.cgroup = killed(1));
                },
                "has killed 3 tasks of the control group for want of memory, 2 of them while",
            ),
        ];
        for (name, change, mention) in cases {
            let said = said(change);
            assert_eq!(said.len(), 1, "{name}: {said:?}");
            assert_eq!(said[0].0, *name);
            assert!(said[0].1.contains(mention), "{mention}: {said:?}");
        }
        for (name, _) in RULES {
            assert!(cases.iter().any(|case| case.0 == *name), "{name} has no case");
        }
    }

    #[test]
    fn amounts_that_do_not_matter_are_no_suspects() {
        let cases: &[fn(&mut Evidence)] = &[
            |e| look_before(e, |before| before.breakdown.live -= 1 << 19),
            |e| e.observation.snapshot.size_classes[9] = class(112, 4, 40),
            |e| e.breakdown.untouched = 20 << 20,
            |e| e.breakdown.thread_cache = 4 << 20,
            |e| purge(e, 2_000, 2_000),
            |e| purge(e, 10_000, 4_000),
            |e| e.breakdown.metadata = 10 << 20,
            |e| e.breakdown.other_anon = 50 << 20,
            |e| e.breakdown.unattributed = 1 << 20,
            // At its limit by cached files, and never above it by need.
            |e| {
                e.observation.cgroup = Some(CgroupMemory {
                    limit_bytes: Some(128 << 20),
                    current_bytes: Some(128 << 20),
                    need_bytes: Some(16 << 20),
                    high_bytes: Some(120 << 20),
                    high_need_bytes: Some(16 << 20),
                    high_events: Some(700),
                    max_events: Some(700),
                    oom_kill_events: Some(0),
                    pressure_percent: Some(9),
                    ..CgroupMemory::default()
                });
            },
        ];
        for (i, change) in cases.iter().enumerate() {
            assert_eq!(said(change), [], "case {i}");
        }
    }
}
