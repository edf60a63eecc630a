//! Between thread caches and spans: refill, spill, retire; and the same one block at a time for
//! callers without a cache.

use core::sync::atomic::{AtomicPtr, Ordering};

use crate::base::bits::{PageBits, PageRun};
use crate::base::units::SPAN_BYTES;
use crate::caches::bin::{Bin, Bins, MAX_BIN_SLOTS, array_bytes, larger_array};
use crate::caches::thread_cache::ThreadCache;
use crate::geometry::arena::{Arena, ChunkIndex};
use crate::geometry::reason::ReleaseReason;
use crate::geometry::size_class::SizeClass;
use crate::geometry::span::{Claim, Gained, Put};
use crate::geometry::span_index;
use crate::heap::{Heap, altered};
use crate::hooks::probes;
use crate::hooks::sections::{self, Section};
use crate::os::report;
use crate::os::{self, Linux};
use crate::pages::boundary::release_range_definitely_free;
use crate::pages::metadata::MAX_ARRAY_BYTES;
use crate::pages::touched::touch;

/// A bin's first capacity, and the bytes up to which it doubles at each refill without asking
/// whether more is worth it.
const FIRST_SLOTS: u32 = 4;
const BASE_BYTES: u32 = 32 << 10;
const BASE_SLOTS: u32 = 128;

/// Half of them, which is the first batch, fill two pairs of cache lines: the blocks that threads
/// take from a span at the same time do not share any.
fn first_slots(class: SizeClass) -> u32 {
    (512 / class.block_bytes().get() as u32).max(FIRST_SLOTS)
}

fn base_slots(class: SizeClass) -> u32 {
    (BASE_BYTES / class.block_bytes().get() as u32).clamp(FIRST_SLOTS, BASE_SLOTS)
}

/// How many blocks to move at once. Half a bin, so that it has room and blocks for what comes next;
/// but all of one that is only ever filled, or only emptied: another thread does the opposite, and
/// each batch costs the cache lines of the span once. A bin that has grown beyond its base is not
/// of that kind, though it may go the same way twice: it moves few, since a thread that takes almost as many blocks
/// as the bin holds, and then frees as many, again and again, would otherwise begin each round with a bin that is
/// half full, and run it empty and over.
fn batch(class: SizeClass, capacity: u32, is_one_way: bool) -> u32 {
    let base = base_slots(class);
    if capacity > base {
        (capacity / 8).max(base / 2)
    } else if is_one_way {
        capacity
    } else {
        capacity.div_ceil(2)
    }
}

/// Fills an empty bin, growing it if that is due, and pops a block. `None`: out of memory.
/// Owner only.
pub(crate) fn refill(heap: &Heap, cache: &ThreadCache, class: SizeClass) -> Option<*mut u8> {
    let _section = sections::enter(Section::Refill);
    let bin = cache.bin(class);
    debug_assert_eq!(bin.len.load(Ordering::Relaxed), 0);
    let history = &cache.histories[class.index()];
    let only_empties = history.refilled.load(Ordering::Relaxed) != 0;
    history.refilled.store(1, Ordering::Relaxed);
    let capacity = bin.capacity();
    if capacity < base_slots(class) {
        grow(heap, cache, class, (capacity * 2).clamp(first_slots(class), base_slots(class)));
    }
    let capacity = bin.capacity();
    cache.refills.add(1);
    if capacity == 0 {
        // No memory for the array: one block will do.
        let block = take_one(heap, class, |gained| cache.count_gained(gained, &heap.pages.clock))
            .inspect(|_| cache.classes[class.index()].claimed.add(1));
        probes::refill(class.block_bytes().get() as u64, block.is_some() as u64, 0);
        return block;
    }
    let want = batch(class, capacity, only_empties);
    // SAFETY: a batch is within the capacity, and the bin is the caller's.
    let mut got = heap.depot.take(class, unsafe { bin.slots(want) }) as u32;
    if got == 0 {
        got = claim(heap, cache, class, want);
    }
    // What keeps spans from being cut may be blocks of other classes that nobody needs.
    if got == 0 && flush_depot(heap, 0) {
        got = claim(heap, cache, class, want);
    }
    bin.len.store(got, Ordering::Relaxed);
    cache.classes[class.index()].claimed.add(got as u64);
    probes::refill(class.block_bytes().get() as u64, got as u64, capacity as u64);
    bin.pop()
}

