//! Large blocks: page runs of any size up to what the arena holds.

use core::ops::Range;
use core::sync::atomic::Ordering;
use core::{mem, ptr};

use crate::base::bits::{PageBits, PageRun};
use crate::base::units::{
    PAGE_BYTES, PageIndex, Pages, SEGMENT_BYTES, SEGMENT_PAGES, SegmentIndex,
};
use crate::geometry::reason::ReleaseReason;
use crate::geometry::size_class::SizeClass;
use crate::heap::{Deferred, Heap, altered};
use crate::os::report;
use crate::os::{self, AddressRange, Left, Linux, Os};
use crate::pages::boundary::release_range_definitely_free;
use crate::pages::page_heap::{LargeRun, PageHeap};

/// From this size on a block that has to move is moved by its page table entries, not its bytes:
/// below it, copying costs less than the kernel's work on two mappings.
const MOVE_BYTES: usize = SEGMENT_BYTES;

fn pages_for(heap: &Heap, bytes: usize) -> Option<Pages> {
    let capacity = heap.pages.arena.capacity() as usize * SEGMENT_BYTES;
    (bytes <= capacity).then(|| Pages(bytes.max(1).div_ceil(PAGE_BYTES) as u32))
}

/// A block of whole pages, aligned to `align` (a power of two); filled with zeros if `zeroed`.
/// `None`: out of memory. `frame` is an address in the frame of the function that the program has
/// called.
#[cold]
pub(crate) fn allocate(
    heap: &Heap,
    bytes: usize,
    align: usize,
    zeroed: bool,
    frame: usize,
) -> Option<*mut u8> {
    let pages = pages_for(heap, bytes)?;
    let align_pages = pages_for(heap, align)?.0;
    let taken = loop {
        let mut page_heap = heap.lock_pages()?;
        let taken =
            page_heap.take_run(&heap.pages.arena, &Linux, &heap.pages.totals, pages, align_pages);
        let Some(taken) = taken else {
            if !page_heap.is_worth_waiting_for() {
                return None;
            }
            drop(page_heap);
            os::yield_now();
            continue;
        };
        heap.pages.totals.update(|figures| {
            figures.large_allocations.add(1);
            figures.large_bytes.add(bytes as u64);
            figures.large_pages_taken.add(pages.0 as u64);
        });
        break taken;
    };
    let range = taken.run.range(&heap.pages.arena);
    if zeroed && taken.any_dirty {
        if pages.0 <= SEGMENT_PAGES {
            let first = taken.run.first;
            for dirty in taken.dirty.runs() {
                let start = range.start + dirty.first.byte_offset() - first.byte_offset();
                // SAFETY: the run was taken for this block, and these pages lie in it.
                unsafe { ptr::write_bytes(start as *mut u8, 0, dirty.pages.bytes().get()) };
            }
        } else {
            // The kernel's zero pages cost no more than clearing, and nothing where they are not
            // used.
            let outcome = Linux.purge(&[range]);
            heap.uncached.zeroing_calls.fetch_add(outcome.calls, Ordering::Relaxed);
            if outcome.refused != 0 {
                // SAFETY: the run was taken for this block.
                unsafe { ptr::write_bytes(range.start as *mut u8, 0, range.bytes) };
            }
        }
    }
    sample(heap, taken.run, bytes, frame);
    Some(range.start as *mut u8)
}

/// Lets the profiler remember a block that is new, or has another size than before, if it wants to.
fn sample(heap: &Heap, run: LargeRun, bytes: usize, frame: usize) {
    let Some(rate) = heap.sampler.countdowns().try_once(bytes as u64) else { return };
    let address = run.address(&heap.pages.arena);
    if let Some(sample) = heap.sampler.sample_large(&heap.pages, address, bytes, rate, frame) {
        *heap.pages.page_heap.lock().sample_at(&heap.pages.arena, run.segment, run.first) = sample;
    }
}

/// The run that starts at `offset` from the arena's base. Anything else is a caller's mistake that
/// ends the process.
fn run_at(heap: &Heap, page_heap: &mut PageHeap, offset: usize) -> LargeRun {
    let segment = SegmentIndex((offset / SEGMENT_BYTES) as u32);
    let first = PageIndex((offset % SEGMENT_BYTES / PAGE_BYTES) as u32);
    let known = offset.is_multiple_of(PAGE_BYTES) && segment.0 < heap.pages.arena.in_use();
    let pages =
        if known { page_heap.states(&heap.pages.arena, segment).run_at(first) } else { None };
    match pages {
        Some(pages) => LargeRun { segment, first, pages },
        None => {
            report::fail("free of an address that is no block", heap.pages.arena.base() + offset)
        }
    }
}

