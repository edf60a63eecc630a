//! What a module's unwind tables say of an address: `.eh_frame_hdr` finds the entry, `.eh_frame` has it.

use core::ops::RangeInclusive;

use crate::stack::frame_pointers::program_address;
use crate::stack::memory::StackMemory;
use gimli::{
    AArch64, BaseAddresses, CallFrameInstruction, CallFrameInstructionIter, CfaRule,
    CommonInformationEntry, EhFrame, EhFrameHdr, Encoding, EndianSlice, FrameDescriptionEntry,
    NativeEndian, Operation, Pointer, Register, RegisterRule, UnwindExpression, UnwindSection,
    Vendor, X86_64,
};

use super::rule::{Caller, Frame, Place, Rule};
use crate::os::loader::Module;

const IS_X86: bool = cfg!(target_arch = "x86_64");
const VENDOR: Vendor = if IS_X86 { Vendor::Default } else { Vendor::AArch64 };
const SP: Register = if IS_X86 { X86_64::RSP } else { AArch64::SP };
const FP: Register = if IS_X86 { X86_64::RBP } else { AArch64::X29 };
const RETURN_ADDRESS: Register = if IS_X86 { X86_64::RA } else { AArch64::X30 };

/// What the tables say.
pub(crate) enum Answer {
    /// This, and the same next time.
    Rule(Rule),
    /// Something of the kind that has to be worked out each time.
    Caller(Option<Caller>),
}

type Slice = EndianSlice<'static, NativeEndian>;

/// The rules that hold at an address, for the registers that are followed. gimli can work out all
/// registers', and would take 5 KiB of a stack for it that may be a small one.
#[derive(Clone, Default)]
struct Row {
    end: CfaRule<usize>,
    return_address: Option<RegisterRule<usize>>,
    fp: Option<RegisterRule<usize>>,
}

/// Asks the tables of `module`, which `frame`'s address is in. Some hundred nanoseconds.
#[inline(never)]
pub(crate) fn ask(module: &Module, frame: &Frame, memory: &mut dyn StackMemory) -> Answer {
    let Some((row, details)) = find(module, frame.address) else {
        return Answer::Rule(Rule::Unknown);
    };
    match row.place() {
        Some(place) if !details.is_signal => Answer::Rule(Rule::Caller(place)),
        _ if row.return_address == Some(RegisterRule::Undefined) => Answer::Rule(Rule::Outermost),
        _ => Answer::Caller(work_out(&row, &details, frame, memory)),
    }
}

/// What there is to know of an entry besides its row.
struct Details {
    is_signal: bool,
    eh_frame: EhFrame<Slice>,
    encoding: Encoding,
}

/// The row for `address`.
fn find(module: &Module, address: u64) -> Option<(Row, Details)> {
    let bases = BaseAddresses::default().set_eh_frame_hdr(module.header);
    let header = EhFrameHdr::new(module.rest_of_segment(module.header)?, NativeEndian);
    let header = header.parse(&bases, 8).ok()?;
    let Pointer::Direct(eh_frame_at) = header.eh_frame_ptr() else { return None };
    let bases = bases.set_eh_frame(eh_frame_at);
    let mut eh_frame = EhFrame::new(module.rest_of_segment(eh_frame_at)?, NativeEndian);
    eh_frame.set_vendor(VENDOR);
    let Pointer::Direct(entry_at) = header.table()?.lookup(address, &bases).ok()? else {
        return None;
    };
    let offset = usize::try_from(entry_at.checked_sub(eh_frame_at)?).ok()?;
    let entry = eh_frame.fde_from_offset(&bases, offset.into(), EhFrame::cie_from_offset).ok()?;
    if !entry.contains(address) {
        return None;
    }
    let row = Row::of_entry(&entry, &eh_frame, &bases, address)?;
    let details = Details {
        is_signal: entry.is_signal_trampoline(),
        encoding: entry.cie().encoding(),
        eh_frame,
    };
    Some((row, details))
}

impl Row {
    fn of_entry(
        entry: &FrameDescriptionEntry<Slice>,
        eh_frame: &EhFrame<Slice>,
        bases: &BaseAddresses,
        address: u64,
    ) -> Option<Row> {
        let cie = entry.cie();
        let mut row = Row::default();
        row.execute(cie.instructions(eh_frame, bases), cie, 0..=u64::MAX, &Row::default())?;
        let initial = row.clone();
        let until_address = entry.initial_address()..=address;
        row.execute(entry.instructions(eh_frame, bases), cie, until_address, &initial)?;
        Some(row)
    }

