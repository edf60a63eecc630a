//! How many instructions do an allocation and its free take? For callgrind to count:
//!
//! ```sh
//! valgrind --tool=callgrind target/release/instructions KIND PAIRS
//! ```
//!
//! The difference between two numbers of pairs is what a pair takes; `tests/instructions.rs` does this.

use std::alloc::{Layout, alloc, dealloc};
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

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, pairs] = &arguments[..] else {
        eprintln!("usage: instructions known_size|any_layout|malloc_free PAIRS");
        return ExitCode::from(2);
    };
    let Ok(pairs) = pairs.parse() else {
        eprintln!("PAIRS is {pairs}, expected a number");
        return ExitCode::from(2);
    };
    match kind.as_str() {
        "known_size" => known_size(pairs),
        "any_layout" => any_layout(pairs),
        "malloc_free" => malloc_free(pairs),
        _ => {
            eprintln!("KIND is {kind}, expected known_size, any_layout or malloc_free");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
