use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use slackwater::cgroup::Kernel;

use super::*;

/// A folder with files in place of the kernel's, read as the allocator reads them and as exporters do.
struct Folder {
    root: PathBuf,
    mount_ids: BTreeMap<String, u64>,
    /// From places of mounts down to the reader's group, where it is known.
    ways: BTreeMap<String, String>,
}

impl Folder {
    fn new(name: &str) -> Folder {
        let root = std::env::temp_dir().join(format!("cgroup-{name}-{}", std::process::id()));
        Folder { root, mount_ids: BTreeMap::new(), ways: BTreeMap::new() }
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("below the root")).expect("writable");
        fs::write(path, text).expect("writable");
    }

    /// What both read; that it is the same is asserted.
    fn read(&self) -> Option<GroupMemory> {
        let by = |files: &dyn Fn(&mut [u8]) -> Option<GroupMemory>| files(&mut [0; TEXT_BYTES]);
        let place = c"/proc/7/cgroup";
        let allocator = Under { folder: self, files: Kernel };
        let exporter = Under { folder: self, files: Std };
        let one = by(&|text| GroupMemory::read(&allocator, place, text));
        let other = by(&|text| GroupMemory::read(&exporter, place, text));
        assert_eq!(one, other, "the allocator and exporters differ");
        one
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

struct Under<'a, F> {
    folder: &'a Folder,
    files: F,
}

impl<F> Under<'_, F> {
    fn path(&self, path: &CStr) -> CString {
        let path = path.to_str().expect("names are text");
        let path = self.folder.root.join(path.trim_start_matches('/'));
        CString::new(path.into_os_string().into_encoded_bytes()).expect("no zeros")
    }
}

impl<F: Files> Files for Under<'_, F> {
    fn read<'a>(&self, path: &CStr, text: &'a mut [u8]) -> Option<&'a [u8]> {
        self.files.read(&self.path(path), text)
    }

    fn each_line(&self, path: &CStr, text: &mut [u8], visit: &mut dyn FnMut(&[u8]) -> bool) {
        self.files.each_line(&self.path(path), text, visit);
    }

    fn exists(&self, path: &CStr) -> bool {
        self.files.exists(&self.path(path))
    }

    fn mount_id(&self, path: &CStr) -> Option<u64> {
        self.folder.mount_ids.get(path.to_str().expect("names are text")).copied()
    }

    fn way_to_namespace<'a>(&self, point: &CStr, text: &'a mut [u8]) -> Option<&'a [u8]> {
        let way = self.folder.ways.get(point.to_str().expect("names are text"))?.as_bytes();
        text[..way.len()].copy_from_slice(way);
        Some(&text[..way.len()])
    }
}

/// Numbers without a pattern, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % end
    }

    /// A group: the names on the way to it.
    fn group(&mut self, most: u64) -> Vec<&'static str> {
        let names = ["a", "b", "ab", "c d", "x\\x2dy"];
        (0..self.below(most + 1)).map(|_| names[self.below(5) as usize]).collect()
    }
}

fn joined(names: &[&str]) -> String {
    names.iter().map(|name| format!("/{name}")).collect()
}

/// A group as the kernel names it for a reader whose namespace begins at `own`.
fn as_seen_from(own: &[&str], group: &[&str]) -> (usize, String) {
    let common = own.iter().zip(group).take_while(|(a, b)| a == b).count();
    let ups = own.len() - common;
    let path = "/..".repeat(ups) + &joined(&group[common..]);
    (ups, if path.is_empty() { "/".to_string() } else { path })
}

fn escaped(path: &str) -> String {
    path.replace('\\', "\\134").replace(' ', "\\040")
}

/// One group's figures: no two groups have the same.
struct Figures {
    limit: Option<u64>,
    current: u64,
    cached: u64,
}

