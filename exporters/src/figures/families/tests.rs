use std::collections::{BTreeMap, BTreeSet};

use slackwater::sections::SectionCounts;

use crate::figures::observation::{FleetFigures, Observation};
use crate::figures::residency::HeapResidency;
use crate::kernel::cgroup::CgroupMemory;
use crate::kernel::process::{ProcessMemory, ProportionalMemory};

use super::*;

/// A snapshot in which no two figures are equal, so that a mix-up shows. A field missing here
/// stays as it is, and is still compared.
fn numbered() -> Snapshot {
    let mut next = 0;
    let mut number = || {
        next += 1;
        next
    };
    let mut snapshot = slackwater::snapshot();
    macro_rules! number {
        ($($($path:ident).+),+ $(,)?) => { $(snapshot.$($path).+ = number();)+ };
    }
    number!(
        release_enqueued_total.small_page_retire,
        release_enqueued_total.sub4k_run_retire,
        release_enqueued_total.medium_run_reclaim,
        release_enqueued_total.large_free,
        release_coalesced_total,
        release_purged_pages_total.small_page_retire,
        release_purged_pages_total.sub4k_run_retire,
        release_purged_pages_total.medium_run_reclaim,
        release_purged_pages_total.large_free,
        release_purged_pages_total.span_interior,
        release_purged_bytes_total,
        release_madvise_calls_total,
        release_purge_ranges_total,
        release_dropped_total,
        release_reused_pages_total,
        release_refault_pages_total,
        release_errors_total,
        release_pending_bytes,
        takeovers_total.taken,
        takeovers_total.busy,
        takeovers_total.unavailable,
        epoch_ticks_total.idle,
        epoch_ticks_total.busy,
        memory_bytes.live,
        memory_bytes.rounding,
        memory_bytes.free_blocks,
        memory_bytes.thread_cache,
        memory_bytes.dirty,
        memory_bytes.metadata,
        memory_bytes.sampled,
        mapped_bytes,
        resident_bytes,
        threads,
        allocations_total.small,
        allocations_total.sub4k,
        allocations_total.medium,
        allocations_total.large,
        allocated_bytes_total,
        frees_total,
        refills_total,
        spills_total,
        os_calls_total.mmap,
        os_calls_total.madvise,
        os_calls_total.mremap,
        os_calls_total.membarrier,
        os_calls_total.clone,
        slow_path_total.uncached,
        slow_path_total.span_create,
        slow_path_total.large_alloc,
        slow_path_total.arena_grow,
        foreign_frees_total,
        allocation_failures_total,
        profile_samples_total,
        profile_dropped_total,
        profile_rate_bytes,
    );
    snapshot.release_oldest_age_seconds = number() as f64;
    snapshot.gate_state = GateState::Busy;
    snapshot.purge_duration_seconds.sum = number() as f64;
    snapshot.purge_batch_pages.sum = number() as f64;
    snapshot.release_seconds_total.tick = number() as f64;
    snapshot.release_seconds_total.takeover = number() as f64;
    for stage in
        [&mut snapshot.release_seconds_total.purge, &mut snapshot.release_seconds_total.kernel]
    {
        *stage = ByPurge::from([(); 5].map(|()| number() as f64));
    }
    for class in &mut snapshot.size_classes {
        *class =
            SizeClassBytes { block_bytes: number(), live_bytes: number(), span_bytes: number() };
    }
    snapshot
}

fn observation() -> Observation {
    Observation {
        snapshot: numbered(),
        process: ProcessMemory::read(),
        proportional: Some(ProportionalMemory::default()),
        residency: Some(HeapResidency::default()),
        stack_bytes: Some(0),
        cgroup: Some(CgroupMemory {
            limit_bytes: Some(1),
            current_bytes: Some(2),
            need_bytes: Some(3),
            high_bytes: Some(4),
            high_need_bytes: Some(5),
            high_events: Some(6),
            pressure_seconds: Some(0.5),
            ..CgroupMemory::default()
        }),
        observer_cpu_seconds: Some(0.25),
        trace_lost_events: Some(7),
        fleet: Some(FleetFigures::default()),
        sections: SectionCounts { counts: [[Some(7); 4]; 7], uncounted: [0; 4] },
    }
}

/// Every plain number of the snapshot's `Debug` form, as `field`, `field.nested` or deeper. The
/// struct can have fields that this crate does not know; its `Debug` form knows all of them.
fn debug_figures(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let mut figures = BTreeMap::new();
    let (mut field, mut nested) = ("", "");
    let text = format!("{snapshot:#?}");
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let Some((name, value)) = line.trim().split_once(": ") else {
            // An element of an array has no name.
            nested = "";
            continue;
        };
        let value = value.trim_end_matches(',');
        match indent {
            4 => {
                field = name;
                if !value.ends_with(['{', '[']) {
                    figures.insert(name.to_string(), value.to_string());
                }
            }
            8 => {
                nested = name;
                if !value.ends_with(['{', '[']) {
                    figures.insert(format!("{field}.{name}"), value.to_string());
                }
            }
            12 if !nested.is_empty() && !value.ends_with(['{', '[']) => {
                figures.insert(format!("{field}.{nested}.{name}"), value.to_string());
            }
            _ => {}
        }
    }
    figures
}

