//! malloc, free and their relatives: the fast paths, and where they lead.

use core::ptr;
use core::sync::atomic::Ordering;

use crate::api::copies::see_to_copy;
pub use crate::api::foreign::NextAllocator;
use crate::api::this_thread::{enter, enter_to_free, housekeeping};
use crate::api::{foreign, start};
use crate::caches::entered::Entered;
use crate::caches::thread_cache::ThreadCache;
use crate::geometry::size_class::{GRANULE, MAX_CLASS_BYTES, SizeClass};
use crate::heap::HEAP;
use crate::heap::central;
use crate::heap::large;
use crate::os::biased_lock::{BiasedLock, OwnerWord};
use crate::os::report::Line;
use crate::os::tls::ThreadWord;
use crate::os::{self, Linux};
use crate::release::{RELEASE, release_everything, start_if_needed};
use crate::stack;

/// Runs `operation`, which looks at open bins alone, on the calling thread's cache, if the thread has one and is not
/// inside it.
#[inline(always)]
fn with_cache<T>(operation: impl FnOnce(&ThreadCache) -> Option<T>) -> Option<T> {
    let word = ThreadWord::of_this_thread();
    if !word.is_at_rest() {
        return None;
    }
    // SAFETY: the word says that the thread has a cache.
    let cache = unsafe { &*(word.cache() as *const ThreadCache) };
    BiasedLock::enter_fast(word);
    let result = operation(cache);
    BiasedLock::leave(word);
    result
}

/// A block of `class`, for a request of `bytes` aligned to `align`; null if out of memory.
#[inline(always)]
fn allocate_class(class: SizeClass, bytes: usize, align: usize) -> *mut u8 {
    allocate_class_or(class, bytes, align, || allocate_slow(bytes, align))
}

/// As [`allocate_class`] where the thread's cache has a block; where not, what `otherwise` returns.
#[inline(always)]
fn allocate_class_or(
    class: SizeClass,
    bytes: usize,
    align: usize,
    otherwise: impl FnOnce() -> *mut u8,
) -> *mut u8 {
    let popped = with_cache(|cache| {
        let bin = cache.bin(class);
        let block = bin.pop()?;
        Some((block, bin.count(bytes)))
    });
    match popped {
        Some((block, false)) => block,
        Some((block, true)) => end_countdown(bytes, align, block),
        None => otherwise(),
    }
}

/// The class of a request that has one. Found anew by slow paths: their callers have less to hand over,
/// and stay small enough to be inlined.
fn class_for(bytes: usize, align: usize) -> SizeClass {
    SizeClass::for_layout(bytes, align).unwrap_or(SizeClass::NONE)
}

#[cold]
#[inline(never)]
fn allocate_slow(bytes: usize, align: usize) -> *mut u8 {
    or_out_of_memory(try_slow(bytes, align, stack::address_in_frame()))
}

#[inline(always)]
fn try_slow(bytes: usize, align: usize, frame: usize) -> Option<*mut u8> {
    let class = class_for(bytes, align);
    match enter() {
        Some(entered) => {
            let cache = entered.cache;
            let bin = cache.bin(class);
            let block = bin.pop().or_else(|| central::refill(&HEAP, cache, class));
            // What fails is no allocation, and ends no countdown.
            let block = block.map(|block| match bin.count(bytes) {
                true => sample(cache, class, bytes, align, block, frame),
                false => block,
            });
            housekeeping(&HEAP, cache, &Linux);
            block
        }
        None if start::is_ready() => allocate_uncached(class, bytes, align, frame),
        None => None,
    }
}

#[cold]
#[inline(never)]
fn end_countdown(bytes: usize, align: usize, block: *mut u8) -> *mut u8 {
    let frame = stack::address_in_frame();
    let class = class_for(bytes, align);
    // A taker that had the cache meanwhile left the tally as it was.
    match enter() {
        Some(entered) => {
            let block = sample(entered.cache, class, bytes, align, block, frame);
            housekeeping(&HEAP, entered.cache, &Linux);
            block
        }
        None => block,
    }
}

