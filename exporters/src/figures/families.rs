//! The one table of metric families: name, type, unit, help, labels, and how to read the values.
//!
//! Everything that shows a metric walks [`FAMILIES`]: what is published through the `metrics`
//! facade, the endpoint's `/metrics` and `/snapshot.json`. A family that is not in the table does
//! not exist; a field of the `Snapshot` that is not in the table fails a test.
//!
//! Names are the `Snapshot`'s field names. Units are base units, counters end in `_total`, and what
//! may go back is a gauge. A label never holds anything whose values a program can make without
//! bound: no thread, address or stack.

use slackwater::sections::{PerfEvent, Section};
use slackwater::snapshot::{
    ByPurge, ByReason, GateState, ReleaseSeconds, SizeClassBytes, Snapshot,
};

use crate::figures::breakdown::{Breakdown, UNATTRIBUTED};
pub use crate::figures::family::{Family, LabelValue, PREFIX, Put, Read, Unit};
use crate::figures::family::{counter, gauge, histogram, seconds_total, state};

/// The label value of a field: the field's own name.
macro_rules! words {
    ($put:expr, $from:expr, $as:ty, [$($field:ident),+ $(,)?]) => {{
        $($put(&[LabelValue::Word(stringify!($field))], $from.$field as $as);)+
    }};
}

