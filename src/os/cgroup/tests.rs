use std::cell::Cell;
use std::collections::BTreeMap;

use super::*;

const MIB: u64 = 1 << 20;

/// Files in place of the kernel's, by their paths.
#[derive(Default)]
struct Fake {
    files: BTreeMap<String, String>,
    mount_ids: BTreeMap<String, u64>,
    reads: Cell<usize>,
}

impl Fake {
    fn new(cgroup: &str, mountinfo: &[&str]) -> Fake {
        let mut fake = Fake::default();
        fake.put("/proc/7/cgroup", cgroup);
        fake.put("/proc/self/mountinfo", &(mountinfo.join("\n") + "\n"));
        fake
    }

    fn put(&mut self, path: &str, text: &str) {
        self.files.insert(path.to_string(), text.to_string());
    }

    /// A group of the second version.
    fn group(&mut self, path: &str, max: &str, high: &str, current: u64) {
        self.put(&format!("{path}/memory.max"), &format!("{max}\n"));
        self.put(&format!("{path}/memory.high"), &format!("{high}\n"));
        self.put(&format!("{path}/memory.current"), &format!("{current}\n"));
        self.put(&format!("{path}/memory.stat"), "anon 1\ninactive_file 20\nactive_file 3\n");
    }

    /// A group of the first version.
    fn old_group(&mut self, path: &str, limit: &str, current: u64) {
        self.put(&format!("{path}/memory.limit_in_bytes"), &format!("{limit}\n"));
        self.put(&format!("{path}/memory.usage_in_bytes"), &format!("{current}\n"));
        self.put(&format!("{path}/memory.failcnt"), "11\n");
        self.put(&format!("{path}/memory.oom_control"), "oom_kill_disable 0\noom_kill 2\n");
        let stat = "inactive_file 1\ntotal_inactive_file 40\ntotal_active_file 5\n";
        self.put(&format!("{path}/memory.stat"), stat);
    }

    fn read_all(&self) -> Option<GroupMemory> {
        GroupMemory::read(self, c"/proc/7/cgroup", &mut [0; TEXT_BYTES])
    }

    fn limit(&self) -> Option<u64> {
        Some(self.read_all()?.limit?.bytes)
    }
}

impl Files for Fake {
    fn read<'a>(&self, path: &CStr, text: &'a mut [u8]) -> Option<&'a [u8]> {
        self.reads.set(self.reads.get() + 1);
        let file = self.files.get(path.to_str().expect("names are text"))?.as_bytes();
        let length = file.len().min(text.len());
        text[..length].copy_from_slice(&file[..length]);
        Some(&text[..length])
    }

    fn each_line(&self, path: &CStr, _: &mut [u8], visit: &mut dyn FnMut(&[u8]) -> bool) {
        let file = self.files.get(path.to_str().expect("names are text"));
        let _ = file.is_some_and(|file| file.lines().all(|line| visit(line.as_bytes())));
    }

    fn exists(&self, path: &CStr) -> bool {
        let path = path.to_str().expect("names are text");
        let below = format!("{path}/");
        self.files.keys().any(|file| file == path || file.starts_with(&below))
    }

    fn mount_id(&self, path: &CStr) -> Option<u64> {
        self.mount_ids.get(path.to_str().expect("names are text")).copied()
    }
}

const V2_MOUNT: &str =
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";

