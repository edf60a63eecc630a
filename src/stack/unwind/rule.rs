//! A frame, and how it is left.

use crate::stack::frame_pointers::{frame_record, program_address};
use crate::stack::memory::StackMemory;
use crate::stack::registers::Registers;

/// A function's frame while the walk is in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// In the instruction that is under way: one less than the return address, since a call may be a
    /// function's last instruction.
    pub address: u64,
    pub sp: u64,
    pub fp: u64,
    /// The link register, where it may hold the return address: nothing was called from here.
    pub lr: Option<u64>,
}

/// What the registers are after a return from a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub pc: u64,
    /// Where the frame ended that was left.
    pub sp: u64,
    pub fp: u64,
    /// The frame that was left is a signal's: `pc` is of the instruction that it interrupted.
    pub interrupted: bool,
}

impl Caller {
    pub fn return_address(&self) -> u64 {
        self.pc + self.interrupted as u64
    }
}

/// How a frame is left. The same for each visit to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Caller(Place),
    /// Nobody has called this: it is where a thread begins.
    Outermost,
    /// No table says, or it says what is not understood here.
    Unknown,
}

/// Where the caller's registers are: the common case. The rest is worked out anew each time.
///
/// # Invariants
/// Every number is below 2^[`BITS`](Place::BITS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The frame's end is so many words above the frame pointer, or else the stack pointer.
    pub from_fp: bool,
    pub words: u64,
    /// The return address is so many words below the frame's end; 0: in the link register.
    pub return_address: u64,
    /// The caller's frame pointer is so many words below the frame's end; 0: unchanged.
    pub fp: u64,
}

impl Place {
    pub const BITS: u32 = 20;
    pub const LIMIT: u64 = 1 << Place::BITS;
}

const CALLER: u64 = 1;
const OUTERMOST: u64 = 2;
const UNKNOWN: u64 = 3;

impl Rule {
    /// The rule as a word, which is never 0.
    pub fn pack(self) -> u64 {
        match self {
            Rule::Caller(place) => {
                let numbers = [place.words, place.return_address, place.fp];
                numbers
                    .iter()
                    .fold(place.from_fp as u64, |word, number| word << Place::BITS | number)
                    << 2
                    | CALLER
            }
            Rule::Outermost => OUTERMOST,
            Rule::Unknown => UNKNOWN,
        }
    }

    /// `None` if that is no word that [`Rule::pack`] gives.
    pub fn unpack(word: u64) -> Option<Rule> {
        let number = |index: u32| word >> (2 + index * Place::BITS) & (Place::LIMIT - 1);
        match word & 3 {
            CALLER => Some(Rule::Caller(Place {
                from_fp: number(3) & 1 == 1,
                words: number(2),
                return_address: number(1),
                fp: number(0),
            })),
            OUTERMOST => Some(Rule::Outermost),
            UNKNOWN => Some(Rule::Unknown),
            _ => None,
        }
    }
}

impl Frame {
    pub fn innermost(registers: &Registers) -> Frame {
        let Registers { pc, sp, fp, lr } = *registers;
        Frame { address: pc, sp, fp, lr: cfg!(target_arch = "aarch64").then_some(lr) }
    }

    pub fn of_caller(caller: &Caller) -> Frame {
        let Caller { pc, sp, fp, interrupted } = *caller;
        Frame { address: pc - !interrupted as u64, sp, fp, lr: None }
    }

    /// The caller, whose registers are at `place`. `None` if they cannot be.
    pub fn caller_at(&self, place: &Place, memory: &mut dyn StackMemory) -> Option<Caller> {
        let base = if place.from_fp { self.fp } else { self.sp };
        let end = base.checked_add(place.words * 8)?;
        let saved =
            |memory: &mut dyn StackMemory, words: u64| memory.word(end.checked_sub(words * 8)?);
        let pc = match place.return_address {
            0 => self.lr?,
            words => saved(memory, words)?,
        };
        let fp = match place.fp {
            0 => self.fp,
            words => saved(memory, words)?,
        };
        self.caller(pc, end, fp)
    }

    /// The caller, if the frame pointer is one. What it points to may be anything.
    pub fn caller_by_frame_pointer(&self, memory: &mut dyn StackMemory) -> Option<Caller> {
        /// A frame that is larger than this is taken for something else: a pointer to another stack.
        const LARGEST: u64 = 64 << 10;
        if self.fp.checked_sub(self.sp)? > LARGEST {
            return None;
        }
        let (fp, pc) = frame_record(memory, self.fp)?;
        self.caller(pc, self.fp.checked_add(16)?, fp)
    }

    /// The caller with these registers, if it is further out: so a walk ends.
    pub fn caller(&self, pc: u64, end: u64, fp: u64) -> Option<Caller> {
        // A function that has pushed nothing and called nothing ends where it begins.
        let is_further_out = end > self.sp || (end == self.sp && self.lr.is_some());
        if !is_further_out {
            return None;
        }
        Some(Caller { pc: program_address(pc)?, sp: end, fp, interrupted: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every word is an address of a program.
    struct Code;

    impl StackMemory for Code {
        fn word(&mut self, address: u64) -> Option<u64> {
            Some(address)
        }
    }

    #[test]
    fn a_caller_is_further_out() {
        let frame = Frame { address: 0x5000, sp: 0x9000, fp: 0x8000, lr: None };
        let caller = |from_fp, words| {
            let place = Place { from_fp, words, return_address: 1, fp: 0 };
            frame.caller_at(&place, &mut Code).map(|caller| caller.sp)
        };
        assert_eq!(caller(false, 1), Some(0x9008));
        assert_eq!(caller(false, 0), None, "as far in");
        assert_eq!(caller(true, 2), None, "further in");
        assert_eq!(caller(true, 0x1000 / 8 + 1), Some(0x9008));
        assert_eq!(frame.caller(0x5000, 0x8fff, 0).map(|caller| caller.sp), None);
    }

    #[test]
    fn what_has_called_nothing_may_have_its_return_address_in_a_register() {
        let place = Place { from_fp: false, words: 0, return_address: 0, fp: 0 };
        let frame = Frame { address: 0x5000, sp: 0x9000, fp: 0x8000, lr: Some(0x6000) };
        let caller = frame.caller_at(&place, &mut Code).expect("a caller");
        assert_eq!((caller.pc, caller.sp, caller.fp), (0x6000, 0x9000, 0x8000));
        let frame = Frame::of_caller(&caller);
        assert!(frame.caller_at(&place, &mut Code).is_none(), "whoever calls has saved it");
    }

    #[test]
    fn a_rule_survives_being_a_word() {
        let numbers = [0, 1, 2, 7, 4095, Place::LIMIT - 2, Place::LIMIT - 1];
        for words in numbers {
            for return_address in numbers {
                for fp in numbers {
                    for from_fp in [false, true] {
                        let rule = Rule::Caller(Place { from_fp, words, return_address, fp });
                        assert_ne!(rule.pack(), 0);
                        assert_eq!(Rule::unpack(rule.pack()), Some(rule));
                    }
                }
            }
        }
        for rule in [Rule::Outermost, Rule::Unknown] {
            assert_eq!(Rule::unpack(rule.pack()), Some(rule));
        }
        assert_eq!(Rule::unpack(0), None);
    }
}