/// An allocation has ended its countdown: if it is to be a sample, that is returned, and `block` goes
/// back. Owner only.
fn sample(
    cache: &ThreadCache,
    class: SizeClass,
    bytes: usize,
    align: usize,
    block: *mut u8,
    frame: usize,
) -> *mut u8 {
    let Some(rate) = cache.end_countdown(class, HEAP.sampler.countdowns()) else { return block };
    let Some(sampled) = HEAP.sampler.allocate(&HEAP.pages, bytes, align, rate, frame) else {
        return block;
    };
    if !cache.bin(class).push(block) {
        free_uncached(class, block as usize, block as usize - HEAP.pages.arena.base());
    }
    sampled
}

fn allocate_uncached(
    class: SizeClass,
    bytes: usize,
    align: usize,
    frame: usize,
) -> Option<*mut u8> {
    let rate = HEAP.sampler.countdowns().try_once(bytes as u64);
    let sampled =
        rate.and_then(|rate| HEAP.sampler.allocate(&HEAP.pages, bytes, align, rate, frame));
    let block = sampled.or_else(|| central::allocate_uncached(&HEAP, class))?;
    central::count_uncached(&HEAP, class, bytes);
    count_uncached();
    Some(block)
}

#[cold]
fn free_uncached(class: SizeClass, address: usize, offset: usize) {
    central::free_uncached(&HEAP, class, address, offset);
    count_uncached();
}

/// An operation past the caches counts as one all the same.
fn count_uncached() {
    HEAP.uncached.operations.fetch_add(1, Ordering::Relaxed);
    start_if_needed(&HEAP, &RELEASE);
}

/// The block, or null with the error that the C interface has for that. Done here, off the fast
/// path, so that no caller has to look at a block it was given.
fn or_out_of_memory(block: Option<*mut u8>) -> *mut u8 {
    block.unwrap_or_else(refuse)
}

/// What an allocation returns that cannot be had: null. Counts it, and sets `errno` to `ENOMEM`. For callers
/// that know before they ask, because a size overflows. Any thread.
#[cold]
#[inline(never)]
pub fn refuse() -> *mut u8 {
    HEAP.uncached.allocation_failures.fetch_add(1, Ordering::Relaxed);
    os::set_errno(libc::ENOMEM);
    ptr::null_mut()
}

/// Ends the process, with a line on stderr, for a caller that may not return without a block of `bytes` and has nobody
/// to tell that there is none.
#[cold]
pub fn end_without_memory(bytes: usize) -> ! {
    Line::new().text("out of memory: ").number(bytes as u64).text(" bytes; aborting").send();
    os::abort()
}

/// A block of at least `bytes` (0 counts as 1), aligned to 16; null with `errno` `ENOMEM` if out of
/// memory.
///
/// Any thread. About 3 ns where the thread's cache has a block.
#[inline(always)]
pub fn allocate(bytes: usize) -> *mut u8 {
    if bytes <= MAX_CLASS_BYTES {
        allocate_class(SizeClass::for_bytes(bytes), bytes, GRANULE)
    } else {
        allocate_large(bytes, GRANULE, false)
    }
}

/// As [`allocate`], aligned to `align`, a power of two.
#[inline(always)]
pub fn allocate_aligned(bytes: usize, align: usize) -> *mut u8 {
    if align <= GRANULE { allocate(bytes) } else { allocate_over_aligned(bytes, align) }
}

/// As [`allocate_aligned`] where blocks are not aligned like that by themselves. Few ask for that, and those whose
/// layout is known at run time only are shorter without it.
#[inline(never)]
fn allocate_over_aligned(bytes: usize, align: usize) -> *mut u8 {
    match SizeClass::for_layout(bytes, align) {
        Some(class) => allocate_class(class, bytes, align),
        None => allocate_large(bytes, align, false),
    }
}

/// As [`allocate_aligned`] where the thread's cache has a block; where that takes more, what `otherwise` returns. For
/// callers that answer a failure: on the fast path they have no result to look at, and all the rest is `otherwise`'s.
#[inline(always)]
pub fn allocate_cached_or(
    bytes: usize,
    align: usize,
    otherwise: impl FnOnce() -> *mut u8,
) -> *mut u8 {
    match SizeClass::for_layout(bytes, align) {
        Some(class) => allocate_class_or(class, bytes, align, otherwise),
        None => otherwise(),
    }
}

