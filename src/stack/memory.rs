//! What a walk reads: a copy of the stack, made where the kernel says that there is something to read. A wrong
//! address ends the walk, and does not fault.

use crate::base::units::PAGE_BYTES;
use crate::os;

/// What a walker reads of a stack.
pub trait StackMemory {
    /// The eight bytes at `address`. `None` if they cannot be read, or are not aligned.
    fn word(&mut self, address: u64) -> Option<u64>;

    /// Whether the return address belongs into the walk that the frame has which ends at `end`: the
    /// value of the stack pointer before the frame's call (in DWARF's words, the CFA). A walker asks
    /// for each frame, and passes over it if not.
    fn is_wanted(&self, end: u64) -> bool {
        let _ = end;
        true
    }
}

/// The sizes of the pieces that a stack is copied in: most stacks are short, and a call costs as much
/// as a copy of 16 KiB.
const PIECE_BYTES: [usize; 4] = [8 << 10, 8 << 10, 16 << 10, 32 << 10];

const PIECES: usize = PIECE_BYTES.len();

const SCRATCH_WORDS: usize = (64 << 10) / 8;

/// Room for the copy of a stack: 64 KiB, too much for the stack itself.
pub struct Scratch([u64; SCRATCH_WORDS]);

impl Scratch {
    /// Zeros: as a `static` it takes no memory until it is used.
    pub const fn new() -> Scratch {
        Scratch([0; SCRATCH_WORDS])
    }

    /// The room, whatever is there.
    pub(crate) fn words(&mut self) -> &mut [u64] {
        &mut self.0
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

/// A copy of parts of the calling thread's stack.
///
/// Taken piece by piece where the walker asks for them, 64 KiB at most, a page at a time, which costs up to
/// 1 µs. A signal's own stack is a place like any other. Where the kernel does not say what can be read (a
/// filter of the program's may see to that) there is only what lies between the start and the end of the page
/// with the first wanted frame, so that the walk ends early.
///
/// # Invariants
/// `count <= PIECES`. Of the pieces below `count`, piece `i` is a copy of what was at `pieces[i].start`:
/// `pieces[i].words` words of `scratch` from `pieces[i].place` on. `latest < PIECES`.
pub struct CopiedStack<'a> {
    scratch: &'a mut Scratch,
    pieces: [Piece; PIECES],
    count: usize,
    /// The piece in which a word was last found.
    latest: usize,
    skip_to: u64,
}

#[derive(Clone, Copy, Default)]
struct Piece {
    /// A multiple of 8.
    start: u64,
    words: usize,
    place: usize,
}

impl<'a> CopiedStack<'a> {
    /// The stack of the calling thread from `sp`, an address in the caller's frame, on. Frames that do
    /// not end above `skip_to` are unwanted.
    pub fn new(scratch: &'a mut Scratch, sp: u64, skip_to: u64) -> CopiedStack<'a> {
        let mut stack = CopiedStack::of_anything(scratch, skip_to);
        if stack.copy(sp).is_none() {
            stack.copy_own_frames(sp);
        }
        stack
    }

    /// The same of a stack that may be no stack: only what the kernel copies is read.
    pub(super) fn of_anything(scratch: &'a mut Scratch, skip_to: u64) -> CopiedStack<'a> {
        CopiedStack { scratch, pieces: [Piece::default(); PIECES], count: 0, latest: 0, skip_to }
    }

    /// Copies the piece that begins with the page of `address`; `None` if there is no room for it, or
    /// nothing to be read.
    fn copy(&mut self, address: u64) -> Option<()> {
        let start = address - address % PAGE_BYTES as u64;
        let bytes = PIECE_BYTES.get(self.count)?;
        let place = PIECE_BYTES[..self.count].iter().sum::<usize>() / 8;
        let room = self.scratch.0.get_mut(place..place + bytes / 8)?;
        let words = os::read_own_memory(start as usize, room);
        self.pieces[self.count] = Piece { start, words, place };
        self.count += (words > 0) as usize;
        (words > 0).then_some(())
    }

    /// Copies without the kernel what is mapped for certain: from `sp` to `skip_to` are our own frames,
    /// and mapped is what shares a page with them.
    fn copy_own_frames(&mut self, sp: u64) {
        let start = sp & !7;
        let own_bytes = self.skip_to.wrapping_sub(start);
        let last = if own_bytes < PIECE_BYTES[0] as u64 { self.skip_to } else { start };
        let end = (last | (PAGE_BYTES as u64 - 1)).wrapping_add(1);
        let words = ((end.wrapping_sub(start) / 8) as usize).min(PIECE_BYTES[0] / 8);
        for (i, place) in self.scratch.0[..words].iter_mut().enumerate() {
            let word = (start as usize + i * 8) as *const u64;
            // SAFETY: an aligned word of a mapped page of the thread's own stack. Volatile, because
            // other threads may write to objects there.
            *place = unsafe { word.read_volatile() };
        }
        self.pieces[0] = Piece { start, words, place: 0 };
        self.count = 1;
    }

    fn find(&mut self, address: u64) -> Option<u64> {
        if let Some(word) = self.in_piece(self.latest, address) {
            return Some(word);
        }
        let (latest, word) =
            (0..self.count).find_map(|piece| Some((piece, self.in_piece(piece, address)?)))?;
        self.latest = latest;
        Some(word)
    }

    fn in_piece(&self, piece: usize, address: u64) -> Option<u64> {
        let Piece { start, words, place } = *self.pieces.get(piece)?;
        let word = (address.wrapping_sub(start) / 8) as usize;
        if word < words { self.scratch.0.get(place + word).copied() } else { None }
    }
}

impl StackMemory for CopiedStack<'_> {
    fn word(&mut self, address: u64) -> Option<u64> {
        if !address.is_multiple_of(8) {
            return None;
        }
        if let Some(word) = self.find(address) {
            return Some(word);
        }
        self.copy(address)?;
        self.find(address)
    }

    fn is_wanted(&self, end: u64) -> bool {
        end > self.skip_to
    }
}

#[cfg(test)]
mod tests {
    use super::super::registers::Registers;
    use super::*;
    use crate::testing::filter::forbid;
    use std::thread;