    /// Executes what changes the row in the code of `range`. `None` if that is not understood.
    fn execute(
        &mut self,
        mut instructions: CallFrameInstructionIter<'_, Slice>,
        cie: &CommonInformationEntry<Slice>,
        range: RangeInclusive<u64>,
        initial: &Row,
    ) -> Option<()> {
        use CallFrameInstruction::*;
        let factored = |offset: i64| offset.wrapping_mul(cie.data_alignment_factor());
        let mut remembered = [const { None }; 4];
        let mut depth = 0;
        let mut at = *range.start();
        while let Some(instruction) = instructions.next().ok()? {
            match instruction {
                SetLoc { address } => at = address,
                AdvanceLoc { delta } => {
                    let bytes = u64::from(delta).wrapping_mul(cie.code_alignment_factor());
                    at = at.checked_add(bytes)?;
                }
                DefCfa { register, offset } => {
                    self.end = CfaRule::RegisterAndOffset { register, offset: offset as i64 };
                }
                DefCfaSf { register, factored_offset } => {
                    let offset = factored(factored_offset);
                    self.end = CfaRule::RegisterAndOffset { register, offset };
                }
                DefCfaRegister { register: to } => match &mut self.end {
                    CfaRule::RegisterAndOffset { register, .. } => *register = to,
                    CfaRule::Expression(_) => return None,
                },
                DefCfaOffset { offset: to } => *self.offset()? = to as i64,
                DefCfaOffsetSf { factored_offset } => *self.offset()? = factored(factored_offset),
                DefCfaExpression { expression } => self.end = CfaRule::Expression(expression),
                Undefined { register } => self.set(register, RegisterRule::Undefined),
                SameValue { register } => self.set(register, RegisterRule::SameValue),
                Offset { register, factored_offset } => {
                    self.set(register, RegisterRule::Offset(factored(factored_offset as i64)));
                }
                OffsetExtendedSf { register, factored_offset } => {
                    self.set(register, RegisterRule::Offset(factored(factored_offset)));
                }
                ValOffset { register, factored_offset } => {
                    self.set(register, RegisterRule::ValOffset(factored(factored_offset as i64)));
                }
                ValOffsetSf { register, factored_offset } => {
                    self.set(register, RegisterRule::ValOffset(factored(factored_offset)));
                }
                Register { dest_register, src_register } => {
                    self.set(dest_register, RegisterRule::Register(src_register));
                }
                Expression { register, expression } => {
                    self.set(register, RegisterRule::Expression(expression));
                }
                ValExpression { register, expression } => {
                    self.set(register, RegisterRule::ValExpression(expression));
                }
                Restore { register } => {
                    if let Some(rule) = self.rule(register) {
                        *rule = initial.clone().rule(register)?.take();
                    }
                }
                RememberState => {
                    *remembered.get_mut(depth)? = Some(self.clone());
                    depth += 1;
                }
                RestoreState => {
                    depth = depth.checked_sub(1)?;
                    *self = remembered.get_mut(depth)?.take()?;
                }
                ArgsSize { .. } | NegateRaState | Nop => {}
            }
            if at > *range.end() {
                break;
            }
        }
        Some(())
    }

    fn offset(&mut self) -> Option<&mut i64> {
        match &mut self.end {
            CfaRule::RegisterAndOffset { offset, .. } => Some(offset),
            CfaRule::Expression(_) => None,
        }
    }

    /// The rule of a register, if it is one that is followed.
    fn rule(&mut self, register: Register) -> Option<&mut Option<RegisterRule<usize>>> {
        match register {
            RETURN_ADDRESS => Some(&mut self.return_address),
            FP => Some(&mut self.fp),
            _ => None,
        }
    }

    fn set(&mut self, register: Register, to: RegisterRule<usize>) {
        if let Some(rule) = self.rule(register) {
            *rule = Some(to);
        }
    }

    /// The row as a [`Place`], if it is one.
    fn place(&self) -> Option<Place> {
        let CfaRule::RegisterAndOffset { register, offset } = self.end else { return None };
        if register != SP && register != FP {
            return None;
        }
        let words = |bytes: i64| {
            let bytes = u64::try_from(bytes).ok()?;
            (bytes % 8 == 0 && bytes / 8 < Place::LIMIT).then_some(bytes / 8)
        };
        let below_end = |rule: &Option<RegisterRule<usize>>| match *rule {
            None | Some(RegisterRule::SameValue) => Some(0),
            Some(RegisterRule::Offset(offset)) => words(offset.checked_neg()?).filter(|&n| n > 0),
            Some(_) => None,
        };
        Some(Place {
            from_fp: register == FP,
            words: words(offset)?,
            return_address: below_end(&self.return_address)?,
            fp: below_end(&self.fp)?,
        })
    }
}

