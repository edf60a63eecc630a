//! The limits that control groups set on a process's memory, and how near it is to them.
//!
//! The rules are here, for the allocator's gate and for exporters alike; who asks brings the access to
//! [`Files`]. Nothing here allocates.
//!
//! Which group a process is in says `/proc/PID/cgroup`, and what part of the hierarchy a mount shows
//! says its root in `/proc/self/mountinfo`. The kernel tells both from where the *reader's* control
//! group namespace begins, with `/..` for each step above it. So a process's group is looked for below
//! the mounts whose root is the group's or one of those it is in; where there is none, its memory is
//! not known: what is mounted then is somebody else's, and says nothing about it.
//!
//! Limits hold for all that is below them, so that of all groups from the process's own up to the root
//! of the mount the lowest counts. What stands above that cannot be seen.
//!
//! Sources: the kernel's `Documentation/admin-guide/cgroup-v2.rst` (memory.max, memory.high,
//! memory.current, memory.stat, memory.events, memory.pressure) and `cgroup-v1/memory.rst`
//! (memory.limit_in_bytes, memory.usage_in_bytes, memory.failcnt, memory.oom_control,
//! memory.use_hierarchy); proc_pid_mountinfo(5), cgroup_namespaces(7).

use core::ffi::CStr;

use super::files::{self, TEXT_BYTES};

/// Limits above this mean that there is none.
const NO_LIMIT: u64 = 1 << 62;

/// What a limit leaves the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryRoom {
    pub limit_bytes: u64,
    pub used_bytes: u64,
    /// The part of the last ten seconds in which some task waited for memory.
    pub stalled_percent: u64,
}

impl MemoryRoom {
    /// Is nine tenths of it in use, or do tasks wait a tenth of the time?
    pub fn is_scarce(self) -> bool {
        self.used_bytes >= self.limit_bytes / 10 * 9 || self.stalled_percent >= 10
    }
}

/// Room for the longest path that is followed. Containers in containers need some 500 bytes.
const PATH_BYTES: usize = 1024;

/// The kernel's files, as far as the rules need them.
pub trait Files {
    /// The beginning of a file, as much as fits; `None` where there is none, or it is empty.
    fn read<'a>(&self, path: &CStr, text: &'a mut [u8]) -> Option<&'a [u8]>;

    /// Hands the file's lines to `visit`, cut to what fits into `text`, until that says `false`.
    fn each_line(&self, path: &CStr, text: &mut [u8], visit: &mut dyn FnMut(&[u8]) -> bool);

    /// Whether there is something at `path`.
    fn exists(&self, path: &CStr) -> bool;

    /// The number that mountinfo gives the mount which is seen at `path`; `None` where the kernel does
    /// not say (before Linux 5.8).
    fn mount_id(&self, path: &CStr) -> Option<u64>;

    /// The way from the root of the mount at `point`, which is above the reader's namespace, down to where
    /// that begins, and maybe further to the reader's own group: the kernel does not name the groups in
    /// between. `None` where it is not known.
    fn way_to_namespace<'a>(&self, point: &CStr, text: &'a mut [u8]) -> Option<&'a [u8]> {
        let _ = (point, text);
        None
    }
}

/// What a group uses of its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// As the kernel counts it: page cache is in it.
    pub current_bytes: u64,
    /// Less cached files, which the kernel drops before anything fails; `None` where it does not tell
    /// how much that is.
    pub need_bytes: Option<u64>,
}

/// A limit, and what counts towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The limit.
    pub bytes: u64,
    /// What the group that has the limit uses; `None` where that cannot be read.
    pub used: Option<Used>,
}

/// How often what happened. `None` is what the kernel does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Tasks were slowed down because the group of [`GroupMemory::high`] was above it.
    pub high: Option<u64>,
    /// The group of [`GroupMemory::limit`] came to it.
    pub max: Option<u64>,
    /// An allocation was about to fail there.
    pub oom: Option<u64>,
    /// Tasks of the process's own group were killed for want of memory, whatever limit it was.
    pub oom_kill: Option<u64>,
}

