//! What giving memory back asks of the kernel, and of the knobs in the environment.

use std::ffi::c_void;
use std::thread;
use std::{env, fs, ptr};

use slackwater::knobs::{Coverage, Knobs};
use slackwater::units::PAGE_BYTES;

use super::asking::{Answer, NO, YES, ask, untried, without_answer};
use super::finding::{Finding, Section, less, missing, works};
use super::status::OwnStatus;

/// Since Linux 6.14; libc does not name it yet.
const PIDFD_SELF: libc::c_int = -10_000;

/// Since Linux 6.13; libc does not name it yet.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// The answer of who asked about several ranges in one call.
const BY_DESCRIPTOR: u8 = 2;

pub fn section(status: Option<&OwnStatus>) -> Section {
    let knobs = slackwater::knobs();
    let mut findings = vec![kernel(), switches(&knobs), given_back(), many_ranges(), take_over()];
    findings.extend([ticker(&knobs), locked(), guards(), huge_pages(), filters(status)]);
    Section { title: "Release: giving memory back", is_essential: true, findings }
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version(release) {
        Some(version) if version >= (6, 14) => works("kernel", format!("Linux {release}")),
        Some(version) if version >= (4, 17) => less(
            "kernel",
            format!(
                "Linux {release}; 6.14 has all that is asked for; the lines below say what lacks"
            ),
        ),
        Some(_) => less(
            "kernel",
            format!("Linux {release} is older than any that this was tried on; 4.17 is asked for"),
        ),
        None => less("kernel", "it does not say which it is (/proc/sys/kernel/osrelease)"),
    }
}

/// The first two numbers of `6.18.44-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What the environment switches off, which is read here as by any program under Slackwater.
fn switches(knobs: &Knobs) -> Finding {
    const WHAT: &str = "knobs";
    if !knobs.release {
        return missing(
            WHAT,
            "SLACKWATER_RELEASE=off: nothing is given back; expected on, or no such variable",
        );
    }
    if knobs.coverage == Coverage::NONE {
        return missing(WHAT, "SLACKWATER_COVERAGE names no kind of memory: nothing is given back");
    }
    if knobs.coverage != Coverage::ALL {
        return less(
            WHAT,
            "SLACKWATER_COVERAGE leaves out kinds of memory, which are not given back",
        );
    }
    works(WHAT, "none in the environment keeps memory from being given back")
}

/// Writes to a page of its own, and has `advise` do with it what it does.
fn with_a_page(advise: impl FnOnce(*mut c_void) -> u8) -> u8 {
    let read_write = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, wherever the kernel has room.
    let page = unsafe { libc::mmap(ptr::null_mut(), PAGE_BYTES, read_write, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return NO;
    }
    // SAFETY: the page was mapped just now, and can be written to.
    unsafe { page.cast::<u8>().write_volatile(0x77) };
    advise(page)
}

/// Does the kernel take an advice for a page, if it takes any?
fn takes_advice(advice: libc::c_int) -> Answer {
    ask(|| {
        with_a_page(|page| {
            // SAFETY: a page of this process's own, whose content nobody needs.
            if unsafe { libc::madvise(page, PAGE_BYTES, advice) } == 0 { YES } else { NO }
        })
    })
}

fn given_back() -> Finding {
    const WHAT: &str = "madvise";
    const STILL_THERE: u8 = 2;
    let answer = ask(|| {
        with_a_page(|page| {
            // SAFETY: a page of this process's own, whose content nobody needs.
            if unsafe { libc::madvise(page, PAGE_BYTES, libc::MADV_DONTNEED) } != 0 {
                return NO;
            }
            // SAFETY: the page is mapped, and can be read.
            if unsafe { page.cast::<u8>().read_volatile() } == 0 { YES } else { STILL_THERE }
        })
    });
    match answer {
        Answer::Said(YES) => works(WHAT, "pages that are given back are gone, and read as zero"),
        Answer::Said(STILL_THERE) => missing(
            WHAT,
            "MADV_DONTNEED says that it gives pages back, and does not (as older user-mode QEMU): \
             RSS stays at its peak",
        ),
        Answer::NotAsked(error) => untried(WHAT, &error),
        other => missing(
            WHAT,
            format!("MADV_DONTNEED: {}: RSS stays at its peak", without_answer(&other)),
        ),
    }
}

fn many_ranges() -> Finding {
    const WHAT: &str = "process_madvise";
    let answer = ask(|| {
        with_a_page(|page| {
            let range = libc::iovec { iov_base: page, iov_len: PAGE_BYTES };
            if advise(PIDFD_SELF, &range) {
                return YES;
            }
            let this = std::process::id();
            // SAFETY: takes numbers.
            let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, this, 0) };
            if advise(descriptor as libc::c_int, &range) { BY_DESCRIPTOR } else { NO }
        })
    });
    match answer {
        Answer::Said(YES) => works(WHAT, "up to 64 ranges go back in one call"),
        Answer::Said(BY_DESCRIPTOR) => {
            works(WHAT, "up to 64 ranges go back in one call, and two more for a descriptor")
        }
        Answer::Said(_) => {
            less(WHAT, "not on oneself here (before Linux 6.13): a call of madvise for each range")
        }
        Answer::NotAsked(error) => untried(WHAT, &error),
        other => {
            less(WHAT, format!("{}: a call of madvise for each range", without_answer(&other)))
        }
    }
}

