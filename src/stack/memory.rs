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

/// How many pages of a stack are copied at most.
const PAGES: usize = 16;

const PAGE_WORDS: usize = PAGE_BYTES / 8;

/// How far a captured stack may be from its capture for what lies between to be taken for our own frames.
const OWN_BYTES: u64 = 8 << 10;

/// Room for the copy of a stack: 64 KiB, too much for the stack itself.
pub struct Scratch([u64; PAGES * PAGE_WORDS]);

impl Scratch {
    /// Zeros: as a `static` it takes no memory until it is used.
    pub const fn new() -> Scratch {
        Scratch([0; PAGES * PAGE_WORDS])
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
/// Taken page by page where the walker asks for them, 64 KiB at most. Of the pages of our own frames it is known that
/// they can be read; about each other one the kernel is asked, which costs up to 1 µs. A signal's own stack is a place
/// like any other. Where the kernel does not say what can be read (a filter of the program's may see to that) there is
/// only what lies between the start and the end of the page with the first wanted frame, so that the walk ends early.
///
/// # Invariants
/// `count <= PAGES`. Below `count`, the `i`th page of `scratch` is a copy of the page that was at `pages[i]`.
pub struct CopiedStack<'a> {
    scratch: &'a mut Scratch,
    pages: [u64; PAGES],
    count: usize,
    /// The page in which a word was last found.
    latest: usize,
    skip_to: u64,
}

/// The address of the page in which `address` is.
fn page_of(address: u64) -> u64 {
    address - address % PAGE_BYTES as u64
}

impl<'a> CopiedStack<'a> {
    /// The stack of the calling thread from `sp`, an address in the caller's frame, on. Frames that do
    /// not end above `skip_to` are unwanted.
    pub fn new(scratch: &'a mut Scratch, sp: u64, skip_to: u64) -> CopiedStack<'a> {
        let mut stack = CopiedStack::of_anything(scratch, skip_to);
        stack.copy_own_frames(sp);
        stack
    }

    /// The same of a stack that may be no stack: only what the kernel says can be read is read.
    pub(super) fn of_anything(scratch: &'a mut Scratch, skip_to: u64) -> CopiedStack<'a> {
        CopiedStack { scratch, pages: [0; PAGES], count: 0, latest: 0, skip_to }
    }

    /// Copies the page of `address`; `None` if there is no room for it, or nothing to be read.
    fn copy(&mut self, address: u64) -> Option<()> {
        self.copy_by(address, |_, room| os::read_own_page(address as usize, room))
    }

    /// Copies without the kernel what is mapped for certain: from `sp` to `skip_to` are our own frames,
    /// and mapped is what shares a page with them. What is below `sp` is nobody's, and left out.
    fn copy_own_frames(&mut self, sp: u64) {
        let is_near = self.skip_to.wrapping_sub(sp) < OWN_BYTES;
        let last = if is_near { self.skip_to } else { sp };
        for page in (page_of(sp)..=page_of(last)).step_by(PAGE_BYTES) {
            let below = (sp.saturating_sub(page) / 8) as usize;
            self.copy_by(page, |page, room| {
                let (unused, used) = room.split_at_mut(below);
                unused.fill(0);
                // SAFETY: the rest of a mapped page of the thread's own stack, as said above.
                unsafe { os::read_mapped_memory(page + below * 8, used) };
                true
            });
        }
    }

    /// Copies the page of `address` by `read`, which says whether it could.
    fn copy_by(
        &mut self,
        address: u64,
        read: impl FnOnce(usize, &mut [u64]) -> bool,
    ) -> Option<()> {
        let (page, place) = (page_of(address), self.count * PAGE_WORDS);
        let room = self.scratch.0.get_mut(place..place + PAGE_WORDS)?;
        read(page as usize, room).then(|| {
            self.pages[self.count] = page;
            self.count += 1;
        })
    }

    fn find(&mut self, address: u64) -> Option<u64> {
        let page = page_of(address);
        if self.pages[self.latest] != page || self.count == 0 {
            self.latest = self.pages[..self.count].iter().position(|&copied| copied == page)?;
        }
        let word = (address - page) as usize / 8;
        self.scratch.0.get(self.latest * PAGE_WORDS + word).copied()
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
    fn the_copy_ends_where_what_is_mapped_ends() {
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
        let bytes = (PAGES + 4) * PAGE_BYTES;
        let pages = os::map_metadata(bytes).expect("memory");
        let mut scratch = Box::new(Scratch::new());
        let mut stack = CopiedStack::new(&mut scratch, Registers::here().sp, 0);
        let is_read = |i: &usize| stack.word((pages + i * PAGE_BYTES) as u64).is_some();
        let read = (0..PAGES + 4).take_while(is_read);
        assert_eq!(read.count(), PAGES - 1, "one page is the stack's");
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