/// As [`allocate_aligned`], for callers that know that the thread's cache has no block, and that ask once more
/// elsewhere if there is none: then nothing is counted, and `errno` is left alone.
#[cold]
#[inline(never)]
pub fn try_allocate(bytes: usize, align: usize) -> Option<*mut u8> {
    let frame = stack::address_in_frame();
    match SizeClass::for_layout(bytes, align) {
        Some(_) => try_slow(bytes, align, frame),
        None => try_large(bytes, align, false, frame),
    }
}

/// As [`allocate_aligned`], filled with zeros. Large blocks are cleared only where their pages are
/// not known to be zero.
#[inline(always)]
pub fn allocate_zeroed(bytes: usize, align: usize) -> *mut u8 {
    match SizeClass::for_layout(bytes, align) {
        Some(class) => {
            let block = allocate_class(class, bytes, align);
            if !block.is_null() {
                // SAFETY: the block is new and has at least `bytes` bytes.
                unsafe { ptr::write_bytes(block, 0, bytes) };
            }
            block
        }
        None => allocate_large(bytes, align, true),
    }
}

#[cold]
#[inline(never)]
fn allocate_large(bytes: usize, align: usize, zeroed: bool) -> *mut u8 {
    or_out_of_memory(try_large(bytes, align, zeroed, stack::address_in_frame()))
}

#[inline(always)]
fn try_large(bytes: usize, align: usize, zeroed: bool, frame: usize) -> Option<*mut u8> {
    let entered = enter();
    // A signal handler may have interrupted somebody at the depot.
    let may_flush = entered.is_some();
    let allocate = || {
        if !start::is_ready() {
            return None;
        }
        let allocate = || large::allocate(&HEAP, bytes, align, zeroed, frame);
        allocate()
            .or_else(|| if may_flush && central::flush_depot(&HEAP, 0) { allocate() } else { None })
    };
    on_pages(entered, allocate)
}

/// Runs an operation on large blocks. It goes past the thread's cache, but the thread enters it all
/// the same: what a signal handler does meanwhile must not count on the page heap, and large blocks
/// are work that calls for a tick like any other.
fn on_pages<T>(entered: Option<Entered>, operation: impl FnOnce() -> T) -> T {
    let result = operation();
    match entered {
        Some(entered) => housekeeping(&HEAP, entered.cache, &Linux),
        None => count_uncached(),
    }
    result
}

/// Whether the address is in this heap: whoever has just allocated learns whether that was here. Any thread; costs
/// two comparisons.
#[inline]
pub fn is_ours(block: *const u8) -> bool {
    let arena = &HEAP.pages.arena;
    arena.is_sample(block as usize)
        || arena.offset_of(block as usize).is_some_and(|offset| !HEAP.is_others(offset))
}

/// Frees a block. Null is ignored; an address outside the arena goes to the [next allocator](NextAllocator). One
/// in it that is no block's, or a block that is free already (where that is noticed), is reported on
/// stderr and ends the process. Leaves `errno` alone.
///
/// # Safety
/// `block` is null, or came from this allocator (or the next one) and is not used any more.
#[inline(always)]
pub unsafe fn free(block: *mut u8) {
    let address = block as usize;
    let Some(offset) = HEAP.pages.arena.offset_of(address) else { return free_outside(address) };
    free_class(HEAP.pages.arena.class_at(offset), address, false);
}

/// Frees a block whose layout is known: spares the look at the page map. A sample is told by its address.
///
/// # Safety
/// As [`free`]; the block was allocated with this size and alignment and is not null.
#[inline(always)]
pub unsafe fn free_sized(block: *mut u8, bytes: usize, align: usize) {
    let (class, address) = (class_for(bytes, align), block as usize);
    debug_assert!(
        HEAP.pages.arena.is_sample(address)
            || HEAP.pages.arena.class_at(address - HEAP.pages.arena.base()) == class,
        "freed with another layout than allocated"
    );
    free_class(class, address, true);
}

/// `class` is the class of an ordinary block at `address`; of a sample, too, where that is `maybe_sample`. Whoever
/// looked the class up has found a sample's to be none.
#[inline(always)]
fn free_class(class: SizeClass, address: usize, maybe_sample: bool) {
    // The bin of `SizeClass::NONE` is always full.
    let pushed = with_cache(|cache| {
        let is_pushed = (!maybe_sample || cache.is_ordinary(address))
            && cache.bin(class).push(address as *mut u8);
        is_pushed.then_some(())
    });
    if pushed.is_none() {
        free_slow(address, class);
    }
}