/// The usable size of the large block at `offset`.
pub(crate) fn usable_bytes(heap: &Heap, offset: usize) -> usize {
    // 0 is what a signal handler hears that interrupted its thread in the page heap.
    heap.lock_pages()
        .map_or(0, |mut page_heap| run_at(heap, &mut page_heap, offset).pages.bytes().get())
}

/// Frees the large block at `offset`.
#[cold]
pub(crate) fn free(heap: &Heap, offset: usize) {
    // What was altered takes the lock twice, and the second time waits for it.
    let pages = if heap.sampler.is_interrupted() { None } else { heap.lock_pages() };
    let Some(mut page_heap) = pages else {
        return defer_free(heap, offset);
    };
    let run = run_at(heap, &mut page_heap, offset);
    let sample = mem::take(page_heap.sample_at(&heap.pages.arena, run.segment, run.first));
    let mut fresh = Some(NONE);
    if altered::is_any(&heap.pages.arena, run, Pages(0)) {
        // Not under the lock: the kernel has to free the old ones.
        drop(page_heap);
        // SAFETY: the block was given up by its owner, and its pages are in use until they are released below.
        fresh = unsafe { altered::renew(heap, run, Pages(0)) };
        page_heap = heap.pages.page_heap.lock();
    }
    // What cannot be made ordinary is nobody's from now on.
    if let Some(fresh) = fresh {
        page_heap.states(&heap.pages.arena, run.segment).clear_run(run.first);
        release_parts(heap, &mut page_heap, run, Pages(0), fresh);
        heap.pages.totals.update(|figures| figures.large_frees.add(1));
    }
    drop(page_heap);
    heap.sampler.forget_large(&heap.pages, sample);
}

/// A signal handler frees a large block and has interrupted its thread in the page heap, or in the
/// sampler: the block waits in a list until some thread's next look at the clock.
#[cold]
fn defer_free(heap: &Heap, offset: usize) {
    let block = (heap.pages.arena.base() + offset) as *mut Deferred;
    let mut first = heap.deferred.load(Ordering::Relaxed);
    loop {
        // SAFETY: the block was given up by its owner and is a page or more.
        unsafe { block.write(Deferred { next: first }) };
        // Release: partner of the Acquire in `free_deferred`.
        let pushed =
            heap.deferred.compare_exchange(first, block, Ordering::Release, Ordering::Relaxed);
        match pushed {
            Ok(_) => return,
            Err(now) => first = now,
        }
    }
}

/// Frees what signal handlers could not. With no lock held.
pub(crate) fn free_deferred(heap: &Heap) {
    if heap.deferred.load(Ordering::Relaxed).is_null() {
        return;
    }
    // Acquire: partner of the Release in `defer_free`. The whole list is taken at once.
    let mut block = heap.deferred.swap(ptr::null_mut(), Ordering::Acquire);
    while !block.is_null() {
        // SAFETY: blocks in the list were written by `defer_free` and belong to the list alone.
        let next = unsafe { (*block).next };
        free(heap, block as usize - heap.pages.arena.base());
        block = next;
    }
}

/// No page of a run.
const NONE: Range<u32> = 0..0;

/// Hands what follows the first `keep` pages of a run to the release boundary. Those in `fresh`, as counted from
/// the run's first, hold nothing.
fn release_parts(
    heap: &Heap,
    page_heap: &mut PageHeap,
    run: LargeRun,
    keep: Pages,
    fresh: Range<u32>,
) {
    let mut from = keep.0;
    for (segment, part) in run.parts_from(keep) {
        let end = from + part.pages.0;
        let mut dirty = PageBits::of(part);
        let (fresh_from, fresh_end) = (fresh.start.max(from), fresh.end.min(end));
        if fresh_from < fresh_end {
            let in_segment = |page: u32| part.first.0 + page - from;
            dirty.clear(PageRun::between(in_segment(fresh_from), in_segment(fresh_end)));
        }
        release_range_definitely_free(
            &heap.pages,
            &Linux,
            page_heap,
            segment,
            part,
            &dirty,
            ReleaseReason::LargeFree,
        );
        from = end;
    }
    heap.pages.totals.update(|figures| figures.large_pages.subtract((run.pages.0 - keep.0) as u64));
}

