//! A set as a pyramid of bitmaps: a bit above says "some bit below is set".
//!
//! Lock-free: any thread inserts and removes. The lowest level is the truth; the levels above are
//! hints for finding it. A hint may promise what is gone, until somebody follows it in vain and
//! clears it. It may lack only for the moment in which an insertion is under way: who inserts
//! changes the truth first and then looks at the hint, who clears a hint looks at the truth once
//! more afterwards.

use crate::base::atomics::{AtomicU64, Ordering, fence_after_rmw};

/// The way to one element: a word and a bit on each level, lowest first.
pub(crate) type Path<'a> = [(&'a AtomicU64, u32)];

/// Adds the element. Release: partner of the Acquire in [`remove`].
#[inline]
pub(crate) fn insert(path: &Path<'_>) {
    let (word, bit) = path[0];
    word.fetch_or(1 << bit, Ordering::Release);
    raise(&path[1..]);
}

/// Makes the hints say that something is below.
fn raise(above: &Path<'_>) {
    for &(word, bit) in above {
        fence_after_rmw();
        // Relaxed: hints order nothing.
        if word.load(Ordering::Relaxed) >> bit & 1 == 1 {
            return;
        }
        word.fetch_or(1 << bit, Ordering::Relaxed);
    }
}

/// Takes the element out; `false` if it was not in the set (any more). Acquire: partner of the
/// Release in [`insert`].
#[inline]
pub(crate) fn remove(path: &Path<'_>) -> bool {
    let (word, bit) = path[0];
    if word.load(Ordering::Relaxed) >> bit & 1 == 0 {
        return false;
    }
    let before = word.fetch_and(!(1 << bit), Ordering::Acquire);
    before >> bit & 1 == 1
}

/// Clears the hints above the word of `path[0]`, if that is empty. For whoever followed them and
/// found nothing: an element that is taken out and put back at once leaves its hints alone.
#[cold]
pub(crate) fn lower(path: &Path<'_>) {
    if path[0].0.load(Ordering::Relaxed) != 0 {
        return;
    }
    for level in 1..path.len() {
        let (word, bit) = path[level];
        let before = word.fetch_and(!(1 << bit), Ordering::Relaxed);
        fence_after_rmw();
        if path[level - 1].0.load(Ordering::Relaxed) != 0 {
            // Something was inserted below meanwhile, perhaps by a thread that still saw the hint.
            word.fetch_or(1 << bit, Ordering::Relaxed);
            raise(&path[level + 1..]);
            return;
        }
        if before != 1 << bit {
            return;
        }
    }
}