/// Claims up to `want` blocks from spans into the bin, which is empty. Owner only.
fn claim(heap: &Heap, cache: &ThreadCache, class: SizeClass, want: u32) -> u32 {
    let bin = cache.bin(class);
    let mut got = 0;
    while got < want {
        // A new span only if nothing else is to be had: a batch may well be short.
        let Some(chunk) = take_span(heap, class, got == 0) else { break };
        let span = heap.pages.arena.span(chunk);
        let blocks = class.blocks_per_span();
        while got < want {
            let Some(claim) = span.claim(blocks, want - got) else { break };
            cache.count_gained(span.mark_resident(class, claim), &heap.pages.clock);
            got += store_claim(&heap.pages.arena, bin, class, chunk, claim, got);
        }
        give_up_span(heap, class, chunk);
    }
    got
}

/// The lowest span with free blocks, or else, if `create`, a new one; the caller holds it.
fn take_span(heap: &Heap, class: SizeClass, create: bool) -> Option<ChunkIndex> {
    match span_index::take_lowest(&heap.pages.arena, class) {
        None if create => create_span(heap, class),
        found => found,
    }
}

/// Writes a claim's blocks behind the first `len` slots, the lowest address last, so that it is the
/// first to be popped. Returns how many.
#[inline]
fn store_claim(
    arena: &Arena,
    bin: &Bin,
    class: SizeClass,
    chunk: ChunkIndex,
    claim: Claim,
    len: u32,
) -> u32 {
    let count = claim.blocks.count_ones();
    // SAFETY: a claim is at most what `refill` wanted, which is within the capacity.
    let slots = unsafe { bin.slots(len + count) };
    let size = class.block_bytes().get();
    let start = arena.chunk_address(chunk) + claim.word as usize * 64 * size;
    let mut rest = claim.blocks;
    for slot in slots[len as usize..].iter().rev() {
        let block = start + rest.trailing_zeros() as usize * size;
        slot.store(block as *mut u8, Ordering::Relaxed);
        rest &= rest - 1;
    }
    count
}

/// Makes room in a full bin, by growing it or by giving the older half back. Owner only.
pub(crate) fn make_room(heap: &Heap, cache: &ThreadCache, class: SizeClass) {
    let bin = cache.bin(class);
    let history = &cache.histories[class.index()];
    let capacity = bin.capacity();
    let swings = history.refilled.load(Ordering::Relaxed) != 0;
    history.refilled.store(0, Ordering::Relaxed);
    // A bin that runs empty and full in turn passes the same blocks to and fro: a larger one would
    // keep them. One that only fills hands blocks on and stays small.
    let wanted = if capacity < base_slots(class) || swings {
        (capacity * 2).clamp(first_slots(class), MAX_BIN_SLOTS)
    } else {
        capacity
    };
    if wanted > capacity && grow(heap, cache, class, wanted) {
        return;
    }
    if capacity > 0 {
        spill(heap, cache, class, batch(class, capacity, !swings));
    }
}

/// Gives a bin a larger array, if the thread's budget allows. Owner only.
fn grow(heap: &Heap, cache: &ThreadCache, class: SizeClass, capacity: u32) -> bool {
    let bin = cache.bin(class);
    let size = class.block_bytes().get() as u64;
    let before = bin.capacity();
    let bytes = cache.capacity_bytes.load(Ordering::Relaxed) - before as u64 * size
        + capacity as u64 * size;
    // The first few slots are free of charge: without them there is no fast path at all.
    if capacity > FIRST_SLOTS && bytes > heap.knobs.cache_bytes() {
        return false;
    }
    let len = bin.len.load(Ordering::Relaxed);
    debug_assert!(len <= capacity);
    let old = bin.slots.load(Ordering::Relaxed);
    // SAFETY: the bin's array has room for its blocks, and the new one for more.
    let slots = unsafe { larger_array(&heap.pages.metadata, old, len, capacity) };
    let Some(slots) = slots else { return false };
    bin.set_room(slots, capacity);
    cache.capacity_bytes.store(bytes, Ordering::Relaxed);
    if before > 0 {
        // SAFETY: the array came from `allocate_array` with this size; the bin has another one now.
        unsafe { heap.pages.metadata.give_back(old.cast(), array_bytes(before)) };
    }
    true
}

