use super::super::countdown::MAX_RATE;
use super::*;
use crate::base::units::SPAN_BYTES;
use crate::geometry::size_class::SizeClass;
use crate::testing::test_heap::TestHeap;
use crate::testing::test_random::Random;
use std::sync::Barrier;

/// A heap in which what is asked for is sampled.
/// Samples of it are taken one by one, and as many as a test wants.
fn heap() -> TestHeap {
    let test = TestHeap::with_segments(512);
    test.heap.sampler.set_rate(0, u64::MAX);
    test
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

fn usable_bytes(test: &TestHeap, address: usize) -> Option<usize> {
    live_sample(test, address).map(|sample| sample.bytes as usize)
}

fn live_sample(test: &TestHeap, address: usize) -> Option<Sample> {
    test.heap.sampler.live_in_slot(&test.heap.pages.arena, address)
}

fn make_room(test: &TestHeap, address: usize, align: usize) -> Option<usize> {
    let frame = stack::address_in_frame();
    let moved = test.heap.sampler.make_room(&test.heap.pages, address, align, frame);
    moved.map(|block| block as usize)
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
            assert_eq!(usable_bytes(&test, address), Some(bytes.max(1)));
            assert_eq!(usable_bytes(&test, address + 1), None, "nothing begins there");
            content(address, bytes).fill(step as u8);
            live.push((address, bytes, step as u8));
        } else if !live.is_empty() {
            let (address, bytes, tag) = live.swap_remove(random.below(live.len() as u64) as usize);
            assert!(content(address, bytes).iter().all(|&byte| byte == tag));
            give(&test, address);
            assert_eq!(usable_bytes(&test, address), None, "freed");
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
fn a_slot_that_is_open_is_for_blocks_of_as_many_pages() {
    let test = heap();
    test.heap.sampler.set_rate(1000, 1);
    let slot_of = |block: usize| block / SPAN_BYTES;
    let live_pages = &test.heap.sampler.readings.live_pages;
    give(&test, take(&test, 1, 1));
    let (small, large) = (take(&test, 4096, 16), take(&test, 20_000, 16));
    give(&test, small);
    give(&test, large);
    assert_eq!(live_pages.get(), 6);
    let between = take(&test, 10_000, 16);
    assert!(![slot_of(small), slot_of(large)].contains(&slot_of(between)));
    assert_eq!(slot_of(take(&test, 17_000, 16)), slot_of(large));
    assert_eq!(slot_of(take(&test, 100, 16)), slot_of(small));
    assert_eq!(live_pages.get(), 9);
    test.check();
    // Pages are bounded, not blocks: eight of eight pages.
    let blocks: Vec<usize> = (0..10).map(|_| take(&test, 32 << 10, 16)).collect();
    blocks.iter().for_each(|&block| give(&test, block));
    assert_eq!(live_pages.get(), 9 + MAX_WARM as u64);
    test.check();
}

/// Of every class and alignment: the room is where the alignment wants it, the content is there, the sample is the
/// same, and free and the next users of the slots find all in order.
#[test]
fn a_sample_that_grows_has_the_room_of_its_class() {
    let test = heap();
    let readings = &test.heap.sampler.readings;
    let mut random = Random::new(3);
    for round in 0..5_000u64 {
        let align = 1 << random.below(16);
        let bytes = 1 + random.below(32 << 10) as usize;
        let class = SizeClass::for_layout(bytes, align).expect("it has one");
        let room = class.block_bytes().get();
        let block = take(&test, bytes, align);
        let tag = round as u8;
        content(block, bytes).fill(tag);
        let roomy = make_room(&test, block, align).expect("there is room");
        assert!(roomy.is_multiple_of(align) && roomy / SPAN_BYTES == block / SPAN_BYTES);
        assert_eq!(usable_bytes(&test, roomy), Some(room));
        assert_eq!(usable_bytes(&test, block).is_some(), block == roomy);
        assert!(content(roomy, bytes).iter().all(|&byte| byte == tag));
        content(roomy, room).fill(!tag);
        let sample = live_sample(&test, roomy).expect("it is live");
        let pad = content(roomy + room, sample.place().slack(room));
        assert!(pad.iter().all(|&byte| byte == slots::PAD), "what is behind it is watched");
        if round % 500 == 0 {
            test.check();
        }
        give(&test, roomy);
    }
    assert_eq!(readings.samples.get(), 5_000, "those that were taken");
    assert_eq!(readings.dropped.load(Ordering::Relaxed), 0);
    assert_eq!(readings.live_blocks.get(), 0);
    test.check();
}

/// What a class of up to a page needs is open already, and stays open for the next block.
#[test]
fn a_small_sample_that_grows_needs_no_more_pages() {
    let test = heap();
    test.heap.sampler.set_rate(1000, 1);
    give(&test, take(&test, 1, 1));
    let live_pages = &test.heap.sampler.readings.live_pages;
    assert_eq!(live_pages.get(), 0, "the first one went into quarantine");
    for bytes in [1, 17, 140, 1000, 2049, 3600] {
        let block = take(&test, bytes, 16);
        assert_eq!(live_pages.get(), 1);
        let roomy = make_room(&test, block, 16).expect("there is room");
        give(&test, roomy);
        assert_eq!(live_pages.get(), 1);
    }
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
