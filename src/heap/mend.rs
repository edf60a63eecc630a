//! A heap that was copied with its process while other threads were at it, made whole.
//!
//! A child that the system call alone has made (`clone` without `CLONE_VM`) has one thread, the one that made the
//! call. Others' are *ghosts*: what they held stays held, and what they were at is half done. In a program of one
//! thread those are the allocator's own, which tick. So what a tick changes are base facts, a bit, a byte or a word at
//! a time, in an order in which a heap that is found between two of them lacks nothing and has nothing twice:
//!
//! - a block that a bin gives back is in its span's bitmap first, and in the bin until all of them are: so what
//!   is in both is in the bin no more; and so it is with the depot, for which whoever needs blocks of that class waits
//!   (but a signal handler, which goes to the spans);
//! - a span whose pages become free is in the page map a while longer; a page is dirty before it is free, and clean
//!   only after the kernel has it;
//! - a span in a ghost's hands is in no index: it is nobody's, and finds its way back as from any holder.
//!
//! The kernel copies a process while others of its threads run, yet of each of them what it wrote up to some point, and
//! it copies no memory while a purge of it is under way.
//!
//! Of a program with several threads, which takes its chances, the other ones' blocks at hand stay theirs, and what
//! they were at inside the page heap may be lost, some pages of memory.

use core::sync::atomic::{AtomicPtr, Ordering};

use crate::base::units::{SEGMENT_CHUNKS, SegmentIndex};
use crate::caches::bin::array_bytes;
use crate::caches::thread_cache::ThreadCache;
use crate::geometry::arena::{Arena, ChunkIndex};
use crate::geometry::size_class::SizeClass;
use crate::geometry::span_index;
use crate::heap::{Heap, central};
use crate::pages::touched::mark;

/// Makes the heap whole. Returns at once if no ghost held a lock and `ghost_ticked` is false.
///
/// # Safety
/// No thread of this process is in the heap, nor gets there before this returns; and of the threads that were when
/// the process was copied, none is in this process.
pub(crate) unsafe fn mend(heap: &Heap, ghost_ticked: bool) {
    let pages = &heap.pages;
    // SAFETY: nobody is there, says the caller; it is rebuilt below.
    let held_page_heap = unsafe { pages.page_heap.free_from_ghost() };
    // SAFETY: likewise.
    let held_metadata = unsafe { pages.metadata.free_from_ghost() };
    // SAFETY: nobody is there.
    unsafe { heap.sampler.mend(&pages.arena) };
    if ghost_ticked || held_page_heap || held_metadata {
        pages.page_heap.lock().rebuild(&pages.arena, &pages.totals);
    }
    // SAFETY: nobody is inside a cache.
    unsafe { heap.threads.end_ghosts_takeovers(|cache| mend_bins(heap, cache)) };
    // SAFETY: nobody is there.
    unsafe { heap.depot.free_from_ghosts() };
    if ghost_ticked || held_page_heap || held_metadata {
        pages.metadata.rebuild(arrays(heap));
        mend_spans(heap);
    }
    if ghost_ticked {
        heap.depot.flush(&pages.metadata, 0, |class, blocks| return_once(heap, class, blocks));
    }
}

/// Puts those of a class's blocks back that are not in their span, a block that is there twice once.
fn return_once(heap: &Heap, class: SizeClass, blocks: &[AtomicPtr<u8>]) {
    for block in blocks {
        let address = block.load(Ordering::Relaxed) as usize;
        let offset = address - heap.pages.arena.base();
        if !is_back(&heap.pages.arena, class, offset) {
            central::put_one(heap, class, address, offset);
        }
    }
}

/// Is a cached block of this class back in its span? Of a span that was retired all blocks are.
fn is_back(arena: &Arena, class: SizeClass, offset: usize) -> bool {
    arena.class_at(offset) != class || central::is_in_span(arena, class, offset)
}

