//! A walker of one's own. Alone in its process: whatever takes a sample meanwhile is walked by it, too.

use slackwater::stack::{
    MAX_FRAMES, Registers, Scratch, StackMemory, address_in_frame, capture, set_walker,
};

fn claims_too_much(
    registers: &Registers,
    memory: &mut dyn StackMemory,
    frames: &mut [u64],
) -> usize {
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
    set_walker(claims_too_much);
    let count = capture(&mut scratch, &mut frames, here);
    assert_eq!(count, MAX_FRAMES, "a walker that claims too much is not believed");
    assert!(frames[0] < here as u64);
    assert_eq!(frames[1..4], [0, 1, 1]);
}