#[test]
fn the_lowest_limit_of_all_groups_counts_with_the_use_of_its_group() {
    let mut fake = Fake::new("0::/a/b/c\n", &[V2_MOUNT]);
    fake.group("/sys/fs/cgroup/a/b/c", "500", "max", 100);
    fake.group("/sys/fs/cgroup/a/b", "400", "390", 200);
    fake.group("/sys/fs/cgroup/a", "max", "450", 300);
    let events = "low 0\nhigh 5\nmax 6\noom 7\noom_kill 8\noom_group_kill 9\n";
    fake.put("/sys/fs/cgroup/a/b/c/memory.events", "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\n");
    fake.put("/sys/fs/cgroup/a/b/memory.events", events);
    let pressed =
        "some avg10=12.34 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=1.00 total=9\n";
    fake.put("/sys/fs/cgroup/a/b/c/memory.pressure", pressed);
    let used = |current| Used { current_bytes: current, need_bytes: Some(current - 23) };
    let expected = GroupMemory {
        limit: Some(Bound { bytes: 400, used: Some(used(200)) }),
        high: Some(Bound { bytes: 390, used: Some(used(200)) }),
        own: Some(used(100)),
        // The kills are the own group's, the rest is counted where the limit is.
        events: Events { high: Some(5), max: Some(6), oom: Some(7), oom_kill: Some(4) },
        pressure: Some(Pressure { percent: 12, total_micros: 1_500_000 }),
    };
    assert_eq!(fake.read_all(), Some(expected));
    // A limit that is lifted is none.
    for group in ["a/b/c", "a/b", "a"] {
        fake.group(&format!("/sys/fs/cgroup/{group}"), "max", "max", 300);
    }
    let lifted = fake.read_all().expect("the group still says what it uses");
    assert_eq!((lifted.limit, lifted.high, lifted.own), (None, None, Some(used(300))));
}

#[test]
fn of_equal_limits_the_outer_one_counts_as_more_counts_towards_it() {
    let mut fake = Fake::new("0::/a/b\n", &[V2_MOUNT]);
    fake.group("/sys/fs/cgroup/a/b", "400", "max", 100);
    fake.group("/sys/fs/cgroup/a", "400", "max", 350);
    let limit = fake.read_all().and_then(|memory| memory.limit).expect("there is one");
    assert_eq!(limit.used.map(|used| used.current_bytes), Some(350));
}

#[test]
fn groups_without_the_memory_controller_have_the_limits_of_those_above() {
    let mut fake = Fake::new("0::/a/b\n", &[V2_MOUNT]);
    fake.put("/sys/fs/cgroup/a/b/cgroup.procs", "7\n");
    fake.group("/sys/fs/cgroup/a", "400", "max", 350);
    let memory = fake.read_all().expect("there is a limit");
    assert_eq!((memory.limit.map(|limit| limit.bytes), memory.own), (Some(400), None));
}

#[test]
fn the_first_version_has_files_of_its_own() {
    let mount = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
    let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
    let mut fake = Fake::new("5:cpu,cpuacct:/x\n4:memory:/b/c\n0::/z\n", &[unified, mount]);
    fake.old_group("/sys/fs/cgroup/memory/b/c", "9223372036854771712", 100);
    fake.old_group("/sys/fs/cgroup/memory/b", "4096", 300);
    let used = |current| Used { current_bytes: current, need_bytes: Some(current - 45) };
    let expected = GroupMemory {
        limit: Some(Bound { bytes: 4096, used: Some(used(300)) }),
        high: None,
        own: Some(used(100)),
        events: Events { high: None, max: Some(11), oom: None, oom_kill: Some(2) },
        pressure: None,
    };
    assert_eq!(fake.read_all(), Some(expected));
    // What stands above a group that does not count its children does not limit them.
    fake.put("/sys/fs/cgroup/memory/b/memory.use_hierarchy", "0\n");
    assert_eq!(fake.limit(), None);
    fake.put("/sys/fs/cgroup/memory/b/memory.use_hierarchy", "1\n");
    assert_eq!(fake.limit(), Some(4096));
    // The controller is with the first version, and that is not to be seen.
    fake.put("/proc/self/mountinfo", &format!("{unified}\n"));
    fake.group("/sys/fs/cgroup/unified/z", "77", "max", 1);
    fake.files.retain(|path, _| !path.starts_with("/sys/fs/cgroup/memory"));
    assert_eq!(fake.read_all(), None);
}

