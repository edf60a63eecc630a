//! A heap of its own for a test, on a system whose clock and kernel the test controls; and a way to
//! see a test's code abort.

use core::sync::atomic::Ordering;
use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::base::bits::{PageBits, PageRun};
use crate::base::units::{Pages, SEGMENT_BYTES, SEGMENT_PAGES, SegmentIndex};
use crate::caches::thread_cache::ThreadCache;
use crate::geometry::arena::ChunkIndex;
use crate::geometry::reason::ReleaseReason;
use crate::geometry::size_class::{Kind, SizeClass};
use crate::geometry::span::Put;
use crate::heap::Heap;
use crate::heap::knobs::Knobs;
use crate::os::fake::FakeOs;
use crate::os::tls::ThreadWord;
use crate::os::{AddressRange, Linux};
use crate::pages::HeapPages;
use crate::pages::boundary::release_range_definitely_free;
use crate::pages::page_heap::{LargeRun, TakenRun};
use crate::pages::totals::PageCounters;
use crate::release::{Release, tick_if_due};
use crate::testing::check::check;

/// Dropping it leaves what it has mapped: a test process ends soon.
pub(crate) struct TestHeap {
    pub heap: Heap,
    pub release: Release,
    pub os: FakeOs,
}

impl TestHeap {
    /// A heap that can grow to 64 MiB.
    pub fn new() -> TestHeap {
        TestHeap::with_segments(32)
    }

    pub fn with_segments(segments: usize) -> TestHeap {
        let test = TestHeap { heap: Heap::new(), release: Release::new(), os: FakeOs::default() };
        test.heap.adopt_in_this_process();
        assert!(test.heap.pages.arena.choose_window(&Linux, segments * SEGMENT_BYTES));
        assert_eq!(test.heap.pages.arena.capacity() as usize, segments);
        test
    }

    /// A cache for the thread whose word it is.
    pub fn attach(&self, word: ThreadWord) -> &ThreadCache {
        let Heap { threads, sampler, pages, .. } = &self.heap;
        let bound = pages.arena.samples();
        threads.attach(&pages.metadata, sampler.countdowns(), bound, word).unwrap()
    }

    pub fn figures(&self) -> PageCounters<u64> {
        self.heap.pages.totals.read()
    }

    /// Walks every invariant of the heap.
    pub fn check(&self) {
        check(&self.heap, &self.release);
    }

    pub fn address(&self, segment: u32, run: PageRun) -> AddressRange {
        let start = self.heap.pages.arena.base() + segment as usize * SEGMENT_BYTES;
        AddressRange { start: start + run.first.byte_offset(), bytes: run.pages.bytes().get() }
    }

    pub fn try_take(&self, pages: u32, align_pages: u32) -> Option<TakenRun> {
        let HeapPages { arena, page_heap, totals, .. } = &self.heap.pages;
        page_heap.lock().take_run(arena, &self.os, totals, Pages(pages), align_pages)
    }

    pub fn take(&self, pages: u32) -> LargeRun {
        self.try_take(pages, 1).expect("the arena has room").run
    }

    pub fn extend(&self, run: LargeRun, pages: u32) -> bool {
        let HeapPages { arena, page_heap, totals, .. } = &self.heap.pages;
        page_heap.lock().extend_run(arena, &self.os, totals, run, Pages(pages))
    }

    /// Frees a run, as the owner of a large block does.
    pub fn free(&self, run: LargeRun) {
        self.heap
            .pages
            .page_heap
            .lock()
            .states(&self.heap.pages.arena, run.segment)
            .clear_run(run.first);
        self.free_from(run, 0);
    }

    /// Shortens a run, as a shrinking `realloc` does.
    pub fn shrink(&self, run: LargeRun, keep: u32) -> LargeRun {
        let mut pages = self.heap.pages.page_heap.lock();
        pages.states(&self.heap.pages.arena, run.segment).set_run(run.first, Pages(keep));
        drop(pages);
        self.free_from(run, keep);
        LargeRun { pages: Pages(keep), ..run }
    }

    fn free_from(&self, run: LargeRun, keep: u32) {
        for (segment, part) in run.parts_from(Pages(keep)) {
            self.release(segment.0, part, &PageBits::of(part), ReleaseReason::LargeFree);
        }
        let left = (run.pages.0 - keep) as u64;
        self.heap.pages.totals.update(|figures| figures.large_pages.subtract(left));
    }

    /// Hands a run to the release boundary, and nothing else.
    pub fn release(&self, segment: u32, run: PageRun, resident: &PageBits, reason: ReleaseReason) {
        let mut pages = self.heap.pages.page_heap.lock();
        let segment = SegmentIndex(segment);
        let (all, os) = (&self.heap.pages, &self.os);
        release_range_definitely_free(all, os, &mut pages, segment, run, resident, reason);
    }