/// The arrays of all bins, and those of the depot: addresses and bytes.
fn arrays(heap: &Heap) -> impl Iterator<Item = (usize, usize)> {
    let bins = heap.threads.all().flat_map(|cache| &cache.bins);
    let of_bins = bins.filter_map(|bin| {
        let (array, slots) = (bin.slots.load(Ordering::Relaxed), bin.capacity());
        (slots > 0 && !array.is_null()).then_some((array as usize, array_bytes(slots)))
    });
    of_bins.chain(heap.depot.arrays())
}

/// Moves those of a class's cached blocks to the front that are not back in their span; returns how many.
fn keep_cached(heap: &Heap, class: SizeClass, blocks: &[AtomicPtr<u8>]) -> u32 {
    let arena = &heap.pages.arena;
    let mut kept = 0;
    for slot in blocks {
        let block = slot.load(Ordering::Relaxed);
        let offset = block as usize - arena.base();
        if !is_back(arena, class, offset) {
            blocks[kept as usize].store(block, Ordering::Relaxed);
            kept += 1;
        }
    }
    kept
}

/// Takes out of the bins of a cache that a ghost was flushing what is back in its span.
fn mend_bins(heap: &Heap, cache: &ThreadCache) {
    let mut capacity_bytes = 0;
    for class in SizeClass::all() {
        let bin = cache.bin(class);
        if bin.slots.load(Ordering::Relaxed).is_null() {
            bin.set_room(core::ptr::null_mut(), 0);
            bin.len.store(0, Ordering::Relaxed);
        }
        let (len, capacity) = (bin.len.load(Ordering::Relaxed), bin.capacity());
        capacity_bytes += capacity as u64 * class.block_bytes().get() as u64;
        // SAFETY: a bin is not longer than its array, whose owner is outside.
        let slots = unsafe { bin.slots(len.min(capacity)) };
        let kept = keep_cached(heap, class, slots);
        bin.len.store(kept, Ordering::Relaxed);
        cache.classes[class.index()].spilled.add((len - kept) as u64);
    }
    cache.capacity_bytes.store(capacity_bytes, Ordering::Relaxed);
}

/// Gives up the spans that ghosts held, and has all be looked at for pages to give back.
fn mend_spans(heap: &Heap) {
    let arena = &heap.pages.arena;
    let mut resident = 0;
    for segment in (0..arena.in_use()).map(SegmentIndex) {
        for chunk in (0..SEGMENT_CHUNKS).map(|chunk| ChunkIndex::new(segment, chunk)) {
            let class = arena.class_at(chunk.byte_offset());
            if class == SizeClass::NONE {
                continue;
            }
            mark(&heap.pages, segment);
            let (span, blocks) = (arena.span(chunk), class.blocks_per_span());
            let is_found = span.is_available() && span_index::is_listed(arena, class, chunk);
            let has_some = span.has_any(blocks) && !span.is_empty(blocks);
            let is_right =
                if has_some { is_found } else { span.is_full() && !span.has_any(blocks) };
            if !is_right {
                span_index::take_from_ghost(arena, class, chunk);
                central::give_up_span(heap, class, chunk);
            }
            if arena.class_at(chunk.byte_offset()) == class {
                resident += span.resident_pages().count_ones() as u64;
            }
        }
    }
    count_resident(heap, resident);
}

/// So many pages of spans may be resident.
fn count_resident(heap: &Heap, resident: u64) {
    let cached: u64 = heap.threads.all().map(|cache| cache.resident_gained.get()).sum();
    let gained = cached + heap.uncached.resident_gained.load(Ordering::Relaxed);
    let _page_heap = heap.pages.page_heap.lock();
    heap.pages.totals.update(|figures| {
        let ever = figures.span_pages_inherited.get() + gained;
        figures.span_pages_retired.set(ever.saturating_sub(resident));
    });
}

#[cfg(test)]
mod tests;