/// Namespaces, mounts and groups as they come. Whatever is read is the lowest limit of the process's
/// own groups, as far as they are mounted; where they are not, or not under names that are known,
/// nothing.
#[test]
fn in_whatever_layout_it_is_the_processs_own_limit_or_none() {
    let mut random = Random(7);
    let (mut seen, mut not_seen) = (0, 0);
    for round in 0..150 {
        let mut folder = Folder::new(&format!("layout-{round}"));
        let is_v2 = random.below(2) == 0;
        let namespace = random.group(3);
        // Mostly near each other.
        let process = match random.below(3) {
            0 => random.group(4),
            _ => [&namespace[..], &random.group(2)].concat(),
        };
        let (ups, path) = as_seen_from(&namespace, &process);
        folder.put(
            "/proc/7/cgroup",
            &if is_v2 {
                format!("1:name=memory:/x\n0::{path}\n")
            } else {
                format!("3:cpu,cpuacct:/x\n2:memory,hugetlb:{path}\n0::/y\n")
            },
        );
        // What every group has, wherever it is mounted.
        let mut figures = BTreeMap::<Vec<&str>, Figures>::new();
        let mut number = 0;
        let mut figures_of = |group: &[&'static str], random: &mut Random| {
            number += 1000;
            figures.entry(group.to_vec()).or_insert_with(|| Figures {
                limit: (random.below(3) > 0).then(|| 1_000_000 + random.below(1000) * 1000),
                current: number + 100_000,
                cached: number,
            });
        };
        for depth in 0..=process.len() {
            figures_of(&process[..depth], &mut random);
        }
        for _ in 0..4 {
            let other = random.group(3);
            figures_of(&other, &mut random);
        }
        let mut mountinfo = "22 27 0:21 / /proc rw - proc proc rw\n".to_string();
        let mut best: Option<Vec<&str>> = None;
        for mount in 0..1 + random.below(3) {
            let root = match random.below(3) {
                0 => Vec::new(),
                1 => namespace.clone(),
                _ => random.group(2),
            };
            let (root_ups, root_path) = as_seen_from(&namespace, &root);
            let (kind, options) =
                if is_v2 { ("cgroup2", "rw") } else { ("cgroup", "rw,hugetlb,memory") };
            mountinfo += &format!(
                "{mount} 27 0:{mount} {} /m{mount} rw shared:1 - {kind} none {options}\n",
                escaped(&root_path)
            );
            let is_hidden = random.below(4) == 0;
            let id = if is_hidden { 99 } else { mount };
            if random.below(2) == 0 || is_hidden {
                folder.mount_ids.insert(format!("/m{mount}"), id);
            }
            folder.put(&format!("/m{mount}/cgroup.procs"), "");
            for (group, figures) in &figures {
                if group.starts_with(&root) {
                    let way = joined(&group[root.len()..]);
                    put_group(&folder, &format!("/m{mount}{way}"), figures, is_v2);
                }
            }
            // The reader is where its namespace begins, or further down.
            let is_found = random.below(2) == 0;
            if is_found && namespace.starts_with(&root) {
                let reader = [&namespace[root.len()..], &random.group(1)].concat();
                folder.ways.insert(format!("/m{mount}"), reader.join("/"));
            }
            let names_are_known =
                root_ups == ups || is_found && root_ups > ups && namespace.starts_with(&root);
            let shows_more = best.as_ref().is_none_or(|best| root.len() <= best.len());
            if !is_hidden && process.starts_with(&root) && names_are_known && shows_more {
                best = Some(root);
            }
        }
        folder.put("/proc/self/mountinfo", &mountinfo);

        let found = folder.read();
        let Some(root) = best else {
            assert_eq!(found, None, "round {round}: {path} in\n{mountinfo}");
            not_seen += 1;
            continue;
        };
        seen += 1;
        let found = found.unwrap_or_else(|| panic!("round {round}: {path} in\n{mountinfo}"));
        let groups = (root.len()..=process.len()).rev().map(|depth| &figures[&process[..depth]]);
        let lowest = groups.filter(|group| group.limit.is_some()).min_by_key(|group| group.limit);
        let limit = found.limit.map(|limit| limit.bytes);
        assert_eq!(limit, lowest.and_then(|group| group.limit), "round {round}: {path}");
        let counted = lowest.unwrap_or(&figures[&process]);
        let used = CgroupMemory::from(found);
        assert_eq!(used.current_bytes, Some(counted.current), "round {round}: {path}");
        assert_eq!(used.need_bytes, Some(counted.current - counted.cached), "round {round}");
    }
    assert!(seen > 30 && not_seen > 30, "{seen} seen, {not_seen} not");
}

