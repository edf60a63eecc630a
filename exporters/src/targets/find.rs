//! Where the root of a process's heap is: which of its programs and libraries has the note that leads there.

use std::collections::BTreeSet;
use std::fs;

use slackwater::remote::{NOTE_NAME, NOTE_TYPE, RemoteHeap};

use super::error::Cause;
use crate::kernel::elf::{Module, Note};
use crate::kernel::mappings::MapsLine;
use crate::kernel::memory::ProcessMemoryReader;

/// The address of the root of a process's heap. Where there are two (a program that has the allocator
/// built in, run under the preload library), that of the larger one.
pub(super) fn find_root(process: u32, memory: &ProcessMemoryReader) -> Result<u64, Cause> {
    let maps = fs::read(format!("/proc/{process}/maps")).map_err(|error| Cause::of_io(&error))?;
    let maps = String::from_utf8_lossy(&maps);
    let mut best = Err(Cause::NoHeap);
    let mut best_segments = 0;
    for module in module_starts(&maps) {
        for root in roots_in(module, memory)? {
            let segments = RemoteHeap::open(memory, root)
                .and_then(|heap| heap.place(memory))
                .map(|place| place.map_or(0, |place| place.segments));
            match segments {
                Ok(segments) if best.is_err() || segments > best_segments => {
                    (best, best_segments) = (Ok(root), segments);
                }
                Err(error) if best == Err(Cause::NoHeap) => best = Err(Cause::Heap(error)),
                _ => {}
            }
        }
    }
    best
}

/// Where the programs and libraries in `maps` begin: the readable mappings of the starts of files of
/// which something can be executed. Other files are left alone. Reading them would bring in pages that
/// the process has not touched, and might wait for ever for a server that does not answer.
fn module_starts(maps: &str) -> impl Iterator<Item = u64> {
    let mappings = || maps.lines().filter_map(MapsLine::parse).filter(|mapping| mapping.inode != 0);
    let executable: BTreeSet<_> =
        mappings().filter(MapsLine::is_executable).map(|one| one.file()).collect();
    mappings()
        .filter(move |mapping| {
            mapping.offset == 0
                && mapping.access.starts_with('r')
                && executable.contains(&mapping.file())
        })
        .map(|mapping| mapping.start)
}

/// The roots that the notes of the module at `start` lead to.
fn roots_in(start: u64, memory: &ProcessMemoryReader) -> Result<Vec<u64>, Cause> {
    let mut roots = Vec::new();
    match memory.try_read(start, &mut [0]) {
        // A file that is shorter than its mapping, or is mapped no more.
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => return Ok(roots),
        outcome => outcome.map_err(|error| Cause::of_io(&error))?,
    }
    if let Some(module) = Module::read(memory, start) {
        module.each_note(memory, &mut |note| roots.extend(root_of(&note)));
    }
    Ok(roots)
}

/// The root that a note leads to, if it is ours.
fn root_of(note: &Note<'_>) -> Option<u64> {
    let distance = <[u8; 8]>::try_from(note.content).ok()?;
    let is_ours = note.kind == NOTE_TYPE && note.name == NOTE_NAME;
    is_ours.then(|| note.address.wrapping_add(u64::from_le_bytes(distance)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_its_note() {
        let memory = ProcessMemoryReader::own();
        let root = find_root(std::process::id(), &memory);
        assert_eq!(root, Ok(slackwater::remote::own_root()));
    }

    #[test]
    fn notes_are_walked_and_cut_ones_left_alone() {
        let mut notes = Vec::new();
        let mut push = |name: &[u8], kind: u32, content: &[u8]| {
            for number in [name.len() as u32, content.len() as u32, kind] {
                notes.extend_from_slice(&number.to_le_bytes());
            }
            for bytes in [name, content] {
                notes.extend_from_slice(bytes);
                notes.resize(notes.len().next_multiple_of(4), 0);
            }
        };
        push(b"GNU\0", 3, &[1; 20]);
        push(NOTE_NAME, NOTE_TYPE + 1, &[1; 8]);
        push(NOTE_NAME, NOTE_TYPE, &[1; 4]);
        push(NOTE_NAME, NOTE_TYPE, &(-16i64).to_le_bytes());
        let content = notes.len() as u64 - 8;
        let roots_of_notes = |notes: &[u8], address, align| {
            let mut roots = Vec::new();
            crate::kernel::elf::each_note_in(notes, address, align, &mut |note| {
                roots.extend(root_of(&note))
            });
            roots
        };
        assert_eq!(roots_of_notes(&notes, 0x1000, 4), [0x1000 + content - 16]);
        for cut in 0..notes.len() {
            assert!(roots_of_notes(&notes[..cut], 0x1000, 4).is_empty(), "{cut}");
        }
        for at in 0..notes.len() {
            let mut spoilt = notes.clone();
            spoilt[at] = 0xff;
            roots_of_notes(&spoilt, u64::MAX - 3, 8);
        }
    }

    #[test]
    fn modules_begin_where_a_file_does_that_is_executed() {
        let maps = "7f00a000-7f00b000 r--p 00000000 fe:01 1234   /usr/lib/a b (deleted)\n\
             7f00b000-7f00c000 r-xp 00001000 fe:01 1234   /usr/lib/a b (deleted)\n\
             7f00c000-7f00d000 r-xp 00000000 fe:01 1235   /usr/bin/static\n\
             7f00d000-7f00e000 r--p 00000000 fe:01 1236   /var/data\n\
             7f00e000-7f00f000 r--p 00000000 fe:02 1234   /var/library-as-data\n\
             7f00f000-7f010000 ---p 00000000 fe:01 1234   /usr/lib/a\n\
             7f010000-7f011000 rwxp 00000000 00:00 0\n\
             \n\
             nonsense\n";
        assert_eq!(module_starts(maps).collect::<Vec<_>>(), [0x7f00_a000, 0x7f00_c000]);
    }
}
