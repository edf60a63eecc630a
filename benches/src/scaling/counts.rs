//! What was counted, by place.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::bus::{Instruction, Profile};
use super::places::{self, Class, Sharing, Use};
use super::source::{self, Frame};

/// Where a read-modify-write is, and what for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What for.
    pub class: Class,
    /// Who else writes its line.
    pub sharing: Sharing,
    /// A file of the allocator's source with a line, and the function; the object's name for one that is not ours.
    pub site: String,
}

/// How often it was executed, and how often that was the end of a lock's being held.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    /// Read-modify-writes, those of locks included.
    pub writes: f64,
    /// Locks that were taken and given back.
    pub locks: f64,
}

/// What a run executed, or what a thousand operations do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts(pub BTreeMap<Place, Count>);

impl Counts {
    /// Without what another one has.
    pub(super) fn without(mut self, other: Counts) -> Counts {
        for (place, count) in other.0 {
            let left = self.0.entry(place).or_default();
            left.writes -= count.writes;
            left.locks -= count.locks;
        }
        self
    }

    /// Of so many operations, what a thousand do.
    pub(super) fn per_thousand(mut self, operations: u64) -> Counts {
        for count in self.0.values_mut() {
            count.writes *= 1000.0 / operations as f64;
            count.locks *= 1000.0 / operations as f64;
        }
        self
    }

    /// The sum of those places that `is_meant`.
    pub fn sum(&self, is_meant: impl Fn(&Place) -> bool) -> Count {
        let mut sum = Count::default();
        for (_, count) in self.0.iter().filter(|(place, _)| is_meant(place)) {
            sum.writes += count.writes;
            sum.locks += count.locks;
        }
        // Where caches were still learning in the first run, the second has less.
        Count { writes: sum.writes.max(0.0), locks: sum.locks.max(0.0) }
    }

    /// Of all that a thread does not have for itself.
    pub fn shared(&self) -> Count {
        self.sum(|place| place.sharing != Sharing::Own)
    }

    fn add(&mut self, place: Place, times: u64, is_lock: bool) {
        let count = self.0.entry(place).or_default();
        count.writes += times as f64;
        if is_lock {
            count.locks += times as f64;
        }
    }
}

/// Those of our own source in `program`.
pub(super) fn ours(profile: &Profile, program: &Path) -> Result<Counts, String> {
    let object = program.to_string_lossy();
    let is_here = |instruction: &&Instruction| instruction.object == object;
    let callers = profile.calls.keys().map(|(caller, _)| caller);
    let addresses = profile.locked.keys().chain(callers).filter(is_here);
    let addresses: HashSet<u64> = addresses.map(|instruction| instruction.address).collect();
    let mut addresses: Vec<u64> = addresses.into_iter().collect();
    addresses.sort_unstable();
    let all = source::frames(program, &addresses)?;
    Ok(attributed(profile, &object, &ours_alone(all)))
}

/// Only the frames in our own source, whose files are named from there. The others are the program's, and the standard
/// library's.
fn ours_alone(all: HashMap<u64, Vec<Frame>>) -> HashMap<u64, Vec<Frame>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).join("src");
    let ours = |frame: Frame| {
        let file = Path::new(&frame.file).strip_prefix(&root).ok()?;
        Some(Frame { file: file.to_string_lossy().into_owned(), ..frame })
    };
    all.into_iter()
        .map(|(address, frames)| (address, frames.into_iter().filter_map(ours).collect()))
        .collect()
}

/// `frames` are those of each address in `object`.
fn attributed(profile: &Profile, object: &str, frames: &HashMap<u64, Vec<Frame>>) -> Counts {
    let frames_of = |instruction: &Instruction| -> &[Frame] {
        let here = instruction.object == object;
        frames.get(&instruction.address).filter(|_| here).map_or(&[], Vec::as_slice)
    };
    let mut counts = Counts::default();
    // Functions that were not inlined, and are for whoever calls them.
    let mut tools = HashSet::new();
    for (instruction, &times) in &profile.locked {
        let frames = frames_of(instruction);
        if frames.is_empty() {
            continue;
        }
        match places::use_of(frames) {
            Some(known) => counts.add(place(known, frames), times, places::is_unlock(frames)),
            None => {
                tools.insert((instruction.object.clone(), instruction.function.clone()));
            }
        }
    }
    for ((caller, callee), &times) in &profile.calls {
        let is_tool = tools.contains(&(caller.object.clone(), caller.function.clone()));
        if tools.contains(callee) && !is_tool {
            let frames = frames_of(caller);
            let known = places::use_of(frames).unwrap_or(Use::UNKNOWN);
            counts.add(place(known, frames), times, false);
        }
    }
    counts
}

fn place(known: Use, frames: &[Frame]) -> Place {
    let site = match places::site_of(frames).or(frames.last()) {
        Some(frame) => {
            format!("{}:{} {}", frame.file, frame.line, places::name(&frame.function))
        }
        None => "?".to_owned(),
    };
    Place { class: known.class, sharing: known.sharing, site }
}

