//! The stacks of the allocator's samples, in a Rust program that has it by the one line alone.

#[path = "../src/figures/remote/tests/own_memory.rs"]
mod own_memory;

use std::hint::black_box;

use own_memory::Own;
use slackwater::knobs::Knobs;
use slackwater::remote::{Memory, RemoteHeap, own_root};

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// Allocates, from so many frames further in.
#[inline(never)]
fn deep(frames: usize) {
    if black_box(frames) == 0 {
        for _ in 0..2_000 {
            drop(black_box(Vec::<u8>::with_capacity(black_box(5_000))));
        }
    } else {
        deep(frames - 1);
    }
    black_box(frames);
}

#[test]
fn the_stacks_of_samples_are_whole() {
    assert!(slackwater::unwind::install(), "this libc does not say where unwind tables are");
    let (profile_rate_bytes, profile_epoch_samples) = (16 << 10, 1 << 32);
    let knobs = Knobs { profile_rate_bytes, profile_epoch_samples, ..slackwater::knobs() };
    slackwater::set_knobs(knobs).expect("a valid rate");
    // It holds from the next countdown on.
    for _ in 0..20 {
        deep(40);
    }
    let heap = RemoteHeap::open(&Own, own_root()).expect("this process has a heap");
    let mut samples = 0;
    heap.each_stack(&Own, &mut |_, frames, figures| {
        // The recursion, under what the compiler has made of `with_capacity`, on top of the test.
        let recursion =
            frames.windows(40).position(|frames| frames.iter().all(|&f| f == frames[0]));
        if recursion.is_some_and(|place| place < 12 && frames.len() > place + 45) {
            samples += figures.samples;
        }
    })
    .expect("it can be read");
    assert!(samples > 1_000, "{samples}");
}
