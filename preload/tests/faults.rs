//! System calls that fail: a C workload under the library stays right while seccomp refuses one of
//! the calls that an allocator lives on, from the start or from the middle of its life.

#[path = "support/checks.rs"]
mod checks;
#[path = "support/programs_in_c.rs"]
mod programs_in_c;
mod support;

use support::Outcome;

/// The exit code of `faults.c` for "no filter can be installed here".
const NO_SECCOMP: i32 = 77;

fn survives(outcome: Outcome) {
    if outcome.status.code() == Some(NO_SECCOMP) {
        support::skipped("faults", outcome.stderr.trim());
    } else {
        outcome.expect_success();
    }
}

checks::checks!(
    "faults.c",
    survives,
    [
        early_process_madvise_enosys,
        late_process_madvise_enosys,
        early_process_madvise_eperm,
        late_process_madvise_eperm,
        early_process_madvise_einval,
        late_process_madvise_einval,
        early_process_madvise_pretends,
        late_process_madvise_pretends,
        early_pidfd_open_enosys,
        late_pidfd_open_enosys,
        early_pidfd_open_emfile,
        late_pidfd_open_emfile,
        early_membarrier_enosys,
        late_membarrier_enosys,
        early_membarrier_eperm,
        late_membarrier_eperm,
        early_madvise_einval,
        late_madvise_einval,
        early_madvise_enomem,
        late_madvise_enomem,
        early_madvise_pretends,
        late_madvise_pretends,
        early_mremap_enomem,
        late_mremap_enomem,
        late_mmap_enomem,
        late_mprotect_enomem,
        late_munmap_enomem,
        early_prctl_einval,
        late_prctl_einval,
        early_getrandom_enosys,
        late_getrandom_enosys,
        early_clone_eagain,
        late_clone_eagain,
        early_unshare_eperm,
        late_unshare_eperm,
        early_sched_setscheduler_eperm,
        late_sched_setscheduler_eperm,
    ]
);

/// Who wonders why memory does not go back is told, in one line.
#[test]
fn that_madvise_does_nothing_is_said_once() {
    let Some(outcome) = checks::run_check("faults.c", "early_madvise_pretends") else { return };
    if outcome.status.code() != Some(NO_SECCOMP) {
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{}", outcome.said());
        assert!(
            lines[0].starts_with("slackwater:") && lines[0].contains("madvise"),
            "{}",
            lines[0]
        );
    }
}