    /// A new span of `class` whose blocks are all handed out, and which of its pages were resident.
    pub fn take_span(&self, class: SizeClass) -> Option<(ChunkIndex, u16)> {
        let HeapPages { arena, page_heap, totals, .. } = &self.heap.pages;
        let mut pages = page_heap.lock();
        let (chunk, resident) = pages.take_span(arena, &self.os, totals, class)?;
        let span = arena.span(chunk);
        span.create(class.blocks_per_span(), resident, totals.figures().spans_created.get());
        arena.set_class(chunk, class);
        while let Some(claim) = span.claim(class.blocks_per_span(), 64) {
            span.mark_resident(class, claim);
        }
        assert!(span.leave_full(class.blocks_per_span()));
        Some((chunk, resident))
    }

    /// Gives back all blocks of a span that [`TestHeap::take_span`] took, and its pages.
    pub fn retire_span(&self, chunk: ChunkIndex) {
        let arena = &self.heap.pages.arena;
        let class = arena.class_at(chunk.byte_offset());
        let (span, blocks) = (arena.span(chunk), class.blocks_per_span());
        for word in 0..blocks.div_ceil(64) {
            let here = (blocks - word * 64).min(64);
            assert_ne!(span.put(blocks, word, u64::MAX >> (64 - here)), Put::DoubleFree);
        }
        let resident = PageBits::of_chunk(chunk.in_segment(), span.resident_pages());
        let reason = match class.kind() {
            Kind::Small => ReleaseReason::SmallPageRetire,
            Kind::Sub4k => ReleaseReason::Sub4kRunRetire,
            Kind::Medium | Kind::Large => ReleaseReason::MediumRunReclaim,
        };
        let run = PageRun::of_chunk(chunk.in_segment());
        self.release(chunk.segment().0, run, &resident, reason);
        arena.set_class(chunk, SizeClass::NONE);
        self.heap.pages.totals.update(|figures| {
            figures.spans[class.index()].subtract(1);
            figures.span_pages_retired.add(resident.count().0 as u64);
        });
    }

    pub fn set_knobs(&self, change: impl FnOnce(&mut Knobs)) {
        let mut knobs = self.heap.knobs.get();
        change(&mut knobs);
        knobs.validate().unwrap();
        self.heap.knobs.set(&knobs);
    }

    /// Ticks, an epoch after whatever was before.
    pub fn tick(&self) {
        self.os.advance_millis(self.heap.knobs.get().epoch_ms);
        tick_if_due(&self.heap, &self.release, &self.os, None);
    }

    /// Lets epochs pass in which nothing is purged.
    pub fn pass_epochs(&self, epochs: u64) {
        let release = self.heap.knobs.get().release;
        self.set_knobs(|knobs| knobs.release = false);
        for _ in 0..epochs {
            self.tick();
        }
        self.set_knobs(|knobs| knobs.release = release);
    }

    /// Slow-path operations, of which the gate is told.
    pub fn work(&self, operations: u64) {
        self.heap.uncached.operations.fetch_add(operations, Ordering::Relaxed);
    }

    /// Which pages of a segment are free and dirty.
    pub fn dirty(&self, segment: u32) -> PageBits {
        self.heap
            .pages
            .page_heap
            .lock()
            .states(&self.heap.pages.arena, SegmentIndex(segment))
            .dirty()
    }

    /// Which pages of a segment are free.
    pub fn unused(&self, segment: u32) -> PageBits {
        self.heap
            .pages
            .page_heap
            .lock()
            .states(&self.heap.pages.arena, SegmentIndex(segment))
            .free()
    }

    pub fn pending(&self) -> u64 {
        self.figures().pending_pages
    }

    pub fn purged(&self) -> u64 {
        self.figures().purged_pages.iter().sum()
    }
}

/// A run inside a segment.
pub(crate) fn pages(first: u32, count: u32) -> PageRun {
    assert!(first + count <= SEGMENT_PAGES);
    PageRun::new(crate::base::units::PageIndex(first), Pages(count))
}

const CHILD: &str = "SLACKWATER_TEST_CHILD";

/// Asserts that `failing` ends its process with SIGABRT after one line, `message` and an address.
/// The calling test runs a second time, in a process of its own, where this is the call that fails.
pub(crate) fn assert_aborts<F: FnOnce()>(message: &str, failing: F) {
    // The closure's type names the test that it is in.
    let path = core::any::type_name::<F>();
    let test = path.split("::").skip(1).take_while(|part| !part.starts_with('{'));
    let test = test.collect::<Vec<_>>().join("::");
    if env::var(CHILD).is_ok_and(|child| child == test) {
        failing();
        std::process::exit(0);
    }
    let output = Command::new(env::current_exe().unwrap())
        .args([test.as_str(), "--exact", "--nocapture"])
        .env(CHILD, &test)
        // A block that is sampled, by chance, is elsewhere than others.
        .env("SLACKWATER_PROFILE_RATE_BYTES", "0")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{stderr}");
    let address = stderr
        .strip_prefix(&format!("slackwater: {message} at 0x"))
        .and_then(|rest| rest.strip_suffix("; aborting\n"));
    let is_hex = |digits: &str| usize::from_str_radix(digits, 16).is_ok();
    assert!(address.is_some_and(is_hex), "one line with the reason and the place: {stderr}");
}
