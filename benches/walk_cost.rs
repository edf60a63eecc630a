//! What does the stack of a sample cost?
//!
//! ```console
//! $ cargo run --release -p slackwater-benches --features unwind --bin walk_cost
//! ```
//!
//! Stacks of 10, 35 and 100 functions, no two the same, on top of those of `main`. Each way of walking
//! them is timed by itself on a copy that is there already; then the whole of `capture`, copy included.
//! "Cold" is the first walk over functions that were not met before, "cached" every later one. Median
//! nanoseconds, and how many frames were found. Frame pointers lead somewhere only in code that has
//! them: `RUSTFLAGS=-Cforce-frame-pointers=yes`.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("compares with framehop for x86_64");

#[path = "../tests/unwinding/framehop.rs"]
mod framehop;

use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::ptr;
use std::time::Instant;

use framehop::Framehop;
use slackwater::stack::{
    CopiedStack, MAX_FRAMES, Registers, Scratch, StackMemory, Walker, address_in_frame, capture,
    set_walker, walk_frame_pointers,
};
use slackwater_benches::comparing::statistics::{median, three_digits};

unsafe extern "C" {
    fn backtrace(buffer: *mut *mut c_void, size: c_int) -> c_int;
}

/// Repetitions whose times are one figure, and figures whose median counts.
const REPETITIONS: usize = 200;
const FIGURES: usize = 51;

/// A stack of functions, each of its own type.
trait Stack {
    fn call(then: &mut dyn FnMut());
}

/// The innermost; `SET` makes whole stacks distinct.
struct Inner<const SET: usize>;

/// One function more.
struct More<T>(T);

impl<const SET: usize> Stack for Inner<SET> {
    #[inline(never)]
    fn call(then: &mut dyn FnMut()) {
        then();
        black_box(SET);
    }
}

impl<T: Stack> Stack for More<T> {
    #[inline(never)]
    fn call(then: &mut dyn FnMut()) {
        let local = black_box([size_of::<usize>(); 4]);
        T::call(then);
        black_box(local);
    }
}

type Five<T> = More<More<More<More<More<T>>>>>;
type Ten<T> = Five<Five<T>>;
type ThirtyFive<T> = Ten<Ten<Ten<Five<T>>>>;
type Hundred<T> = Ten<ThirtyFive<ThirtyFive<Ten<Ten<T>>>>>;

/// What is measured of one stack.
#[derive(Default)]
struct Times {
    /// Median nanoseconds of a walk, and how many frames it found.
    rows: Vec<(&'static str, f64, usize)>,
}

impl Times {
    fn once(&mut self, name: &'static str, mut walk: impl FnMut() -> usize) {
        let began = Instant::now();
        let frames = walk();
        self.rows.push((name, began.elapsed().as_nanos() as f64, frames));
    }

    fn often(&mut self, name: &'static str, mut walk: impl FnMut() -> usize) {
        let mut frames = 0;
        let figures: Vec<f64> = (0..FIGURES)
            .map(|_| {
                let began = Instant::now();
                for _ in 0..REPETITIONS {
                    frames = black_box(walk());
                }
                began.elapsed().as_nanos() as f64 / REPETITIONS as f64
            })
            .collect();
        self.rows.push((name, median(&figures), frames));
    }
}

/// Walks the stack that it is called on.
fn measure(framehop: &mut Framehop, scratch: &mut Scratch) -> Times {
    let mut times = Times::default();
    let here = Registers::here();
    let mut stack = CopiedStack::new(scratch, here.sp, 0);
    // What walks will read is copied first.
    let _ = (0..8).take_while(|piece| stack.word((here.sp & !7) + (piece << 13)).is_some()).count();
    let mut frames = [0; MAX_FRAMES];
    times.once("tables, cold", || slackwater::unwind::walk(&here, &mut stack, &mut frames));
    times.once("framehop, cold", || framehop.walk(&here, &mut stack, &mut frames));
    times.often("frame pointers", || walk_frame_pointers(&here, &mut stack, &mut frames));
    times.often("tables, cached", || slackwater::unwind::walk(&here, &mut stack, &mut frames));
    times.often("framehop, cached", || framehop.walk(&here, &mut stack, &mut frames));
    times.often("libgcc's backtrace", || {
        let mut buffer = [ptr::null_mut(); MAX_FRAMES];
        // SAFETY: the buffer has room for that many.
        unsafe { backtrace(buffer.as_mut_ptr(), buffer.len() as c_int) as usize }
    });
    for (name, walker) in [
        ("capture, frame pointers", walk_frame_pointers as Walker),
        ("capture, tables", slackwater::unwind::walk),
    ] {
        set_walker(walker);
        times.often(name, || capture(scratch, &mut frames, address_in_frame()));
    }
    times
}

fn main() {
    let began = Instant::now();
    assert!(slackwater::unwind::install(), "this libc has no _dl_find_object");
    println!("install: {} ns", began.elapsed().as_nanos());
    let began = Instant::now();
    let mut framehop = Framehop::new();
    println!("framehop's list of modules: {} ns", began.elapsed().as_nanos());

    let mut scratch = Box::new(Scratch::new());
    let mut run = |call: fn(&mut dyn FnMut())| {
        let mut times = Times::default();
        call(&mut || times = measure(&mut framehop, &mut scratch));
        times.rows
    };
    // The first is there to have met what is common to all.
    run(Inner::<0>::call);
    for (depth, sets) in [
        (10, [Ten::<Inner<1>>::call, Ten::<Inner<2>>::call, Ten::<Inner<3>>::call]),
        (
            35,
            [
                ThirtyFive::<Inner<4>>::call as fn(&mut dyn FnMut()),
                ThirtyFive::<Inner<5>>::call,
                ThirtyFive::<Inner<6>>::call,
            ],
        ),
        (
            100,
            [
                Hundred::<Inner<7>>::call as fn(&mut dyn FnMut()),
                Hundred::<Inner<8>>::call,
                Hundred::<Inner<9>>::call,
            ],
        ),
    ] {
        println!("{depth} functions");
        let sets = sets.map(&mut run);
        for (row, &(name, _, frames)) in sets[0].iter().enumerate() {
            let figures: Vec<f64> = sets.iter().map(|rows| rows[row].1).collect();
            println!("  {name:<24} {:>8} ns {frames:>4} frames", three_digits(median(&figures)));
        }
    }
}