const _: () = assert!(MAX_BIN_SLOTS as usize * size_of::<AtomicPtr<u8>>() <= MAX_ARRAY_BYTES);

/// Gives the oldest `count` blocks of a bin away: to the depot as far as there is room, else to their spans.
/// Owner only.
pub(crate) fn spill(heap: &Heap, cache: &ThreadCache, class: SizeClass, count: u32) {
    remove_oldest(cache, class, count, |blocks| {
        check_all(heap, class, blocks);
        let threads = heap.threads.threads();
        let given = heap.depot.give(&heap.pages.metadata, class, threads, blocks);
        put_all(heap, class, &blocks[given..]);
    });
}

/// Ends the process if one of these is no block's start, or the same as the one before it: that much is seen without a
/// look at spans, before others are handed what somebody freed by mistake.
fn check_all(heap: &Heap, class: SizeClass, blocks: &[AtomicPtr<u8>]) {
    let base = heap.pages.arena.base();
    let mut before = 0;
    for block in blocks {
        let address = block.load(Ordering::Relaxed) as usize;
        check_block(class, address, address - base);
        if address == before {
            report::fail("double free", address);
        }
        before = address;
    }
}

/// Takes the oldest `count` blocks out of a bin when `put` has put them elsewhere. Whoever may touch the cache.
fn remove_oldest(
    cache: &ThreadCache,
    class: SizeClass,
    count: u32,
    put: impl FnOnce(&[AtomicPtr<u8>]),
) {
    let bin = cache.bin(class);
    let len = bin.len.load(Ordering::Relaxed);
    let count = count.min(len);
    if count == 0 {
        return;
    }
    let _section = sections::enter(Section::Spill);
    // SAFETY: the caller owns the cache, and `len` is within the capacity.
    let slots = unsafe { bin.slots(len) };
    put(&slots[..count as usize]);
    let first = bin.slots.load(Ordering::Relaxed);
    // SAFETY: within the array, as said.
    let kept = unsafe { first.add(count as usize) };
    // SAFETY: the same array, of which the caller has all for itself.
    unsafe { first.copy_from(kept, (len - count) as usize) };
    bin.len.store(len - count, Ordering::Relaxed);
    cache.spills.add(1);
    cache.classes[class.index()].spilled.add(count as u64);
    probes::spill(class.block_bytes().get() as u64, count as u64);
}

/// Puts blocks back, with one atomic operation for neighbours that share a bitmap word.
/// The loop has the registers to itself: inlined, it costs an instruction more for each block.
#[inline(never)]
fn put_all(heap: &Heap, class: SizeClass, blocks: &[AtomicPtr<u8>]) {
    let base = heap.pages.arena.base();
    let mut run = (ChunkIndex(0), 0, 0u64);
    for block in blocks {
        let address = block.load(Ordering::Relaxed) as usize;
        let (chunk, word, bit) = locate(class, address, address - base);
        if (chunk, word) != (run.0, run.1) {
            put(heap, class, run);
            run = (chunk, word, 0);
        }
        if run.2 & bit != 0 {
            report::fail("double free", address);
        }
        run.2 |= bit;
    }
    put(heap, class, run);
}

/// Ends the process if `address` is no block's start.
pub(crate) fn check_block(class: SizeClass, address: usize, offset: usize) {
    locate(class, address, offset);
}

/// A block's chunk, bitmap word and bit there.
#[inline(always)]
fn locate(class: SizeClass, address: usize, offset: usize) -> (ChunkIndex, u32, u64) {
    let in_span = (offset % SPAN_BYTES) as u32;
    let index = class.block_index(in_span);
    let misaligned = index * class.block_bytes().get() as u32 != in_span;
    if misaligned || index >= class.blocks_per_span() {
        report::fail("free of an address inside a block", address);
    }
    (Arena::chunk_at(offset), index / 64, 1 << (index % 64))
}

/// Is the block at `offset`, of a span of `class`, in its span? While nothing moves.
pub(super) fn is_in_span(arena: &Arena, class: SizeClass, offset: usize) -> bool {
    let block = class.block_index((offset % SPAN_BYTES) as u32);
    arena.span(Arena::chunk_at(offset)).has_free(block)
}