/// For how long tasks of the process's own group have waited for memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// The whole percent of the last ten seconds in which some task waited.
    pub percent: u64,
    /// So far, in microseconds.
    pub total_micros: u64,
}

/// What a process's control groups say of its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupMemory {
    /// The lowest limit above which nothing is given out (memory.max, memory.limit_in_bytes).
    pub limit: Option<Bound>,
    /// The lowest limit above which tasks are slowed down (memory.high).
    pub high: Option<Bound>,
    /// What the process's own group uses.
    pub own: Option<Used>,
    /// What happened there.
    pub events: Events,
    /// How long tasks wait.
    pub pressure: Option<Pressure>,
}

impl GroupMemory {
    /// Reads what the control groups of a process say. `place` is its `/proc/PID/cgroup`; `text` is room
    /// for what files say (4 KiB are enough). `None` where its group cannot be seen from here, or says
    /// nothing.
    ///
    /// Some forty system calls, and six for each group above its own. Allocates nothing and opens files.
    pub fn read(files: &impl Files, place: &CStr, text: &mut [u8]) -> Option<GroupMemory> {
        let (version, path) = group_of(files, place, text)?;
        let mut group = find(files, version, &path, text)?;
        let found = group.read(files, version.names(), text);
        (found != GroupMemory::default()).then_some(found)
    }
}

/// How often a group is looked for where it was: to read what is mounted takes milliseconds where there
/// are many containers, and it hardly changes.
const LOOKS: u32 = 64;

/// What the gate keeps between its looks: room for text, and where the program's group was.
pub(crate) struct Scratch {
    text: [u8; TEXT_BYTES],
    known: Option<Known>,
}

/// Where a path of `/proc/self/cgroup` led.
struct Known {
    version: Version,
    path: Path,
    group: Option<Group>,
    looks: u32,
}

impl Scratch {
    pub const fn new() -> Scratch {
        Scratch { text: [0; TEXT_BYTES], known: None }
    }
}

/// The program's room in its control groups; `None` where there is no limit, or none to be seen. Not for
/// threads that share the program's descriptors.
pub(crate) fn memory_room(scratch: &mut Scratch) -> Option<MemoryRoom> {
    room(&Kernel, c"/proc/self/cgroup", scratch)
}

fn room(files: &impl Files, place: &CStr, scratch: &mut Scratch) -> Option<MemoryRoom> {
    let Scratch { text, known } = scratch;
    let (version, path) = group_of(files, place, text)?;
    let is_known = known.as_ref().is_some_and(|known| {
        known.looks < LOOKS && known.version == version && known.path.as_bytes() == path.as_bytes()
    });
    if !is_known {
        let group = find(files, version, &path, text);
        *known = Some(Known { version, path, group, looks: 0 });
    }
    let known = known.as_mut()?;
    known.looks += 1;
    known.group.as_mut()?.room(files, text)
}

/// The files of this machine, without allocating.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

impl Files for Kernel {
    fn read<'a>(&self, path: &CStr, text: &'a mut [u8]) -> Option<&'a [u8]> {
        files::read_file(path.to_bytes_with_nul(), text)
    }

    fn each_line(&self, path: &CStr, text: &mut [u8], visit: &mut dyn FnMut(&[u8]) -> bool) {
        files::each_line(path, text, visit);
    }

    fn exists(&self, path: &CStr) -> bool {
        files::is_there(path)
    }

    fn mount_id(&self, path: &CStr) -> Option<u64> {
        files::mount_id(path)
    }
}

/// The two versions of control groups. Neither is 0: what may have one, and has none yet, is all zeros then, and takes
/// no room in a program's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1 = 1,
    V2 = 2,
}

impl Version {
    fn names(self) -> &'static Names {
        &NAMES[self as usize - Version::V1 as usize]
    }
}

/// A file, and the name of the number in it; without one the file has that number alone.
type Event = (&'static [u8], &'static [u8]);