#[cold]
#[inline(never)]
fn free_slow(address: usize, class: SizeClass) {
    let frame = stack::address_in_frame();
    let offset = address.wrapping_sub(HEAP.pages.arena.base());
    if HEAP.pages.arena.is_sample(address) {
        return on_pages(enter_to_free(), || HEAP.sampler.free(&HEAP.pages, address, frame));
    }
    if large::is_large(class) {
        if HEAP.is_others(offset) {
            return foreign::free(address);
        }
        return on_pages(enter_to_free(), || large::free(&HEAP, offset));
    }
    match enter_to_free() {
        Some(entered) => {
            let cache = entered.cache;
            let bin = cache.bin(class);
            if !bin.push(address as *mut u8) {
                central::make_room(&HEAP, cache, class);
                if !bin.push(address as *mut u8) {
                    free_uncached(class, address, offset);
                }
            }
            housekeeping(&HEAP, cache, &Linux);
        }
        None => free_uncached(class, address, offset),
    }
}

/// Frees what is not among the segments: null, a sample, or a block that is not of this heap.
#[cold]
#[inline(never)]
fn free_outside(address: usize) {
    if HEAP.pages.arena.is_sample(address) {
        free_slow(address, SizeClass::NONE);
    } else {
        foreign::free(address);
    }
}

/// The class of the span that `address` lies in; none of a sample, a large block, or what is not of this heap.
#[inline(always)]
fn span_class(address: usize) -> SizeClass {
    let arena = &HEAP.pages.arena;
    arena.offset_of(address).map_or(SizeClass::NONE, |offset| arena.class_at(offset))
}

/// How many bytes of a block may be used: at least what was asked for, and no more than that of a
/// sampled one. 0 for null. Of a block outside the arena it is what the [next allocator](NextAllocator) says.
///
/// # Safety
/// As [`free`], but the block stays in use.
#[inline(always)]
pub unsafe fn usable_bytes(block: *mut u8) -> usize {
    match span_class(block as usize) {
        class if large::is_large(class) => usable_bytes_slow(block),
        class => class.block_bytes().get(),
    }
}

#[cold]
#[inline(never)]
fn usable_bytes_slow(block: *mut u8) -> usize {
    let (arena, address) = (&HEAP.pages.arena, block as usize);
    if arena.is_sample(address) {
        if let Some(sample) = HEAP.sampler.live_in_slot(arena, address) {
            return sample.bytes as usize;
        }
        // Whoever takes the sampler's lock, or the page heap's, is inside its cache.
        let _inside = enter();
        HEAP.sampler.fail_for_no_block(&HEAP.pages, address);
        return 0;
    }
    match arena.offset_of(address) {
        Some(offset) if !HEAP.is_others(offset) => {
            let _inside = enter();
            large::usable_bytes(&HEAP, offset)
        }
        _ => foreign::usable_bytes(block),
    }
}

/// Changes a block's size to `bytes`, keeping its content up to the smaller of the two: in place
/// where its class stays the same or the pages behind it are free, by moving pages where it is very
/// large, by copying otherwise. Null if out of memory; the block is then unchanged. The
/// [next allocator](NextAllocator) does it for a block outside the arena.
///
/// Within a class nothing is looked at but the page map. A block that changes its class is another
/// allocation: counted, and perhaps sampled.
///
/// # Safety
/// As [`free`]; `block` is not null, and `align` is what it was allocated with.
#[inline(always)]
pub unsafe fn reallocate(block: *mut u8, bytes: usize, align: usize) -> *mut u8 {
    let arena = &HEAP.pages.arena;
    if let Some(new_class) = SizeClass::for_layout(bytes, align)
        && let Some(offset) = arena.offset_of(block as usize)
        && arena.class_at(offset) == new_class
    {
        return block;
    }
    // SAFETY: the caller's contract is the same.
    unsafe { reallocate_elsewhere(block, bytes, align) }
}