/// Puts the blocks of one word back and sees to what follows from it.
#[inline]
fn put(heap: &Heap, class: SizeClass, (chunk, word, mask): (ChunkIndex, u32, u64)) {
    if mask == 0 {
        return;
    }
    match heap.pages.arena.span(chunk).put(class.blocks_per_span(), word, mask) {
        Put::Done => touch(&heap.pages, chunk.segment()),
        Put::Held => {
            touch(&heap.pages, chunk.segment());
            give_up_span(heap, class, chunk);
        }
        Put::Empty => {
            if span_index::try_take(&heap.pages.arena, class, chunk) {
                give_up_span(heap, class, chunk);
            }
        }
        Put::DoubleFree => {
            let first = word * 64 + mask.trailing_zeros();
            let offset = first as usize * class.block_bytes().get();
            report::fail("double free", heap.pages.arena.chunk_address(chunk) + offset);
        }
    }
}

/// Parts with a held span: retires it if all its blocks are back, lists it if it has any, leaves it
/// to the first block that comes back if it has none.
///
/// Spans are never held between refills. A thread that kept one per class would save two atomic
/// operations a refill and strand what is left of that span: with 32 threads that was most of the
/// heap (ARCHITECTURE.md).
pub(crate) fn give_up_span(heap: &Heap, class: SizeClass, chunk: ChunkIndex) {
    let span = heap.pages.arena.span(chunk);
    let blocks = class.blocks_per_span();
    if !span.has_any(blocks) && span.leave_full(blocks) {
        return;
    }
    if span.is_empty(blocks) || !span_index::publish(&heap.pages.arena, class, chunk) {
        retire(heap, class, chunk);
    }
}

/// Cuts a new span from free pages; the caller holds it. `None`: out of memory, or this is a signal
/// handler that interrupted its thread in the page heap.
#[cold]
fn create_span(heap: &Heap, class: SizeClass) -> Option<ChunkIndex> {
    let (chunk, resident, _pages) = loop {
        let mut pages = heap.lock_pages()?;
        match pages.take_span(&heap.pages.arena, &Linux, &heap.pages.totals, class) {
            Some((chunk, resident)) => break (chunk, resident, pages),
            None if pages.is_worth_waiting_for() => {
                drop(pages);
                os::yield_now();
            }
            None => return None,
        }
    };
    let number = heap.pages.totals.figures().spans_created.get();
    heap.pages.arena.span(chunk).create(class.blocks_per_span(), resident, number);
    // With the lock held: pages in use belong to a span that the page map names.
    heap.pages.arena.set_class(chunk, class);
    Some(chunk)
}

/// Gives the pages of a held span, all of whose blocks are back, to the release boundary.
#[cold]
fn retire(heap: &Heap, class: SizeClass, chunk: ChunkIndex) {
    let span = heap.pages.arena.span(chunk);
    let (resident, purged) = (span.resident_pages(), span.purged_pages());
    // SAFETY: the caller holds the span, and all of its blocks are back.
    let fresh = unsafe { altered::renew_chunk(heap, chunk) };
    let Some((fresh, mut pages)) = fresh.zip(heap.lock_pages()) else {
        // The kernel does not make its pages ordinary, or this is a signal handler that interrupted its
        // thread in the page heap: the span stays listed, and the next thread that takes and empties it
        // retires it.
        span_index::list(&heap.pages.arena, class, chunk);
        return;
    };
    release_range_definitely_free(
        &heap.pages,
        &Linux,
        &mut pages,
        chunk.segment(),
        PageRun::of_chunk(chunk.in_segment()),
        &PageBits::of_chunk(chunk.in_segment(), resident & !fresh),
        ReleaseReason::of_span(class),
    );
    let purged = PageBits::of_chunk(chunk.in_segment(), purged);
    pages.states(&heap.pages.arena, chunk.segment()).add_purged(&purged);
    heap.pages.arena.set_class(chunk, SizeClass::NONE);
    heap.pages.totals.update(|figures| {
        figures.spans[class.index()].subtract(1);
        figures.span_pages_retired.add(resident.count_ones() as u64);
    });
    let (size, address) = (class.block_bytes().get(), heap.pages.arena.chunk_address(chunk));
    probes::retire(size as u64, address as u64, resident.count_ones() as u64);
}