#[test]
fn controllers_share_a_hierarchy_but_not_a_name() {
    let mount = "35 31 0:32 / /cg/mem rw - cgroup cgroup rw,cpu,memory";
    let mut fake = Fake::new("4:cpu,memory:/b\n", &[mount]);
    fake.old_group("/cg/mem/b", "4096", 300);
    assert_eq!(fake.limit(), Some(4096));
    for other in ["1:name=memory:/b\n", "4:memory2:/b\n", "", "\n", "garbage\n", "1:cpu:/b\n"] {
        fake.put("/proc/7/cgroup", other);
        assert_eq!(fake.read_all(), None, "{other}");
    }
}

/// What each of these is, with the root that mountinfo gives and the path of the process's group, and
/// the group's folder below the place of the mount.
#[test]
fn a_group_is_looked_for_below_the_root_of_the_mount_alone() {
    let cases = [
        ("everything is mounted", "/", "/a/b", Some("/a/b")),
        ("the process is in the root", "/", "/", Some("")),
        (
            "a container without a namespace: its own group is mounted",
            "/docker/1",
            "/docker/1",
            Some(""),
        ),
        ("a group in it", "/docker/1", "/docker/1/x", Some("/x")),
        ("another container's", "/docker/1", "/docker/2", None),
        ("one whose name begins alike", "/docker/1", "/docker/11", None),
        ("the host's", "/docker/1", "/", None),
        ("a sibling namespace, and what is mounted begins with one's own", "/", "/../app", None),
        ("above one's own namespace", "/", "/..", None),
        ("the host's mount, seen from a namespace", "/..", "/../app", Some("/app")),
        ("two levels up", "/../..", "/../../app/x", Some("/app/x")),
        ("the mounted root itself", "/../..", "/../..", Some("")),
        ("another's part of the host's", "/../docker/1", "/../docker/1/x", Some("/x")),
        ("by names that are not known", "/../..", "/../app", None),
        ("one's own by names that are not known", "/..", "/", None),
        ("names that begin with dots", "/", "/..a/...", Some("/..a/...")),
        ("a name with a backslash", r"/a\134x2db", r"/a\x2db/c", Some("/c")),
        ("a group that is gone", "/", "/a/b (deleted)", None),
    ];
    for (what, root, path, folder) in cases {
        let mount = format!("35 31 0:32 {root} /m\\040t rw - cgroup2 none rw");
        let mut fake = Fake::new(&format!("0::{path}\n"), &[&mount]);
        // Somebody's limit, wherever it is mistaken for the process's.
        fake.group("/m t", "1000", "900", 1);
        let all =
            ["/a/b", "/app", "/app/x", "/x", "/1", "/docker/1", "/docker/2", "/..a/...", "/c"];
        for group in all {
            fake.group(&format!("/m t{group}"), "1000", "900", 1);
        }
        if let Some(folder) = folder {
            fake.group(&format!("/m t{folder}"), "500", "max", 1);
        }
        assert_eq!(fake.limit(), folder.map(|_| 500), "{what}");
    }
}

#[test]
fn mounts_that_are_hidden_show_nothing() {
    // The host's hierarchy, below the container's own in the same place.
    let hidden = "51 47 0:32 /.. /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
    let seen = "64 63 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
    let mut fake = Fake::new("4:memory:/../app\n", &[hidden, seen]);
    fake.old_group("/sys/fs/cgroup/memory", "170", 1);
    fake.old_group("/sys/fs/cgroup/memory/app", "160", 1);
    assert_eq!(fake.read_all(), None, "the later one, where the kernel does not say");
    fake.mount_ids.insert("/sys/fs/cgroup/memory".to_string(), 64);
    assert_eq!(fake.read_all(), None);
    fake.mount_ids.insert("/sys/fs/cgroup/memory".to_string(), 51);
    assert_eq!(fake.limit(), Some(160));
    fake.put("/proc/7/cgroup", "4:memory:/\n");
    assert_eq!(fake.read_all(), None);
    fake.mount_ids.insert("/sys/fs/cgroup/memory".to_string(), 64);
    assert_eq!(fake.limit(), Some(170));
}