fn put_group(folder: &Folder, path: &str, figures: &Figures, is_v2: bool) {
    let put = |name: &str, text: String| folder.put(&format!("{path}/memory.{name}"), &text);
    let cached = figures.cached;
    if is_v2 {
        put("max", figures.limit.map_or("max\n".to_string(), |limit| format!("{limit}\n")));
        put("current", format!("{}\n", figures.current));
        put("stat", format!("file 5\ninactive_file {}\nactive_file 1\n", cached - 1));
    } else {
        let none = i64::MAX as u64 / 4096 * 4096;
        put("limit_in_bytes", format!("{}\n", figures.limit.unwrap_or(none)));
        put("usage_in_bytes", format!("{}\n", figures.current));
        put("stat", format!("cache 5\ninactive_file 3\ntotal_inactive_file {cached}\n"));
    }
}

#[test]
fn a_file_longer_than_the_room_for_it_is_read_as_far_as_it_fits() {
    let folder = Folder::new("long");
    // The kernel's own are shorter; the lines that matter come first here.
    folder.put("/proc/7/cgroup", &("0::/a\n".to_string() + &"1:cpu:/x\n".repeat(2000)));
    folder.put("/proc/self/mountinfo", "5 1 0:5 / /m rw - cgroup2 none rw\n");
    folder.put("/m/a/memory.max", "77\n");
    let found = CgroupMemory::from(folder.read().expect("it has a limit"));
    assert_eq!((found.limit_bytes, found.current_bytes, found.need_bytes), (Some(77), None, None));
}

#[test]
fn the_readers_group_is_the_one_that_lists_it() {
    let folder = Folder::new("lists");
    for (group, processes) in [("", "1\n"), ("/a", ""), ("/a/b", "70\n17\n"), ("/c/d", "0\n7\n")] {
        folder.put(&format!("/m{group}/cgroup.procs"), processes);
    }
    let top = folder.root.join("m");
    let found = |process: &str| folder_that_lists(process, &top);
    assert_eq!(found("7"), Some(top.join("c/d")));
    assert_eq!(found("17"), Some(top.join("a/b")));
    assert_eq!(found("1"), Some(top.clone()));
    assert_eq!(found("71"), None);
}

/// The figures move, the limits do not.
#[test]
fn of_this_process_the_allocator_and_exporters_read_the_same_limits() {
    let place = c"/proc/self/cgroup";
    let limits = |memory: Option<GroupMemory>| {
        let bytes = |bound: Option<slackwater::cgroup::Bound>| bound.map(|bound| bound.bytes);
        memory.map(|memory| (bytes(memory.limit), bytes(memory.high), memory.own.is_some()))
    };
    let allocator = limits(GroupMemory::read(&Kernel, place, &mut [0; TEXT_BYTES]));
    let exporter = limits(GroupMemory::read(&Std, place, &mut [0; TEXT_BYTES]));
    // Exporters look for the names of groups above their namespace as well.
    assert!(allocator.is_none() || allocator == exporter, "{allocator:?} and {exporter:?}");
    let own = CgroupMemory::of(std::process::id());
    assert_eq!(own.map(|own| own.limit_bytes), CgroupMemory::read().map(|own| own.limit_bytes));
    assert_eq!(Kernel.mount_id(c"/proc"), Std.mount_id(c"/proc"));
    assert_eq!(Std.mount_id(c"/no/such/file"), None);
    assert!(Path::new("/proc/self").exists() == Std.exists(c"/proc/self"));
}

#[test]
fn the_named_group_is_the_one_that_accounts_memory() {
    let path = |text: &str| GroupName::parse(text).path;
    assert_eq!(path("0::/system.slice/a.service\n"), "/system.slice/a.service");
    assert_eq!(path("5:cpu,cpuacct:/x\n4:memory:/b/c:d\n0::/y\n"), "/b/c:d");
    assert_eq!(path("5:cpu:/x\nnonsense\n"), "");
}

#[test]
fn containers_are_known_by_their_ids() {
    let container = |text: &str| GroupName::parse(text).container;
    let id = "0123456789abcdef".repeat(4);
    for path in [
        format!("0::/system.slice/docker-{id}.scope\n"),
        format!("0::/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-{id}.scope\n"),
        format!("3:memory:/docker/{id}\n0::/\n"),
    ] {
        assert_eq!(container(&path), "0123456789ab", "{path}");
    }
    assert_eq!(container("0::/user.slice/user-1000.slice/session-2.scope\n"), "");
    assert_eq!(container(""), "");
}
