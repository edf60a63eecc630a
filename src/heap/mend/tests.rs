//! A thread ticks as hard as it can while another one uses the heap and copies the process. In the copy the heap is
//! made whole, checked, and used.

use core::slice;
use core::sync::atomic::{AtomicBool, Ordering};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::mend;
use crate::base::units::PAGE_BYTES;
use crate::caches::entered::Entered;
use crate::caches::thread_cache::ThreadCache;
use crate::geometry::size_class::SizeClass;
use crate::heap::{Heap, central, large};
use crate::os::biased_lock::{AT_REST, BiasedLock, OwnerWord};
use crate::os::tls::ThreadWord;
use crate::os::{self, Linux, Nanos};
use crate::release::{Release, release_everything, tick_if_due};
use crate::stack::address_in_frame;
use crate::testing::check::check;
use crate::testing::test_heap::TestHeap;
use crate::testing::test_random::Random;

const COPIES: u32 = 60;

/// Of what a copy's exit code says.
const KILLED: i32 = 0;
const FAILED: i32 = 1;
const IN_A_TICK: i32 = 2;
const BETWEEN_TICKS: i32 = 3;

/// A live block: where, how long, and what every page of it begins with.
struct Block {
    address: usize,
    bytes: usize,
    tag: u8,
}

impl Block {
    fn content(&mut self) -> &mut [u8] {
        // SAFETY: the block is live, this long, and owned by this value.
        unsafe { slice::from_raw_parts_mut(self.address as *mut u8, self.bytes) }
    }

    fn fill(&mut self) {
        let tag = self.tag;
        self.content().iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = tag);
    }

    fn verify(&mut self) {
        let tag = self.tag;
        assert!(self.content().iter().step_by(PAGE_BYTES).all(|&byte| byte == tag));
    }
}

/// A thread's way into a test's heap, as `api` has it into the process's.
struct Program<'a> {
    heap: &'a Heap,
    cache: &'static ThreadCache,
    word: ThreadWord,
    random: Random,
    live: Vec<Block>,
}

