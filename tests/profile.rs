//! What the sampler estimates against what really was allocated. Every allocation here is counted
//! exactly; what is known of the samples comes through the reader that other processes use.
//!
//! The errors are random, and known: of a sum of `n` blocks, each sampled with probability `p` and then
//! counted `1/p` times, the variance is the sum of `bytes² (1 - p) / p`. No test here fails by chance
//! more often than once in some thousands of runs.

#[path = "../src/figures/remote/tests/own_memory.rs"]
mod own_memory;

use std::sync::Mutex;
use std::thread;

use own_memory::Own;

use slackwater::knobs::Knobs;
use slackwater::malloc::{allocate, free, reallocate};
use slackwater::remote::{Memory, RemoteHeap, StackFigures, Weighted, own_root};

/// The tests set the process's knobs and look at all of its samples: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) * bound) >> 32
    }

    /// Many small blocks, few large ones, as programs have them.
    fn size(&mut self) -> usize {
        let bound = match self.below(100) {
            0..70 => 256,
            70..90 => 4 << 10,
            90..99 => 32 << 10,
            _ => 500 << 10,
        };
        1 + self.below(bound) as usize
    }
}

fn set_rate(profile_rate_bytes: u64) {
    // No stretching: the rate under test is the one that is set.
    let knobs = Knobs { profile_rate_bytes, profile_epoch_samples: 1 << 32, ..slackwater::knobs() };
    slackwater::set_knobs(knobs).expect("in range");
}

/// What the sampler says: everything ever allocated, and what is live.
fn estimate() -> (Weighted, Weighted) {
    let (sum, live) = sums();
    // Two ways to the same figure; bytes are rounded, a sample at a time.
    assert!((sum.live().bytes / live.bytes.max(1.0) - 1.0).abs() < 1e-4 || live.bytes < 1.0);
    (sum.allocated, live)
}

/// What it says by stack, and by live samples.
fn sums() -> (StackFigures, Weighted) {
    let heap = RemoteHeap::open(&Own, own_root()).expect("our own");
    let mut sum = StackFigures::default();
    let mut add = |_: u32, _: &[u64], figures: &StackFigures| {
        for (sum, more) in
            [(&mut sum.allocated, figures.allocated), (&mut sum.freed, figures.freed)]
        {
            sum.objects += more.objects;
            sum.bytes += more.bytes;
        }
    };
    heap.each_stack(&Own, &mut add).expect("readable");
    let mut live = Weighted::default();
    heap.each_live_sample(&Own, &mut |sample| {
        live.objects += sample.weight;
        live.bytes += sample.weight * sample.bytes as f64;
    })
    .expect("readable");
    (sum, live)
}

/// Exactly what was done: the same two figures, and the variance of their estimates.
#[derive(Clone, Copy, Default)]
struct Truth {
    allocated: Weighted,
    live: Weighted,
    live_variance: f64,
}

impl Truth {
    fn add(&mut self, other: Truth) {
        for (sum, more) in [(&mut self.allocated, other.allocated), (&mut self.live, other.live)] {
            sum.objects += more.objects;
            sum.bytes += more.bytes;
        }
        self.live_variance += other.live_variance;
    }
}

fn variance(bytes: usize, rate: u64) -> f64 {
    let p = -(-(bytes as f64 + 1.0) / rate as f64).exp_m1();
    (bytes as f64).powi(2) * (1.0 - p) / p
}

