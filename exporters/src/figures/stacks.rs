//! Which of a process's mappings are the stacks of threads, and how much of them is resident.
//!
//! The kernel does not mark them. A mapping is taken for a stack when it is private and anonymous, lies
//! outside the heap, and
//!
//! - is called one (`[stack]`, or a name that a C library gives it), or
//! - a thread's stack pointer is in it (`/proc/PID/task/TID/syscall`), or, of a thread that runs at that
//!   moment, the head of its list of robust mutexes, which C libraries keep at the end of its stack, or
//! - it has the size of a stack found so, directly above a guard of the same size: the stacks of threads
//!   that were not asked, and those that a C library keeps for threads to come.
//!
//! With 200 threads a look takes 5 ms longer than with one, with 2,000 40 ms, in a build that is not
//! optimised.
//!
//! So the figure has more than stacks where the kernel has joined a stack with a neighbour that has no
//! guard between (since Linux 6.7 it does not join `MAP_STACK` with other memory), or where a program
//! runs threads on pieces of a larger mapping of its own. It lacks stacks in shared or mapped memory, stacks
//! in the heap, and those of threads without a C library's state that never rest.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

use slackwater::remote::Place;

use crate::kernel::mappings::MapsLine;
use crate::kernel::pagemap::{Expected, Pagemap};
use crate::kernel::process::numbers_in;

/// How many threads are asked for their stack pointers, at 5 µs each. Of more, an even choice is.
const MAX_ASKED: usize = 256;

/// Names by which the kernel (also Linux before 4.5), glibc (`glibc.mem.decorate_maps`) and bionic call
/// stacks.
const NAMES: [&str; 4] =
    ["[stack]", "[stack:", "[anon: glibc: pthread stack", "[anon:stack_and_tls:"];

/// Where a process's heap is: what is there is no stack. Nowhere before its first allocation.
pub(crate) fn heap_addresses(place: Option<&Place>) -> Range<u64> {
    place.map_or(0..0, |place| {
        place.records.min(place.samples)..place.end().max(place.samples_end())
    })
}

/// Resident bytes of the stacks of the process with these files (`/proc/PID` or `/proc/self`). Costs a
/// look at each mapping and at up to 256 threads. `None` where the kernel does not tell.
pub(crate) fn resident_bytes(
    files: &Path,
    process: u32,
    heap: &Range<u64>,
    pagemap: &Pagemap,
) -> Option<u64> {
    let mut resident = 0;
    for range in find(files, process, heap)? {
        let add = &mut |start, end, _| resident += end - start;
        pagemap.scan(Expected::Absent, range.start, range.end, add).ok()?;
    }
    Some(resident)
}

/// The stacks of the process with these files, in order. `None` where its mappings or its threads
/// cannot be read.
pub(crate) fn find(files: &Path, process: u32, heap: &Range<u64>) -> Option<Vec<Range<u64>>> {
    let maps = fs::read(files.join("maps")).ok()?;
    let maps = String::from_utf8_lossy(&maps);
    let mappings: Vec<MapsLine<'_>> = maps.lines().filter_map(MapsLine::parse).collect();
    let places = stack_places(files, process, list_head)?;
    Some(among(&mappings, &places, heap))
}

/// Which of these mappings, which are in order, are stacks, if threads have theirs at `places`.
fn among(mappings: &[MapsLine<'_>], places: &[u64], heap: &Range<u64>) -> Vec<Range<u64>> {
    let is_candidate = |mapping: &MapsLine<'_>| {
        let is_named_otherwise =
            mapping.name.starts_with('[') && !mapping.name.starts_with("[anon:");
        mapping.is_private_anonymous()
            && !mapping.is_guard()
            && !is_named_otherwise
            && (mapping.end <= heap.start || heap.end <= mapping.start)
    };
    let size = |mapping: &MapsLine<'_>| mapping.end - mapping.start;
    let shape = |i: usize| {
        let below = mappings.get(i.checked_sub(1)?)?;
        let has_guard = below.is_guard() && below.end == mappings[i].start;
        has_guard.then(|| (size(below), size(&mappings[i])))
    };
    let mut held = BTreeSet::new();
    for &place in places {
        let i = mappings.partition_point(|mapping| mapping.end <= place);
        if mappings.get(i).is_some_and(|one| one.start <= place && is_candidate(one)) {
            held.insert(i);
        }
    }
    let shapes: BTreeSet<(u64, u64)> = held.iter().filter_map(|&i| shape(i)).collect();
    let is_stack = |i: usize| {
        let mapping = &mappings[i];
        NAMES.iter().any(|name| mapping.name.starts_with(name))
            || held.contains(&i)
            || (is_candidate(mapping) && shape(i).is_some_and(|shape| shapes.contains(&shape)))
    };
    let stacks = (0..mappings.len()).filter(|&i| is_stack(i));
    stacks.map(|i| mappings[i].start..mappings[i].end).collect()
}

