//! The limits that a program would have: those of this process, of its control group and of the system.

use std::fs;

use slackwater_exporters::cgroup::CgroupMemory;

use super::super::amounts;
use super::finding::{Finding, Section, less, works};
use super::status::{CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_SYS_RESOURCE, OwnStatus};

/// A control group that is as full as this counts as scarce: the gate gives back as if the program were idle.
const SCARCE: f64 = 0.9;

pub fn section(status: Option<&OwnStatus>) -> Section {
    let mut findings = vec![addresses("address space", "ulimit -v", libc::RLIMIT_AS)];
    findings.extend([addresses("data", "ulimit -d", libc::RLIMIT_DATA), locked(status)]);
    findings.extend([processes(status), mappings(), overcommit()]);
    findings.extend(control_group(CgroupMemory::read(), &groups()));
    Section { title: "Limits", is_essential: false, findings }
}

/// A limit of this process; `None`: there is none.
fn limit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is a valid place.
    unsafe { libc::getrlimit(resource, &mut limit) };
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

fn addresses(what: &'static str, flag: &str, resource: libc::__rlimit_resource_t) -> Finding {
    match limit(resource) {
        None => works(what, "no limit"),
        Some(bytes) => less(
            what,
            format!(
                "{} ({flag}): what the heap has counts, also where its pages have been given back, \
                 for it keeps its addresses",
                amounts::bytes(bytes)
            ),
        ),
    }
}

fn locked(status: Option<&OwnStatus>) -> Finding {
    const WHAT: &str = "locked memory";
    match limit(libc::RLIMIT_MEMLOCK) {
        None => works(WHAT, "no limit"),
        Some(_) if has_any(status, &[CAP_IPC_LOCK]) => {
            works(WHAT, "no limit for who has CAP_IPC_LOCK")
        }
        Some(bytes) => works(
            WHAT,
            format!(
                "{} (ulimit -l): so much a program may lock (mlockall), its heap in it",
                amounts::bytes(bytes)
            ),
        ),
    }
}

fn processes(status: Option<&OwnStatus>) -> Finding {
    const WHAT: &str = "threads";
    match limit(libc::RLIMIT_NPROC) {
        None => works(WHAT, "no limit"),
        Some(_) if has_any(status, &[CAP_SYS_RESOURCE, CAP_SYS_ADMIN]) => {
            works(WHAT, "no limit for who has CAP_SYS_RESOURCE or CAP_SYS_ADMIN")
        }
        Some(count) => works(
            WHAT,
            format!("{count} of this user's (ulimit -u); the ticker is one more while it is there"),
        ),
    }
}

fn has_any(status: Option<&OwnStatus>, capabilities: &[u32]) -> bool {
    status.is_some_and(|status| status.has_any(capabilities))
}

/// A number that the kernel has under `/proc/sys`.
fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn mappings() -> Finding {
    const WHAT: &str = "mappings";
    /// What the kernel gives each process unless told otherwise.
    const USUAL: u64 = 65_530;
    match number("/proc/sys/vm/max_map_count") {
        Some(count) if count < USUAL => less(
            WHAT,
            format!(
                "{count} (vm.max_map_count; {USUAL} are usual): guards of sampled blocks take some \
                 without guard markers"
            ),
        ),
        Some(count) => works(WHAT, format!("{count} (vm.max_map_count); the heap takes few")),
        None => works(WHAT, "their limit cannot be read; the heap takes few"),
    }
}

fn overcommit() -> Finding {
    const WHAT: &str = "overcommit";
    const STRICT: u64 = 2;
    match number("/proc/sys/vm/overcommit_memory") {
        Some(STRICT) => less(
            WHAT,
            "vm.overcommit_memory is 2: what the heap has counts as committed, also where its \
             pages have been given back",
        ),
        Some(mode) => {
            works(WHAT, format!("vm.overcommit_memory is {mode}: only what is touched is taken"))
        }
        None => works(WHAT, "vm.overcommit_memory cannot be read"),
    }
}

/// The lines of `/proc/self/cgroup`.
fn groups() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// Which version has the memory of this process, if any.
fn version(groups: &str) -> Option<&'static str> {
    let controllers = |line: &str| line.split(':').nth(1).map(str::to_string);
    let has_memory = |names: String| names.split(',').any(|name| name == "memory");
    if groups.lines().filter_map(controllers).any(has_memory) {
        Some("v1")
    } else {
        groups.lines().any(|line| line.starts_with("0::")).then_some("v2")
    }
}

fn control_group(memory: Option<CgroupMemory>, groups: &str) -> Vec<Finding> {
    const WHAT: &str = "control group";
    let Some(version) = version(groups) else {
        return vec![works(WHAT, "none: only the machine's memory binds")];
    };
    let Some(memory) = memory else {
        return vec![less(
            WHAT,
            format!(
                "of {version}, and not to be seen from here: the gate knows of no limit, and does \
                 not hurry near it"
            ),
        )];
    };
    let mut findings = vec![match memory.limit_bytes {
        None => works(WHAT, format!("{version}, without a limit in it or above it")),
        Some(limit) => bound(
            WHAT,
            &format!("{version}, lowest limit in it and above it"),
            limit,
            memory.need_bytes,
        ),
    }];
    if let Some(high) = memory.high_bytes {
        findings.push(bound(
            "memory.high",
            "tasks are slowed down above it",
            high,
            memory.high_need_bytes,
        ));
    }
    findings
}

/// How near a limit is.
fn bound(what: &'static str, which: &str, limit: u64, need: Option<u64>) -> Finding {
    let limit_text = amounts::bytes(limit);
    match need {
        None => works(what, format!("{limit_text} ({which}); its use is not told")),
        Some(need) => {
            let share = amounts::share(need, limit);
            let says = format!(
                "{limit_text} ({which}), {} of it in use without files that can be dropped",
                amounts::percent(share)
            );
            match share < SCARCE {
                true => works(what, says),
                false => less(what, says + ": busy programs give back at once, too"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    #[test]
    fn the_group_that_has_memory_tells_the_version() {
        assert_eq!(version("4:memory:/a\n0::/\n"), Some("v1"));
        assert_eq!(version("4:cpu,memory:/a\n"), Some("v1"));
        assert_eq!(version("4:cpu:/a\n0::/b\n"), Some("v2"));
        assert_eq!(version("4:cpu:/memory\n"), None);
    }

    #[test]
    fn a_group_is_as_near_its_limit_as_it_is() {
        let memory = CgroupMemory {
            limit_bytes: Some(100 << 20),
            need_bytes: Some(95 << 20),
            high_bytes: Some(200 << 20),
            high_need_bytes: Some(20 << 20),
            ..CgroupMemory::default()
        };
        let found = control_group(Some(memory), "0::/a\n");
        assert_eq!(found[0].mark, Mark::Less);
        assert!(
            found[0].says.contains("100.0 MiB") && found[0].says.contains("95.0%"),
            "{found:?}"
        );
        assert_eq!((found[1].mark, found[1].what), (Mark::Works, "memory.high"));
        let hidden = control_group(None, "0::/a\n");
        assert!(
            hidden[0].mark == Mark::Less && hidden[0].says.contains("not to be seen"),
            "{hidden:?}"
        );
        assert_eq!(control_group(None, "")[0].mark, Mark::Works);
    }
}