/// Changes the size of the large block at `offset` without moving it, if that is possible: to
/// `bytes`, for which no class will do.
pub(crate) fn resize_in_place(heap: &Heap, offset: usize, bytes: usize, frame: usize) -> bool {
    let Some(pages) = pages_for(heap, bytes) else { return false };
    let Some(mut page_heap) = heap.lock_pages() else { return false };
    let run = run_at(heap, &mut page_heap, offset);
    // Like a resize within a class: nothing is counted, and a sample remains one.
    if pages == run.pages {
        return true;
    }
    if pages > run.pages
        && !page_heap.extend_run(&heap.pages.arena, &Linux, &heap.pages.totals, run, pages)
    {
        return false;
    }
    let mut fresh = NONE;
    if pages < run.pages && altered::is_any(&heap.pages.arena, run, pages) {
        // As in `free`.
        drop(page_heap);
        if heap.sampler.is_interrupted() {
            return false;
        }
        // SAFETY: the block's owner gives these pages up, and they are in use until they are released below.
        let Some(renewed) = (unsafe { altered::renew(heap, run, pages) }) else { return false };
        fresh = renewed;
        page_heap = heap.pages.page_heap.lock();
    }
    let before = mem::take(page_heap.sample_at(&heap.pages.arena, run.segment, run.first));
    if pages < run.pages {
        page_heap.states(&heap.pages.arena, run.segment).set_run(run.first, pages);
        release_parts(heap, &mut page_heap, run, pages, fresh);
    }
    drop(page_heap);
    // To the profiler this is the end of one block and the beginning of another.
    heap.sampler.forget_large(&heap.pages, before);
    sample(heap, run, bytes, frame);
    true
}

/// Moves the large block at `offset` to a new run of `bytes`, more than it has now, by moving its
/// pages. `None`: the block is too small for that, or the kernel or the arena refused; it is then
/// unchanged.
pub(crate) fn move_to_larger(
    heap: &Heap,
    offset: usize,
    bytes: usize,
    align: usize,
    frame: usize,
) -> Option<*mut u8> {
    if heap.sampler.is_interrupted() {
        return None;
    }
    let old = run_at(heap, &mut *heap.lock_pages()?, offset);
    if old.pages.bytes().get() < MOVE_BYTES {
        return None;
    }
    let block = allocate(heap, bytes, align, false, frame)?;
    let to = heap.pages.arena.offset_of(block as usize)?;
    let has_flags = altered::is_any(&heap.pages.arena, old, Pages(0));
    // SAFETY: the caller owns the old block, and the new one was allocated just now.
    let left = unsafe { os::move_pages(old.range(&heap.pages.arena), block as usize, has_flags) };
    let Some(left) = left else {
        free(heap, to);
        return None;
    };
    heap.uncached.remaps.fetch_add(1, Ordering::Relaxed);
    // The mapping came along, with the flags that the program gave it. What it left behind has them, too.
    let moved = AddressRange { start: block as usize, ..old.range(&heap.pages.arena) };
    altered::mark(heap, moved);
    let fresh = match left {
        // SAFETY: the block is at the new place; the old one's pages are in use until they are released below.
        Left::Mapped => unsafe { altered::renew(heap, old, Pages(0)) },
        Left::Lost => None,
    };
    let mut page_heap = heap.pages.page_heap.lock();
    let sample = mem::take(page_heap.sample_at(&heap.pages.arena, old.segment, old.first));
    if fresh.is_some() {
        page_heap.states(&heap.pages.arena, old.segment).clear_run(old.first);
        // Nothing of the old place is resident.
        release_parts(heap, &mut page_heap, old, Pages(0), 0..old.pages.0);
        heap.pages.totals.update(|figures| figures.large_frees.add(1));
    }
    drop(page_heap);
    heap.sampler.forget_large(&heap.pages, sample);
    Some(block)
}

/// Is a block of this class, as the page map has it, a large one (rather than a span's)?
#[inline]
pub(crate) fn is_large(class: SizeClass) -> bool {
    class == SizeClass::NONE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test_heap::TestHeap;

    #[test]
    fn a_sample_of_as_many_pages_remains_one() {
        let test = TestHeap::with_segments(16);
        let heap = &test.heap;
        heap.sampler.set_rate(1, u64::MAX);
        let block = allocate(heap, 40_000, 16, false, 0).expect("there is room") as usize;
        let offset = heap.pages.arena.offset_of(block).expect("it is in the arena");
        let samples = || heap.sampler.readings.samples.get();
        let resize_to = |bytes| assert!(resize_in_place(heap, offset, bytes, 0));
        assert_eq!(samples(), 1);
        (36_865..40_960).for_each(resize_to);
        assert_eq!(samples(), 1);
        resize_to(36_864);
        assert_eq!(samples(), 2, "one page less");
        resize_to(36_865);
        assert_eq!(samples(), 3, "and more");
        free(heap, offset);
    }
}
