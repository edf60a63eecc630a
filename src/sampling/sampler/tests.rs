use super::super::countdown::MAX_RATE;
use super::*;
use crate::base::units::SPAN_BYTES;
use crate::geometry::size_class::SizeClass;
use crate::testing::test_heap::TestHeap;
use crate::testing::test_random::Random;
use std::sync::Barrier;

/// A heap in which what is asked for is sampled.
fn heap() -> TestHeap {
    TestHeap::with_segments(512)
}

fn take(test: &TestHeap, bytes: usize, align: usize) -> usize {
    test.heap
        .sampler
        .allocate(&test.heap.pages, bytes, align, 1000, stack::address_in_frame())
        .expect("a sample") as usize
}

fn give(test: &TestHeap, address: usize) {
    test.heap.sampler.free(&test.heap.pages, address, stack::address_in_frame());
}

fn content(address: usize, bytes: usize) -> &'static mut [u8] {
    // SAFETY: the tests hand in live blocks of theirs.
    unsafe { core::slice::from_raw_parts_mut(address as *mut u8, bytes) }
}

#[test]
fn samples_come_and_go() {
    let test = heap();
    let mut random = Random::new(11);
    let mut live: Vec<(usize, usize, u8)> = Vec::new();
    for step in 0..20_000 {
        if random.below(2) == 0 && live.len() < 800 {
            let bytes = random.below(32 << 10) as usize;
            let align = 1 << random.below(16);
            let address = take(&test, bytes, align);
            assert!(address.is_multiple_of(align) && test.heap.pages.arena.is_sample(address));
            assert_eq!(test.heap.sampler.usable_bytes(&test.heap.pages, address), bytes.max(1));
            content(address, bytes).fill(step as u8);
            live.push((address, bytes, step as u8));
        } else if !live.is_empty() {
            let (address, bytes, tag) = live.swap_remove(random.below(live.len() as u64) as usize);
            assert!(content(address, bytes).iter().all(|&byte| byte == tag));
            give(&test, address);
        }
        if step % 1000 == 0 {
            test.check();
        }
    }
    test.check();
    let readings = &test.heap.sampler.readings;
    assert_eq!(readings.dropped.load(Ordering::Relaxed), 0);
    assert_eq!(readings.live_blocks.get(), live.len() as u64);
}

#[test]
fn a_freed_slot_is_left_alone_for_long() {
    let test = heap();
    let first = take(&test, 100, 16);
    give(&test, first);
    for _ in 1..QUARANTINE {
        let other = take(&test, 100, 16);
        assert_ne!(other, first);
        give(&test, other);
    }
    assert_eq!(take(&test, 100, 16), first, "after so many others");
    test.check();
}

/// Of two signal handlers that interrupted their threads in one lock each, and want the other's, one
/// must not wait.
#[test]
fn a_handler_that_interrupted_the_sampler_does_not_wait_for_the_page_heap() {
    let test = heap();
    let _interrupted = test.heap.sampler.state.lock();
    assert!(test.heap.lock_pages().is_some(), "nobody has it");
    let (held, done) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _pages = test.heap.pages.page_heap.lock();
            held.wait();
            done.wait();
        });
        held.wait();
        let gives_way = test.heap.lock_pages().is_none();
        done.wait();
        assert!(gives_way);
    });
}

#[test]
fn beyond_the_quarantine_slots_stay_open_for_the_next_block_until_none_comes() {
    let test = heap();
    let sampler = &test.heap.sampler;
    sampler.set_rate(1000, 4 * 3);
    let blocks: Vec<usize> = (0..100).map(|_| take(&test, 100, 16)).collect();
    blocks.iter().for_each(|&block| give(&test, block));
    test.check();
    let warm = || sampler.warm.load(Ordering::Relaxed);
    assert_eq!(warm(), MAX_WARM, "three went into quarantine, and 33 there is no room for");
    // The next ones are theirs, last freed first; what needs more than a page has another.
    let large = take(&test, 5000, 16);
    assert!(!blocks.contains(&large));
    assert_eq!(take(&test, 10, 1) / SPAN_BYTES, blocks[3 + MAX_WARM - 1] / SPAN_BYTES);
    assert_eq!(warm(), MAX_WARM - 1);
    test.check();
    sampler.pace(&test.heap.pages.arena, 1000, 12, 1);
    assert_eq!(warm(), MAX_WARM - 1, "samples were taken");
    sampler.pace(&test.heap.pages.arena, 1000, 12, 1);
    assert_eq!(warm(), 0, "none was");
    test.check();
}

