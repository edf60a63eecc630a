//! The stacks of threads, that rest and that run, are a part of RSS of their own, from inside the process
//! and from outside. This program is under Slackwater, and alone in its process: one test.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use slackwater_exporters::Observation;
use slackwater_exporters::attach::Target;
use slackwater_exporters::breakdown::Breakdown;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

const MIB: u64 = 1 << 20;
const THREADS: usize = 20;

/// Writes to a MiB of the stack, and calls `then` above it.
fn deep(then: impl FnOnce()) {
    let mut bytes = [1_u8; MIB as usize];
    black_box(&mut bytes);
    then();
    black_box(&mut bytes);
}

fn own() -> Breakdown {
    Observation::take().breakdown().expect("Linux tells its side")
}

/// Another's figures of this process, by the same ways as of any other.
fn from_outside() -> Breakdown {
    let mut target = Target::open(std::process::id()).expect("this process has a heap");
    target.observe().expect("readable").breakdown().expect("Linux tells its side")
}

#[test]
fn stacks_of_threads_that_rest_and_that_run_are_told_from_other_memory() {
    if !std::path::Path::new("/proc/self/syscall").exists() {
        eprintln!("SKIPPED: this kernel does not tell where a thread's stack is");
        return;
    }
    let before = own();
    let (begun, end) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    let is_over = AtomicBool::new(false);
    let found = thread::scope(|scope| {
        for number in 0..THREADS {
            let (begun, end, is_over) = (&begun, &end, &is_over);
            // Of sizes that no other has, so that each is found by itself; one in five runs all the time.
            let stack = thread::Builder::new().stack_size((8 + number) << 20);
            let work = move || {
                deep(|| {
                    begun.wait();
                    while number % 5 == 0 && !is_over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                    end.wait();
                });
            };
            stack.spawn_scoped(scope, work).expect("a thread");
        }
        begun.wait();
        let found = [own(), from_outside()];
        is_over.store(true, Ordering::Relaxed);
        end.wait();
        found
    });
    // The threads have ended: a failed assertion must not leave some that wait for ever.
    for parts in found {
        let stacks = parts.stacks.expect("known");
        let grown = stacks.saturating_sub(before.stacks.expect("known"));
        assert!((20 * MIB..30 * MIB).contains(&grown), "{grown}: {parts:?}");
        let others = parts.other_anon.abs_diff(before.other_anon);
        assert!(others < 4 * MIB, "{others}: {parts:?}, and before {before:?}");
    }
}
