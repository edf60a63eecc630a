//! Memory limits, use and pressure of a process's control groups, from the files of cgroup v2 or v1.
//!
//! The rules are the allocator's own ([`slackwater::cgroup`]): what its gate heeds is what is published.
//! What the kernel does not tell is absent, never 0: a machine without a limit has no
//! `cgroup_limit_bytes`, and a process whose group cannot be seen from here has none of these figures.

use std::ffi::{CStr, OsStr};
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use slackwater::cgroup::{Files, GroupMemory};

/// What the control groups of a process say of its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CgroupMemory {
    /// The lowest limit that holds for the group, if there is one (memory.max).
    pub limit_bytes: Option<u64>,
    /// What the group of that limit (or, without a limit, the process's own) uses now, page cache
    /// included.
    pub current_bytes: Option<u64>,
    /// The same less cached files, which the kernel drops before anything fails.
    pub need_bytes: Option<u64>,
    /// The lowest limit above which tasks are slowed down, if there is one (memory.high).
    pub high_bytes: Option<u64>,
    /// What the group of that limit uses now, less cached files.
    pub high_need_bytes: Option<u64>,
    /// How often tasks were slowed down above it.
    pub high_events: Option<u64>,
    /// How often the group of the limit came to it.
    pub max_events: Option<u64>,
    /// How often an allocation was about to fail there.
    pub oom_events: Option<u64>,
    /// How many tasks of the process's own group were killed for want of memory.
    pub oom_kill_events: Option<u64>,
    /// For how long some task of the group has been waiting for memory so far.
    pub pressure_seconds: Option<f64>,
    /// The whole percent of the last ten seconds in which some task did.
    pub pressure_percent: Option<u64>,
}

impl CgroupMemory {
    /// Reads the files of this process's groups; `None` where it has none, or none that says anything.
    /// Some fifteen files.
    pub fn read() -> Option<CgroupMemory> {
        Self::read_of("self")
    }

    /// The same of another process; `None` also where its group cannot be seen from here.
    pub fn of(process: u32) -> Option<CgroupMemory> {
        Self::read_of(process)
    }

    fn read_of(process: impl fmt::Display) -> Option<CgroupMemory> {
        let place = format!("/proc/{process}/cgroup\0");
        let place = CStr::from_bytes_with_nul(place.as_bytes()).ok()?;
        GroupMemory::read(&Std, place, &mut [0; TEXT_BYTES]).map(Self::from)
    }
}

impl From<GroupMemory> for CgroupMemory {
    fn from(memory: GroupMemory) -> CgroupMemory {
        let GroupMemory { limit, high, own, events, pressure } = memory;
        let used = limit.map_or(own, |limit| limit.used);
        CgroupMemory {
            limit_bytes: limit.map(|limit| limit.bytes),
            current_bytes: used.map(|used| used.current_bytes),
            need_bytes: used.and_then(|used| used.need_bytes),
            high_bytes: high.map(|high| high.bytes),
            high_need_bytes: high.and_then(|high| high.used?.need_bytes),
            high_events: events.high,
            max_events: events.max,
            oom_events: events.oom,
            oom_kill_events: events.oom_kill,
            pressure_seconds: pressure.map(|pressure| pressure.total_micros as f64 / 1e6),
            pressure_percent: pressure.map(|pressure| pressure.percent),
        }
    }
}

/// Room for one of the kernel's files.
const TEXT_BYTES: usize = 8192;

/// How long what is mounted is taken to be mounted still.
const MOUNTS_STAY: Duration = Duration::from_secs(1);

/// What was mounted, and when it was read: a host with many containers has a megabyte of it, and is
/// asked once for each process.
static MOUNTS: Mutex<Option<(Instant, Vec<u8>)>> = Mutex::new(None);

/// What is mounted of control groups: that alone is of use.
fn mounts() -> Vec<u8> {
    let mut mounts = MOUNTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((read_at, text)) = &*mounts
        && read_at.elapsed() < MOUNTS_STAY
    {
        return text.clone();
    }
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let is_of_groups = |line: &&[u8]| line.windows(9).any(|part| part == b" - cgroup");
    let lines = text.split_inclusive(|&byte| byte == b'\n').filter(is_of_groups);
    let text = lines.collect::<Vec<_>>().concat();
    *mounts = Some((Instant::now(), text.clone()));
    text
}

/// How long this process is taken to be in its group still.
const GROUP_STAYS: Duration = Duration::from_secs(60);

