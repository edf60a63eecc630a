//! Every interleaving of the transitions that no lock protects, at small capacities.
//!
//! The modules below are the allocator's own files, compiled against the model checker's atomics.
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release --test models`.
#![cfg(loom)]
#![allow(dead_code, reason = "a model calls what it is about")]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use base::atomics::{
    AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_barrier, fence_after_rmw,
};
use base::{bit_pyramid, ring};
use geometry::span::{Put, Span};
use os::biased_lock::{AT_REST, BUSY, BiasedLock, OwnerWord};
use os::sequence::Sequence;
use release::lifecycle::Lifecycle;

#[path = "../src/base"]
mod base {
    pub mod bit_pyramid;
    pub mod ring;
    pub mod units;

    /// What stands in the place of `src/base/atomics.rs`.
    pub mod atomics {
        pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

        /// Stands for the compiler barrier of one side and the system call of the other, which together
        /// are what a sequentially consistent fence on both sides is.
        pub(crate) fn compiler_barrier() {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }

        pub(crate) fn fence_after_rmw() {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }
}

#[path = "../src/os"]
mod os {
    pub mod biased_lock;
    pub mod sequence;

    /// What stands in the place of `src/os/system.rs`.
    pub mod system {
        pub struct Nanos(pub u64);
    }

    /// What stands in the place of `src/os/time.rs`.
    pub mod time {
        pub fn sleep(_: super::system::Nanos) {
            loom::thread::yield_now();
        }
    }

    /// What stands in the place of `src/os/threads.rs`: the models do not sleep.
    pub mod threads {
        pub fn futex_wait(_: &loom::sync::atomic::AtomicU32, _: u32) {
            loom::thread::yield_now();
        }

        pub fn futex_wake(_: &loom::sync::atomic::AtomicU32) {}

        pub fn yield_now() {
            loom::thread::yield_now();
        }
    }
}

#[path = "../src/geometry"]
mod geometry {
    pub mod span;

    /// What stands in the place of `src/geometry/size_class.rs`: spans of few blocks.
    pub mod size_class {
        use crate::base::units::{Bytes, Pages};

        pub const MAX_BLOCKS: usize = 128;

        #[derive(Clone, Copy)]
        pub struct SizeClass;

        impl SizeClass {
            pub fn block_bytes(self) -> Bytes {
                Bytes(2048)
            }

            pub fn block_pages(self) -> Pages {
                Pages(1)
            }

            pub fn blocks_per_span(self) -> u32 {
                crate::BLOCKS
            }

            pub fn block_index(self, offset: u32) -> u32 {
                offset / 2048
            }
        }
    }
}

#[path = "../src/release"]
mod release {
    pub mod lifecycle;
}

/// Of the two bitmap words, the second stays empty.
const BLOCKS: u32 = 2;

fn new_span() -> Span {
    let span = Span::new();
    span.create(BLOCKS, 0, 1);
    span
}

/// The holder runs out and leaves while another thread puts a block back: exactly one of them
/// ends up as the holder, so the block can be found.
#[test]
fn a_block_that_comes_back_while_its_span_becomes_full_is_not_stranded() {
    loom::model(|| {
        let span = Arc::new(new_span());
        assert_eq!(span.claim(BLOCKS, 64).unwrap().blocks, 0b11);
        let putter = {
            let span = Arc::clone(&span);
            thread::spawn(move || span.put(BLOCKS, 0, 0b01))
        };
        let left = span.leave_full(BLOCKS);
        let put = putter.join().unwrap();
        assert_ne!(put, Put::DoubleFree);
        assert_eq!(left, put == Put::Held, "one holder: {left} {put:?}");
    });
}

/// A span whose two blocks are both handed out, and a thread that puts one of them back.
fn full_span_and_a_put() -> (Arc<Span>, thread::JoinHandle<Put>) {
    let span = Arc::new(new_span());
    assert_eq!(span.claim(BLOCKS, 64).unwrap().blocks, 0b11);
    assert!(span.leave_full(BLOCKS));
    let putter = {
        let span = Arc::clone(&span);
        thread::spawn(move || span.put(BLOCKS, 0, 0b01))
    };
    (span, putter)
}

/// A put that is slow after setting its bit, while the span is retired and its descriptor serves
/// a new one that is full as well: the put leaves the new span alone.
#[test]
fn a_put_that_outlives_its_span_does_not_take_the_next_one() {
    loom::model(|| {
        let (span, putter) = full_span_and_a_put();
        let reused = span.put(BLOCKS, 0, 0b10) == Put::Held && span.is_empty(BLOCKS);
        if reused {
            span.create(BLOCKS, 0, 2);
            assert_eq!(span.claim(BLOCKS, 64).unwrap().blocks, 0b11);
            assert!(span.leave_full(BLOCKS));
        }
        let put = putter.join().unwrap();
        assert!(!(reused && put == Put::Held), "its span is gone");
    });
}

/// The same, but that the descriptor goes back to the system with its record in between, and reads as
/// zero, word by word: the put leaves that alone, too.
#[test]
fn a_put_that_outlives_the_record_of_its_span_does_nothing_to_it() {
    loom::model(|| {
        let (span, putter) = full_span_and_a_put();
        let retired = span.put(BLOCKS, 0, 0b10) == Put::Held && span.is_empty(BLOCKS);
        if retired {
            span.wipe();
            span.create(BLOCKS, 0, 2);
            assert_eq!(span.claim(BLOCKS, 64).unwrap().blocks, 0b11);
            assert!(span.leave_full(BLOCKS));
        }
        let put = putter.join().unwrap();
        assert_ne!(put, Put::DoubleFree);
        if retired {
            assert_ne!(put, Put::Held, "its span is gone");
            assert!(span.is_full() && !span.has_any(BLOCKS), "the next one is as it was");
        }
    });
}

/// The holder publishes a span (as `src/geometry/span_index.rs` does, with one word for the index)
/// while its last block comes back: one of them takes it out of the index to retire it.
#[test]
fn an_empty_span_does_not_stay_in_the_index() {
    loom::model(|| {
        let shared = Arc::new((new_span(), AtomicU64::new(0)));
        assert_eq!(shared.0.claim(BLOCKS, 1).unwrap().blocks, 0b01);
        let take = |index: &AtomicU64| bit_pyramid::remove(&[(index, 5)]);
        let putter = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || match shared.0.put(BLOCKS, 0, 0b01) {
                Put::Empty => take(&shared.1),
                put => {
                    assert_eq!(put, Put::Done);
                    false
                }
            })
        };
        shared.0.leave_available();
        bit_pyramid::insert(&[(&shared.1, 5)]);
        fence_after_rmw();
        let mine = shared.0.is_empty(BLOCKS) && take(&shared.1);
        let theirs = putter.join().unwrap();
        assert!(mine != theirs, "one retires it: {mine} {theirs}");
        assert_eq!(shared.1.load(Ordering::Relaxed), 0);
    });
}

/// Two threads put the last two blocks of a full span back: one becomes the holder, and at
/// least one of them learns that the span is empty.
#[test]
fn the_last_blocks_to_come_back_show_that_the_span_is_empty() {
    loom::model(|| {
        let span = Arc::new(new_span());
        assert_eq!(span.claim(BLOCKS, 64).unwrap().blocks, 0b11);
        assert!(span.leave_full(BLOCKS));
        let putter = {
            let span = Arc::clone(&span);
            thread::spawn(move || {
                let put = span.put(BLOCKS, 0, 0b01);
                (put, put == Put::Held && span.is_empty(BLOCKS))
            })
        };
        let mine = span.put(BLOCKS, 0, 0b10);
        let mine = (mine, mine == Put::Held && span.is_empty(BLOCKS));
        let other = putter.join().unwrap();
        let holders = [mine, other].iter().filter(|(put, _)| *put == Put::Held).count();
        assert_eq!(holders, 1);
        let saw_empty = |(put, empty): (Put, bool)| empty || put == Put::Empty;
        assert!(saw_empty(mine) || saw_empty(other), "{mine:?} {other:?}");
    });
}

/// The holder claims while blocks come back: no block is handed out twice, none is lost.
#[test]
fn claim_and_put_neither_lose_nor_double_a_block() {
    loom::model(|| {
        let span = Arc::new(new_span());
        assert_eq!(span.claim(BLOCKS, 1).unwrap().blocks, 0b01);
        let putter = {
            let span = Arc::clone(&span);
            thread::spawn(move || span.put(BLOCKS, 0, 0b01))
        };
        let mut claimed = 0;
        for _ in 0..2 {
            if let Some(claim) = span.claim(BLOCKS, 1) {
                assert_eq!(claimed & claim.blocks, 0);
                claimed |= claim.blocks;
            }
        }
        assert_ne!(putter.join().unwrap(), Put::DoubleFree);
        let left = span.claim(BLOCKS, 64).map_or(0, |claim| claim.blocks);
        assert_eq!(claimed ^ left, 0b11);
    });
}

/// Content written by one owner is visible to the next, across put and claim.
#[test]
fn what_an_owner_wrote_happens_before_the_next_owner() {
    loom::model(|| {
        let shared = Arc::new((new_span(), UnsafeCell::new(0)));
        assert_eq!(shared.0.claim(BLOCKS, 64).unwrap().blocks, 0b11);
        let putter = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                // SAFETY: this thread owns block 0 and with it the cell.
                shared.1.with_mut(|cell| unsafe { *cell = 7 });
                let _ = shared.0.put(BLOCKS, 0, 0b01);
            })
        };
        if shared.0.claim(BLOCKS, 64).is_some() {
            // SAFETY: block 0 is ours now. Loom checks that no access can race.
            assert_eq!(shared.1.with(|cell| unsafe { *cell }), 7);
        }
        putter.join().unwrap();
    });
}

/// A page inside a span is given back while one of its two blocks comes back and another thread wants
/// blocks: what owners write and what the purge does to the page never meet, and no block is lost.
#[test]
fn a_page_is_purged_only_while_all_its_blocks_are_here() {
    loom::model(|| {
        let shared = Arc::new((new_span(), AtomicU64::new(0), UnsafeCell::new(0)));
        let claim = shared.0.claim(BLOCKS, 1).unwrap();
        assert_eq!(shared.0.mark_resident(geometry::size_class::SizeClass, claim).pages.0, 1);
        shared.0.leave_available();
        bit_pyramid::insert(&[(&shared.1, 5)]);
        let user = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                // SAFETY: this thread owns block 0, and with it the page's content.
                shared.2.with_mut(|page| unsafe { *page = 1 });
                assert_ne!(shared.0.put(BLOCKS, 0, 0b01), Put::DoubleFree);
                if !bit_pyramid::remove(&[(&shared.1, 5)]) {
                    return 0;
                }
                shared.0.enter_held();
                let taken = shared.0.claim(BLOCKS, 64).map_or(0, |claim| claim.blocks);
                if taken & 0b01 != 0 {
                    // SAFETY: block 0 is this thread's again.
                    shared.2.with_mut(|page| unsafe { *page = 2 });
                }
                taken
            })
        };
        if bit_pyramid::remove(&[(&shared.1, 5)]) {
            shared.0.enter_held();
            let pages = shared.0.purgeable_pages(geometry::size_class::SizeClass);
            if pages != 0 {
                // SAFETY: the span is held and every block on the page is here.
                shared.2.with_mut(|page| unsafe { *page = 0 });
                shared.0.mark_purged(pages);
                assert_eq!((shared.0.resident_pages(), shared.0.purged_pages()), (0, 1));
            }
            shared.0.leave_available();
            bit_pyramid::insert(&[(&shared.1, 5)]);
        }
        let taken = user.join().unwrap();
        let left = shared.0.claim(BLOCKS, 64).map_or(0, |claim| claim.blocks);
        assert_eq!(taken ^ left, 0b11);
    });
}

struct Levels([AtomicU64; 3]);

impl Levels {
    fn new() -> Levels {
        Levels([AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)])
    }

    fn path(&self, element: u32) -> [(&AtomicU64, u32); 3] {
        [(&self.0[0], element), (&self.0[1], 0), (&self.0[2], 0)]
    }
}

/// While one element is removed another is inserted into the same word: afterwards the hints
/// lead to it.
#[test]
fn an_element_inserted_during_a_removal_can_be_found() {
    loom::model(|| {
        let levels = Arc::new(Levels::new());
        bit_pyramid::insert(&levels.path(0));
        let inserter = {
            let levels = Arc::clone(&levels);
            thread::spawn(move || bit_pyramid::insert(&levels.path(1)))
        };
        assert!(bit_pyramid::remove(&levels.path(0)));
        bit_pyramid::lower(&levels.path(0));
        inserter.join().unwrap();
        assert_eq!(levels.0[0].load(Ordering::Relaxed), 0b10);
        assert_eq!(levels.0[1].load(Ordering::Relaxed), 1);
        assert_eq!(levels.0[2].load(Ordering::Relaxed), 1);
    });
}

/// Two threads want the same element: one gets it.
#[test]
fn an_element_is_removed_once() {
    loom::model(|| {
        let levels = Arc::new(Levels::new());
        bit_pyramid::insert(&levels.path(3));
        let other = {
            let levels = Arc::clone(&levels);
            thread::spawn(move || bit_pyramid::remove(&levels.path(3)))
        };
        let mine = bit_pyramid::remove(&levels.path(3));
        assert_ne!(mine, other.join().unwrap());
        bit_pyramid::lower(&levels.path(3));
        assert_eq!(levels.0[1].load(Ordering::Relaxed), 0);
        assert_eq!(levels.0[2].load(Ordering::Relaxed), 0);
    });
}

impl OwnerWord for &AtomicUsize {
    fn get(self) -> usize {
        self.load(Ordering::Relaxed)
    }

    fn set(self, value: usize) {
        self.store(value, Ordering::Release);
    }
}

/// A cache: what the biased lock guards, and its gate.
struct Cache {
    lock: BiasedLock,
    word: AtomicUsize,
    gate: AtomicU32,
    blocks: UnsafeCell<u32>,
}

const OPEN: u32 = 1;
const CLOSED: u32 = 0;

impl Cache {
    /// As `keep_owners_out` does it. Returns the blocks.
    fn take(&self) -> u32 {
        let mut taken = 0;
        self.lock.want();
        compiler_barrier();
        if !BiasedLock::owner_is_inside(&self.word) {
            self.gate.store(CLOSED, Ordering::Relaxed);
            compiler_barrier();
            if !BiasedLock::owner_is_inside(&self.word) {
                // SAFETY: the blocks are the taker's. Loom checks that no access can race.
                taken = self.blocks.with_mut(|blocks| unsafe { core::mem::take(&mut *blocks) });
            }
            self.gate.store(OPEN, Ordering::Release);
        }
        self.lock.let_go();
        taken
    }

    /// Adds a block.
    fn put(&self) {
        // SAFETY: the blocks are the owner's. Loom checks that no access can race.
        self.blocks.with_mut(|blocks| unsafe { *blocks += 1 });
    }

    /// By the fast path, if the gate is open.
    fn put_fast(&self) -> bool {
        assert_ne!(self.word.get(), BUSY);
        BiasedLock::enter_fast(&self.word);
        let is_open = self.gate.load(Ordering::Acquire) == OPEN;
        if is_open {
            self.put();
        }
        BiasedLock::leave(&self.word);
        is_open
    }

    /// By the slow path, if nobody wants the lock. It opens the gate, as one does that gives a bin another array.
    fn put_slow(&self) -> bool {
        let is_in = self.lock.enter(&self.word);
        if is_in {
            self.put();
            self.gate.store(OPEN, Ordering::Release);
        }
        BiasedLock::leave(&self.word);
        is_in
    }
}

/// The owner works twice, as in two calls of malloc, while a taker empties the cache: loom sees any
/// access that the lock does not order, and no block is lost or seen twice.
fn owner_and_taker(first: fn(&Cache) -> bool, second: fn(&Cache) -> bool) {
    loom::model(move || {
        let cache = Arc::new(Cache {
            lock: BiasedLock::new(),
            word: AtomicUsize::new(AT_REST),
            gate: AtomicU32::new(OPEN),
            blocks: UnsafeCell::new(1),
        });
        let taker = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || cache.take())
        };
        let put = 1 + u32::from(first(&cache)) + u32::from(second(&cache));
        let taken = taker.join().unwrap();
        // SAFETY: the taker has ended.
        let left = cache.blocks.with(|blocks| unsafe { *blocks });
        assert_eq!(taken + left, put);
    });
}

#[test]
fn a_cache_is_taken_over_only_while_its_owner_is_in_no_fast_path() {
    owner_and_taker(Cache::put_fast, Cache::put_fast);
}

#[test]
fn a_cache_is_taken_over_only_while_its_owner_is_in_no_slow_path() {
    owner_and_taker(Cache::put_slow, Cache::put_slow);
}

#[test]
fn a_slow_path_that_opens_the_gate_does_not_let_a_fast_path_in() {
    owner_and_taker(Cache::put_slow, Cache::put_fast);
    owner_and_taker(Cache::put_fast, Cache::put_slow);
}

/// What the ticker's life depends on: the operations of one thread, and how many tickers there are.
struct Program {
    lifecycle: Lifecycle,
    operations: AtomicU64,
    tickers: AtomicU64,
}

impl Program {
    /// A slow path: counts, and starts the ticker if there is none.
    fn operate(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        if self.lifecycle.is_running() {
            return;
        }
        let is_alive = || self.tickers.load(Ordering::Relaxed) > 0;
        if let Some(attempt) = self.lifecycle.begin(is_alive) {
            self.tickers.fetch_add(1, Ordering::Relaxed);
            self.lifecycle.set_running(attempt);
        }
    }

    /// The ticker at rest: it ends, unless something happened since. Returns how many operations it had
    /// seen before.
    fn rest(&self) -> u64 {
        let operations = self.operations.load(Ordering::Relaxed);
        let announced = self.lifecycle.announce_end();
        compiler_barrier();
        let is_quiet = self.operations.load(Ordering::Relaxed) == operations;
        if is_quiet || !self.lifecycle.goes_on(announced) {
            self.tickers.fetch_sub(1, Ordering::Relaxed);
        }
        operations
    }
}

/// The ticker would like to end while another thread does something: whatever the order, an operation
/// that it had not seen has a ticker afterwards, and there are not two.
#[test]
fn an_operation_has_a_ticker_that_ends_or_starts_meanwhile() {
    loom::model(|| {
        let program = Arc::new(Program {
            lifecycle: Lifecycle::default(),
            operations: AtomicU64::new(0),
            tickers: AtomicU64::new(0),
        });
        program.operate();
        assert_eq!(program.tickers.load(Ordering::Relaxed), 1);
        let worker = {
            let program = Arc::clone(&program);
            thread::spawn(move || program.operate())
        };
        let seen = program.rest();
        worker.join().unwrap();
        let tickers = program.tickers.load(Ordering::Relaxed);
        assert!(tickers <= 1, "one at a time");
        assert!(seen == 2 || tickers == 1, "who looks after the second operation?");
    });
}

/// A thread starts the ticker while another one forbids it, and waits until it is gone: there is none from then on.
#[test]
fn a_ticker_that_is_forbidden_is_gone_and_stays_so() {
    loom::model(|| {
        let program = Arc::new(Program {
            lifecycle: Lifecycle::default(),
            operations: AtomicU64::new(0),
            tickers: AtomicU64::new(0),
        });
        let worker = {
            let program = Arc::clone(&program);
            thread::spawn(move || program.operate())
        };
        program.lifecycle.forbid();
        while program.lifecycle.is_being_started() {
            thread::yield_now();
        }
        // The ticker, which has looked.
        if program.tickers.load(Ordering::Relaxed) > 0 {
            program.lifecycle.set_over();
            program.tickers.fetch_sub(1, Ordering::Relaxed);
        }
        worker.join().unwrap();
        assert_eq!(program.tickers.load(Ordering::Relaxed), 0);
        program.lifecycle.allow();
        program.operate();
        assert_eq!(program.tickers.load(Ordering::Relaxed), 1);
    });
}

/// Two figures that are changed together: a reader sees both changes or neither, unless it is told that it may
/// have seen one.
#[test]
fn figures_behind_a_sequence_are_read_whole() {
    loom::model(|| {
        let shared = Arc::new((Sequence::new(), AtomicU64::new(0), AtomicU64::new(0)));
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for value in 1..=2 {
                    shared.0.write(|| {
                        shared.1.store(value, Ordering::Relaxed);
                        shared.2.store(value, Ordering::Relaxed);
                    });
                }
            })
        };
        let read = || (shared.1.load(Ordering::Relaxed), shared.2.load(Ordering::Relaxed));
        let ((first, second), is_whole) = shared.0.try_read(read);
        assert!(!is_whole || first == second, "{first} {second}");
        writer.join().unwrap();
        assert_eq!(shared.0.read(read), (2, 2));
    });
}

/// Two writers, one of whom laps the other, beside a reader: each entry is read whole and in its place,
/// or counted as lost.
#[test]
fn an_entry_of_a_ring_is_read_whole_or_counted() {
    loom::model(|| {
        let ring = Arc::new(ring::Ring::<1, 2>::new());
        let mut cursor = ring.oldest();
        let writers = [1, 2].map(|writer| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.write([writer, writer]))
        });
        let mut read = 0;
        let mut take = |read: &mut u64| {
            while let Some([first, second]) = ring.read(&mut cursor) {
                assert_eq!(first, second, "torn");
                *read += 1;
            }
        };
        take(&mut read);
        for writer in writers {
            writer.join().unwrap();
        }
        take(&mut read);
        assert_eq!(read + ring.lost(&cursor), 2, "read {read}");
    });
}

/// A reader that is slower than a writer: what is overwritten under its eyes is lost, not torn.
#[test]
fn an_entry_that_is_overwritten_while_it_is_read_is_lost() {
    loom::model(|| {
        let ring = Arc::new(ring::Ring::<1, 2>::new());
        let mut cursor = ring.oldest();
        ring.write([1, 1]);
        let writer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.write([2, 2]))
        };
        let first = ring.read(&mut cursor);
        assert!(matches!(first, None | Some([1, 1] | [2, 2])), "torn: {first:?}");
        writer.join().unwrap();
        let mut read = first.is_some() as u64;
        while let Some(words) = ring.read(&mut cursor) {
            assert_eq!(words, [2, 2]);
            read += 1;
        }
        assert_eq!(read + ring.lost(&cursor), 2, "first {first:?}");
    });
}