/// An address in the stack of each thread that tells one. `None` where there are threads beside the
/// first, and the kernel will not tell of any of them.
fn stack_places(
    files: &Path,
    process: u32,
    list_head: impl Fn(u32) -> Option<u64>,
) -> Option<Vec<u64>> {
    let threads: Vec<u32> = numbers_in(&files.join("task")).ok()?.collect();
    let (mut places, mut is_refused, mut is_told) = (Vec::new(), false, false);
    let every = threads.len().div_ceil(MAX_ASKED).max(1);
    for &thread in threads.iter().step_by(every) {
        let task = files.join(format!("task/{thread}"));
        let answer = fs::read_to_string(task.join("syscall"));
        let place = match &answer {
            Ok(line) => stack_pointer(line),
            Err(error) => {
                // Or it has ended meanwhile.
                is_refused |= error.raw_os_error() != Some(libc::ESRCH) && task.exists();
                None
            }
        };
        // The first thread has its list outside its stack, which has a name.
        let place = place.or_else(|| if thread == process { None } else { list_head(thread) });
        is_told |= place.is_some() && thread != process;
        places.extend(place);
    }
    (threads.len() < 2 || is_told || !is_refused).then_some(places)
}

/// The stack pointer in a line of `syscall`: the last number but one. A thread that runs has none there.
fn stack_pointer(line: &str) -> Option<u64> {
    let digits = line.split_ascii_whitespace().rev().nth(1)?;
    u64::from_str_radix(digits.strip_prefix("0x")?, 16).ok().filter(|&place| place != 0)
}