/// What a version's files are called.
struct Names {
    limit: &'static [u8],
    high: Option<&'static [u8]>,
    current: &'static [u8],
    /// In memory.stat: files that the kernel drops when it needs room. Files in memory (tmpfs) are in
    /// neither.
    cached: [&'static [u8]; 2],
    high_events: Option<Event>,
    max_events: Event,
    oom_events: Option<Event>,
    kill_events: Event,
    /// Whether limits hold for what is below them, if that is a question.
    is_hierarchy: Option<&'static [u8]>,
    pressure: Option<&'static [u8]>,
    /// Where it is mounted by convention.
    place: &'static [u8],
}

const NAMES: [Names; 2] = [
    Names {
        limit: b"/memory.limit_in_bytes",
        high: None,
        current: b"/memory.usage_in_bytes",
        cached: [b"total_inactive_file", b"total_active_file"],
        high_events: None,
        max_events: (b"/memory.failcnt", b""),
        oom_events: None,
        kill_events: (b"/memory.oom_control", b"oom_kill"),
        is_hierarchy: Some(b"/memory.use_hierarchy"),
        pressure: None,
        place: b"/sys/fs/cgroup/memory",
    },
    Names {
        limit: b"/memory.max",
        high: Some(b"/memory.high"),
        current: b"/memory.current",
        cached: [b"inactive_file", b"active_file"],
        high_events: Some((b"/memory.events", b"high")),
        max_events: (b"/memory.events", b"max"),
        oom_events: Some((b"/memory.events", b"oom")),
        kill_events: (b"/memory.events", b"oom_kill"),
        is_hierarchy: None,
        pressure: Some(b"/memory.pressure"),
        place: b"/sys/fs/cgroup",
    },
];

/// A path with a zero behind it.
#[derive(Clone)]
struct Path {
    bytes: [u8; PATH_BYTES],
    len: usize,
}

impl Path {
    fn new(bytes: &[u8]) -> Option<Path> {
        let mut path = Path { bytes: [0; PATH_BYTES], len: 0 };
        path.push(bytes)?;
        Some(path)
    }

    /// Adds to the end; `None`, and nothing has changed, where that does not fit.
    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len()).filter(|&end| end < PATH_BYTES)?;
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.bytes[end] = 0;
        self.len = end;
        Some(())
    }

    /// Adds a slash and a name, or nothing for none.
    fn push_name(&mut self, name: &[u8]) -> Option<()> {
        if name.is_empty() {
            return Some(());
        }
        self.push(b"/")?;
        self.push(name)
    }

    fn cut(&mut self, len: usize) {
        self.len = len.min(self.len);
        self.bytes[self.len] = 0;
    }

    /// What mountinfo writes with three octal digits behind a backslash, as it is.
    fn unescaped(text: &[u8]) -> Option<Path> {
        let mut path = Path::new(b"")?;
        let mut rest = text;
        while let Some((&byte, after)) = rest.split_first() {
            let octal = |digit: u8| matches!(digit, b'0'..=b'7').then(|| (digit - b'0') as u32);
            let code = match (byte, after) {
                (b'\\', &[high, middle, low, ..]) => octal(high)
                    .zip(octal(middle))
                    .zip(octal(low))
                    .map(|((high, middle), low)| (high << 6 | middle << 3 | low) as u8),
                _ => None,
            };
            path.push(&[code.unwrap_or(byte)])?;
            rest = if code.is_some() { &after[3..] } else { after };
        }
        Some(path)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn as_c_str(&self) -> &CStr {
        // There is a zero at `len` at the latest.
        CStr::from_bytes_until_nul(&self.bytes[..=self.len]).unwrap_or(c"")
    }
}

/// Which group has the memory controller, from lines of `number:controllers:path`: that of the second
/// version has no controllers, and has memory where no other has.
fn group_of(files: &impl Files, place: &CStr, text: &mut [u8]) -> Option<(Version, Path)> {
    let mut found = None;
    files.each_line(place, text, &mut |line| {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (Some(number), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return true;
        };
        let has_memory = controllers.split(|&byte| byte == b',').any(|name| name == b"memory");
        if has_memory {
            found = Some((Version::V1, Path::new(path)));
        } else if number == b"0" && controllers.is_empty() {
            found = Some((Version::V2, Path::new(path)));
        }
        !has_memory
    });
    let (version, path) = found?;
    Some((version, path?))
}

