//! A program whose stack overflows, on its first thread or on another; or that uses a block after it was freed. It
//! allocates before `main` and in it.

use std::hint::black_box;
use std::{env, thread};

#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = allocate;

extern "C" fn allocate() {
    let kept: Vec<_> = (0..3000).map(|i| vec![1u8; 1 + i]).collect();
    drop(black_box(kept));
}

#[expect(unconditional_recursion, reason = "the stack is to overflow")]
#[inline(never)]
fn deeper(depth: u64) -> u64 {
    let room = [depth; 64];
    black_box(&room);
    deeper(depth + 1) + room[(depth % 64) as usize]
}

fn main() {
    allocate();
    match env::args().nth(1).as_deref() {
        Some("thread") => println!("{:?}", thread::spawn(|| deeper(0)).join()),
        Some("use_after_free") => {
            let block = Box::into_raw(Box::new([1u8; 100]));
            // SAFETY: it is not used any more, but by the mistake that is looked for.
            drop(unsafe { Box::from_raw(block) });
            // SAFETY: none: the page cannot be touched.
            unsafe { block.cast::<u8>().wrapping_add(10).write_volatile(1) };
        }
        _ => println!("{}", deeper(0)),
    }
}