/// Allocates `traffic` bytes, in two thirds of the cases to keep them; some grow. Returns what it kept.
fn program(seed: u64, traffic: usize, rate: u64) -> (Vec<usize>, Truth) {
    let mut random = Random(seed);
    let (mut kept, mut truth) = (Vec::new(), Truth::default());
    let mut done = 0;
    let mut count = |truth: &mut Truth, bytes: usize| {
        truth.allocated.objects += 1.0;
        truth.allocated.bytes += bytes as f64;
        done += bytes;
        done < traffic
    };
    let mut goes_on = true;
    while goes_on {
        let mut bytes = random.size();
        let mut block = allocate(bytes);
        assert!(!block.is_null());
        goes_on = count(&mut truth, bytes);
        if random.below(10) == 0 {
            // To another size class, so that it is another block; a shrunk large one may stay where it
            // is, and is another one for the profiler all the same.
            bytes = bytes * 2 + 100;
            // SAFETY: the block is live.
            block = unsafe { reallocate(block, bytes, 16) };
            goes_on = count(&mut truth, bytes);
        }
        if random.below(3) == 0 {
            // SAFETY: the block is live and given up.
            unsafe { free(block) };
        } else {
            kept.push(block as usize);
            truth.live.objects += 1.0;
            truth.live.bytes += bytes as f64;
            truth.live_variance += variance(bytes, rate);
        }
    }
    (kept, truth)
}

fn give_back(blocks: Vec<usize>) {
    for block in blocks {
        // SAFETY: the program above kept them, and nobody else has them.
        unsafe { free(block as *mut u8) };
    }
}

#[test]
fn a_gigabyte_at_64_kib_is_estimated_within_five_percent() {
    let _alone = ALONE.lock();
    const RATE: u64 = 64 << 10;
    set_rate(RATE);
    // The countdowns under way still have the rate before.
    give_back(program(1, 32 << 20, RATE).0);
    let (allocated_before, live_before) = estimate();
    let programs = [2, 3, 4, 5].map(|seed| thread::spawn(move || program(seed, 256 << 20, RATE)));
    let mut truth = Truth::default();
    let mut kept = Vec::new();
    for program in programs {
        let (blocks, its) = program.join().expect("a program");
        kept.extend(blocks);
        truth.add(its);
    }
    let (allocated, live) = estimate();
    for (what, estimated, exact) in [
        ("live bytes", live.bytes - live_before.bytes, truth.live.bytes),
        ("allocated bytes", allocated.bytes - allocated_before.bytes, truth.allocated.bytes),
    ] {
        let error = estimated / exact - 1.0;
        println!("{what}: {estimated:.0} for {exact:.0}, {:+.2}%", error * 100.0);
        assert!(error.abs() < 0.05, "{what}: {estimated} for {exact}");
    }
    // Objects are mostly small, of which few are sampled.
    let error = (live.objects - live_before.objects) / truth.live.objects - 1.0;
    assert!(error.abs() < 0.25, "live objects are {error} off");
    let deviation = truth.live_variance.sqrt() / truth.live.bytes;
    assert!(deviation < 0.0125, "five percent are four standard deviations: {deviation}");
    give_back(kept);
    let (_, live) = estimate();
    assert_eq!(live.objects, live_before.objects, "what is freed is not live, exactly");
}

/// Over many runs the errors cancel: their mean is within four of its standard deviations of zero.
#[test]
fn the_estimate_is_unbiased() {
    let _alone = ALONE.lock();
    const RUNS: u64 = 256;
    let (mut errors, mut variances, mut exact) = (0.0, 0.0, 0.0);
    for run in 0..RUNS {
        // The rate changes under countdowns that are under way; each sample has its own weight.
        let rate = [16 << 10, 256 << 10][run as usize % 2];
        set_rate(rate);
        let (_, before) = estimate();
        let (kept, truth) = program(100 + run, 8 << 20, 256 << 10);
        let (_, after) = estimate();
        errors += after.bytes - before.bytes - truth.live.bytes;
        // Of the larger of the two rates: an upper bound.
        variances += truth.live_variance;
        exact += truth.live.bytes;
        give_back(kept);
    }
    let deviation = variances.sqrt();
    println!(
        "{:+.3}% of {exact:.0} bytes, standard deviation {:.3}%",
        errors / exact * 100.0,
        deviation / exact * 100.0
    );
    assert!(errors.abs() < 4.0 * deviation, "{errors} of {exact}, deviation {deviation}");
    // A bias of a few percent would show.
    assert!(deviation < 0.02 * exact);
}