/// Those of a shared object, and of the C library's mutexes, which the benches themselves do not use. If there is none,
/// those of the C library's malloc.
pub(super) fn of_object(profile: &Profile, object: Option<&Path>) -> Counts {
    const ALLOCATOR: [&str; 11] = [
        "malloc",
        "free",
        "calloc",
        "realloc",
        "memalign",
        "aligned_alloc",
        "arena",
        "sysmalloc",
        "systrim",
        "tcache",
        "heap",
    ];
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let wanted = object.map(|object| object.canonicalize().unwrap_or(object.to_owned()));
    let mut counts = Counts::default();
    for (instruction, &times) in &profile.locked {
        let path = Path::new(&instruction.object);
        let is_libc = name(path).is_some_and(|name| name.starts_with("libc.so"));
        let is_meant = match &wanted {
            Some(wanted) => {
                path.canonicalize().is_ok_and(|path| path == *wanted)
                    || is_libc && instruction.function.contains("pthread_mutex_")
            }
            None => is_libc && ALLOCATOR.iter().any(|part| instruction.function.contains(part)),
        };
        if is_meant {
            let site = instruction.function.clone();
            let place = Place { class: Class::Other, sharing: Sharing::All, site };
            counts.add(place, times, false);
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "/bin/bench";

    fn instruction(object: &str, function: &str, address: u64) -> Instruction {
        Instruction { object: object.to_owned(), function: function.to_owned(), address }
    }

    fn frame(function: &str, file: &str, line: u32) -> Frame {
        Frame { function: function.to_owned(), file: file.to_owned(), line }
    }

    /// One of each kind: a lock's, a tool's that was not inlined, the program's own, the C library's.
    #[test]
    fn each_counts_where_it_belongs() {
        let locked = HashMap::from([
            (instruction(PROGRAM, "refill", 1), 5),
            (instruction(PROGRAM, "lower", 2), 3),
            (instruction(PROGRAM, "main", 3), 7),
            (instruction("/lib/libc.so.6", "start", 1), 9),
        ]);
        let lower = (PROGRAM.to_owned(), "lower".to_owned());
        let calls = HashMap::from([
            ((instruction(PROGRAM, "take", 4), lower.clone()), 2),
            ((instruction(PROGRAM, "unknown", 5), lower), 1),
        ]);
        let unlock = frame("unlock<slackwater::heap::depot::Blocks>", places::LOCK, 128);
        let frames = HashMap::from([
            (1, vec![unlock, frame("take", "heap/depot.rs", 115)]),
            (2, vec![frame("lower", "base/bit_pyramid.rs", 55)]),
            (4, vec![frame("take_lowest", "geometry/span_index.rs", 80)]),
        ]);
        let counts = attributed(&Profile { locked, calls }, PROGRAM, &frames);
        let place = |class, sharing, site: &str| Place { class, sharing, site: site.to_owned() };
        let depot = place(Class::Depot, Sharing::SizeClass, "heap/depot.rs:115 take");
        let index =
            place(Class::SpanIndex, Sharing::SizeClass, "geometry/span_index.rs:80 take_lowest");
        let expected = BTreeMap::from([
            (depot, Count { writes: 5.0, locks: 5.0 }),
            (index, Count { writes: 2.0, locks: 0.0 }),
            (place(Class::Other, Sharing::All, "?"), Count { writes: 1.0, locks: 0.0 }),
        ]);
        assert_eq!(counts.0, expected);
        assert_eq!(counts.shared().writes, 8.0);
    }

    #[test]
    fn what_the_operations_took_is_the_difference() {
        let place = |sharing| Place { class: Class::Caches, sharing, site: String::new() };
        let counts = |writes, locks| {
            Counts(BTreeMap::from([(place(Sharing::Own), Count { writes, locks })]))
        };
        let counts = counts(30.0, 5.0).without(counts(10.0, 5.0)).per_thousand(4000);
        assert_eq!(counts.0[&place(Sharing::Own)], Count { writes: 5.0, locks: 0.0 });
        assert_eq!(counts.shared(), Count::default());
        assert_eq!(counts.sum(|_| true).writes, 5.0);
    }

    #[test]
    fn of_an_object_its_own_and_its_mutexes_count() {
        let libc = "/lib/libc.so.6";
        let locked = HashMap::from([
            (instruction(PROGRAM, "main", 3), 7),
            (instruction("/proc/self/exe", "malloc", 1), 2),
            (instruction(libc, "pthread_mutex_lock@@GLIBC", 1), 4),
            (instruction(libc, "_int_free", 2), 8),
        ]);
        let profile = Profile { locked, calls: HashMap::new() };
        let sum = |object| of_object(&profile, object).sum(|_| true).writes;
        assert_eq!(sum(Some(Path::new("/proc/self/exe"))), 6.0);
        assert_eq!(sum(None), 8.0);
    }
}