    #[test]
    fn the_copy_is_what_is_on_the_stack() {
        let mut scratch = Box::new(Scratch::new());
        let marks: [u64; 3000] = core::array::from_fn(|i| 0xabc0_0000 + i as u64);
        let marks = std::hint::black_box(&marks);
        let address = marks.as_ptr() as u64;
        let mut stack = CopiedStack::new(&mut scratch, Registers::here().sp, 0);
        for (i, &mark) in marks.iter().enumerate() {
            assert_eq!(stack.word(address + i as u64 * 8), Some(mark));
        }
        assert_eq!(stack.word(address + 4), None, "not aligned");
    }

    #[test]
    fn what_cannot_be_read_is_no_word_and_costs_no_room() {
        let mut scratch = Box::new(Scratch::new());
        let mut stack = CopiedStack::new(&mut scratch, Registers::here().sp, 0);
        os::set_errno(1234);
        for wrong in [0, 8, 4096, 0x7fff_0000_0000, 1 << 47, 1 << 63, u64::MAX - 7] {
            for address in [wrong, wrong.saturating_sub(4096)] {
                assert_eq!(stack.word(address), None, "{address:#x}");
            }
        }
        assert_eq!(os::errno(), 1234);
        let count = stack.count;
        assert!(stack.word(Registers::here().sp).is_some());
        assert_eq!(stack.count, count);
    }

    #[test]
    fn a_piece_ends_where_what_is_mapped_ends() {
        let pages = os::map_metadata(4 * PAGE_BYTES).expect("memory");
        let end = os::AddressRange { start: pages + PAGE_BYTES, bytes: 3 * PAGE_BYTES };
        // SAFETY: the pages are this test's own.
        unsafe { os::unmap(end) };
        let mut scratch = Box::new(Scratch::new());
        let mut stack = CopiedStack::new(&mut scratch, Registers::here().sp, 0);
        let last = (pages + PAGE_BYTES - 8) as u64;
        assert_eq!(stack.word(last), Some(0));
        assert_eq!(stack.word(last + 8), None);
        // SAFETY: as above.
        unsafe { os::unmap(os::AddressRange { start: pages, bytes: PAGE_BYTES }) };
    }

    #[test]
    fn no_more_is_copied_than_there_is_room_for() {
        let (pieces, piece_bytes) = (10, PIECE_BYTES[PIECES - 1]);
        let bytes = pieces * piece_bytes;
        let pages = os::map_metadata(bytes).expect("memory");
        let mut scratch = Box::new(Scratch::new());
        let mut stack = CopiedStack::new(&mut scratch, Registers::here().sp, 0);
        let read =
            (0..pieces).take_while(|i| stack.word((pages + i * piece_bytes) as u64).is_some());
        assert_eq!(read.count(), PIECES - 1, "one piece is the stack's");
        // SAFETY: the pages are this test's own.
        unsafe { os::unmap(os::AddressRange { start: pages, bytes }) };
    }

    #[test]
    fn where_the_kernel_refuses_our_own_frames_are_still_read() {
        thread::spawn(|| {
            forbid(libc::SYS_futex);
            let mark = std::hint::black_box(0x1234_5678_9abc_def0_u64);
            let mark_at = &raw const mark as u64;
            let mut scratch = Box::new(Scratch::new());
            os::set_errno(1234);
            let sp = Registers::here().sp;
            let mut stack = CopiedStack::new(&mut scratch, sp, mark_at);
            assert_eq!(os::errno(), 1234);
            assert_eq!(stack.word(mark_at), Some(mark));
            let behind = (mark_at | (PAGE_BYTES as u64 - 1)) + 1;
            assert!(stack.word(behind - 8).is_some(), "to the end of the page");
            assert_eq!(stack.word(behind), None, "which is all that is mapped for certain");
        })
        .join()
        .unwrap();
    }
}
