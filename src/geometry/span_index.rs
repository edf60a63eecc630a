//! Which spans of a class have free blocks: a lock-free set per class, ordered by address.
//!
//! Three levels: a bit per chunk in each segment's record, a bit per segment, a bit per 64 segments.
//! Taking a span out of the set is what makes a thread its holder, so the set needs no lock and no
//! links. Because it is ordered, refills come from the lowest addresses, which lets the spans at the
//! highest run empty; of the four lowest in a segment the fullest is taken, for the same end.

use crate::base::atomics::{AtomicU64, Ordering, fence_after_rmw};
use crate::base::bit_pyramid;
use crate::base::units::SegmentIndex;
use crate::geometry::arena::{Arena, ChunkIndex};
use crate::geometry::size_class::SizeClass;

/// How many spans [`fullest`] looks at.
const CANDIDATES: usize = 4;

fn path(arena: &Arena, class: SizeClass, chunk: ChunkIndex) -> [(&AtomicU64, u32); 3] {
    let segment = chunk.segment();
    let row = segment.0 / 64;
    [
        (&arena.segment(segment).available[class.index()], chunk.in_segment()),
        (arena.index_word(0, row as usize, class), segment.0 % 64),
        (arena.index_word(1, row as usize / 64, class), row % 64),
    ]
}

/// Puts a span that the caller holds into the index: from then on anybody may take it. `false` if
/// all its blocks had come back meanwhile and the caller is its holder (again), to retire it.
pub(crate) fn publish(arena: &Arena, class: SizeClass, chunk: ChunkIndex) -> bool {
    let span = arena.span(chunk);
    list(arena, class, chunk);
    fence_after_rmw();
    // The last block may have come back while nobody could take the span: then the one who put it
    // back could not retire it, and it is up to us.
    !(span.is_empty(class.blocks_per_span()) && try_take(arena, class, chunk))
}

/// Puts a span that the caller holds into the index, whether or not it is empty.
pub(crate) fn list(arena: &Arena, class: SizeClass, chunk: ChunkIndex) {
    arena.span(chunk).leave_available();
    bit_pyramid::insert(&path(arena, class, chunk));
}

/// Takes this span if it is in the index; the caller then holds it.
pub(crate) fn try_take(arena: &Arena, class: SizeClass, chunk: ChunkIndex) -> bool {
    let taken = bit_pyramid::remove(&path(arena, class, chunk));
    if taken {
        arena.span(chunk).enter_held();
    }
    taken
}

/// Is the span in the index, where everybody finds it? While nothing moves.
pub(crate) fn is_listed(arena: &Arena, class: SizeClass, chunk: ChunkIndex) -> bool {
    path(arena, class, chunk)
        .iter()
        .all(|&(word, bit)| word.load(Ordering::Relaxed) >> bit & 1 == 1)
}

/// Takes a span for the caller from whoever has it, or from the index. In a copy of the process where nobody has it
/// any more.
pub(crate) fn take_from_ghost(arena: &Arena, class: SizeClass, chunk: ChunkIndex) {
    bit_pyramid::remove(&path(arena, class, chunk));
    arena.span(chunk).take_from_ghost();
}

/// Takes the span at the lowest address; the caller then holds it.
pub(crate) fn take_lowest(arena: &Arena, class: SizeClass) -> Option<ChunkIndex> {
    let rows = arena.in_use().div_ceil(64);
    for top in 0..rows.div_ceil(64) {
        for row in bits_of(arena.index_word(1, top as usize, class)) {
            let row = top * 64 + row;
            for segment in bits_of(arena.index_word(0, row as usize, class)) {
                let segment = SegmentIndex(row * 64 + segment);
                while let Some(chunk) = fullest(arena, class, segment) {
                    if try_take(arena, class, chunk) {
                        return Some(chunk);
                    }
                }
                bit_pyramid::lower(&path(arena, class, ChunkIndex::new(segment, 0)));
            }
        }
    }
    None
}

/// The fullest of the lowest available spans of a segment: a few are looked at, so that the choice
/// costs less than it saves.
fn fullest(arena: &Arena, class: SizeClass, segment: SegmentIndex) -> Option<ChunkIndex> {
    let blocks = class.blocks_per_span();
    bits_of(&arena.segment(segment).available[class.index()])
        .take(CANDIDATES)
        .map(|chunk| ChunkIndex::new(segment, chunk))
        .min_by_key(|&chunk| arena.span(chunk).free_blocks(blocks))
}

/// The bits that are set just now, lowest first.
fn bits_of(word: &AtomicU64) -> impl Iterator<Item = u32> {
    let mut rest = word.load(Ordering::Relaxed);
    core::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let bit = rest.trailing_zeros();
        rest &= rest - 1;
        Some(bit)
    })
}
