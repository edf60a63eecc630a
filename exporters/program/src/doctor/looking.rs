//! What looking at programs from outside asks of the kernel: nothing of it is needed to give memory back.

use std::fs;

use slackwater_exporters::memory::ProcessMemoryReader;
use slackwater_exporters::perf::Plan;
use slackwater_exporters::residency::Pagemap;

use super::asking::{Answer, NO, YES, ask, untried, without_answer};
use super::finding::{Finding, Section, less, missing, works};
use super::status::{CAP_SYS_PTRACE, OwnStatus};

pub fn section(status: Option<&OwnStatus>) -> Section {
    let findings = vec![other_processes(status), pages(), events()];
    Section { title: "Observation: top, report, profile, export", is_essential: false, findings }
}

fn other_processes(status: Option<&OwnStatus>) -> Finding {
    const WHAT: &str = "other processes";
    let answer = ask(|| {
        let there = [YES; 1];
        let address = there.as_ptr().addr() as u64;
        let read = ProcessMemoryReader::own().try_read(address, &mut [NO]);
        if read.is_ok() { YES } else { NO }
    });
    if let Answer::NotAsked(error) = &answer {
        return untried(WHAT, error);
    }
    if !matches!(answer, Answer::Said(YES)) {
        return missing(
            WHAT,
            format!("process_vm_readv: {}: none can be looked at", without_answer(&answer)),
        );
    }
    let has_right = status.is_some_and(|status| status.has_any(&[CAP_SYS_PTRACE]));
    if has_right {
        return works(WHAT, "all can be looked at (CAP_SYS_PTRACE)");
    }
    // Without that module of the kernel's there is no such file.
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "" | "0" => works(WHAT, "this user's can be looked at; others' take CAP_SYS_PTRACE"),
        "1" => less(
            WHAT,
            "kernel.yama.ptrace_scope is 1: only what the observer has started (profile run, \
             doctor -- CMD); others take CAP_SYS_PTRACE",
        ),
        scope => {
            missing(WHAT, format!("kernel.yama.ptrace_scope is {scope}: it takes CAP_SYS_PTRACE"))
        }
    }
}

fn pages() -> Finding {
    const WHAT: &str = "PAGEMAP_SCAN";
    let lists_regions = || Pagemap::open("/proc/self/pagemap").is_ok_and(|map| map.lists_regions());
    match ask(|| if lists_regions() { YES } else { NO }) {
        Answer::Said(YES) => {
            works(WHAT, "the kernel tells which pages are backed, and which are huge")
        }
        Answer::NotAsked(error) => untried(WHAT, &error),
        other => less(
            WHAT,
            format!(
                "{} (before Linux 6.7 there is none): residency is read page by page, and pages of \
                 zeros count as memory",
                without_answer(&other)
            ),
        ),
    }
}

fn events() -> Finding {
    const WHAT: &str = "perf events";
    // The question makes descriptors and asks on each: in a child, a filter ends that alone.
    match ask(|| if Plan::probe().is_ok() { YES } else { NO }) {
        Answer::Said(_) => match Plan::probe() {
            Ok(plan) if plan.to_string().is_empty() => works(WHAT, "all that report --perf counts"),
            Ok(plan) => less(WHAT, plan.to_string()),
            Err(error) => missing(WHAT, error.to_string()),
        },
        Answer::NotAsked(error) => untried(WHAT, &error),
        other => missing(WHAT, format!("perf_event_open: {}", without_answer(&other))),
    }
}