fn advise(process: libc::c_int, range: &libc::iovec) -> bool {
    const RANGES: usize = 1;
    // SAFETY: one valid entry, which names a page of this process's own whose content nobody needs.
    let advised = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            process,
            &raw const *range,
            RANGES,
            libc::MADV_DONTNEED,
            0,
        )
    };
    advised == PAGE_BYTES as libc::c_long
}

fn take_over() -> Finding {
    const WHAT: &str = "membarrier";
    let answer = ask(|| {
        let call = |command: libc::c_int| {
            // SAFETY: takes numbers.
            unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
        };
        let is_registered = call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
        if is_registered && call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) { YES } else { NO }
    });
    match answer {
        Answer::Said(YES) => {
            works(WHAT, "what blocked threads have in their caches goes back, too")
        }
        Answer::NotAsked(error) => untried(WHAT, &error),
        other => less(
            WHAT,
            format!(
                "{}: blocked threads keep what they have in their caches until they move",
                without_answer(&other)
            ),
        ),
    }
}

fn ticker(knobs: &Knobs) -> Finding {
    const WHAT: &str = "ticker";
    const WITHOUT: &str = "memory goes back when the program's threads allocate or free, and not \
                           while they are blocked";
    if !knobs.ticker {
        return less(WHAT, format!("SLACKWATER_TICKER=off: {WITHOUT}"));
    }
    match ask(|| if thread::Builder::new().spawn(|| {}).is_ok() { YES } else { NO }) {
        Answer::Said(YES) => {
            works(WHAT, "a thread can be started, which gives back while the program's are blocked")
        }
        Answer::Said(_) => {
            less(WHAT, format!("no thread can be started (ulimit -u, pids.max): {WITHOUT}"))
        }
        Answer::NotAsked(error) => untried(WHAT, &error),
        other => less(WHAT, format!("{}: {WITHOUT}", without_answer(&other))),
    }
}

fn locked() -> Finding {
    const WHAT: &str = "MADV_DONTNEED_LOCKED";
    match takes_advice(libc::MADV_DONTNEED_LOCKED) {
        Answer::Said(YES) => {
            works(WHAT, "memory that a program has locked (mlockall) goes back, too")
        }
        Answer::NotAsked(error) => untried(WHAT, &error),
        other => less(
            WHAT,
            format!(
                "{} (before Linux 5.18 there is none): locked memory stays",
                without_answer(&other)
            ),
        ),
    }
}

fn guards() -> Finding {
    const WHAT: &str = "guard markers";
    if env::var_os("SLACKWATER_PROFILE_GUARDS").is_some_and(|value| value == "off") {
        return works(WHAT, "SLACKWATER_PROFILE_GUARDS=off: not asked for");
    }
    match takes_advice(MADV_GUARD_INSTALL) {
        Answer::Said(YES) => works(WHAT, "guards around sampled blocks split no mapping"),
        Answer::NotAsked(error) => untried(WHAT, &error),
        other => less(
            WHAT,
            format!(
                "{} (before Linux 6.13 there are none): guards take mprotect, and mappings",
                without_answer(&other)
            ),
        ),
    }
}

fn huge_pages() -> Finding {
    const WHAT: &str = "huge pages";
    let setting =
        fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let chosen = setting.split(['[', ']']).nth(1).unwrap_or("none");
    let knob = env::var("SLACKWATER_HUGE_PAGES").unwrap_or_default();
    let fill =
        "they fill what was given back, and RSS with it; expected SLACKWATER_HUGE_PAGES=never";
    match (knob.as_str(), chosen) {
        ("always", "always" | "madvise") => {
            less(WHAT, format!("SLACKWATER_HUGE_PAGES=always: {fill}"))
        }
        ("system", "always") => less(
            WHAT,
            format!("SLACKWATER_HUGE_PAGES=system, and the system gives them to all: {fill}"),
        ),
        (_, "always") => works(WHAT, "the system gives them to all, and the heap asks for none"),
        (_, chosen) => works(WHAT, format!("the system's setting is {chosen}; the heap has none")),
    }
}

fn filters(status: Option<&OwnStatus>) -> Finding {
    const WHAT: &str = "filters of system calls";
    let Some(status) = status else {
        return less(
            WHAT,
            "/proc/self/status cannot be read, so it is not known whether there is one",
        );
    };
    let rights = match status.no_new_privileges {
        true => {
            "; no_new_privs is set: no program gets more rights here, nor loses LD_PRELOAD by them"
        }
        false => "",
    };
    match (status.seccomp, status.filters) {
        (0, _) => works(WHAT, format!("none{rights}")),
        (_, Some(count)) => less(
            WHAT,
            format!(
                "{count} in force, for children, too: the lines above are what is let through\
                 {rights}"
            ),
        ),
        (_, None) => less(
            WHAT,
            format!("in force, for children, too: the lines above are what is let through{rights}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version("5.10"), Some((5, 10)));
        for bad in ["", "6", "x.y"] {
            assert_eq!(version(bad), None, "{bad}");
        }
    }
}