#[test]
fn of_several_mounts_the_one_counts_that_shows_most() {
    let own = "35 31 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
    let host = "36 31 0:32 /../.. /host/cgroup rw - cgroup2 cgroup2 rw";
    let part = "37 31 0:32 /app /part rw - cgroup2 cgroup2 rw";
    let mut fake = Fake::new("0::/app/x\n", &[part, own, host]);
    fake.group("/part/x", "max", "max", 1);
    fake.group("/sys/fs/cgroup/app/x", "max", "max", 1);
    fake.group("/sys/fs/cgroup/app", "100", "max", 1);
    fake.group("/host/cgroup", "1", "max", 1);
    assert_eq!(fake.limit(), Some(100));
    fake.put("/proc/7/cgroup", "0::/../../other\n");
    fake.group("/host/cgroup/other", "300", "max", 1);
    fake.group("/host/cgroup", "max", "max", 1);
    assert_eq!(fake.limit(), Some(300));
}

#[test]
fn what_shows_the_files_without_a_mount_is_believed_of_the_very_group_alone() {
    let tmpfs = "63 47 0:39 / /sys/fs/cgroup rw - tmpfs t rw";
    let mut fake = Fake::new("0::/svc\n", &[tmpfs]);
    fake.group("/sys/fs/cgroup", "1000", "max", 1);
    assert_eq!(fake.read_all(), None, "there is no such group");
    fake.group("/sys/fs/cgroup/svc", "max", "104857600", 104_800_000);
    let memory = fake.read_all().expect("it has limits");
    assert_eq!(memory.high.map(|high| high.bytes), Some(100 * MIB));
    assert_eq!(memory.limit.map(|limit| limit.bytes), Some(1000));
    fake.put("/proc/7/cgroup", "0::/../svc\n");
    assert_eq!(fake.read_all(), None);
}

#[test]
fn the_gate_sees_the_nearer_of_the_two_limits() {
    let bound = |bytes, current, need| {
        Some(Bound { bytes, used: Some(Used { current_bytes: current, need_bytes: need }) })
    };
    assert_eq!(nearest(None, None), None);
    assert_eq!(nearest(bound(100, 90, Some(50)), None), Some((100, 50)));
    assert_eq!(nearest(None, bound(80, 70, None)), Some((80, 70)), "what is known counts");
    assert_eq!(nearest(bound(100, 90, Some(50)), bound(80, 90, Some(50))), Some((80, 50)));
    assert_eq!(nearest(bound(100, 95, Some(95)), bound(80, 20, Some(20))), Some((100, 95)));
    assert_eq!(nearest(Some(Bound { bytes: 1, used: None }), None), None);
    assert_eq!(nearest(bound(u64::MAX >> 2, 1, Some(1)), bound(0, 1, Some(1))), Some((0, 1)));
}

#[test]
fn the_gate_reads_as_everybody_does_and_looks_for_its_group_seldom() {
    let mut fake = Fake::new("0::/a/b\n", &[V2_MOUNT]);
    fake.group("/sys/fs/cgroup/a/b", "500", "max", 100);
    fake.group("/sys/fs/cgroup/a", "400", "390", 300);
    fake.put("/sys/fs/cgroup/a/b/memory.pressure", "some avg10=12.34 total=1500000\n");
    let mut scratch = Scratch::new();
    let look = |fake: &Fake, scratch: &mut Scratch| room(fake, c"/proc/7/cgroup", scratch);
    let expected =
        |limit_bytes, used_bytes| Some(MemoryRoom { limit_bytes, used_bytes, stalled_percent: 12 });
    assert_eq!(look(&fake, &mut scratch), expected(390, 277));
    // What is mounted is known; limits and use are read anew.
    let mounts = fake.files.remove("/proc/self/mountinfo").expect("it was there");
    fake.group("/sys/fs/cgroup/a", "max", "max", 350);
    assert_eq!(look(&fake, &mut scratch), expected(500, 77));
    // The program is put into another group, which has to be looked for.
    fake.put("/proc/7/cgroup", "0::/a\n");
    fake.group("/sys/fs/cgroup/a", "380", "max", 350);
    fake.put("/proc/self/mountinfo", "5 1 0:5 / /elsewhere rw - cgroup2 none rw\n");
    fake.put("/elsewhere/cgroup.procs", "7\n");
    assert_eq!(look(&fake, &mut scratch), None);
    // From time to time it is looked for anyway.
    fake.put("/proc/self/mountinfo", &mounts);
    fake.put("/sys/fs/cgroup/a/memory.pressure", "some avg10=12.34 total=1500000\n");
    let found = (0..=LOOKS).find_map(|_| look(&fake, &mut scratch));
    assert_eq!(found, expected(380, 327));
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
    let some =
        pressure(b"some avg10=12.34 avg60=0.00 avg300=0.00 total=7\nfull avg10=1.00 total=1");
    assert_eq!(some, Some(Pressure { percent: 12, total_micros: 7 }));
    assert_eq!(pressure(b""), None);
    assert_eq!(pressure(b"some avg10="), None);
}