#[test]
fn a_rate_of_one_counts_exactly_and_none_counts_nothing() {
    let _alone = ALONE.lock();
    set_rate(1);
    end_countdown();
    let (_, before) = estimate();
    let blocks: Vec<usize> = (0..1000).map(|i| allocate(100 + i % 8) as usize).collect();
    let (_, after) = estimate();
    assert_eq!((after.objects - before.objects).round(), 1000.0);
    assert_eq!((after.bytes - before.bytes).round(), 103_500.0);
    give_back(blocks);
    set_rate(0);
    end_countdown();
    let before = slackwater::snapshot().profile_samples_total;
    end_countdown();
    assert_eq!(slackwater::snapshot().profile_samples_total, before, "switched off");
}

/// Blocks of 100 to 107 bytes, of one class, until the countdown under way has ended: a new rate holds
/// from the next one on.
fn end_countdown() {
    for _ in 0..10_000 {
        give_back(vec![allocate(100) as usize]);
    }
}

/// Ordinary blocks stay where they are then, uncounted, and the sampled ones stand for them.
#[test]
fn what_is_reallocated_within_its_class_stays_in_the_profile() {
    let _alone = ALONE.lock();
    set_rate(64 << 10);
    // The countdown under way still has the rate before.
    give_back((0..1000).map(|_| allocate(1800) as usize).collect());
    let blocks: Vec<usize> = (0..10_000).map(|_| allocate(1800) as usize).collect();
    let (allocated, live) = estimate();
    let mut resized = blocks.clone();
    for bytes in [2040, 1900, 2048, 1800] {
        for block in &mut resized {
            // SAFETY: the block is live.
            *block = unsafe { reallocate(*block as *mut u8, bytes, 16) } as usize;
        }
    }
    assert!(resized != blocks, "some are sampled, and had no room behind them");
    let (after, live_after) = sums();
    assert_eq!(live_after.objects.round(), live.objects.round());
    assert_eq!(after.allocated.objects, allocated.objects);
    // By stack they have what was asked for at first; each by itself the room that it got when it needed more.
    let grown = live_after.bytes / after.live().bytes;
    assert!((grown / (2048.0 / 1800.0) - 1.0).abs() < 1e-4, "{grown}");
    give_back(resized);
}

/// What is allocated to look at the program has one stack, whoever calls for it, and stays in the sums.
#[test]
fn what_an_observer_allocates_has_a_stack_of_its_own() {
    let _alone = ALONE.lock();
    set_rate(1);
    let take = |bytes| (0..100).map(|_| allocate(bytes) as usize).collect::<Vec<_>>();
    // The countdowns of these sizes, which still have the rate of the test before.
    for _ in 0..50 {
        give_back([take(3000), take(300_000)].concat());
    }
    // Samples of the observer, and of all others.
    let samples = || {
        let mut found = [0, 0];
        let heap = RemoteHeap::open(&Own, own_root()).expect("our own");
        let mut count = |_: u32, frames: &[u64], figures: &StackFigures| {
            found[usize::from(frames != [slackwater::observer::FRAME])] += figures.samples;
        };
        heap.each_stack(&Own, &mut count).expect("readable");
        found
    };
    let [_, before] = samples();
    // Small blocks and large ones.
    let observed = slackwater::observer::observe(|| [take(3000), take(300_000)].concat());
    let [by_observer, by_others] = samples();
    // The test's own lists are sampled, too.
    assert!((200..300).contains(&by_observer), "{by_observer}");
    assert!(by_others - before < 100, "{before} {by_others}");
    let more = take(3000);
    let [after, others_after] = samples();
    assert_eq!(after, by_observer, "the program again");
    assert!(others_after - by_others >= 100, "{by_others} {others_after}");
    give_back([observed, more].concat());
}