/// A figure of each kind of page that is given back, by the name of its field.
pub(crate) fn by_purge<T: Copy>(values: &ByPurge<T>) -> [(&'static str, T); 5] {
    let ByPurge { small_page_retire, sub4k_run_retire, .. } = *values;
    let ByPurge { medium_run_reclaim, large_free, span_interior, .. } = *values;
    [
        ("small_page_retire", small_page_retire),
        ("sub4k_run_retire", sub4k_run_retire),
        ("medium_run_reclaim", medium_run_reclaim),
        ("large_free", large_free),
        ("span_interior", span_interior),
    ]
}

fn by_reason(values: &ByReason<u64>, put: Put<'_, u64>) {
    words!(put, values, u64, [small_page_retire, sub4k_run_retire, medium_run_reclaim, large_free]);
}

/// The purges' part of the time spent on release; what is for no kind of page has the reason `none`.
fn by_stage(seconds: &ReleaseSeconds, put: Put<'_, f64>) {
    let word = LabelValue::Word;
    put(&[word("tick"), word("none")], seconds.tick);
    put(&[word("takeover"), word("none")], seconds.takeover);
    for (stage, by_reason) in [("purge", &seconds.purge), ("kernel", &seconds.kernel)] {
        for (reason, value) in by_purge(by_reason) {
            put(&[word(stage), word(reason)], value);
        }
    }
}

/// Classes without memory are left out, so that a small program has few series.
fn by_size_class(snapshot: &Snapshot, put: Put<'_, f64>, bytes: fn(&SizeClassBytes) -> u64) {
    for class in &snapshot.size_classes {
        if class.span_bytes > 0 || class.live_bytes > 0 {
            put(&[LabelValue::Number(class.block_bytes)], bytes(class) as f64);
        }
    }
}

/// Every family, in three groups: release, memory, work.
pub static FAMILIES: &[Family] = &[
    counter(
        "release_enqueued_total",
        Unit::Count,
        &["reason"],
        "Ranges of free pages accepted by the release boundary.",
        |s, put| by_reason(&s.snapshot.release_enqueued_total, put),
    ),
    counter(
        "release_coalesced_total",
        Unit::Count,
        &[],
        "Enqueued ranges that joined a range already waiting for its purge.",
        |s, put| put(&[], s.snapshot.release_coalesced_total),
    ),
    counter(
        "release_purged_pages_total",
        Unit::Count,
        &["reason"],
        "Pages of 4 KiB given back to the system: free ones by the reason of their release, and \
         those inside spans in use.",
        |s, put| {
            for (reason, pages) in by_purge(&s.snapshot.release_purged_pages_total) {
                put(&[LabelValue::Word(reason)], pages);
            }
        },
    ),
    counter(
        "release_purged_bytes_total",
        Unit::Bytes,
        &[],
        "Bytes given back to the system.",
        |s, put| put(&[], s.snapshot.release_purged_bytes_total),
    ),
    counter(
        "release_madvise_calls_total",
        Unit::Count,
        &[],
        "System calls made to give pages back.",
        |s, put| put(&[], s.snapshot.release_madvise_calls_total),
    ),
    counter(
        "release_purge_ranges_total",
        Unit::Count,
        &[],
        "Ranges handed to those calls.",
        |s, put| put(&[], s.snapshot.release_purge_ranges_total),
    ),
    counter(
        "release_dropped_total",
        Unit::Count,
        &[],
        "Free pages that the ledger has lost track of; 0 by design.",
        |s, put| put(&[], s.snapshot.release_dropped_total),
    ),
    counter(
        "release_reused_pages_total",
        Unit::Count,
        &[],
        "Free pages taken back into use before their purge.",
        |s, put| put(&[], s.snapshot.release_reused_pages_total),
    ),
    counter(
        "release_refault_pages_total",
        Unit::Count,
        &[],
        "Pages allocated again after their purge; each costs a page fault.",
        |s, put| put(&[], s.snapshot.release_refault_pages_total),
    ),
    counter(
        "release_errors_total",
        Unit::Count,
        &[],
        "Purges that the kernel refused.",
        |s, put| put(&[], s.snapshot.release_errors_total),
    ),
    gauge(
        "release_pending_bytes",
        Unit::Bytes,
        &[],
        "Free pages that wait for their purge.",
        |s, put| put(&[], s.snapshot.release_pending_bytes as f64),
    ),
    gauge(
        "release_oldest_age_seconds",
        Unit::Seconds,
        &[],
        "For how long the oldest of the pending pages have been waiting.",
        |s, put| put(&[], s.snapshot.release_oldest_age_seconds),
    ),
    histogram(
        "purge_duration_seconds",
        Unit::Seconds,
        "How long purges took; each gives one batch of ranges back.",
        |s, put| put(&[], s.snapshot.purge_duration_seconds),
    ),
    histogram(
        "purge_batch_pages",
        Unit::Count,
        "How many pages purges gave back, each in one batch of ranges.",
        |s, put| put(&[], s.snapshot.purge_batch_pages),
    ),
    seconds_total(
        "release_seconds_total",
        &["stage", "reason"],
        "Time that threads spent on giving memory back: in ticks, taking caches over, around purges \
         and in the kernel for them. The stages exclude each other.",
        |s, put| by_stage(&s.snapshot.release_seconds_total, put),
    ),
    counter(
        "takeovers_total",
        Unit::Count,
        &["result"],
        "Attempts to take over the cache of a thread whose blocks rest.",
        |s, put| words!(put, s.snapshot.takeovers_total, u64, [taken, busy, unavailable]),
    ),
    counter(
        "epoch_ticks_total",
        Unit::Count,
        &["gate"],
        "Ticks of the release machinery, by what the gate decided.",
        |s, put| words!(put, s.snapshot.epoch_ticks_total, u64, [idle, busy]),
    ),
    state(
        "gate_state",
        &[],
        "What the gate decided at the last tick: 0 idle (give everything back), 1 busy.",
        |s, put| {
            let busy = s.snapshot.gate_state == GateState::Busy;
            put(&[], f64::from(u8::from(busy)));
        },
    ),
    gauge(
        "memory_bytes",
        Unit::Bytes,
        &["class"],
        "Where the heap's bytes are. The classes exclude each other and sum to resident_bytes.",
        |s, put| {
            words!(
                put,
                s.snapshot.memory_bytes,
                f64,
                [live, rounding, free_blocks, thread_cache, dirty, metadata, sampled]
            );
        },
    ),
    gauge(
        "mapped_bytes",
        Unit::Bytes,
        &[],
        "Address space of the arena in use, backed by memory or not.",
        |s, put| put(&[], s.snapshot.mapped_bytes as f64),
    ),
    gauge(
        "resident_bytes",
        Unit::Bytes,
        &[],
        "The allocator's estimate of the heap's resident memory: the sum of memory_bytes.",
        |s, put| put(&[], s.snapshot.resident_bytes as f64),
    ),
    gauge(
        "process_resident_bytes",
        Unit::Bytes,
        &["kind"],
        "The process's resident memory as the kernel counts it.",
        |s, put| {
            if let Some(process) = &s.process {
                put(&[LabelValue::Word("anon")], process.anon_bytes as f64);
                put(&[LabelValue::Word("file")], process.file_bytes as f64);
                put(&[LabelValue::Word("shmem")], process.shmem_bytes as f64);
            }
        },
    ),
    gauge(
        "process_proportional_bytes",
        Unit::Bytes,
        &["kind"],
        "Resident memory of which what processes share is divided by their number (PSS); taken less \
         often than the rest, and by `slackwater export` alone.",
        |s, put| {
            if let Some(shared) = &s.proportional {
                put(&[LabelValue::Word("anon")], shared.anon_bytes as f64);
                put(&[LabelValue::Word("file")], shared.file_bytes as f64);
                put(&[LabelValue::Word("shmem")], shared.shmem_bytes as f64);
            }
        },
    ),
    gauge(
        "rss_bytes",
        Unit::Bytes,
        &["part"],
        "Why RSS is what it is: its parts, which exclude each other. With rss_unattributed_bytes \
         they sum to process_resident_bytes.",
        |s, put| {
            for part in s.breakdown().iter().flat_map(Breakdown::parts) {
                if part.name != UNATTRIBUTED {
                    put(&[LabelValue::Word(part.name)], part.bytes as f64);
                }
            }
        },
    ),
    gauge(
        "rss_unattributed_bytes",
        Unit::Bytes,
        &[],
        "Resident memory at the heap's addresses that the allocator's books do not explain.",
        |s, put| {
            if let Some(breakdown) = s.breakdown() {
                put(&[], breakdown.unattributed as f64);
            }
        },
    ),
    gauge(
        "untouched_bytes",
        Unit::Bytes,
        &[],
        "Live memory that is not resident, as nobody has written to it yet.",
        |s, put| {
            if let Some(breakdown) = s.breakdown() {
                put(&[], breakdown.untouched as f64);
            }
        },
    ),
    gauge(
        "swapped_bytes",
        Unit::Bytes,
        &["of"],
        "Memory that is swapped out, and so no part of RSS: the heap's, and the rest of the process's.",
        |s, put| {
            let process = s.process.as_ref().and_then(|process| process.swapped_bytes);
            if let (Some(process), Some(residency)) = (process, &s.residency) {
                let heap = residency.swapped_bytes;
                put(&[LabelValue::Word("heap")], heap as f64);
                put(&[LabelValue::Word("rest")], process.saturating_sub(heap) as f64);
            }
        },
    ),
    gauge(
        "huge_backed_bytes",
        Unit::Bytes,
        &[],
        "Memory at the heap's addresses that the kernel backs with huge pages.",
        |s, put| {
            if let Some(residency) = &s.residency {
                put(&[], residency.huge_bytes as f64);
            }
        },
    ),
    gauge(
        "cgroup_limit_bytes",
        Unit::Bytes,
        &[],
        "The lowest memory limit that holds for the process's control group (memory.max).",
        |s, put| {
            if let Some(value) = s.cgroup.and_then(|cgroup| cgroup.limit_bytes) {
                put(&[], value as f64);
            }
        },
    ),
    gauge(
        "cgroup_current_bytes",
        Unit::Bytes,
        &[],
        "Memory that counts towards that limit now, page cache included.",
        |s, put| {
            if let Some(value) = s.cgroup.and_then(|cgroup| cgroup.current_bytes) {
                put(&[], value as f64);
            }
        },
    ),
    gauge(
        "cgroup_need_bytes",
        Unit::Bytes,
        &[],
        "The same less cached files, which the kernel drops before anything fails.",
        |s, put| {
            if let Some(value) = s.cgroup.and_then(|cgroup| cgroup.need_bytes) {
                put(&[], value as f64);
            }
        },
    ),
    gauge(
        "cgroup_high_bytes",
        Unit::Bytes,
        &[],
        "The lowest limit above which the control group's tasks are slowed down (memory.high).",
        |s, put| {
            if let Some(value) = s.cgroup.and_then(|cgroup| cgroup.high_bytes) {
                put(&[], value as f64);
            }
        },
    ),
    gauge(
        "cgroup_high_need_bytes",
        Unit::Bytes,
        &[],
        "Memory that counts towards memory.high now, less cached files.",
        |s, put| {
            if let Some(value) = s.cgroup.and_then(|cgroup| cgroup.high_need_bytes) {
                put(&[], value as f64);
            }
        },
    ),
    counter(
        "cgroup_events_total",
        Unit::Count,
        &["event"],
        "What befell the control group: above memory.high, at its limit, out of memory, tasks killed.",
        |s, put| {
            let Some(cgroup) = &s.cgroup else { return };
            for (event, count) in [
                ("high", cgroup.high_events),
                ("max", cgroup.max_events),
                ("oom", cgroup.oom_events),
                ("oom_kill", cgroup.oom_kill_events),
            ] {
                if let Some(count) = count {
                    put(&[LabelValue::Word(event)], count);
                }
            }
        },
    ),
    seconds_total(
        "cgroup_pressure_seconds_total",
        &[],
        "For how long some task of the control group has been waiting for memory.",
        |s, put| {
            if let Some(seconds) = s.cgroup.and_then(|cgroup| cgroup.pressure_seconds) {
                put(&[], seconds);
            }
        },
    ),
    gauge(
        "rss_peak_bytes",
        Unit::Bytes,
        &[],
        "The highest resident size of the process so far.",
        |s, put| {
            if let Some(process) = &s.process {
                put(&[], process.peak_bytes as f64);
            }
        },
    ),
    gauge(
        "size_class_live_bytes",
        Unit::Bytes,
        &["size_class"],
        "Live blocks of each size class; the label is the block size in bytes.",
        |s, put| by_size_class(&s.snapshot, put, |class| class.live_bytes),
    ),
    gauge(
        "size_class_span_bytes",
        Unit::Bytes,
        &["size_class"],
        "Pages held by the spans of each size class; the label is the block size in bytes.",
        |s, put| by_size_class(&s.snapshot, put, |class| class.span_bytes),
    ),
    gauge("threads", Unit::Count, &[], "Threads that have a thread cache.", |s, put| {
        put(&[], s.snapshot.threads as f64);
    }),
    counter(
        "allocations_total",
        Unit::Count,
        &["kind"],
        "Allocations, by coverage kind.",
        |s, put| words!(put, s.snapshot.allocations_total, u64, [small, sub4k, medium, large]),
    ),
    counter("allocated_bytes_total", Unit::Bytes, &[], "Bytes asked for.", |s, put| {
        put(&[], s.snapshot.allocated_bytes_total);
    }),
    counter("frees_total", Unit::Count, &[], "Blocks given back by the program.", |s, put| {
        put(&[], s.snapshot.frees_total);
    }),
    counter(
        "refills_total",
        Unit::Count,
        &[],
        "Times an empty bin of a thread cache was filled from spans.",
        |s, put| put(&[], s.snapshot.refills_total),
    ),
    counter(
        "spills_total",
        Unit::Count,
        &[],
        "Times a full bin of a thread cache gave blocks back to spans.",
        |s, put| put(&[], s.snapshot.spills_total),
    ),
    counter(
        "os_calls_total",
        Unit::Count,
        &["call"],
        "System calls made by the allocator.",
        |s, put| {
            words!(put, s.snapshot.os_calls_total, u64, [mmap, madvise, mremap, membarrier, clone]);
        },
    ),
    counter(
        "slow_path_total",
        Unit::Count,
        &["path"],
        "Times malloc or free left its fast path, by where it went.",
        |s, put| {
            words!(
                put,
                s.snapshot.slow_path_total,
                u64,
                [uncached, span_create, large_alloc, arena_grow]
            );
        },
    ),
    counter(
        "foreign_frees_total",
        Unit::Count,
        &[],
        "Frees and resizes of blocks of another allocator, which it made if there is one.",
        |s, put| put(&[], s.snapshot.foreign_frees_total),
    ),
    counter(
        "allocation_failures_total",
        Unit::Count,
        &[],
        "Allocations that got no memory: null, and ENOMEM in C.",
        |s, put| put(&[], s.snapshot.allocation_failures_total),
    ),
    counter(
        "profile_samples_total",
        Unit::Count,
        &[],
        "Allocations that the profiler has remembered.",
        |s, put| put(&[], s.snapshot.profile_samples_total),
    ),
    counter(
        "profile_dropped_total",
        Unit::Count,
        &[],
        "Allocations that the profiler could not remember, or without their call stack.",
        |s, put| put(&[], s.snapshot.profile_dropped_total),
    ),
    gauge(
        "profile_rate_bytes",
        Unit::Bytes,
        &[],
        "The mean distance of the allocations that the profiler remembers, in allocated bytes; 0: none.",
        |s, put| put(&[], s.snapshot.profile_rate_bytes as f64),
    ),
    seconds_total(
        "observer_cpu_seconds_total",
        &[],
        "CPU time that collecting, rendering and serving these figures has cost the process.",
        |s, put| {
            if let Some(seconds) = s.observer_cpu_seconds {
                put(&[], seconds);
            }
        },
    ),
    counter(
        "perf_events_total",
        Unit::Count,
        &["event", "scope"],
        "What the processor and the kernel counted in slow sections of the allocator, in each without \
         those inside it, as far as they can count it here; only in a process that asks for it.",
        |s, put| {
            for event in PerfEvent::ALL {
                for scope in Section::ALL {
                    if let Some(count) = s.sections.count(event, scope) {
                        let labels = [event.name(), scope.name()].map(LabelValue::Word);
                        put(&labels, count);
                    }
                }
            }
        },
    ),
    counter(
        "perf_uncounted_sections_total",
        Unit::Count,
        &["scope"],
        "Slow sections in which nothing was counted, for want of descriptors.",
        |s, put| {
            for scope in Section::ALL.into_iter().filter(|_| s.sections.is_counted()) {
                put(&[LabelValue::Word(scope.name())], s.sections.uncounted[scope as usize]);
            }
        },
    ),
    counter(
        "trace_lost_events_total",
        Unit::Count,
        &[],
        "Events of the allocator's journal that were overwritten before they could be told to tracing.",
        |s, put| {
            if let Some(lost) = s.trace_lost_events {
                put(&[], lost);
            }
        },
    ),
    gauge(
        "export_processes",
        Unit::Count,
        &["result"],
        "Processes that `slackwater export` looked at, by result; only its own process has this.",
        |s, put| {
            if let Some(fleet) = &s.fleet {
                words!(put, fleet, f64, [read, refused, failed]);
            }
        },
    ),
    gauge(
        "export_duration_seconds",
        Unit::Seconds,
        &[],
        "How long `slackwater export` took to read them all.",
        |s, put| {
            if let Some(fleet) = &s.fleet {
                put(&[], fleet.seconds);
            }
        },
    ),
    state(
        "build_info",
        &["version"],
        "Always 1; the label is the version of Slackwater.",
        |_, put| put(&[LabelValue::Word(env!("CARGO_PKG_VERSION"))], 1.0),
    ),
];

#[cfg(test)]
mod tests;
