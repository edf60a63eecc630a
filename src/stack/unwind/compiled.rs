//! Code that a program has compiled while it runs: it is in no module, and has no tables.
//!
//! Much of it keeps frame pointers. What does not is mostly thin, like the functions that Python (`-X
//! perf`) puts between two of its interpreter's, one for each of the program's: room for eight bytes, and
//! the return address. So that is looked for first, and believed if there is a call in front of where it
//! leads.

use super::rule::{Caller, Frame};
use super::safe::{Place, SafeModules};
use crate::os::loader;
use crate::stack::memory::StackMemory;

/// How many places are looked at, and how far apart they are: at a call the stack is aligned to 16 bytes,
/// and the return address is in the upper half of these.
const PLACES: u64 = 4;
const APART: u64 = 16;

/// Who called the function that `frame` is in. What is believed most comes first: a return address right
/// behind the frame's end, a frame pointer that leads to one (it may be that of an outer function; then
/// those between are left out), one a little further out, and then whatever the frame pointer leads to.
pub fn caller(
    frame: &Frame,
    safe: &mut SafeModules,
    memory: &mut dyn StackMemory,
) -> Option<Caller> {
    safe.guess();
    if cfg!(target_arch = "aarch64") {
        return safe.let_pass(frame.caller_by_frame_pointer(memory)?);
    }
    if let Some(caller) = caller_at(frame, 0, safe, memory) {
        return Some(caller);
    }
    let by_pointer = frame.caller_by_frame_pointer(memory);
    if by_pointer.as_ref().is_some_and(|caller| returns_to_a_module(caller.pc, safe)) {
        return by_pointer;
    }
    let further = (1..PLACES).find_map(|place| caller_at(frame, place, safe, memory));
    further.or_else(|| safe.let_pass(by_pointer?))
}

/// The caller, if the return address is at this place.
fn caller_at(
    frame: &Frame,
    place: u64,
    safe: &SafeModules,
    memory: &mut dyn StackMemory,
) -> Option<Caller> {
    let at = (frame.sp & !(APART - 1)).checked_add(place * APART + 8)?;
    let pc = memory.word(at).filter(|&pc| returns_to_a_module(pc, safe))?;
    frame.caller(pc, at + 8, frame.fp)
}

/// Is there a call in front of this address, in the code of a module that may be looked at?
fn returns_to_a_module(address: u64, safe: &SafeModules) -> bool {
    /// The longest call that compilers write, without prefixes.
    const LONGEST: u64 = 7;
    let before = address.saturating_sub(LONGEST);
    if [address, before].iter().any(|&address| safe.place(address) != Place::Safe) {
        return false;
    }
    let code = loader::module_of(before).and_then(|module| module.code(before));
    code.and_then(|code| code.first_chunk()).is_some_and(ends_with_a_call)
}

/// Does `call` to a distance (E8), or by a register or memory (FF, with 2 in the middle of the next byte),
/// end here? Whether all of it is one instruction cannot be told backwards.
fn ends_with_a_call(code: &[u8; 7]) -> bool {
    let by_operand = |at: usize| code[at] == 0xff && code[at + 1] >> 3 & 7 == 2;
    code[2] == 0xe8 || [0, 1, 3, 4, 5].into_iter().any(by_operand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_by_their_ends() {
        for code in [
            [0, 0, 0xe8, 1, 2, 3, 4],
            [0, 0, 0, 0, 0, 0xff, 0xd1],
            [0, 0, 0, 0, 0xff, 0x50, 8],
            [0, 0, 0, 0, 0x41, 0xff, 0xd3],
            [0, 0xff, 0x15, 1, 2, 3, 4],
            [0xff, 0x94, 0xc4, 1, 2, 3, 4],
        ] {
            assert!(ends_with_a_call(&code), "{code:x?}");
        }
        for code in [[0; 7], [0x90; 7], [0, 0, 0, 0, 0, 0xff, 0xe0], [0, 0, 0xe9, 0, 0, 0, 0]] {
            assert!(!ends_with_a_call(&code), "{code:x?}");
        }
    }

    #[test]
    fn what_is_no_code_of_a_module_is_not_returned_to() {
        let word = 7u64;
        let mut safe = SafeModules::new();
        safe.guess();
        for address in [0, 1, 8, 4096, &raw const word as u64, u64::MAX, 1 << 47] {
            assert!(!returns_to_a_module(address, &safe), "{address:#x}");
        }
    }
}