#[test]
fn paths_that_do_not_fit_lead_nowhere() {
    let mut path = Path::new(b"/x").expect("it fits");
    assert_eq!(path.push(&[b'a'; PATH_BYTES]), None);
    assert_eq!(path.as_c_str(), c"/x");
    assert!(Path::new(&[b'a'; PATH_BYTES - 1]).is_some());
    assert!(Path::new(&[b'a'; PATH_BYTES]).is_none());
    let long = "/a".repeat(PATH_BYTES / 2);
    let mut fake = Fake::new(&format!("0::{long}\n"), &[V2_MOUNT]);
    fake.group("/sys/fs/cgroup", "1000", "max", 1);
    assert_eq!(fake.read_all(), None);
    // Those that just fit are followed, and their files' names do not.
    let long = "/a".repeat(PATH_BYTES / 2 - 8);
    fake.put("/proc/7/cgroup", &format!("0::{long}\n"));
    fake.put(&format!("/sys/fs/cgroup{long}/x"), "1");
    assert_eq!(fake.limit(), Some(1000));
    assert_eq!(Path::unescaped(br"/a\040b\134\1").expect("it fits").as_bytes(), br"/a b\\1");
}

#[test]
fn scarce_is_near_the_limit_or_stalled() {
    let room =
        |used_bytes, stalled_percent| MemoryRoom { limit_bytes: 1000, used_bytes, stalled_percent };
    assert!(!room(899, 0).is_scarce());
    assert!(room(900, 0).is_scarce());
    assert!(room(0, 10).is_scarce());
    assert!(!room(0, 9).is_scarce());
}

/// Whatever this machine has: it is read without harm, and makes sense.
#[test]
fn this_process_has_a_room_or_none() {
    let memory = GroupMemory::read(&Kernel, c"/proc/self/cgroup", &mut [0; TEXT_BYTES]);
    let room = memory_room(&mut Scratch::new());
    let nearest = memory.and_then(|memory| nearest(memory.limit, memory.high));
    assert_eq!(room.map(|room| room.limit_bytes), nearest.map(|(limit, _)| limit));
    if let Some(room) = room {
        assert!(room.stalled_percent <= 100);
    }
}

/// The number is the one that mountinfo has, or there is none.
#[test]
fn the_mount_that_is_seen_is_one_of_those_that_are_listed() {
    assert!(Kernel.exists(c"/proc/self/mountinfo") && !Kernel.exists(c"/proc/self/no-such-file"));
    assert_eq!(Kernel.mount_id(c"/proc/self/no-such-file"), None);
    let Some(id) = Kernel.mount_id(c"/proc") else { return };
    let mut is_listed = false;
    Kernel.each_line(c"/proc/self/mountinfo", &mut [0; TEXT_BYTES], &mut |line| {
        let mount = Mount::parse(line);
        is_listed |= mount.is_some_and(|mount| mount.id == id && mount.point == b"/proc");
        !is_listed
    });
    assert!(is_listed, "{id}");
}