/// As [`reallocate`], for a block whose layout is known: a sample is told by its address, and the page map is looked at
/// only for alignments beyond 16.
///
/// # Safety
/// As [`reallocate`]; the block was allocated with `old_bytes`, or got them by its last reallocation.
#[inline(always)]
pub unsafe fn reallocate_sized(
    block: *mut u8,
    old_bytes: usize,
    align: usize,
    bytes: usize,
) -> *mut u8 {
    if old_bytes <= MAX_CLASS_BYTES && bytes <= MAX_CLASS_BYTES && align <= GRANULE {
        let (class, new_class) = (SizeClass::for_bytes(old_bytes), SizeClass::for_bytes(bytes));
        if class != new_class {
            let kept = old_bytes.min(bytes);
            // SAFETY: the caller vouches for the block, of which so many bytes are in use.
            return unsafe { change_class(block, class, new_class, kept, bytes, align) };
        }
        if !HEAP.pages.arena.is_sample(block as usize) {
            return block;
        }
    }
    // SAFETY: the caller's contract is the same.
    unsafe { reallocate(block, bytes, align) }
}

/// [`reallocate`] where the block is not one of the class that it will have.
///
/// # Safety
/// As [`reallocate`].
#[inline(never)]
unsafe fn reallocate_elsewhere(block: *mut u8, bytes: usize, align: usize) -> *mut u8 {
    let (class, address) = (span_class(block as usize), block as usize);
    match SizeClass::for_layout(bytes, align) {
        Some(new_class) if !large::is_large(class) => {
            central::check_block(class, address, address - HEAP.pages.arena.base());
            let kept = class.block_bytes().get().min(bytes);
            // SAFETY: the caller vouches for the block, which is one of this class.
            unsafe { change_class(block, class, new_class, kept, bytes, align) }
        }
        // SAFETY: the caller's contract is the same.
        _ => unsafe { reallocate_slow(block, bytes, align) },
    }
}

/// Moves the first `kept` bytes of a block of `class`, or of a sample of that class, to a block of `new_class`.
///
/// # Safety
/// As [`reallocate`]. `new_class` is that for the new layout; `kept` is at most `bytes`, and at most what is usable of
/// the block.
#[inline(never)]
unsafe fn change_class(
    block: *mut u8,
    class: SizeClass,
    new_class: SizeClass,
    kept: usize,
    bytes: usize,
    align: usize,
) -> *mut u8 {
    let new = allocate_class(new_class, bytes, align);
    if !new.is_null() {
        // SAFETY: both blocks have that many bytes, and the new one is no part of the old one.
        unsafe { ptr::copy_nonoverlapping(block, new, kept) };
        free_class(class, block as usize, true);
    }
    new
}

/// [`reallocate`] for samples, large blocks before or after, and foreign ones.
///
/// # Safety
/// As [`reallocate`].
#[cold]
#[inline(never)]
unsafe fn reallocate_slow(block: *mut u8, bytes: usize, align: usize) -> *mut u8 {
    let (frame, address) = (stack::address_in_frame(), block as usize);
    let new_class = class_for(bytes, align);
    if HEAP.pages.arena.is_sample(address) {
        // SAFETY: the caller's contract is the same.
        return unsafe { reallocate_sample(block, bytes, align, frame) };
    }
    let Some(offset) = HEAP.pages.arena.offset_of(address) else {
        return or_out_of_memory(foreign::reallocate(block, bytes));
    };
    let class = HEAP.pages.arena.class_at(offset);
    if !large::is_large(class) {
        central::check_block(class, address, offset);
    } else if HEAP.is_others(offset) {
        return or_out_of_memory(foreign::reallocate(block, bytes));
    } else if large::is_large(new_class) {
        let resize = || large::resize_in_place(&HEAP, offset, bytes, frame);
        if on_pages(enter(), resize) {
            return block;
        }
        let move_to_larger = || large::move_to_larger(&HEAP, offset, bytes, align, frame);
        // SAFETY: the caller vouches for the block.
        let is_longer = bytes > unsafe { usable_bytes(block) };
        if is_longer && let Some(moved) = on_pages(enter(), move_to_larger) {
            return moved;
        }
    }
    // SAFETY: the caller vouches for the block.
    unsafe { reallocate_by_copy(block, bytes, align) }
}

/// A sample that keeps its class is kept: an ordinary block stays where it is then, uncounted.
///
/// # Safety
/// As [`reallocate`]. `frame` is an address in the frame of the function that the program has called.
unsafe fn reallocate_sample(block: *mut u8, bytes: usize, align: usize, frame: usize) -> *mut u8 {
    let address = block as usize;
    if let Some(sample) = HEAP.sampler.live_in_slot(&HEAP.pages.arena, address)
        && sample.class == class_for(bytes, align)
    {
        if bytes <= sample.bytes as usize {
            return block;
        }
        let make_room = || HEAP.sampler.make_room(&HEAP.pages, address, align, frame);
        if let Some(moved) = on_pages(enter(), make_room) {
            return moved;
        }
    }
    // SAFETY: the caller vouches for the block.
    unsafe { reallocate_by_copy(block, bytes, align) }
}

