//! The parts of the ELF format that are read from the memory of a process: see elf(5).

use slackwater::remote::Memory;

const HEADER_BYTES: usize = 64;
/// The magic number, 64 bits, little-endian.
const START: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
const SEGMENT_BYTES: usize = 56;
const MAX_SEGMENTS: u16 = 256;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// More notes than this in one place are none of a program's.
const MAX_NOTE_BYTES: u64 = 64 << 10;

/// A note in a program or library.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    /// Whose it is, with the zero at the end.
    pub name: &'a [u8],
    /// What it is, in the words of whose it is.
    pub kind: u32,
    /// What it says.
    pub content: &'a [u8],
    /// The address of its content.
    pub address: u64,
}

/// A program or library in the memory of a process.
pub struct Module {
    segments: Vec<u8>,
    bias: u64,
}

impl Module {
    /// Reads the head of the one whose first bytes are at `start`; `None`: there is none, or it cannot
    /// be read.
    pub fn read(memory: &impl Memory, start: u64) -> Option<Module> {
        let mut header = [0; HEADER_BYTES];
        if !memory.read(start, &mut header) {
            return None;
        }
        let count = u16_at(&header, 56);
        if !header.starts_with(&START)
            || u16_at(&header, 54) as usize != SEGMENT_BYTES
            || count > MAX_SEGMENTS
        {
            return None;
        }
        let mut segments = vec![0; count as usize * SEGMENT_BYTES];
        if !memory.read(start.wrapping_add(u64_at(&header, 32)), &mut segments) {
            return None;
        }
        let mut each = segments.chunks_exact(SEGMENT_BYTES);
        let first = each.find(|s| u32_at(s, 0) == LOAD && u64_at(s, 8) == 0);
        let bias = start.wrapping_sub(first.map_or(0, |segment| u64_at(segment, 16)));
        Some(Module { segments, bias })
    }

    /// What is added to the module's own addresses where it is.
    #[cfg(feature = "endpoint")]
    pub fn bias(&self) -> u64 {
        self.bias
    }

    /// Calls `see` for each note. What cannot be read has none.
    pub fn each_note(&self, memory: &impl Memory, see: &mut dyn FnMut(Note<'_>)) {
        let segments = self.segments.chunks_exact(SEGMENT_BYTES);
        for segment in segments.filter(|segment| u32_at(segment, 0) == NOTE) {
            let bytes = u64_at(segment, 40);
            let address = self.bias.wrapping_add(u64_at(segment, 16));
            let mut notes = vec![0; bytes.min(MAX_NOTE_BYTES) as usize];
            if memory.read(address, &mut notes) {
                let align = if u64_at(segment, 48) == 8 { 8 } else { 4 };
                each_note_in(&notes, address, align, see);
            }
        }
    }
}

/// Calls `see` for each whole note in `notes`, which are at `address`.
pub fn each_note_in(notes: &[u8], address: u64, align: usize, see: &mut dyn FnMut(Note<'_>)) {
    const HEAD: usize = 12;
    let mut at = 0;
    while notes.len() - at >= HEAD {
        let (name_bytes, content_bytes) =
            (u32_at(notes, at) as usize, u32_at(notes, at + 4) as usize);
        let name = at + HEAD;
        let content = name.saturating_add(name_bytes).next_multiple_of(align);
        let end = content.saturating_add(content_bytes).checked_next_multiple_of(align);
        let Some(end) = end.filter(|&end| end <= notes.len()) else { break };
        see(Note {
            name: &notes[name..name + name_bytes],
            kind: u32_at(notes, at + 8),
            content: &notes[content..content + content_bytes],
            address: address.wrapping_add(content as u64),
        });
        at = end;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