/// Where a thread has the head of its list of robust mutexes.
fn list_head(thread: u32) -> Option<u64> {
    let (mut head, mut bytes) = (0_usize, 0_usize);
    // SAFETY: the kernel writes a word to each of the two, which are ours.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_get_robust_list,
            thread as libc::c_int,
            &raw mut head,
            &raw mut bytes,
        )
    };
    (outcome == 0 && head != 0).then_some(head as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SP: &str = "202 0x7f00 0x80 0x0 0x0 0x0 0x0 ";

    /// Files in the place of the kernel's: `maps`, and a `syscall` for each thread.
    fn files(name: &str, maps: &str, threads: &[(u32, &str)]) -> std::path::PathBuf {
        let files =
            std::env::temp_dir().join(format!("slackwater-stacks-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&files);
        for (thread, line) in threads {
            let task = files.join(format!("task/{thread}"));
            fs::create_dir_all(&task).expect("made");
            fs::write(task.join("syscall"), line).expect("written");
        }
        fs::write(files.join("maps"), maps).expect("written");
        files
    }

    const MAPS: &str = "\
        10000-20000 rw-p 00000000 00:00 0    [heap]\n\
        100000-101000 ---p 00000000 00:00 0\n\
        101000-201000 rw-p 00000000 00:00 0\n\
        201000-202000 ---p 00000000 00:00 0\n\
        202000-302000 rw-p 00000000 00:00 0\n\
        302000-303000 ---p 00000000 00:00 0\n\
        303000-503000 rw-p 00000000 00:00 0\n\
        600000-700000 rw-p 00000000 00:00 0\n\
        700000-701000 ---p 00000000 00:00 0\n\
        701000-801000 rw-p 00000000 fe:01 77   /data\n\
        900000-a00000 rw-s 00000000 00:01 78   /dev/zero (deleted)\n\
        b00000-c00000 rw-p 00000000 00:00 0    [anon: glibc: pthread stack: 9]\n\
        d00000-e00000 rw-p 00000000 00:00 0    [stack]\n\
        e00000-e01000 r-xp 00000000 00:00 0    [vdso]\n";

    /// The starts of the mappings that are stacks if threads have theirs at `places`.
    fn starts(places: &[u64], heap: Range<u64>) -> Vec<u64> {
        let mappings: Vec<_> = MAPS.lines().filter_map(MapsLine::parse).collect();
        among(&mappings, places, &heap).into_iter().map(|stack| stack.start).collect()
    }

    #[test]
    fn what_holds_a_stack_pointer_is_a_stack_and_so_is_what_looks_like_it() {
        assert_eq!(starts(&[], 0..0), [0xb0_0000, 0xd0_0000]);
        // Another of this size above a guard of that size; not the one of another size.
        let same_size = [0x10_1000, 0x20_2000, 0xb0_0000, 0xd0_0000];
        assert_eq!(starts(&[0x10_1800], 0..0), same_size);
        assert_eq!(starts(&[0x30_3008], 0..0), [0x30_3000, 0xb0_0000, 0xd0_0000]);
        // One without a guard says nothing of others.
        assert_eq!(starts(&[0x60_0000], 0..0), [0x60_0000, 0xb0_0000, 0xd0_0000]);
    }

    #[test]
    fn the_heap_files_shared_memory_and_gaps_are_no_stacks() {
        let others = [0x1_0100, 0x10_0800, 0x70_1100, 0x90_0000, 0xe0_0000, 0x50_3000, u64::MAX];
        assert_eq!(starts(&others, 0..0), [0xb0_0000, 0xd0_0000]);
        let heap = 0x10_0000..0x20_1000;
        assert_eq!(starts(&[0x10_1800], heap.clone()), [0xb0_0000, 0xd0_0000]);
        assert_eq!(starts(&[0x20_2800], heap), [0x20_2000, 0xb0_0000, 0xd0_0000]);
    }

    #[test]
    fn threads_that_rest_say_where_and_of_those_that_run_the_list_does() {
        let line = |place: &str| format!("{SP}{place} 0x5555\n");
        let (rests, outside) = (line("0x202abc"), "-1 0x303008 0x5555\n");
        let files =
            files("told", MAPS, &[(7, "running\n"), (8, &rests), (9, outside), (10, "running")]);
        let list = |thread| (thread != 8).then_some(u64::from(thread));
        let mut places = stack_places(&files, 7, list).expect("told");
        places.sort();
        assert_eq!(places, [10, 0x20_2abc, 0x30_3008], "and the first thread's list is elsewhere");
        let none = |_| None;
        assert_eq!(stack_places(&files, 7, none).map(|places| places.len()), Some(2));
        let expected = [0x10_1000, 0x20_2000, 0x30_3000, 0xb0_0000, 0xd0_0000];
        let found = find(&files, 7, &(0..0)).expect("told");
        assert_eq!(found.iter().map(|stack| stack.start).collect::<Vec<_>>(), expected);
        fs::remove_dir_all(&files).expect("removed");
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_absent() {
        let files = files("refused", MAPS, &[(7, "running\n"), (8, "running\n")]);
        let none = |_| None;
        assert_eq!(stack_places(&files, 7, none), Some(vec![]), "they run");
        fs::remove_file(files.join("task/8/syscall")).expect("removed");
        assert_eq!(stack_places(&files, 7, none), None, "there is no such file");
        assert_eq!(stack_places(&files, 7, |_| Some(5)), Some(vec![5]));
        fs::remove_dir_all(files.join("task/8")).expect("removed");
        assert_eq!(stack_places(&files, 7, none), Some(vec![]), "one thread's has a name");
        fs::remove_file(files.join("maps")).expect("removed");
        assert_eq!(find(&files, 7, &(0..0)), None);
        fs::remove_dir_all(&files).expect("removed");
        assert_eq!(stack_places(&files, 7, none), None);
    }

    #[test]
    fn of_thousands_of_threads_a_few_hundred_are_asked() {
        let threads: Vec<(u32, &str)> = (1..=1000).map(|thread| (thread, "running\n")).collect();
        let files = files("many", MAPS, &threads);
        let asked = std::cell::Cell::new(0);
        let places = stack_places(&files, 1, |thread| {
            asked.set(asked.get() + 1);
            Some(u64::from(thread))
        });
        assert!((200..=MAX_ASKED).contains(&asked.get()), "{}", asked.get());
        assert!(places.expect("told").iter().any(|&thread| thread > 500));
        fs::remove_dir_all(&files).expect("removed");
    }

    #[test]
    fn words_that_are_no_places_are_none() {
        for line in ["running\n", "", "0x5\n", "-1 0x0 0x0\n", "-1 zz 0x0\n", "-1 7 0x0\n"] {
            assert_eq!(stack_pointer(line), None, "{line}");
        }
    }
}
