//! The limit that a control group sets on the program's memory, and how near it is.
//!
//! Sources: the kernel's `Documentation/admin-guide/cgroup-v2.rst` (memory.max, memory.current,
//! memory.stat, memory.pressure) and `cgroup-v1/memory.rst` (memory.limit_in_bytes,
//! memory.usage_in_bytes).

use crate::sys::{MemoryRoom, TEXT_BYTES, read_file};

/// Where the two versions of control groups are mounted, by convention.
const V2_ROOT: &[u8] = b"/sys/fs/cgroup";
const V1_ROOT: &[u8] = b"/sys/fs/cgroup/memory";

/// Limits above this mean that there is none.
const NO_LIMIT: u64 = 1 << 62;

/// The program's room in its control group; `None` where there is no limit, or none to be read.
/// Some ten system calls. Allocates nothing, and opens files: not for threads that share the program's
/// descriptors. `text` is room for what they say.
pub(crate) fn memory_room(text: &mut [u8; TEXT_BYTES]) -> Option<MemoryRoom> {
    let (root, path, files) = place_of(read_file(b"/proc/self/cgroup\0", text)?)?;
    let group = Path::new(root, path);
    // Inside a container the group that is named may not be the one that is mounted: then what is
    // mounted is the container's own.
    room_in(&group, files, text).or_else(|| room_in(&Path::new(root, b""), files, text))
}

/// The names of the files that tell the same in both versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Files {
    limit: &'static [u8],
    used: &'static [u8],
    /// In memory.stat: cached files that nobody has used for a while.
    inactive: &'static [u8],
}

const V2: Files =
    Files { limit: b"/memory.max", used: b"/memory.current", inactive: b"inactive_file" };
const V1: Files = Files {
    limit: b"/memory.limit_in_bytes",
    used: b"/memory.usage_in_bytes",
    inactive: b"total_inactive_file",
};

fn room_in(group: &Path, files: Files, buffer: &mut [u8]) -> Option<MemoryRoom> {
    let number = |path: Path, buffer: &mut [u8]| parse_number(read_file(path.as_bytes(), buffer)?);
    let limit = number(group.join(files.limit)?, buffer)?;
    if limit >= NO_LIMIT {
        return None;
    }
    let used = number(group.join(files.used)?, buffer)?;
    // What the kernel drops first does not press.
    let stat = read_file(group.join(b"/memory.stat")?.as_bytes(), buffer);
    let inactive = stat.and_then(|text| field(text, files.inactive)).unwrap_or(0);
    let pressure = read_file(group.join(b"/memory.pressure")?.as_bytes(), buffer);
    Some(MemoryRoom {
        limit_bytes: limit,
        used_bytes: used.saturating_sub(inactive),
        stalled_percent: pressure.and_then(stalled_percent).unwrap_or(0),
    })
}

/// A path with its terminating zero.
struct Path {
    bytes: [u8; 512],
    len: usize,
}

impl Path {
    /// Too long a path is cut: it then leads nowhere.
    fn new(root: &[u8], rest: &[u8]) -> Path {
        let mut path = Path { bytes: [0; 512], len: 0 };
        for &byte in root.iter().chain(rest).take(path.bytes.len() - 1) {
            path.bytes[path.len] = byte;
            path.len += 1;
        }
        path
    }

    fn join(&self, rest: &[u8]) -> Option<Path> {
        (self.len + rest.len() < self.bytes.len()).then(|| Path::new(&self.bytes[..self.len], rest))
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..=self.len]
    }
}

/// Which group has the memory controller, from `/proc/self/cgroup`: lines of
/// `number:controllers:path`.
fn place_of(groups: &[u8]) -> Option<(&'static [u8], &[u8], Files)> {
    let mut unified = None;
    for line in groups.split(|&byte| byte == b'\n') {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (Some(number), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let path = if path == b"/" { &b""[..] } else { path };
        if controllers.split(|&byte| byte == b',').any(|name| name == b"memory") {
            return Some((V1_ROOT, path, V1));
        }
        if number == b"0" && controllers.is_empty() {
            unified = Some((V2_ROOT, path, V2));
        }
    }
    unified
}

/// The number that `text` begins with; `max` is none.
fn parse_number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    text[..digits]
        .iter()
        .try_fold(0u64, |number, digit| number.checked_mul(10)?.checked_add((digit - b'0') as u64))
}

/// The number behind `name` in lines of `name number`.
fn field(text: &[u8], name: &[u8]) -> Option<u64> {
    let mut lines = text.split(|&byte| byte == b'\n');
    lines.find_map(|line| parse_number(line.strip_prefix(name)?.strip_prefix(b" ")?))
}

/// The whole percent of the last ten seconds in which some task waited for memory, from
/// `some avg10=0.12 avg60=…`.
fn stalled_percent(text: &[u8]) -> Option<u64> {
    parse_number(text.strip_prefix(b"some avg10=")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_controllers_group_is_found_in_both_versions() {
        let v2 = b"0::/system.slice/app.service\n";
        assert_eq!(place_of(v2), Some((V2_ROOT, &b"/system.slice/app.service"[..], V2)));
        assert_eq!(place_of(b"0::/\n"), Some((V2_ROOT, &b""[..], V2)));
        let hybrid = b"5:cpu,cpuacct:/a\n4:memory:/b/c\n1:name=systemd:/\n0::/\n";
        assert_eq!(place_of(hybrid), Some((V1_ROOT, &b"/b/c"[..], V1)));
        for nothing in [&b""[..], b"\n", b"garbage", b"1:cpu:/", b"4:memory2:/x"] {
            assert_eq!(place_of(nothing), None);
        }
    }

    #[test]
    fn numbers_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_number(b"1073741824\n"), Some(1 << 30));
        assert_eq!(parse_number(b"max\n"), None);
        assert_eq!(parse_number(b""), None);
        assert_eq!(parse_number(b"99999999999999999999999"), None, "too large");
        let stat = b"anon 5\nfile 7\ninactive_file 123\nactive_file 9\n";
        assert_eq!(field(stat, b"inactive_file"), Some(123));
        assert_eq!(field(stat, b"inactive"), None, "whole names only");
        assert_eq!(stalled_percent(b"some avg10=12.34 avg60=0.00 total=1\nfull"), Some(12));
        assert_eq!(stalled_percent(b""), None);
    }

    #[test]
    fn a_path_that_does_not_fit_leads_nowhere() {
        let long = [b'a'; 600];
        assert!(Path::new(b"/x", b"").join(&long).is_none());
        assert_eq!(Path::new(b"/x", b"/y").as_bytes(), b"/x/y\0");
        assert_eq!(Path::new(b"/x", &long).as_bytes().len(), 512);
    }

    #[test]
    fn scarce_is_near_the_limit_or_stalled() {
        let room = |used_bytes, stalled_percent| MemoryRoom {
            limit_bytes: 1000,
            used_bytes,
            stalled_percent,
        };
        assert!(!room(899, 0).is_scarce());
        assert!(room(900, 0).is_scarce());
        assert!(room(0, 10).is_scarce());
        assert!(!room(0, 9).is_scarce());
    }

    /// Whatever this machine has: it is read without harm, and makes sense.
    #[test]
    fn this_process_has_a_room_or_none() {
        if let Some(room) = memory_room(&mut [0; TEXT_BYTES]) {
            assert!(room.limit_bytes > 0);
            assert!(room.stalled_percent <= 100);
        }
    }
}