#[test]
fn every_figure_of_the_snapshot_is_exported_under_its_own_name() {
    let observation = observation();
    let mut exported = BTreeMap::new();
    for family in FAMILIES {
        family.series(&observation, &mut |labels, value| {
            // What is for no reason has none in its field's name.
            let labels = labels.iter().filter(|&&label| label != LabelValue::Word("none"));
            let labels: String = labels.map(|label| format!(".{label}")).collect();
            exported.insert(format!("{}{labels}", family.name), value);
        });
        family.histograms(&observation, &mut |_, histogram| {
            exported.insert(format!("{}.sum", family.name), histogram.sum);
        });
    }
    let figures = debug_figures(&observation.snapshot);
    assert!(figures.len() > 40, "the Debug form was not understood: {figures:?}");
    for (name, value) in figures {
        let value = match value.as_str() {
            "Idle" => 0.0,
            "Busy" => 1.0,
            number => number.parse::<f64>().expect("a number"),
        };
        assert_eq!(exported.get(&name), Some(&value), "{name}");
    }
    for class in &observation.snapshot.size_classes {
        for (name, value) in [("live", class.live_bytes), ("span", class.span_bytes)] {
            let name = format!("size_class_{name}_bytes.{}", class.block_bytes);
            assert_eq!(exported.get(&name), Some(&(value as f64)), "{name}");
        }
    }
}

#[test]
fn names_are_unique_and_follow_the_conventions() {
    let mut names = BTreeSet::new();
    for family in FAMILIES {
        let name = family.name;
        assert!(names.insert(name), "{name} is there twice");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        assert!(!name.starts_with(PREFIX), "{name}: the prefix is added later");
        let counter = family.type_name() == "counter";
        assert_eq!(counter, name.ends_with("_total"), "{name}");
        assert_eq!(family.unit == Some(Unit::Bytes), name.contains("_bytes"), "{name}");
        assert_eq!(family.unit == Some(Unit::Seconds), name.contains("_seconds"), "{name}");
        assert!(family.help.ends_with('.'), "{name}: help is a sentence");
        assert!(!family.help.contains(['\\', '"', '\n']), "{name}: help is written as it is");
    }
}

#[test]
fn series_have_the_labels_their_family_names_and_differ_from_each_other() {
    let observation = observation();
    for family in FAMILIES {
        let mut seen = Vec::new();
        family.series(&observation, &mut |labels, _| {
            assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
            assert!(!seen.contains(&labels.to_vec()), "{} {labels:?} twice", family.name);
            seen.push(labels.to_vec());
        });
        family.histograms(&observation, &mut |labels, _| seen.push(labels.to_vec()));
        assert!(!seen.is_empty(), "{} has no series", family.name);
    }
}

#[test]
fn size_classes_without_memory_are_left_out() {
    let mut observation = observation();
    observation.snapshot.size_classes.fill(SizeClassBytes::default());
    observation.snapshot.size_classes[3] =
        SizeClassBytes { block_bytes: 48, live_bytes: 0, span_bytes: 4096 };
    for name in ["size_class_live_bytes", "size_class_span_bytes"] {
        let family = FAMILIES.iter().find(|family| family.name == name).expect("in the table");
        let mut labels_seen = Vec::new();
        family.series(&observation, &mut |labels, _| labels_seen.extend_from_slice(labels));
        assert_eq!(labels_seen, [LabelValue::Number(48)], "{name}");
    }
}

#[test]
fn unknown_process_figures_are_absent() {
    let observation = Observation {
        process: None,
        proportional: None,
        residency: None,
        stack_bytes: None,
        cgroup: None,
        fleet: None,
        sections: SectionCounts::default(),
        ..observation()
    };
    for name in [
        "process_resident_bytes",
        "process_proportional_bytes",
        "rss_peak_bytes",
        "rss_bytes",
        "rss_unattributed_bytes",
        "untouched_bytes",
        "huge_backed_bytes",
        "cgroup_limit_bytes",
        "cgroup_current_bytes",
        "cgroup_need_bytes",
        "cgroup_high_bytes",
        "cgroup_high_need_bytes",
        "cgroup_events_total",
        "cgroup_pressure_seconds_total",
        "export_processes",
        "export_duration_seconds",
        "perf_events_total",
        "perf_uncounted_sections_total",
    ] {
        let family = FAMILIES.iter().find(|family| family.name == name).expect("in the table");
        family.series(&observation, &mut |_, _| panic!("{name} is not known here"));
    }
}
