//! Memory limit and pressure of a process's control group, from the files of cgroup v2 or v1.
//!
//! What the kernel does not tell is absent, never 0: a machine without a limit has no
//! `cgroup_limit_bytes`.

use std::fs;
use std::path::{Path, PathBuf};

/// What the control group says of its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CgroupMemory {
    /// The lowest limit that holds for the group, if there is one.
    pub limit_bytes: Option<u64>,
    /// What the group of that limit (or, without a limit, the process's own) uses now, page cache
    /// included.
    pub current_bytes: Option<u64>,
    /// For how long some task of the group has been waiting for memory so far.
    pub pressure_seconds: Option<f64>,
}

/// Where the hierarchies are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// From here on a limit of cgroup v1 means "none": it is the largest multiple of a page.
const NO_LIMIT_FROM: u64 = 1 << 62;

impl CgroupMemory {
    /// Reads the files of this process's group; `None` where it has none, or none that says
    /// anything.
    pub fn read() -> Option<CgroupMemory> {
        Self::parse(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new(MOUNT))
    }

    /// The same from the text of another process's `/proc/PID/cgroup`.
    pub fn of(cgroup: &str) -> Option<CgroupMemory> {
        Self::parse(cgroup, Path::new(MOUNT))
    }

    fn parse(cgroup: &str, mount: &Path) -> Option<CgroupMemory> {
        let found = cgroup.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let path = path.trim_start_matches('/');
            match controllers {
                "" => Some(Self::read_group(mount, path, &V2)),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    Some(Self::read_group(&mount.join("memory"), path, &V1))
                }
                _ => None,
            }
        })?;
        (found != CgroupMemory::default()).then_some(found)
    }

    /// The lowest limit of a group and those it is in is what counts.
    fn read_group(root: &Path, path: &str, files: &Files) -> CgroupMemory {
        let own = root.join(path);
        // Inside a container the path may be that of the host, and the group the mounted root.
        let own = if own.is_dir() { own } else { root.to_path_buf() };
        let mut limited: Option<(u64, PathBuf)> = None;
        for group in own.ancestors().take_while(|group| group.starts_with(root)) {
            let limit = number(group, files.limit).filter(|&limit| limit < NO_LIMIT_FROM);
            if let Some(limit) = limit
                && limited.as_ref().is_none_or(|(lowest, _)| limit < *lowest)
            {
                limited = Some((limit, group.to_path_buf()));
            }
        }
        let used_in = limited.as_ref().map_or(own.as_path(), |(_, group)| group);
        CgroupMemory {
            limit_bytes: limited.as_ref().map(|(limit, _)| *limit),
            current_bytes: number(used_in, files.current),
            pressure_seconds: fs::read_to_string(own.join(files.pressure))
                .ok()
                .and_then(|text| waited_seconds(&text)),
        }
    }
}

/// What the files are called.
struct Files {
    limit: &'static str,
    current: &'static str,
    pressure: &'static str,
}

const V2: Files =
    Files { limit: "memory.max", current: "memory.current", pressure: "memory.pressure" };

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    current: "memory.usage_in_bytes",
    pressure: "memory.pressure",
};

/// A file that holds a number; `max` is none.
fn number(group: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()
}

/// The total of the line `some avg10=… avg60=… avg300=… total=<microseconds>`.
fn waited_seconds(pressure: &str) -> Option<f64> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some.split(' ').find_map(|word| word.strip_prefix("total="))?;
    Some(total.parse::<u64>().ok()? as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, files: &[(&str, &str)]) -> Folder {
            let root = std::env::temp_dir().join(format!("cgroup-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("below the root")).expect("writable");
                fs::write(path, text).expect("writable");
            }
            Folder(root)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_lowest_limit_of_the_groups_counts_with_its_own_use() {
        let folder = Folder::new(
            "v2",
            &[
                ("a/b/memory.max", "max\n"),
                ("a/b/memory.current", "100\n"),
                ("a/b/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n"),
                ("a/memory.max", "4096\n"),
                ("a/memory.current", "300\n"),
                ("memory.max", "8192\n"),
            ],
        );
        let found = CgroupMemory::parse("0::/a/b\n", &folder.0);
        let expected = CgroupMemory {
            limit_bytes: Some(4096),
            current_bytes: Some(300),
            pressure_seconds: Some(1.5),
        };
        assert_eq!(found, Some(expected));
        // A path of the host's, inside a container: the mounted root is the group.
        let found =
            CgroupMemory::parse("0::/kubepods/x\n", &folder.0).expect("the root has a limit");
        assert_eq!(found.limit_bytes, Some(8192));
    }

    #[test]
    fn version_1_has_its_own_files_and_its_own_none() {
        let folder = Folder::new(
            "v1",
            &[
                ("memory/x/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/x/memory.usage_in_bytes", "77\n"),
            ],
        );
        let found = CgroupMemory::parse("5:cpu,cpuacct:/y\n3:memory:/x\n0::/z\n", &folder.0);
        let expected =
            CgroupMemory { limit_bytes: None, current_bytes: Some(77), pressure_seconds: None };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn nothing_known_is_nothing() {
        let folder = Folder::new("none", &[("memory.max", "max\n")]);
        assert_eq!(CgroupMemory::parse("0::/\n", &folder.0), None);
        assert_eq!(CgroupMemory::parse("", &folder.0), None);
        assert_eq!(CgroupMemory::parse("nonsense\n1:cpu:/\n", &folder.0), None);
    }
}
