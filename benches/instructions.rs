//! How many instructions do an allocation and its free take, and a resize or a question for a size? For callgrind to
//! count:
//!
//! ```sh
//! valgrind --tool=callgrind target/release/instructions KIND PAIRS
//! ```
//!
//! The difference between two numbers of pairs, or of whatever there is of that kind, is what one takes;
//! `tests/instructions.rs` does this.

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::hint::black_box;
use std::process::ExitCode;

use slackwater::malloc;

/// Here, as in a program of its users, so that it can be inlined as there.
#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// A box, whose size the compiler knows.
#[inline(never)]
fn known_size(pairs: usize) {
    for _ in 0..pairs {
        black_box(Box::new([0u8; 64]));
    }
}

/// Any layout, as collections have it.
#[inline(never)]
fn any_layout(pairs: usize) {
    for _ in 0..pairs {
        let layout = Layout::array::<u8>(black_box(100)).expect("small");
        // SAFETY: the layout is not empty.
        let block = black_box(unsafe { alloc(layout) });
        // SAFETY: allocated just now with this layout; a null would be the end of the bench.
        unsafe { dealloc(block, layout) };
    }
}

/// What C programs do.
#[inline(never)]
fn malloc_free(pairs: usize) {
    for _ in 0..pairs {
        let block = black_box(malloc::allocate(black_box(100)));
        // SAFETY: allocated just now.
        unsafe { malloc::free(block) };
    }
}

/// C's `realloc` to another size of the same class.
#[inline(never)]
fn resize(times: usize) {
    let mut block = malloc::allocate(1000);
    for i in 0..times {
        // SAFETY: allocated above, or what the last resize made of it.
        block = black_box(unsafe { malloc::reallocate(block, black_box(1000 + i % 16), 16) });
    }
    // SAFETY: nobody uses it any more.
    unsafe { malloc::free(block) };
}

/// The same in Rust, where the old layout is known.
#[inline(never)]
fn resize_known(times: usize) {
    let mut layout = Layout::array::<u8>(1000).expect("small");
    // SAFETY: the layout is not empty.
    let mut block = unsafe { alloc(layout) };
    for i in 0..times {
        let bytes = black_box(1000 + i % 16);
        // SAFETY: of this layout, as the line below sees to; a null would be the end of the bench.
        block = black_box(unsafe { realloc(block, layout, bytes) });
        layout = Layout::array::<u8>(bytes).expect("small");
    }
    // SAFETY: as above.
    unsafe { dealloc(block, layout) };
}

/// A server that asks for the size of each block that it frees.
#[inline(never)]
fn usable_size(times: usize) {
    let block = malloc::allocate(1000);
    for _ in 0..times {
        // SAFETY: allocated above.
        black_box(unsafe { malloc::usable_bytes(black_box(block)) });
    }
    // SAFETY: nobody uses it any more.
    unsafe { malloc::free(block) };
}

/// A block that grows from 16 bytes to 8 KiB, 16 bytes at a time, again and again: its copies included.
#[inline(never)]
fn growing(times: usize) {
    let mut block = std::ptr::null_mut();
    for i in 0..times {
        let bytes = 16 + i % 511 * 16;
        if bytes == 16 {
            // SAFETY: the last one has grown up.
            unsafe { malloc::free(block) };
            block = malloc::allocate(bytes);
        }
        // SAFETY: allocated above, or what the last resize made of it.
        block = black_box(unsafe { malloc::reallocate(block, bytes, 16) });
    }
    // SAFETY: nobody uses it any more.
    unsafe { malloc::free(block) };
}

type Kind = (&'static str, fn(usize));

const KINDS: [Kind; 7] = [
    ("known_size", known_size),
    ("any_layout", any_layout),
    ("malloc_free", malloc_free),
    ("resize", resize),
    ("resize_known", resize_known),
    ("usable_size", usable_size),
    ("growing", growing),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, pairs] = &arguments[..] else {
        eprintln!("usage: instructions KIND PAIRS");
        return ExitCode::from(2);
    };
    let Ok(pairs) = pairs.parse() else {
        eprintln!("PAIRS is {pairs}, expected a number");
        return ExitCode::from(2);
    };
    let Some((_, run)) = KINDS.iter().find(|(name, _)| name == kind) else {
        let names = KINDS.map(|(name, _)| name).join(", ");
        eprintln!("KIND is {kind}, expected one of {names}");
        return ExitCode::from(2);
    };
    run(pairs);
    ExitCode::SUCCESS
}