/// Moves a block to a new one of `bytes`, with its content.
///
/// # Safety
/// As [`reallocate`].
unsafe fn reallocate_by_copy(block: *mut u8, bytes: usize, align: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the block.
    let usable = unsafe { usable_bytes(block) };
    if usable == 0 {
        return or_out_of_memory(None);
    }
    let new = allocate_aligned(bytes, align);
    if !new.is_null() {
        // SAFETY: both blocks have that many bytes, and the new one is no part of the old one.
        unsafe { ptr::copy_nonoverlapping(block, new, usable.min(bytes)) };
        // SAFETY: the caller gives the block up.
        unsafe { free(block) };
    }
    new
}

/// Gives back everything that can be given back now: cached blocks, of this thread and of all others
/// that are not in malloc just then, all pending pages, and pages inside spans without a live block.
/// Returns the pages handed to the system; none if the thread is ending or this is a signal handler
/// that interrupted malloc.
pub fn release_now() -> crate::base::units::Pages {
    if !start::is_ready() {
        return crate::base::units::Pages(0);
    }
    see_to_copy();
    if !HEAP.has_barrier() {
        HEAP.register_barrier();
    }
    release_everything(&HEAP, &RELEASE, &Linux, enter)
}

#[cfg(test)]
mod tests {
    //! Callers' mistakes. Each happens in a process of its own, which it ends; so nothing here uses
    //! the process's heap beside the model test.

    use super::*;
    use crate::testing::test_heap::assert_aborts;

    /// Frees what is at `address`, whatever that is.
    fn free_at(address: usize) {
        // SAFETY: the tests hand in what is no live block, on purpose, and expect to be aborted.
        unsafe { free(address as *mut u8) };
    }

    #[test]
    fn a_block_freed_twice_in_a_row_is_noticed_when_the_cache_gives_it_back() {
        assert_aborts("double free", || {
            let _other = allocate(100);
            let block = allocate(100) as usize;
            free_at(block);
            free_at(block);
            release_now();
        });
    }

    #[test]
    fn a_block_that_is_back_in_its_span_is_not_freed_again() {
        assert_aborts("double free", || {
            let _keeps_the_span = allocate(100);
            let block = allocate(100) as usize;
            free_at(block);
            release_now();
            free_at(block);
            release_now();
        });
    }

    #[test]
    fn a_block_of_a_retired_span_is_not_freed_again() {
        assert_aborts("free of an address that is no block", || {
            let block = allocate(100) as usize;
            free_at(block);
            release_now();
            free_at(block);
        });
    }

    #[test]
    fn a_large_block_is_not_freed_twice() {
        assert_aborts("free of an address that is no block", || {
            let block = allocate(100_000) as usize;
            free_at(block);
            free_at(block);
        });
    }

    #[test]
    fn an_address_inside_a_block_is_not_freed() {
        assert_aborts("free of an address inside a block", || {
            let block = allocate(100) as usize;
            free_at(block + 16);
            release_now();
        });
    }

    #[test]
    fn an_address_inside_a_large_block_is_not_freed() {
        assert_aborts("free of an address that is no block", || {
            free_at(allocate(100_000) as usize + 4096);
        });
    }

    /// 64 KiB are 9 blocks of 7168 bytes and a rest.
    #[test]
    fn an_address_behind_a_spans_last_block_is_not_freed() {
        assert_aborts("free of an address inside a block", || {
            let block = allocate(7168) as usize;
            let span = block - block % crate::base::units::SPAN_BYTES;
            free_at(span + 9 * 7168);
            release_now();
        });
    }

    #[test]
    fn an_address_of_the_arena_that_was_never_used_is_not_freed() {
        assert_aborts("free of an address that is no block", || {
            let _first = allocate(100);
            let segments = HEAP.pages.arena.in_use() as usize;
            free_at(HEAP.pages.arena.base() + (segments - 1) * (2 << 20) + 2048 * 1024 - 4096);
        });
    }
}
