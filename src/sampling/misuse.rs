//! What is said of a program that misuses a sampled block: the block, and the stacks on which it was
//! misused, allocated and freed.
//!
//! A write behind a block that stays on its last page is noticed when the block is freed: it harmed
//! nobody, and the program goes on. A touch of a guard, or of a freed block, is a fault; where a handler
//! may stand (`api/faults`) it makes the report, and the fault then ends the process as by any other wild
//! access, with its core dump and all.
//!
//! After K. Serebryany and others, "GWP-ASan: Sampling-Based Detection of Memory-Safety Bugs in
//! Production" (ICSE 2024).

use super::call_sites::StackId;
use super::modules::{ModuleEntry, split};
use super::record::{Sample, Tables};
use super::sampler::Open;
use super::slots;
use crate::base::units::{PAGE_BYTES, SPAN_BYTES};
use crate::geometry::arena::Arena;
use crate::geometry::slot::SlotIndex;
use crate::os::report::{self, Line};
use crate::os::{self, Nanos};
use crate::stack::{self, MAX_FRAMES, Registers};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misuse {
    /// Written to behind its end, or read.
    Overflow,
    /// Touched before its start.
    Underflow,
    UseAfterFree,
    DoubleFree,
    /// Freed, or asked about, at an address that is no block's.
    NoBlock,
    /// A fault near a slot of which nothing is known.
    Wild,
}

impl Misuse {
    fn text(self) -> &'static str {
        match self {
            Misuse::Overflow => "heap overflow",
            Misuse::Underflow => "heap underflow",
            Misuse::UseAfterFree => "use after free",
            Misuse::DoubleFree => "double free",
            Misuse::NoBlock => "free of an address that is no block",
            Misuse::Wild => "wild access to the heap",
        }
    }
}

/// Reports, and ends the process.
#[cold]
pub(super) fn fail(
    open: &mut Open<'_>,
    misuse: Misuse,
    address: usize,
    index: Option<SlotIndex>,
    stack: StackId,
) -> ! {
    tell(open, misuse, address, index, stack);
    report::fail(misuse.text(), address)
}

/// Reports, and lets the program go on.
#[cold]
pub(super) fn report(
    open: &mut Open<'_>,
    misuse: Misuse,
    address: usize,
    index: Option<SlotIndex>,
    stack: StackId,
) {
    tell(open, misuse, address, index, stack);
    Line::new()
        .text("  it was found when the block was freed or resized; nothing else was harmed")
        .send();
}

fn tell(
    open: &mut Open<'_>,
    misuse: Misuse,
    address: usize,
    index: Option<SlotIndex>,
    stack: StackId,
) {
    let sample = index.map(|index| open.tables().samples[index as usize]);
    headline(misuse, address, sample.as_ref());
    tell_stack("here", os::thread(), None, open.tables(), stack);
    if let Some(sample) = sample {
        tell_history(open, &sample);
    }
}

fn headline(misuse: Misuse, address: usize, sample: Option<&Sample>) {
    let mut line = Line::new();
    line.text(misuse.text()).text(" at ").hex(address);
    if let Some(sample) = sample {
        let (start, bytes) = (sample.address as usize, sample.bytes);
        let end = start + bytes as usize;
        let (distance, side) = match address {
            _ if address >= end => (address - end, " bytes behind the end"),
            _ if address < start => (start - address, " bytes before the start"),
            _ => (address - start, " bytes behind the start"),
        };
        line.text(", ").number(distance as u64).text(side);
        line.text(" of a block of ").number(bytes).text(" bytes at ").hex(start);
    }
    line.send();
}

fn tell_history(open: &mut Open<'_>, sample: &Sample) {
    let tables = open.tables();
    tell_stack("allocated", sample.thread, Some(sample.allocated_at), tables, sample.stack);
    if sample.freed_at != 0 {
        tell_stack("freed", sample.freed_thread, Some(sample.freed_at), tables, sample.freed_stack);
    }
}

/// One stack, each frame as the file it is in and the place there, which `addr2line -e` takes.
fn tell_stack(what: &str, thread: u32, at: Option<u64>, tables: &mut Tables, stack: StackId) {
    let Tables { stacks, modules, scratch, .. } = tables;
    let frames = stacks.frames_of(stack);
    tell_heading(what, thread, at, frames.len());
    for (&frame, i) in frames.iter().zip(0..) {
        let (address, number) = split(frame);
        if modules.is_as_it_was(frame, scratch) {
            tell_frame(i, address, address.saturating_sub(1));
        } else {
            tell_unloaded(i, address, modules.entry(number));
        }
    }
}

/// A return address in a library that is no longer there; `None`: it is not known which it was.
fn tell_unloaded(number: u64, address: u64, module: Option<&ModuleEntry>) {
    let mut line = Line::new();
    line.text("    #").number(number).text(" ").hex(address as usize);
    if let Some(module) = module {
        let own = address.saturating_sub(1).wrapping_sub(module.bias);
        line.text(" ").raw(&module.name[..module.name_bytes as usize]);
        line.text("+").hex(own as usize);
    }
    line.text(" (unloaded)").send();
}

