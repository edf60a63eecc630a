//! The walk by frame pointers, as far as the code has them.

use super::memory::StackMemory;
use super::registers::Registers;
use crate::base::units::PAGE_BYTES;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test_random::Random;

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
}
