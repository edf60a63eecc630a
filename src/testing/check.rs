//! The checker: walks every structure of a heap and its invariants. For tests, while no thread is
//! inside the allocator.

use std::collections::HashSet;

use core::sync::atomic::Ordering;

use crate::base::atomics::Ordering as HintOrdering;
use crate::base::bits::{PageBits, PageRun};
use crate::base::units::{
    PageIndex, Pages, SEGMENT_CHUNKS, SEGMENT_PAGES, SPAN_BYTES, SegmentIndex,
};
use crate::geometry::arena::ChunkIndex;
use crate::geometry::size_class::{CLASS_COUNT, SizeClass};
use crate::heap::Heap;
use crate::release::Release;

/// Panics with a description of the first invariant that does not hold.
pub(crate) fn check(heap: &Heap, release: &Release) {
    // Not in the middle of a tick.
    let _ticking = release.hold();
    heap.sampler.check();
    let cached = check_bins(heap);
    let mut page_heap = heap.pages.page_heap.lock();
    let arena = &heap.pages.arena;
    let mut spans = [0u64; CLASS_COUNT];
    let mut large_left = 0;
    let (mut dirty_pages, mut large_pages) = (0, 0);
    let mut records = 0;
    let mut numbers = HashSet::new();
    for segment in (0..arena.in_use()).map(SegmentIndex) {
        page_heap.check_sets(arena, segment);
        let states = page_heap.states(arena, segment);
        states.check();
        records += !states.is_empty() as u64;
        dirty_pages += states.dirty().count().0 as u64;
        let free = states.free();
        let altered = arena.segment(segment).altered.within(PageRun::SEGMENT);
        assert!(altered.and(&free).is_empty(), "free pages are ordinary");
        // Every page is free, in a span, or in a large run.
        let mut accounted = free;
        for page in 0..SEGMENT_PAGES {
            if let Some(pages) = states.run_at(PageIndex(page)) {
                assert_eq!(large_left, 0, "runs do not overlap");
                large_pages += pages.0 as u64;
                let here = pages.0.min(SEGMENT_PAGES - page);
                large_left = pages.0 - here;
                let run = PageRun::new(PageIndex(page), Pages(here));
                assert!(!accounted.any(run), "a run's pages are not free, and its own");
                accounted.set(run);
            } else if page == 0 && large_left > 0 {
                let here = large_left.min(SEGMENT_PAGES);
                large_left -= here;
                let run = PageRun::new(PageIndex(0), Pages(here));
                assert!(!accounted.any(run), "a long run's pages are not free, and its own");
                accounted.set(run);
            }
        }
        for chunk in 0..SEGMENT_CHUNKS {
            let index = ChunkIndex::new(segment, chunk);
            let class = arena.class_at(index.byte_offset());
            for other in SizeClass::all() {
                let listed = arena.segment(segment).available[other.index()]
                    .load(HintOrdering::Relaxed)
                    >> chunk
                    & 1
                    == 1;
                let available = other == class && arena.span(index).is_available();
                assert_eq!(listed, available, "the index and the span's state agree");
                if listed {
                    let row = segment.0 as usize / 64;
                    let hint = arena.index_word(0, row, other).load(HintOrdering::Relaxed);
                    assert!(hint >> (segment.0 % 64) & 1 == 1, "the hints lead to the span");
                    let hint = arena.index_word(1, row / 64, other).load(HintOrdering::Relaxed);
                    assert!(hint >> (row % 64) & 1 == 1, "the hints lead to the span");
                }
            }
            if class == SizeClass::NONE {
                continue;
            }
            spans[class.index()] += 1;
            assert!(numbers.insert(arena.span(index).number()), "no two spans have one number");
            let run = PageRun::of_chunk(chunk);
            assert!(!accounted.any(run), "a span's pages are not free, and its own");
            accounted.set(run);
            check_span(heap, index, class, &cached);
        }
        assert_eq!(accounted, PageBits::of(PageRun::SEGMENT), "every page is somebody's");
    }
    let figures = heap.pages.totals.read();
    assert_eq!(figures.records, records, "records that take memory");
    assert_eq!(figures.spans, spans, "spans by class");
    assert_eq!(figures.pending_pages, dirty_pages, "the ledger's count and its bits");
    assert_eq!(figures.large_pages, large_pages, "pages of large runs");
    let purged: u64 = figures.purged_pages.iter().sum();
    assert_eq!(
        figures.enqueued_pages,
        purged + figures.reused_pages + figures.pending_pages,
        "what entered the ledger left it or is there"
    );
}

/// All bins and the depot hold distinct free blocks of their class; returns these.
fn check_bins(heap: &Heap) -> HashSet<usize> {
    let mut cached = HashSet::new();
    for cache in heap.threads.all() {
        let mut bytes = 0;
        for class in SizeClass::all() {
            let bin = cache.bin(class);
            let len = bin.len.load(Ordering::Relaxed);
            let capacity = bin.capacity();
            assert!(len <= capacity, "a bin is not longer than its array");
            bytes += capacity as u64 * class.block_bytes().get() as u64;
            // SAFETY: nobody is inside the allocator, and `len` is within the capacity.
            for slot in unsafe { bin.slots(len) } {
                let address = slot.load(Ordering::Relaxed) as usize;
                let offset =
                    heap.pages.arena.offset_of(address).expect("a cached block in the arena");
                assert_eq!(heap.pages.arena.class_at(offset), class, "a cached block's class");
                assert!(cached.insert(address), "a block is cached once");
            }
        }
        assert_eq!(cache.capacity_bytes.load(Ordering::Relaxed), bytes, "the budget's use");
    }
    for class in SizeClass::all() {
        for address in heap.depot.blocks(class) {
            let offset = heap.pages.arena.offset_of(address).expect("a block in the arena");
            assert_eq!(heap.pages.arena.class_at(offset), class, "a block's class in the depot");
            assert!(cached.insert(address), "a block is in one bin, or in the depot");
        }
    }
    cached
}

fn check_span(heap: &Heap, index: ChunkIndex, class: SizeClass, cached: &HashSet<usize>) {
    let span = heap.pages.arena.span(index);
    let start = heap.pages.arena.chunk_address(index);
    let size = class.block_bytes().get();
    assert!(class.blocks_per_span() as usize * size <= SPAN_BYTES);
    for block in 0..class.blocks_per_span() {
        if span.has_free(block) {
            let address = start + block as usize * size;
            assert!(!cached.contains(&address), "a free block is in no cache");
        }
    }
    let free = span.free_blocks(class.blocks_per_span());
    assert_eq!(span.is_available(), free > 0, "a span with free blocks can be found");
    assert_eq!(span.is_full(), free == 0, "a span that cannot be found is full");
    assert!(free < class.blocks_per_span(), "an empty span is retired");
}