impl<'a> Program<'a> {
    /// On the calling thread.
    fn new(heap: &'a Heap) -> Program<'a> {
        let word = ThreadWord::of_this_thread();
        let Heap { threads, sampler, pages, .. } = heap;
        let bound = pages.arena.sample_range().start;
        let cache = threads.attach(&pages.metadata, sampler.countdowns(), bound, word).unwrap();
        // SAFETY: a cache's record is never unmapped.
        let cache = unsafe { &*core::ptr::from_ref(cache) };
        word.set_cache(core::ptr::from_ref(cache) as usize);
        word.set(AT_REST);
        Program { heap, cache, word, random: Random::new(1), live: Vec::new() }
    }

    fn enter(&self) -> Entered {
        while !self.cache.lock.enter(self.word) {
            BiasedLock::leave(self.word);
            self.cache.lock.wait_until_unwanted();
        }
        Entered { cache: self.cache, word: self.word }
    }

    fn allocate(&mut self) {
        let heap = self.heap;
        let (kind, tag) = (self.random.below(100), self.random.next() as u8);
        let _entered = self.enter();
        let (address, bytes) = if kind < 3 {
            let bytes = 1 + self.random.below(30_000) as usize;
            let frame = address_in_frame();
            (heap.sampler.allocate(&heap.pages, bytes, 16, 1000, frame), bytes)
        } else if kind < 20 {
            let bytes = 32_769 + self.random.below(300_000) as usize;
            let address = large::allocate(heap, bytes, 16, true, 0);
            if let Some(address) = address {
                // SAFETY: the block is new.
                let content = unsafe { slice::from_raw_parts(address, bytes) };
                assert!(content.iter().step_by(512).all(|&byte| byte == 0), "it reads as zero");
            }
            (address, bytes)
        } else {
            let class = SizeClass::for_bytes(1 + self.random.below(32 << 10) as usize);
            let bin = self.cache.bin(class);
            let block = bin.pop().or_else(|| central::refill(heap, self.cache, class));
            (block, class.block_bytes().get())
        };
        if let Some(address) = address {
            let mut block = Block { address: address as usize, bytes, tag };
            block.fill();
            self.live.push(block);
        }
    }

    fn free_one(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let index = self.random.below(self.live.len() as u64) as usize;
        let mut block = self.live.swap_remove(index);
        block.verify();
        let (heap, _entered) = (self.heap, self.enter());
        let arena = &heap.pages.arena;
        let offset = block.address - arena.base();
        let class = arena.class_at(offset);
        if arena.is_sample(block.address) {
            heap.sampler.free(&heap.pages, block.address, address_in_frame());
        } else if class == SizeClass::NONE {
            large::free(heap, offset);
        } else {
            let bin = self.cache.bin(class);
            if !bin.push(block.address as *mut u8) {
                central::make_room(heap, self.cache, class);
                if !bin.push(block.address as *mut u8) {
                    central::free_uncached(heap, class, block.address, offset);
                }
            }
        }
    }

    /// Some operations, of which more free than allocate where there is much.
    fn work(&mut self, operations: u32) {
        for _ in 0..operations {
            if self.random.below(600) > self.live.len() as u64 {
                self.allocate();
            } else {
                self.free_one();
            }
        }
    }
}

/// All that our own threads do, over and over.
fn tick_until(heap: &Heap, release: &Release, is_done: &AtomicBool) {
    let program = Program::new(heap);
    for turn in 0.. {
        if is_done.load(Ordering::Relaxed) {
            return;
        }
        if turn % 3 == 0 {
            release_everything(heap, release, &Linux, || Some(program.enter()));
        } else {
            os::sleep(Nanos::from_millis(1));
            tick_if_due(heap, release, &Linux, None);
        }
    }
}

/// What the copy does: the heap is whole once it is mended, nothing live is lost, and it can be used and given back.
fn in_the_copy(release: &Release, program: &mut Program<'_>) -> bool {
    let heap = program.heap;
    // SAFETY: the only other thread that was in the heap is not in this process.
    let ghost_ticked = unsafe { release.free_from_ghosts() };
    // SAFETY: as above.
    unsafe { mend(heap, ghost_ticked) };
    check(heap, release);
    program.live.iter_mut().for_each(Block::verify);
    program.work(3000);
    check(heap, release);
    program.live.iter_mut().for_each(Block::verify);
    while !program.live.is_empty() {
        program.free_one();
    }
    release_everything(heap, release, &Linux, || Some(program.enter()));
    check(heap, release);
    let figures = heap.pages.totals.read();
    assert_eq!(figures.pending_pages, 0, "all goes back");
    ghost_ticked
}

/// Copies the process, and returns the exit code of the copy.
fn copy(release: &Release, program: &mut Program<'_>) -> i32 {
    // SAFETY: libc's own: what the copy uses of libc is whole.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let ghost_ticked = catch_unwind(AssertUnwindSafe(|| in_the_copy(release, program)));
        let code = ghost_ticked.map_or(FAILED, |yes| if yes { IN_A_TICK } else { BETWEEN_TICKS });
        // SAFETY: ends the copy, and runs nothing.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place; the child is ours.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { KILLED }
}

#[test]
fn a_copy_made_while_a_thread_ticks_is_whole() {
    let test = TestHeap::with_segments(256);
    test.heap.register_barrier();
    test.heap.sampler.start(0, 1000, false);
    test.set_knobs(|knobs| (knobs.epoch_ms, knobs.delay_epochs_idle) = (1, 0));
    let (heap, release, is_done) = (&test.heap, &test.release, AtomicBool::new(false));
    let mut codes = [0; 4];
    let mut program = Program::new(heap);
    std::thread::scope(|scope| {
        scope.spawn(|| tick_until(heap, release, &is_done));
        for _ in 0..COPIES {
            program.work(300);
            let code = copy(release, &mut program);
            codes[code as usize] += 1;
            if code == KILLED || code == FAILED {
                break;
            }
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert_eq!(codes[..2], [0, 0], "{codes:?}: a copy failed; its output says why");
    assert!(codes[IN_A_TICK as usize] > 0, "{codes:?}: the test is of little use");
}