/// One block for a caller without a bin.
fn take_one(heap: &Heap, class: SizeClass, gained: impl Fn(Gained)) -> Option<*mut u8> {
    loop {
        let chunk = take_span(heap, class, true)?;
        let span = heap.pages.arena.span(chunk);
        let claim = span.claim(class.blocks_per_span(), 1);
        let block = claim.map(|claim| {
            gained(span.mark_resident(class, claim));
            let index = claim.word as usize * 64 + claim.blocks.trailing_zeros() as usize;
            heap.pages.arena.chunk_address(chunk) + index * class.block_bytes().get()
        });
        give_up_span(heap, class, chunk);
        if let Some(address) = block {
            return Some(address as *mut u8);
        }
    }
}

/// A block without a thread cache.
#[cold]
pub(crate) fn allocate_uncached(heap: &Heap, class: SizeClass) -> Option<*mut u8> {
    let gained = |gained: Gained| {
        let (pages, refaults) = (gained.pages.0 as u64, gained.refaults.0 as u64);
        heap.uncached.resident_gained.fetch_add(pages, Ordering::Relaxed);
        heap.uncached.interior_refaults.fetch_add(refaults, Ordering::Relaxed);
    };
    let block = take_one(heap, class, gained)?;
    heap.uncached.classes[class.index()].claimed.fetch_add(1, Ordering::Relaxed);
    Some(block)
}

/// An allocation without a thread cache has succeeded, in whatever way.
pub(crate) fn count_uncached(heap: &Heap, class: SizeClass, bytes: usize) {
    let counters = &heap.uncached.classes[class.index()];
    counters.allocations.fetch_add(1, Ordering::Relaxed);
    counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// Puts a block back to its span.
pub(super) fn put_one(heap: &Heap, class: SizeClass, address: usize, offset: usize) {
    put(heap, class, locate(class, address, offset));
}

/// A free without a thread cache. `offset` is the block's from the arena's base.
#[cold]
pub(crate) fn free_uncached(heap: &Heap, class: SizeClass, address: usize, offset: usize) {
    put_one(heap, class, address, offset);
    heap.uncached.classes[class.index()].spilled.fetch_add(1, Ordering::Relaxed);
}

/// Empties bins and gives their arrays back: when their thread ends, when they were not used for a
/// while, or when everything is to be given back. Then spans see that blocks are free, and the thread's budget
/// is there for bins that are used. Whoever may touch the cache.
pub(crate) fn flush(heap: &Heap, cache: &ThreadCache, bins: Bins) {
    for class in bins.classes() {
        remove_oldest(cache, class, u32::MAX, |blocks| put_all(heap, class, blocks));
    }
    // One by one as they are given back: a list of them is more than some threads' stacks are good for at their end.
    let mut arrays = bins.classes().filter_map(|class| take_array(cache, class)).peekable();
    if arrays.peek().is_some() {
        // SAFETY: they came from `allocate_array` with these sizes; the bins have none now.
        unsafe { heap.pages.metadata.give_all_back(arrays) };
    }
}

/// Takes an empty bin's array away, if it has one: its address and bytes. Whoever may touch the cache.
fn take_array(cache: &ThreadCache, class: SizeClass) -> Option<(*mut u8, usize)> {
    let bin = cache.bin(class);
    let (slots, capacity) = (bin.slots.load(Ordering::Relaxed), bin.capacity());
    if capacity == 0 {
        return None;
    }
    bin.set_room(core::ptr::null_mut(), 0);
    let bytes = cache.capacity_bytes.load(Ordering::Relaxed);
    let less = capacity as u64 * class.block_bytes().get() as u64;
    cache.capacity_bytes.store(bytes - less, Ordering::Relaxed);
    Some((slots.cast(), array_bytes(capacity)))
}

/// The thread ends: its bins' blocks are for those that begin, as far as the depot has room. Owner only.
pub(crate) fn hand_on(heap: &Heap, cache: &ThreadCache) {
    for class in SizeClass::all() {
        spill(heap, cache, class, u32::MAX);
    }
    flush(heap, cache, Bins::ALL);
}

/// Puts back to their spans what nobody needed in the depot for so many ticks; 0: all of it. Returns whether there may
/// have been something.
pub(crate) fn flush_depot(heap: &Heap, patience: u32) -> bool {
    let has_some = !heap.depot.is_flushed();
    if has_some {
        let put = |class, blocks: &[AtomicPtr<u8>]| put_all(heap, class, blocks);
        heap.depot.flush(&heap.pages.metadata, patience, put);
    }
    has_some
}
