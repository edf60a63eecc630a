//! A set as a pyramid of bitmaps: a bit above says "some bit below is set".
//!
//! Lock-free: any thread inserts and removes. The lowest level is the truth; the levels above are
//! hints for finding it. A hint may promise what is gone, until somebody follows it in vain and
//! clears it. It may lack only for the moment in which an insertion is under way: who inserts
//! changes the truth first and then looks at the hint, who clears a hint looks at the truth once
//! more afterwards.

use crate::sync::{AtomicU64, Ordering, fence_after_rmw};

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

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

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
            insert(&levels.path(0));
            let inserter = {
                let levels = Arc::clone(&levels);
                thread::spawn(move || insert(&levels.path(1)))
            };
            assert!(remove(&levels.path(0)));
            lower(&levels.path(0));
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
            insert(&levels.path(3));
            let other = {
                let levels = Arc::clone(&levels);
                thread::spawn(move || remove(&levels.path(3)))
            };
            let mine = remove(&levels.path(3));
            assert_ne!(mine, other.join().unwrap());
            lower(&levels.path(3));
            assert_eq!(levels.0[1].load(Ordering::Relaxed), 0);
            assert_eq!(levels.0[2].load(Ordering::Relaxed), 0);
        });
    }
}