fn tell_heading(what: &str, thread: u32, at: Option<u64>, depth: usize) {
    let mut line = Line::new();
    line.text("  ").text(what).text(" by thread ").number(thread as u64);
    if let Some(at) = at {
        let millis = os::precise_now().since(Nanos(at)).0 / 1_000_000;
        line.text(", ").number(millis).text(" ms ago");
    }
    line.text(if depth == 0 { ": stack unknown" } else { ":" }).send();
}

/// Return addresses, from number `first` on. They are behind the calls.
fn tell_callers(first: u64, frames: &[u64]) {
    for (&frame, i) in frames.iter().zip(first..) {
        tell_frame(i, frame, frame.saturating_sub(1));
    }
}

fn tell_frame(number: u64, address: u64, instruction: u64) {
    let mut line = Line::new();
    line.text("    #").number(number).text(" ").hex(address as usize);
    name_file(&mut line, instruction);
    line.send();
}

/// Adds the file that is mapped at `address`, and the place in it as its own addresses count: from
/// where its first byte is mapped.
fn name_file(line: &mut Line, address: u64) {
    let mut first = 0;
    let mut buffer = [0; 512];
    os::each_line(c"/proc/self/maps", &mut buffer, |text| {
        let Some((start, end, offset, path)) = parse_mapping(text) else { return true };
        if offset == 0 {
            first = start;
        }
        let found = (start..end).contains(&address);
        if found && !path.is_empty() {
            line.text(" ").raw(path).text("+").hex((address - first) as usize);
        }
        !found
    });
}

/// A line of `/proc/self/maps`: first address, end, offset in the file, the file.
fn parse_mapping(text: &[u8]) -> Option<(u64, u64, u64, &[u8])> {
    let mut words = text.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let mut range = words.next()?.split(|&byte| byte == b'-').map(parse_hex);
    let (start, end) = (range.next()??, range.next()??);
    let _rights = words.next()?;
    let offset = parse_hex(words.next()?)?;
    let (_device, _inode) = (words.next()?, words.next()?);
    let path = words.next().unwrap_or(b"");
    // Up to the line's end: a path may have spaces.
    let path = match text.windows(path.len().max(1)).position(|part| part == path) {
        Some(at) if !path.is_empty() => &text[at..],
        _ => b"",
    };
    Some((start, end, offset, path))
}

fn parse_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = (digit as char).to_digit(16)?;
        value.checked_mul(16)?.checked_add(digit as u64)
    })
}

/// Tells what an access at `address`, among the slots of `arena`, means. `open` is the sampler; `None` in a
/// handler that interrupted its thread there.
pub(super) fn explain_fault(
    open: Option<Open<'_>>,
    arena: &Arena,
    address: usize,
    registers: Registers,
) {
    let Some(mut open) = open else {
        headline(Misuse::Wild, address, None);
        return;
    };
    let (misuse, index) = judge(&mut open, arena, address);
    let sample = index.map(|index| open.tables().samples[index as usize]);
    headline(misuse, address, sample.as_ref());
    let mut frames = [0; MAX_FRAMES];
    let depth = stack::capture_interrupted(&registers, &mut open.tables().scratch, &mut frames);
    tell_heading("here", os::thread(), None, depth + 1);
    tell_frame(0, registers.pc, registers.pc);
    tell_callers(1, &frames[..depth]);
    if let Some(sample) = sample {
        tell_history(&mut open, &sample);
    }
}

/// What a fault at `address` means, and whose block it is about.
fn judge(open: &mut Open<'_>, arena: &Arena, address: usize) -> (Misuse, Option<SlotIndex>) {
    let index = slots::index_of(arena, address);
    let of = |open: &mut Open<'_>, index: SlotIndex| {
        let sample = open.tables().samples[index as usize];
        (sample.address != 0 && sample.is_in_slot()).then_some(sample)
    };
    let offset = address % SPAN_BYTES;
    if let Some(sample) = of(open, index) {
        if sample.freed_at != 0 {
            return (Misuse::UseAfterFree, Some(index));
        }
        if offset >= sample.end_page as usize * PAGE_BYTES {
            return (Misuse::Overflow, Some(index));
        }
        // Below the first page: before this block, or far behind the one in the slot before.
        return (Misuse::Underflow, Some(index));
    }
    let before = index.checked_sub(1).filter(|&before| of(open, before).is_some());
    (if before.is_some() { Misuse::Overflow } else { Misuse::Wild }, before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_read_with_its_path() {
        let line = b"7f00-7fff r-xp 00001000 08:01 42                 /usr/lib/with space.so";
        let parsed = parse_mapping(line);
        assert_eq!(parsed, Some((0x7f00, 0x7fff, 0x1000, b"/usr/lib/with space.so".as_slice())));
        assert_eq!(
            parse_mapping(b"7f00-7fff rw-p 0 00:00 0 "),
            Some((0x7f00, 0x7fff, 0, &b""[..]))
        );
        assert_eq!(parse_mapping(b"nonsense"), None);
    }
}
