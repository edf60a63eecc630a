//! The epochs by which pages rest. Ticks let them begin.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::base::units::Epoch;
use crate::geometry::segment::SOON;
use crate::os::{Nanos, Os};

/// The current epoch, and two times that go with it.
///
/// # Invariants
/// `epoch` and `interiors_purged` are written by whoever ticks.
///
/// Every spill reads `epoch`: it has a cache line with what changes as seldom.
#[repr(C, align(64))]
pub(crate) struct Clock {
    epoch: AtomicU64,
    /// When pages inside spans were last given back, or 0.
    interiors_purged: AtomicU64,
    /// Since when the oldest dirty page may have been waiting, as of the last tick.
    pub oldest: AtomicU64,
}

impl Clock {
    pub const fn new() -> Clock {
        Clock {
            epoch: AtomicU64::new(0),
            interiors_purged: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
        }
    }

    /// The current epoch.
    pub fn epoch(&self) -> Epoch {
        // Relaxed: an epoch read late only delays a purge.
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    /// Lets so many epochs begin; the current one is the last of them. Whoever ticks.
    pub fn advance(&self, epochs: u64) -> Epoch {
        Epoch(self.epoch.fetch_add(epochs, Ordering::Relaxed) + epochs)
    }

    /// Since when the oldest dirty page may have been waiting; means something only while there are
    /// any.
    pub fn oldest(&self) -> Nanos {
        Nanos(self.oldest.load(Ordering::Relaxed))
    }

    /// With the page heap's lock held.
    pub fn set_oldest(&self, since: Nanos) {
        self.oldest.store(since.0, Ordering::Relaxed);
    }

    /// Pages inside spans have just been given back. Whoever ticks.
    pub fn set_interiors_purged(&self, now: Nanos) {
        self.interiors_purged.store(now.0, Ordering::Relaxed);
    }

    /// Were pages inside spans given back a short while ago?
    pub fn has_purged_interiors_lately(&self, os: &impl Os) -> bool {
        let last = self.interiors_purged.load(Ordering::Relaxed);
        last != 0 && os.now().since(Nanos(last)) <= SOON
    }
}