#[test]
fn a_sample_that_changes_its_size_within_its_class_remains_one() {
    let test = heap();
    let class = SizeClass::for_bytes(2000);
    let resize_to = |address: usize, bytes: usize, class: SizeClass| {
        let frame = stack::address_in_frame();
        test.heap
            .sampler
            .resize(&test.heap.pages, address, bytes, 16, class, frame)
            .map(|block| block as usize)
    };
    let readings = &test.heap.sampler.readings;
    let mut address = take(&test, 1793, 16);
    content(address, 1793).fill(7);
    let mut random = Random::new(3);
    let mut moves = 0;
    for _ in 0..1000 {
        let bytes = 1793 + random.below(2048 - 1792) as usize;
        let before = address;
        address = resize_to(before, bytes, class).expect("its class");
        moves += (address != before) as u32;
        assert_eq!(test.heap.sampler.usable_bytes(&test.heap.pages, address), bytes);
        assert!(content(address, 1793).iter().all(|&byte| byte == 7));
        // Small ones have room to the next multiple of their alignment.
        content(address, bytes)[1793..].fill(9);
        test.check();
    }
    assert!((2..10).contains(&moves), "to where there is room for more: {moves}");
    assert_eq!(readings.samples.get(), 1, "one allocation");
    assert_eq!(resize_to(address, 1792, SizeClass::for_bytes(1792)), None, "another class");
    assert_eq!(resize_to(address, 40_000, SizeClass::NONE), None, "no class");
    assert_eq!(resize_to(address + 16, 2000, class), None, "no block");
    give(&test, address);
    assert_eq!(resize_to(address, 2000, class), None, "freed");
    assert_eq!(readings.live_blocks.get(), 0);
    test.check();
}

#[test]
fn what_there_is_no_room_for_is_counted() {
    // 8 MiB of slots.
    let test = TestHeap::new();
    let mut live = Vec::new();
    while let Some(block) =
        test.heap.sampler.allocate(&test.heap.pages, 64, 16, 1000, stack::address_in_frame())
    {
        live.push(block as usize);
    }
    assert_eq!(live.len(), 127, "all slots but the one with number 0");
    assert_eq!(test.heap.sampler.readings.dropped.load(Ordering::Relaxed), 1);
    assert!(
        test.heap
            .sampler
            .sample_large(&test.heap.pages, 4096, 100_000, 1000, stack::address_in_frame())
            .is_none()
    );
    give(&test, live[50]);
    assert!(
        test.heap
            .sampler
            .sample_large(&test.heap.pages, 4096, 100_000, 1000, stack::address_in_frame())
            .is_some()
    );
    test.check();
}

#[inline(never)]
fn one_site(test: &TestHeap) -> usize {
    core::hint::black_box(take(test, 10, 1))
}

#[test]
fn samples_of_one_place_share_a_stack() {
    let test = heap();
    for _ in 0..100 {
        one_site(&test);
    }
    let open = test.heap.sampler.state.lock();
    // SAFETY: locked, and made by the first sample.
    let tables = unsafe { &*open.tables };
    let samples = &tables.samples[1..101];
    assert!(samples.iter().all(|sample| sample.stack == samples[0].stack));
    assert_ne!(samples[0].stack, UNKNOWN);
    assert_eq!(tables.stacks.entries[samples[0].stack.0 as usize].figures.samples, 100);
}

#[test]
fn samples_get_further_apart_where_there_would_be_too_many() {
    const RATE: u64 = 512 << 10;
    let test = heap();
    let sampler = &test.heap.sampler;
    sampler.set_rate(RATE, 25);
    let rate_after = |samples: u64| {
        (0..samples).for_each(|_| give(&test, take(&test, 10, 1)));
        sampler.countdowns().rate()
    };
    assert_eq!(rate_after(24), RATE);
    assert_eq!(rate_after(1), 2 * RATE);
    assert_eq!(rate_after(25), 4 * RATE);
    let pace = |rate| sampler.pace(&test.heap.pages.arena, rate, 25, 1);
    // An epoch with that many samples: it is about right.
    pace(RATE);
    assert_eq!(rate_after(18), 4 * RATE);
    pace(RATE);
    assert_eq!(rate_after(9), 4 * RATE, "18 are three quarters of the budget");
    pace(RATE);
    assert_eq!(sampler.countdowns().rate(), 2 * RATE, "9 are half of that");
    pace(RATE);
    assert_eq!(sampler.countdowns().rate(), RATE, "after an epoch with none");
    sampler.stretch(sampler.paced.load(Ordering::Relaxed));
    assert_eq!(sampler.countdowns().rate(), RATE, "the last sample of the epoch before");
    pace(4 * RATE);
    assert_eq!(sampler.countdowns().rate(), 4 * RATE, "another is wanted");
    pace(0);
    assert_eq!(rate_after(200), 0, "none is wanted");
    sampler.set_rate(MAX_RATE, 1);
    assert_eq!(rate_after(3), MAX_RATE);
}