/// The way down to this process's group from a mount, or that it was not found, and when that was.
struct Way {
    point: PathBuf,
    found_at: Instant,
    names: Option<Vec<u8>>,
}

static WAY: Mutex<Option<Way>> = Mutex::new(None);

/// The way from the root of the mount at `point` down to this process's group, which is the one that
/// lists it.
fn find_way(point: &Path) -> Option<Vec<u8>> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    // It may have been put elsewhere since its namespace was made.
    if own.contains(":/..") {
        return None;
    }
    let group = folder_that_lists(&std::process::id().to_string(), point)?;
    let names = group.strip_prefix(point).ok()?;
    Some(names.as_os_str().as_bytes().to_vec())
}

/// The folder at `top` or below whose list of processes has this one.
fn folder_that_lists(process: &str, top: &Path) -> Option<PathBuf> {
    let mut left = vec![top.to_path_buf()];
    while let Some(folder) = left.pop() {
        let listed = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        if listed.lines().any(|listed| listed == process) {
            return Some(folder);
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        left.extend(folders.map(|entry| entry.path()));
    }
    None
}

/// The kernel's files, through the standard library.
struct Std;

fn path_of(path: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(path.to_bytes()))
}

impl Files for Std {
    fn read<'a>(&self, path: &CStr, text: &'a mut [u8]) -> Option<&'a [u8]> {
        let mut file = File::open(path_of(path)).ok()?;
        let mut length = 0;
        while length < text.len() {
            match file.read(&mut text[length..]).ok()? {
                0 => break,
                read => length += read,
            }
        }
        (length > 0).then(|| &text[..length])
    }

    fn each_line(&self, path: &CStr, _: &mut [u8], visit: &mut dyn FnMut(&[u8]) -> bool) {
        let text = match path.to_bytes() {
            b"/proc/self/mountinfo" => mounts(),
            _ => fs::read(path_of(path)).unwrap_or_default(),
        };
        let mut lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let _ = lines.all(visit);
    }

    fn exists(&self, path: &CStr) -> bool {
        path_of(path).exists()
    }

    fn mount_id(&self, path: &CStr) -> Option<u64> {
        let folder = File::open(path_of(path)).ok()?;
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", folder.as_raw_fd())).ok()?;
        told.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
    }

    fn way_to_namespace<'a>(&self, point: &CStr, text: &'a mut [u8]) -> Option<&'a [u8]> {
        let point = path_of(point);
        let mut way = WAY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let is_known = |way: &&Way| way.point == point && way.found_at.elapsed() < GROUP_STAYS;
        let names = match way.as_ref().filter(is_known) {
            Some(way) => way.names.clone(),
            None => {
                let names = find_way(point);
                let (point, found_at) = (point.to_path_buf(), Instant::now());
                *way = Some(Way { point, found_at, names: names.clone() });
                names
            }
        }?;
        let place = text.get_mut(..names.len())?;
        place.copy_from_slice(&names);
        Some(place)
    }
}

/// Which control group a process is in, as people know it. What is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupName {
    /// The path of the group that accounts memory.
    pub path: String,
    /// The first twelve digits of the container id (64 hexadecimal digits) that the path has in it, as
    /// container engines write them.
    pub container: String,
}

impl GroupName {
    /// That of a process, as far as it can be seen from here.
    pub(crate) fn of(process: u32) -> GroupName {
        GroupName::parse(&fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default())
    }

    /// Reads the text of a `/proc/PID/cgroup`.
    fn parse(cgroup: &str) -> GroupName {
        let fields = |line: &str| {
            let (_, rest) = line.split_once(':')?;
            rest.split_once(':')
                .map(|(controllers, path)| (controllers.to_string(), path.to_string()))
        };
        let groups: Vec<_> = cgroup.lines().filter_map(fields).collect();
        let of = |is: &dyn Fn(&str) -> bool| groups.iter().find(|(controllers, _)| is(controllers));
        let found = of(&|controllers| controllers.split(',').any(|one| one == "memory"))
            .or_else(|| of(&|controllers| controllers.is_empty()));
        let path = found.map_or(String::new(), |(_, path)| path.clone());
        let mut words = cgroup.split(|c: char| !c.is_ascii_hexdigit());
        let id = words.rfind(|word| word.len() == 64);
        GroupName { path, container: id.map_or(String::new(), |id| id[..12].to_string()) }
    }
}

#[cfg(test)]
mod tests;