/// A place in a hierarchy, as seen from where the reader's namespace begins: so many steps up, and then
/// down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place<'a> {
    ups: usize,
    down: &'a [u8],
}

impl<'a> Place<'a> {
    fn parse(path: &'a [u8]) -> Option<Place<'a>> {
        let mut down = path.strip_prefix(b"/")?;
        let mut ups = 0;
        while let Some(rest) = down.strip_prefix(b"..") {
            match rest.split_first() {
                None => down = rest,
                Some((b'/', rest)) => down = rest,
                // A name that begins with dots.
                Some(_) => break,
            }
            ups += 1;
        }
        Some(Place { ups, down: down.strip_suffix(b"/").unwrap_or(down) })
    }

    /// The way from here down to `other`; `None` where it is not below. From further up than `other` is
    /// told from, the way leads through groups above the reader's namespace, whose names only `names` may
    /// know: all of those from here down to it.
    fn way_to<'n>(
        self,
        other: Place<'a>,
        names: impl FnOnce() -> Option<&'n [u8]>,
    ) -> Option<(&'n [u8], &'a [u8])> {
        if self.ups == other.ups {
            let rest = other.down.strip_prefix(self.down)?;
            let is_whole = self.down.is_empty() || rest.is_empty();
            return Some((b"", if is_whole { rest } else { rest.strip_prefix(b"/")? }));
        }
        // Another branch is no way to what is above where it begins.
        let unnamed = self.ups.checked_sub(other.ups).filter(|_| self.down.is_empty())?;
        let names = names()?;
        let mut ends =
            (0..=names.len()).filter(|&at| names.get(at).is_none_or(|&byte| byte == b'/'));
        // Of as many names as the namespace is below, so many are the other's as well.
        let end = ends.clone().nth(unnamed - 1)?;
        ends.nth(self.ups - 1)?;
        Some((&names[..end], other.down))
    }
}

/// A line of mountinfo.
struct Mount<'a> {
    id: u64,
    root: &'a [u8],
    point: &'a [u8],
    kind: &'a [u8],
    options: &'a [u8],
}

impl<'a> Mount<'a> {
    fn parse(line: &'a [u8]) -> Option<Mount<'a>> {
        let mut words = line.split(|&byte| byte == b' ');
        let id = parse_number(words.next()?)?;
        let (root, point) = (words.nth(2)?, words.next()?);
        words.find(|word| *word == b"-")?;
        let kind = words.next()?;
        Some(Mount { id, root, point, kind, options: words.nth(1).unwrap_or_default() })
    }

    fn has_memory_of(&self, version: Version) -> bool {
        match version {
            Version::V1 => {
                let mut options = self.options.split(|&byte| byte == b',');
                self.kind == b"cgroup" && options.any(|option| option == b"memory")
            }
            Version::V2 => self.kind == b"cgroup2",
        }
    }
}

/// Where a group is among the files.
#[derive(Clone)]
struct Group {
    version: Version,
    folder: Path,
    /// How much of that is the place of the mount.
    top: usize,
}

/// Finds the group's folder in the mount that shows most of what is above it.
fn find(files: &impl Files, version: Version, path: &Path, text: &mut [u8]) -> Option<Group> {
    let place = Place::parse(path.as_bytes())?;
    let mut found: Option<Group> = None;
    let mut is_mounted = false;
    files.each_line(c"/proc/self/mountinfo", text, &mut |line| {
        let mount = Mount::parse(line).filter(|mount| mount.has_memory_of(version));
        let Some(mount) = mount else { return true };
        let (Some(root), Some(mut folder)) =
            (Path::unescaped(mount.root), Path::unescaped(mount.point))
        else {
            return true;
        };
        let point = folder.as_c_str();
        // A mount may lie below another one, or not be reached from here.
        if !files.exists(point) || files.mount_id(point).is_some_and(|seen| seen != mount.id) {
            return true;
        }
        is_mounted = true;
        // Old kernels do not say which of two mounts in one place is seen: it is the later.
        let is_here = |best: &Group| best.folder.as_bytes()[..best.top] == *folder.as_bytes();
        if found.as_ref().is_some_and(is_here) {
            found = None;
        }
        let mut names = [0; PATH_BYTES];
        let room = &mut names;
        let way = Place::parse(root.as_bytes())
            .and_then(|root| root.way_to(place, move || files.way_to_namespace(point, room)));
        let Some((above, below)) = way else { return true };
        if folder.as_bytes() == b"/" {
            folder.cut(0);
        }
        let top = folder.len;
        let joined = folder.push_name(above).and_then(|()| folder.push_name(below));
        let shows_more = |best: &Group| folder.len - top >= best.folder.len - best.top;
        if joined.is_some() && found.as_ref().is_none_or(shows_more) {
            found = Some(Group { version, folder, top });
        }
        true
    });
    if !is_mounted {
        found = stand_in(version, place);
    }
    // A group that is gone, or a folder in which the kernel does not show it.
    found.filter(|group| files.exists(group.folder.as_c_str()))
}

/// Where no such hierarchy is mounted, something else may show its files in the usual place (lxcfs does,
/// and sandboxes with a kernel of their own). It has no root that could be another's.
fn stand_in(version: Version, place: Place<'_>) -> Option<Group> {
    let mut folder = Path::new(version.names().place)?;
    let top = folder.len;
    if place.ups > 0 {
        return None;
    }
    folder.push_name(place.down)?;
    Some(Group { version, folder, top })
}

impl Group {
    /// What is in one of its files.
    fn text<'a>(
        &mut self,
        files: &impl Files,
        name: &[u8],
        text: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        let len = self.folder.len;
        self.folder.push(name)?;
        let read = files.read(self.folder.as_c_str(), text);
        self.folder.cut(len);
        read
    }

