//! The calling thread's call stack, as return addresses.
//!
//! All of this runs inside malloc, on the stack of whoever called it. A [`Walker`] finds one return
//! address after the other; the one that is built in follows frame pointers, as far as the code has
//! them, and [`set_walker`] puts another in its place. What a walker takes for the address of a frame
//! may be anything, so it never reads the stack itself but a copy, made where the kernel says that there is
//! something to read ([`CopiedStack`]): a wrong address ends the walk.

#[cfg(feature = "unwind")]
pub mod unwind;

use core::arch::asm;
use core::ffi::c_void;
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::base::units::PAGE_BYTES;
use crate::os;

/// The most return addresses that are kept of a stack.
pub const MAX_FRAMES: usize = 128;

/// Where a walk begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The address of the instruction.
    pub pc: u64,
    /// The stack pointer.
    pub sp: u64,
    /// The frame pointer, if the code has one: `rbp`, `x29`.
    pub fp: u64,
    /// The link register on aarch64, else 0.
    pub lr: u64,
}

impl Registers {
    /// The registers as they are in the function that this is inlined into.
    #[inline(always)]
    pub fn here() -> Registers {
        let (pc, sp, fp, lr): (u64, u64, u64, u64);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: reads registers. One piece of assembly, so that all are of one instruction.
        unsafe {
            asm!(
                "lea {0}, [rip]",
                "mov {1}, rsp",
                "mov {2}, rbp",
                "xor {3:e}, {3:e}",
                out(reg) pc,
                out(reg) sp,
                out(reg) fp,
                out(reg) lr,
                options(nomem, nostack),
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: reads registers. One piece of assembly, so that all are of one instruction.
        unsafe {
            asm!(
                "adr {0}, .",
                "mov {1}, sp",
                "mov {2}, x29",
                "mov {3}, x30",
                out(reg) pc,
                out(reg) sp,
                out(reg) fp,
                out(reg) lr,
                options(nomem, nostack, preserves_flags),
            );
        }
        Registers { pc, sp, fp, lr }
    }
}

impl Registers {
    /// The registers of what a signal interrupted; `context` is what the handler was given.
    pub(crate) fn of_context(context: *const c_void) -> Registers {
        let context = context.cast::<libc::ucontext_t>();
        // SAFETY: the kernel has filled it in; the handler's caller vouches for the pointer.
        let machine = unsafe { &(*context).uc_mcontext };
        #[cfg(target_arch = "x86_64")]
        {
            let register = |index: libc::c_int| machine.gregs[index as usize] as u64;
            Registers {
                pc: register(libc::REG_RIP),
                sp: register(libc::REG_RSP),
                fp: register(libc::REG_RBP),
                lr: 0,
            }
        }
        #[cfg(target_arch = "aarch64")]
        Registers { pc: machine.pc, sp: machine.sp, fp: machine.regs[29], lr: machine.regs[30] }
    }
}

/// An address in the frame of the function that this is inlined into, for [`capture`]: every frame
/// that ends above it is that function's or an outer one's.
///
/// Costs one instruction. It holds whether the function then calls or jumps to the next one.
#[inline(always)]
pub fn address_in_frame() -> usize {
    let address: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a register. The return address is at or above it, and the frame's end behind that.
    unsafe {
        asm!("mov {}, rsp", out(reg) address, options(nomem, nostack, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reads a register. `lr` counts as overwritten so that it has been saved by now: without
    // that the function might have no frame yet, and end where its callee ends.
    unsafe {
        asm!("mov {}, sp", out(reg) address, out("lr") _, options(nomem, nostack, preserves_flags));
    }
    address
}

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

/// Fills in return addresses, innermost first, and says how many. The first is the one to which the
/// function returns in which the registers were read.
///
/// It runs inside malloc: it must not allocate, take locks, panic, or change `errno`.
pub type Walker = fn(&Registers, &mut dyn StackMemory, &mut [u64]) -> usize;

/// A [`Walker`], or null for the one that is built in.
static WALKER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Sets what walks stacks from now on. Any thread, at any time.
pub fn set_walker(walker: Walker) {
    // Release, for whatever the walker has prepared; the partner is in `walker`.
    WALKER.store(walker as *mut (), Ordering::Release);
}

/// By the tables that compilers leave for exceptions; without the feature by frame pointers.
#[cfg(feature = "unwind")]
const BUILT_IN: Walker = crate::stack::unwind::walk;
#[cfg(not(feature = "unwind"))]
const BUILT_IN: Walker = walk_frame_pointers;

/// Whether stacks are walked by tables, so that every return address is in a module of the stack, or in one
/// that stays.
pub(crate) fn is_by_tables() -> bool {
    cfg!(feature = "unwind") && WALKER.load(Ordering::Relaxed).is_null()
}

fn walker() -> Walker {
    let walker = WALKER.load(Ordering::Acquire);
    if walker.is_null() {
        return BUILT_IN;
    }
    // SAFETY: only `set_walker` writes the place, and it writes a `Walker`.
    unsafe { transmute::<*mut (), Walker>(walker) }
}

/// The walker that is built in: follows frame pointers until one does not lead outwards.
///
/// A few nanoseconds a frame. Ends early where code keeps no frame pointers, and may have passed over
/// functions that keep none.
pub fn walk_frame_pointers(
    registers: &Registers,
    memory: &mut dyn StackMemory,
    frames: &mut [u64],
) -> usize {
    let mut fp = registers.fp;
    let mut lowest = registers.sp;
    let mut count = 0;
    while count < frames.len() && fp >= lowest {
        let Some((next, return_address)) = frame_record(memory, fp) else { break };
        let end = fp.saturating_add(16);
        if memory.is_wanted(end) {
            frames[count] = return_address;
            count += 1;
        }
        (fp, lowest) = (next, end);
    }
    count
}

/// What a frame pointer points to: the caller's frame pointer and the return address. `None` if that
/// cannot be read, or the address is none of a program's.
pub fn frame_record(memory: &mut dyn StackMemory, fp: u64) -> Option<(u64, u64)> {
    let next = memory.word(fp)?;
    let return_address = program_address(memory.word(fp.checked_add(8)?)?)?;
    Some((next, return_address))
}

/// A return address without its signature (aarch64 may have one in the high bits). `None` if no
/// program has code there.
pub fn program_address(word: u64) -> Option<u64> {
    const BITS: u32 = if cfg!(target_arch = "x86_64") { 47 } else { 48 };
    let address = if cfg!(target_arch = "x86_64") { word } else { word & ((1 << BITS) - 1) };
    (address >= PAGE_BYTES as u64 && address >> BITS == 0).then_some(address)
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
/// Taken piece by piece where the walker asks for them, 64 KiB at most, a page at a time, which costs about
/// 0.2 µs. A signal's own stack is a place like any other. Where the kernel does not say what can be read (a
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
    fn of_anything(scratch: &'a mut Scratch, skip_to: u64) -> CopiedStack<'a> {
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

/// The calling thread's stack: fills in return addresses, innermost first, and says how many; 0 if the
/// stack is unknown.
///
/// `skip_to` is the [`address_in_frame`] of a function of the allocator's that its user has called:
/// the first return address is the one to which that function returns, whatever the allocator has
/// called since. Keeps `errno`; costs little more than the copy.
#[inline(never)]
pub fn capture(scratch: &mut Scratch, frames: &mut [u64; MAX_FRAMES], skip_to: usize) -> usize {
    let registers = Registers::here();
    let mut memory = CopiedStack::new(scratch, registers.sp, skip_to as u64);
    walker()(&registers, &mut memory, frames).min(MAX_FRAMES)
}

/// The stack of what a signal interrupted: its callers.
pub(crate) fn capture_interrupted(
    registers: &Registers,
    scratch: &mut Scratch,
    frames: &mut [u64; MAX_FRAMES],
) -> usize {
    let mut memory = CopiedStack::of_anything(scratch, registers.sp);
    walker()(registers, &mut memory, frames).min(MAX_FRAMES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test_random::Random;
    use std::cell::Cell;
    use std::thread;

    /// A stack that begins at [`WORDS_AT`].
    struct Words<'a> {
        words: &'a [u64],
        skip_to: u64,
    }

    const WORDS_AT: u64 = 0x7fff_0000_0000;

    /// A return address.
    const CODE: u64 = 0x5555_0000_0000;

    impl StackMemory for Words<'_> {
        fn word(&mut self, address: u64) -> Option<u64> {
            let index = address.checked_sub(WORDS_AT)? / 8;
            address.is_multiple_of(8).then(|| self.words.get(index as usize).copied())?
        }

        fn is_wanted(&self, end: u64) -> bool {
            end > self.skip_to
        }
    }

    fn at(word: u64) -> u64 {
        WORDS_AT + word * 8
    }

    fn walk_words(words: &[u64], skip_to: u64) -> Vec<u64> {
        let registers = Registers { pc: CODE, sp: at(0), fp: at(1), lr: 0 };
        let mut frames = [0; 8];
        let count = walk_frame_pointers(&registers, &mut Words { words, skip_to }, &mut frames);
        frames[..count].to_vec()
    }

    #[test]
    fn frame_pointers_are_followed_outwards() {
        let words = [7, at(4), CODE + 1, 7, at(6), CODE + 2, 0, CODE + 3];
        assert_eq!(walk_words(&words, 0), [CODE + 1, CODE + 2, CODE + 3]);
        // The stack is cut off behind the second frame.
        assert_eq!(walk_words(&words[..6], 0), [CODE + 1, CODE + 2]);
    }

    #[test]
    fn frames_below_the_wanted_ones_are_passed_over() {
        let words = [7, at(4), CODE + 1, 7, at(6), CODE + 2, 0, CODE + 3];
        // The first frame ends where its return address does.
        assert_eq!(walk_words(&words, at(3) - 1), [CODE + 1, CODE + 2, CODE + 3]);
        assert_eq!(walk_words(&words, at(3)), [CODE + 2, CODE + 3]);
        assert_eq!(walk_words(&words, at(8)), []);
    }

    #[test]
    fn a_frame_pointer_that_does_not_lead_outwards_ends_the_walk() {
        for next in [at(1), at(0), at(2), at(4) + 1, at(400), 3, u64::MAX, u64::MAX - 7] {
            let words = [7, next, CODE + 1, 7, at(6), CODE + 2];
            assert_eq!(walk_words(&words, 0), [CODE + 1], "{next:#x}");
        }
    }

    #[test]
    fn what_is_no_code_ends_the_walk() {
        // The high bits may be a signature on aarch64.
        let too_high = if cfg!(target_arch = "x86_64") { 1 << 47 } else { 1 << 48 };
        for wrong in [0, 1, 0xfff, too_high] {
            let words = [7, at(4), CODE + 1, 7, at(6), wrong];
            assert_eq!(walk_words(&words, 0), [CODE + 1], "{wrong:#x}");
        }
    }

    /// Ends at all, and never says more than there is room for.
    #[test]
    fn a_stack_of_garbage_is_walked_to_some_end() {
        for seed in 0..2_000 {
            let mut random = Random::new(seed);
            let words: Vec<u64> = (0..64)
                .map(|_| match random.below(4) {
                    0 => at(random.below(70)),
                    1 => random.next(),
                    2 => CODE + random.below(100),
                    _ => random.below(3).wrapping_sub(1),
                })
                .collect();
            let skip_to = at(random.below(70));
            let registers =
                Registers { pc: random.next(), sp: at(0), fp: at(random.below(8)), lr: 0 };
            let mut frames = [0; 8];
            let mut memory = Words { words: &words, skip_to };
            assert!(walk_frame_pointers(&registers, &mut memory, &mut frames) <= 8, "{seed}");
        }
    }

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
        for wrong in [0, 8, 4096, WORDS_AT, 1 << 47, 1 << 63, u64::MAX - 7] {
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

    /// Forbids the calling thread `rt_sigprocmask`, for good.
    fn forbid_reading() {
        let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        let give = (libc::BPF_RET | libc::BPF_K) as u16;
        let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let number = libc::SYS_rt_sigprocmask as u32;
        let mut filter = [
            // The system call's number is first.
            libc::sock_filter { code: load, jt: 0, jf: 0, k: 0 },
            libc::sock_filter { code: equal, jt: 0, jf: 1, k: number },
            libc::sock_filter { code: give, jt: 0, jf: 0, k: refuse },
            libc::sock_filter { code: give, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the program is valid; the kernel copies it.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }, 0);
    }

    #[test]
    fn where_the_kernel_refuses_our_own_frames_are_still_read() {
        thread::spawn(|| {
            forbid_reading();
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

    #[test]
    fn what_was_interrupted_need_not_have_a_stack() {
        let mut scratch = Box::new(Scratch::new());
        let mut frames = [0; MAX_FRAMES];
        for sp in [0, 8, 4096, WORDS_AT, WORDS_AT + 3, u64::MAX] {
            let registers = Registers { pc: CODE, sp, fp: sp, lr: 0 };
            assert_eq!(capture_interrupted(&registers, &mut scratch, &mut frames), 0);
        }
    }

    thread_local! {
        static IS_CLAIMED: Cell<bool> = const { Cell::new(false) };
    }

    /// Of this test's thread only: others capture meanwhile.
    fn claims_too_much(
        registers: &Registers,
        memory: &mut dyn StackMemory,
        frames: &mut [u64],
    ) -> usize {
        if !IS_CLAIMED.get() {
            return walk_frame_pointers(registers, memory, frames);
        }
        frames[0] = registers.sp;
        frames[1] = memory.is_wanted(registers.sp) as u64;
        frames[2] = memory.is_wanted(registers.sp + (1 << 20)) as u64;
        frames[3] = memory.word(registers.sp & !7).is_some() as u64;
        usize::MAX
    }

    #[test]
    fn the_walker_that_is_set_walks_what_capture_copied() {
        let here = address_in_frame();
        let mut scratch = Box::new(Scratch::new());
        let mut frames = [0; MAX_FRAMES];
        IS_CLAIMED.set(true);
        set_walker(claims_too_much);
        let count = capture(&mut scratch, &mut frames, here);
        set_walker(walk_frame_pointers);
        assert_eq!(count, MAX_FRAMES, "a walker that claims too much is not believed");
        assert!(frames[0] < here as u64);
        assert_eq!(frames[1..4], [0, 1, 1]);
    }
}