/// The caller by rules that are expressions: a signal's frame, a linkage table, a realigned stack.
fn work_out(
    row: &Row,
    details: &Details,
    frame: &Frame,
    memory: &mut dyn StackMemory,
) -> Option<Caller> {
    let end = match row.end {
        CfaRule::RegisterAndOffset { register, offset } => {
            frame.register(register)?.checked_add_signed(offset)?
        }
        CfaRule::Expression(expression) => evaluate(expression, details, frame, None, memory)?,
    };
    let mut saved = |register, rule: &Option<RegisterRule<usize>>| match *rule {
        None | Some(RegisterRule::SameValue) => frame.register(register),
        Some(RegisterRule::Offset(offset)) => memory.word(end.checked_add_signed(offset)?),
        Some(RegisterRule::Expression(expression)) => {
            let address = evaluate(expression, details, frame, Some(end), memory)?;
            memory.word(address)
        }
        Some(_) => None,
    };
    let pc = saved(RETURN_ADDRESS, &row.return_address)?;
    let fp = saved(FP, &row.fp)?;
    if details.is_signal {
        // It may have a stack of its own, so the interrupted function's can be anywhere.
        return Some(Caller { pc: program_address(pc)?, sp: end, fp, interrupted: true });
    }
    frame.caller(pc, end, fp)
}

impl Frame {
    fn register(&self, register: Register) -> Option<u64> {
        match register {
            SP => Some(self.sp),
            FP => Some(self.fp),
            // In expressions x86_64's return address stands for the address of the instruction.
            RETURN_ADDRESS if IS_X86 => Some(self.address),
            RETURN_ADDRESS => self.lr,
            _ => None,
        }
    }
}

/// The value of an expression of the few operations that compilers and libc write into tables.
fn evaluate(
    expression: UnwindExpression<usize>,
    details: &Details,
    frame: &Frame,
    initial: Option<u64>,
    memory: &mut dyn StackMemory,
) -> Option<u64> {
    let mut stack = Values::default();
    if let Some(initial) = initial {
        stack.push(initial)?;
    }
    let mut operations = expression.get(&details.eh_frame).ok()?.operations(details.encoding);
    while let Some(operation) = operations.next().ok()? {
        let value = match operation {
            Operation::RegisterOffset { register, offset, .. } => {
                frame.register(register)?.wrapping_add_signed(offset)
            }
            Operation::UnsignedConstant { value } => value,
            Operation::SignedConstant { value } => value as u64,
            Operation::PlusConstant { value } => stack.pop()?.wrapping_add(value),
            Operation::Deref { size: 8, space: false, .. } => {
                let address = stack.pop()?;
                memory.word(address)?
            }
            Operation::Plus => stack.pop()?.wrapping_add(stack.pop()?),
            Operation::And => stack.pop()? & stack.pop()?,
            Operation::Ge => {
                let right = stack.pop()? as i64;
                (stack.pop()? as i64 >= right) as u64
            }
            Operation::Shl => {
                let bits = u32::try_from(stack.pop()?).ok()?;
                stack.pop()?.checked_shl(bits)?
            }
            _ => return None,
        };
        stack.push(value)?;
    }
    stack.pop()
}

/// # Invariants
/// `count <= values.len()`.
#[derive(Default)]
struct Values {
    values: [u64; 8],
    count: usize,
}

impl Values {
    fn push(&mut self, value: u64) -> Option<()> {
        *self.values.get_mut(self.count)? = value;
        self.count += 1;
        Some(())
    }