    fn number(&mut self, files: &impl Files, name: &[u8], text: &mut [u8]) -> Option<u64> {
        parse_number(self.text(files, name, text)?)
    }

    fn event(&mut self, files: &impl Files, (file, name): Event, text: &mut [u8]) -> Option<u64> {
        let text = self.text(files, file, text)?;
        if name.is_empty() { parse_number(text) } else { field(text, name) }
    }

    fn used(&mut self, files: &impl Files, names: &Names, text: &mut [u8]) -> Option<Used> {
        let current_bytes = self.number(files, names.current, text)?;
        let stat = self.text(files, b"/memory.stat", text);
        let cached = stat.and_then(|stat| {
            let [inactive, active] = names.cached.map(|name| field(stat, name));
            Some(inactive?.saturating_add(active.unwrap_or(0)))
        });
        let need_bytes = cached.map(|cached| current_bytes.saturating_sub(cached));
        Some(Used { current_bytes, need_bytes })
    }

    /// Goes one group up, unless that is above the mount, or its limits do not hold for those below.
    fn go_up(&mut self, files: &impl Files, names: &Names, text: &mut [u8]) -> bool {
        let slash = self.folder.as_bytes().iter().rposition(|&byte| byte == b'/');
        let Some(parent) = slash.filter(|&slash| slash >= self.top) else { return false };
        self.folder.cut(parent);
        names.is_hierarchy.is_none_or(|name| self.number(files, name, text) != Some(0))
    }

    /// The lowest limits of this group and those above it, as far as they are mounted: memory.max and
    /// memory.high.
    fn lowest(&self, files: &impl Files, names: &Names, text: &mut [u8]) -> [Option<Lowest>; 2] {
        let mut group = self.clone();
        let [mut limit, mut high] = [None; 2];
        loop {
            let here = group.number(files, names.limit, text).filter(|&limit| limit < NO_LIMIT);
            limit = Lowest::of(limit, here, &group);
            let here = names.high.and_then(|name| group.number(files, name, text));
            high = Lowest::of(high, here, &group);
            if !group.go_up(files, names, text) {
                return [limit, high];
            }
        }
    }

    /// This group or one above it.
    fn at(&self, lowest: Lowest) -> Group {
        let mut group = self.clone();
        group.folder.cut(lowest.folder_len);
        group
    }

