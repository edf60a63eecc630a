//! One event of one thread, as a descriptor of the kernel's; nothing here allocates.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use perf_event::events::{Cache, CacheOp, CacheResult, Hardware, Software, WhichCache};
use perf_event::{Builder, ReadFormat, events};
use slackwater::sections::PerfEvent;

/// The most events of a group.
pub const GROUP_EVENTS: usize = 4;

/// See perf_event_open(2); libc does not have them.
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
const ENABLE: libc::Ioctl = 0x2400;
const GET_ID: libc::Ioctl = 0x8008_2407_u32 as libc::Ioctl;

fn kind(event: PerfEvent) -> events::Event {
    match event {
        PerfEvent::Cycles => Hardware::CPU_CYCLES.into(),
        PerfEvent::Instructions => Hardware::INSTRUCTIONS.into(),
        PerfEvent::CacheMisses => Hardware::CACHE_MISSES.into(),
        PerfEvent::DtlbMisses => {
            Cache { which: WhichCache::DTLB, operation: CacheOp::READ, result: CacheResult::MISS }
                .into()
        }
        PerfEvent::TaskClock => Software::TASK_CLOCK.into(),
        PerfEvent::PageFaults => Software::PAGE_FAULTS.into(),
        PerfEvent::ContextSwitches => Software::CONTEXT_SWITCHES.into(),
    }
}

/// Opens an event of a thread (0: the calling one) for counting, in the group of `leader`, or as a
/// leader. The group counts once it is enabled and whole: Linux 6.18 does not count what joins one that
/// counts already, before the thread next sleeps. Threads and processes that it starts are not counted.
/// The descriptor is closed on exec: that is why the builder's own way to open is not used.
pub fn open(
    event: PerfEvent,
    is_user_only: bool,
    thread: libc::pid_t,
    leader: Option<&impl AsRawFd>,
) -> io::Result<OwnedFd> {
    let mut builder = Builder::new().kind(kind(event));
    builder.exclude_kernel(is_user_only).enabled(leader.is_some());
    let format =
        ReadFormat::GROUP | ReadFormat::TOTAL_TIME_ENABLED | ReadFormat::TOTAL_TIME_RUNNING;
    let attributes = builder.attrs_mut();
    attributes.read_format = format.bits();
    let attributes: *const _ = attributes;
    let (any_cpu, leader) = (-1, leader.map_or(-1, AsRawFd::as_raw_fd));
    // SAFETY: the attributes are whole, and their size is in them.
    let descriptor = unsafe {
        libc::syscall(libc::SYS_perf_event_open, attributes, thread, any_cpu, leader, CLOSE_ON_EXEC)
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

/// Counts from now on. `false`: it is no event.
pub fn enable(leader: RawFd) -> bool {
    // SAFETY: plain numbers.
    unsafe { libc::ioctl(leader, ENABLE, 0) == 0 }
}

/// The kernel's number of the event that is open as `descriptor`; `None` if that is no event.
pub fn id(descriptor: RawFd) -> Option<u64> {
    let mut id = 0u64;
    // SAFETY: an event's number is written to `id`; anything else knows no such request.
    let result = unsafe { libc::ioctl(descriptor, GET_ID, &raw mut id) };
    (result == 0).then_some(id)
}

/// What a group has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupCounts {
    /// For how many nanoseconds it was to be counted, and was.
    pub enabled: u64,
    pub running: u64,
    /// In the order in which the events were opened.
    pub counts: [u64; GROUP_EVENTS],
}

/// Reads the group of `leader`, which has `events` events. `None`: it is none.
pub fn read(leader: RawFd, events: usize) -> Option<GroupCounts> {
    // How many, enabled, running, and the counts.
    let mut words = [0u64; 3 + GROUP_EVENTS];
    let (place, bytes) = (words.as_mut_ptr().cast(), size_of_val(&words));
    // SAFETY: `words` has room for `bytes` bytes.
    let read = unsafe { libc::read(leader, place, bytes) };
    let is_whole = read == ((3 + events) * size_of::<u64>()) as isize && words[0] == events as u64;
    let [_, enabled, running, counts @ ..] = words;
    is_whole.then_some(GroupCounts { enabled, running, counts })
}

/// `count` events that were seen in `running` of `enabled` nanoseconds, as there were in all of them.
pub fn scaled(count: u64, enabled: u64, running: u64) -> u64 {
    if enabled <= running {
        return count;
    }
    let scaled = u128::from(count) * u128::from(enabled) / u128::from(running.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_scaled_to_the_whole_time() {
        assert_eq!(scaled(10, 100, 100), 10);
        assert_eq!(scaled(10, 400, 100), 40);
        assert_eq!(scaled(10, 0, 0), 10);
        assert_eq!(scaled(u64::MAX, u64::MAX, 1), u64::MAX);
    }

    #[test]
    fn what_is_no_event_is_neither_read_nor_named() {
        assert_eq!(id(-1), None);
        assert_eq!(read(-1, 1), None);
        let zeros = std::fs::File::open("/dev/zero").expect("a device");
        assert_eq!(id(zeros.as_raw_fd()), None);
        assert_eq!(read(zeros.as_raw_fd(), 1), None);
    }
}