    fn pop(&mut self) -> Option<u64> {
        self.count = self.count.checked_sub(1)?;
        Some(self.values[self.count])
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use gimli::Format;
    use std::vec;

    struct NoMemory;

    impl StackMemory for NoMemory {
        fn word(&mut self, _: u64) -> Option<u64> {
            None
        }
    }

    fn value(expression: &'static [u8], frame: &Frame) -> Option<u64> {
        let details = Details {
            is_signal: false,
            eh_frame: EhFrame::new(expression, NativeEndian),
            encoding: Encoding { address_size: 8, format: Format::Dwarf32, version: 1 },
        };
        let expression = UnwindExpression { offset: 0, length: expression.len() };
        evaluate(expression, &details, frame, None, &mut NoMemory)
    }

    /// What is said of the code at 0x1000 + `at` by instructions for every function and for one.
    fn row(for_every: &[u8], for_one: &[u8], at: u64) -> Option<Row> {
        // Version 1, no augmentation, factors 1 and -8, the return address's register.
        let mut all = vec![0, 0, 0, 0, 1, 0, 1, 0x78, RETURN_ADDRESS.0 as u8];
        all.extend(for_every);
        let mut section = (all.len() as u32).to_ne_bytes().to_vec();
        section.extend(&all);
        let offset = section.len();
        let mut one = (offset as u32 + 4).to_ne_bytes().to_vec();
        one.extend([0x1000_u64.to_ne_bytes(), 0x100_u64.to_ne_bytes()].concat());
        one.extend(for_one);
        section.extend((one.len() as u32).to_ne_bytes());
        section.extend(&one);
        let mut eh_frame = EhFrame::new(section.leak(), NativeEndian);
        eh_frame.set_vendor(VENDOR);
        let bases = BaseAddresses::default().set_eh_frame(0x9000);
        let entry = eh_frame.fde_from_offset(&bases, offset.into(), EhFrame::cie_from_offset);
        Row::of_entry(&entry.expect("an entry"), &eh_frame, &bases, 0x1000 + at)
    }

    #[test]
    fn instructions_hold_from_their_address_on() {
        let (sp, fp, address) = (SP.0 as u8, FP.0 as u8, RETURN_ADDRESS.0 as u8);
        let for_every = [0x0c, sp, 8, 0x80 | address, 1];
        // After a byte: pushed. After three more: end above the frame pointer. Then as at first for
        // four bytes, and back.
        let for_one = [
            &[0x41, 0x0e, 16, 0x80 | fp, 2, 0x43, 0x0d, fp, 0x44, 0x0a, 0x0c, sp, 8][..],
            &[0x07, address, 0xc0 | address, 0xc0 | fp, 0x44, 0x0b],
        ]
        .concat();
        let place = |from_fp, words, fp| Some(Place { from_fp, words, return_address: 1, fp });
        for (at, expected) in [
            (0, place(false, 1, 0)),
            (1, place(false, 2, 2)),
            (3, place(false, 2, 2)),
            (4, place(true, 2, 2)),
            (7, place(true, 2, 2)),
            (8, place(false, 1, 0)),
            (11, place(false, 1, 0)),
            (12, place(true, 2, 2)),
            (200, place(true, 2, 2)),
        ] {
            let row = row(&for_every, &for_one, at).expect("a row");
            assert_eq!(row.place(), expected, "{at}");
        }
    }

    #[test]
    fn instructions_that_make_no_sense_have_no_row() {
        assert!(row(&[], &[0x0b], 0).is_none(), "a state that was not remembered");
        assert!(row(&[], &[0x0a; 5], 0).is_none(), "more states than there is room for");
        assert!(row(&[], &[0x3b], 0).is_none(), "no instruction");
        assert!(row(&[], &[0x0f, 1, 0x30, 0x0e, 8], 0).is_none(), "an offset, to an expression");
        // What signs return addresses on aarch64 is none elsewhere.
        assert_eq!(row(&[], &[0x2d], 0).is_some(), !IS_X86);
    }

    /// What linkers write for the linkage table, whose entries are of 16 bytes: the frame has eight bytes
    /// more from the entry's eleventh on, where its first has been pushed.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_frame_of_a_linkage_table() {
        let entry = &[0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
        for (at, end) in [(0, 1008), (6, 1008), (10, 1008), (11, 1016), (15, 1016), (16, 1008)] {
            let frame = Frame { address: 0x4000 + at, sp: 1000, fp: 0, lr: None };
            assert_eq!(value(entry, &frame), Some(end), "{at}");
        }
    }

    #[test]
    fn what_is_not_understood_has_no_value() {
        let frame = Frame { address: 0x4000, sp: 1000, fp: 2000, lr: None };
        assert_eq!(value(&[], &frame), None);
        assert_eq!(value(&[0x22], &frame), None, "plus, of nothing");
        assert_eq!(value(&[0x06], &frame), None, "a value at no address");
        assert_eq!(value(&[0x30, 0x06], &frame), None, "a value that cannot be read");
        assert_eq!(value(&[0x73, 8], &frame), None, "a register that is not followed");
        assert_eq!(value(&[0x31; 8], &frame), Some(1));
        assert_eq!(value(&[0x31; 9], &frame), None, "more values than there is room for");
        assert_eq!(value(&[0x2f, 0xfd, 0xff], &frame), None, "a jump, which might never end");
    }
}