    fn read(&mut self, files: &impl Files, names: &Names, text: &mut [u8]) -> GroupMemory {
        let own = self.used(files, names, text);
        let [limit, high] = self.lowest(files, names, text);
        let mut bound = |lowest: Lowest| {
            let is_own = lowest.folder_len == self.folder.len;
            let used = if is_own { own } else { self.at(lowest).used(files, names, text) };
            Bound { bytes: lowest.bytes, used }
        };
        let bounds = [limit, high].map(|lowest| lowest.map(&mut bound));
        // What happens at a limit is counted in the group that has it, and in those above.
        let mut at_limit = limit.map_or(self.clone(), |limit| self.at(limit));
        let mut at_high = high.map_or(self.clone(), |high| self.at(high));
        let mut event = |group: &mut Group, event: Option<Event>| group.event(files, event?, text);
        let events = Events {
            high: event(&mut at_high, names.high_events),
            max: event(&mut at_limit, Some(names.max_events)),
            oom: event(&mut at_limit, names.oom_events),
            oom_kill: event(self, Some(names.kill_events)),
        };
        let pressure = self.pressure(files, names, text);
        GroupMemory { limit: bounds[0], high: bounds[1], own, events, pressure }
    }

    /// What the gate wants of that.
    fn room(&mut self, files: &impl Files, text: &mut [u8]) -> Option<MemoryRoom> {
        let names = self.version.names();
        let lowest = self.lowest(files, names, text);
        let [limit, high] = lowest.map(|lowest| {
            let lowest = lowest?;
            Some(Bound { bytes: lowest.bytes, used: self.at(lowest).used(files, names, text) })
        });
        let (limit_bytes, used_bytes) = nearest(limit, high)?;
        let stalled_percent = self.pressure(files, names, text).map_or(0, |found| found.percent);
        Some(MemoryRoom { limit_bytes, used_bytes, stalled_percent })
    }

    fn pressure(&mut self, files: &impl Files, names: &Names, text: &mut [u8]) -> Option<Pressure> {
        pressure(self.text(files, names.pressure?, text)?)
    }
}

/// The lowest limit so far, and how long the path of its group is.
#[derive(Clone, Copy)]
struct Lowest {
    bytes: u64,
    folder_len: usize,
}

impl Lowest {
    /// Of equal limits the outer one counts, which is met last: more counts towards it.
    fn of(so_far: Option<Lowest>, here: Option<u64>, group: &Group) -> Option<Lowest> {
        let folder_len = group.folder.len;
        match (so_far, here) {
            (Some(lowest), Some(bytes)) if bytes > lowest.bytes => Some(lowest),
            (_, Some(bytes)) => Some(Lowest { bytes, folder_len }),
            (so_far, None) => so_far,
        }
    }
}

/// The limit that is nearer, with what counts towards it.
fn nearest(limit: Option<Bound>, high: Option<Bound>) -> Option<(u64, u64)> {
    let known = |bound: Bound| {
        let used = bound.used?;
        Some((bound.bytes, used.need_bytes.unwrap_or(used.current_bytes)))
    };
    let limit = limit.and_then(known);
    let Some(high) = high.and_then(known) else { return limit };
    let Some(limit) = limit else { return Some(high) };
    let is_nearer = high.1 as u128 * limit.0 as u128 >= limit.1 as u128 * high.0 as u128;
    Some(if is_nearer { high } else { limit })
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

/// From the line `some avg10=0.12 avg60=… avg300=… total=<microseconds>`.
fn pressure(text: &[u8]) -> Option<Pressure> {
    let mut lines = text.split(|&byte| byte == b'\n');
    let some = lines.find_map(|line| line.strip_prefix(b"some "))?;
    let number = |name: &[u8]| {
        let mut words = some.split(|&byte| byte == b' ');
        words.find_map(|word| parse_number(word.strip_prefix(name)?))
    };
    Some(Pressure { percent: number(b"avg10=")?, total_micros: number(b"total=")? })
}

#[cfg(test)]
mod tests;
