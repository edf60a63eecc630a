//! The segments in whose spans blocks have come back, so that pages inside of them may be given back.

use core::sync::atomic::Ordering;

use crate::base::units::SegmentIndex;
use crate::pages::HeapPages;

/// Blocks of a span in this segment came back: there may be something to give back inside. After
/// their bits were set.
#[inline]
pub(crate) fn touch(pages: &HeapPages, segment: SegmentIndex) {
    let epoch = pages.clock.epoch().0;
    let record = pages.arena.segment(segment);
    if record.touched.load(Ordering::Relaxed) != epoch {
        record.touched.store(epoch, Ordering::Relaxed);
    }
    mark(pages, segment);
}

/// Enters the segment into the set of those to look at.
#[inline]
pub(crate) fn mark(pages: &HeapPages, segment: SegmentIndex) {
    let word = pages.arena.touched_word(segment.0 as usize / 64);
    let bit = 1 << (segment.0 % 64);
    if word.load(Ordering::Relaxed) & bit == 0 {
        // Release: partner of the fetch_and in `purge_interiors`; who clears the bit sees the blocks.
        word.fetch_or(bit, Ordering::Release);
    }
}
