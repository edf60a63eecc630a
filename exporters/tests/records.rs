//! What stays of the allocator's own records when a heap that was large is at rest: in this process, and
//! in one that a fork made of it. This program is under Slackwater, and alone in its process: one test.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use slackwater_exporters::Observation;
use slackwater_exporters::breakdown::Breakdown;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

const MIB: u64 = 1 << 20;

/// How large the heap gets, and in how many threads.
const PEAK_BYTES: u64 = 512 * MIB;
const THREADS: u64 = 4;

/// What may stay. Promised is a hundredth of the peak, which is what all records take when they are used in
/// full; that much stayed.
const AT_MOST: u64 = PEAK_BYTES / 400;

/// Threads that are there at once, each with a cache of blocks of all sizes up to 2 KiB.
const MANY_THREADS: usize = 100;

const PATIENCE: Duration = Duration::from_secs(300);

/// So many bytes of blocks, half of them in small ones, all written to.
fn grow(seed: u64, bytes: u64) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    let (mut small, mut large) = (0, 0);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    while small + large < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let random = state >> 33;
        let size = if small <= large {
            let size = 64 + random % 8_000;
            small += size;
            size
        } else {
            let size = 32_768 + random % 3_000_000;
            large += size;
            size
        };
        blocks.push(vec![1; size as usize]);
    }
    blocks
}

fn breakdown() -> Breakdown {
    Observation::take().breakdown().expect("Linux tells its side")
}

/// Grows in several threads, which end, then frees everything.
fn burst(bytes: u64) {
    let grows = |seed| thread::spawn(move || grow(seed, bytes / THREADS));
    let threads: Vec<_> = (1..=THREADS).map(grows).collect();
    let blocks: Vec<_> =
        threads.into_iter().map(|thread| thread.join().expect("it grew")).collect();
    let peak = breakdown();
    assert!(peak.live + peak.sampled >= bytes / 10 * 9, "{peak:?}");
    assert!(peak.metadata >= bytes / 200, "records are used: {peak:?}");
    drop(blocks);
}

/// Many threads, whose caches are large at one and the same time.
fn many_caches() {
    let all = Arc::new(Barrier::new(MANY_THREADS));
    let grows = |seed: usize| {
        let all = Arc::clone(&all);
        thread::spawn(move || {
            // A bin grows when it runs full and empty in turn.
            for round in 0..4 {
                let sizes = (0..2 * MIB / 1024).map(|i| 16 + (i + round + seed as u64) % 127 * 16);
                let blocks: Vec<Vec<u8>> = sizes.map(|size| vec![1; size as usize]).collect();
                all.wait();
                drop(blocks);
            }
            all.wait();
            // Used until just now, and not yet put away.
            slackwater::snapshot().memory_bytes.metadata
        })
    };
    let threads: Vec<_> = (0..MANY_THREADS).map(grows).collect();
    let metadata = threads.into_iter().map(|thread| thread.join().expect("it grew")).max();
    assert!(metadata.is_some_and(|bytes| bytes > 2 * AT_MOST), "{metadata:?}: arrays are used");
}

/// `false`: more than may stay is there for minutes.
fn comes_to_rest() -> bool {
    let began = Instant::now();
    loop {
        let parts = breakdown();
        // The allocator's own figure does not look at pages, and counts a record whole that is used.
        let own = slackwater::snapshot().memory_bytes.metadata;
        if parts.metadata <= AT_MOST && own <= AT_MOST {
            return true;
        }
        if began.elapsed() > PATIENCE {
            eprintln!("{} bytes stay, {own} by the books: {parts:?}", parts.metadata);
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Does the same in a child, and waits for its end.
fn forked(run: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child uses memory, threads and `/proc`, all of which it may have after this fork, and ends
    // without what the parent has set up for its own end.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let status = !run() as libc::c_int;
        // SAFETY: nothing of this process is needed any more.
        unsafe { libc::_exit(status) };
    }
    assert!(child > 0, "there is a child");
    let mut status = -1;
    // SAFETY: the status has a place.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    status == 0
}

#[test]
fn records_of_a_heap_that_was_large_go_back() {
    for _ in 0..2 {
        burst(PEAK_BYTES);
        assert!(comes_to_rest());
    }
    many_caches();
    assert!(comes_to_rest());
    let in_child = || {
        burst(PEAK_BYTES / 4);
        comes_to_rest()
    };
    assert!(forked(in_child), "in a child whose parent was at rest");
    // Forked while records are in use, and go.
    let blocks = grow(9, PEAK_BYTES / 8);
    let in_child = || {
        drop(blocks);
        comes_to_rest() && {
            burst(PEAK_BYTES / 4);
            comes_to_rest()
        }
    };
    assert!(forked(in_child), "in a child that got blocks with the fork");
    assert!(comes_to_rest());
}
