//! A system for tests: a clock that stands still until told, an exact one that goes on a
//! microsecond at each look, and a kernel that keeps a list.

use std::cell::{Cell, RefCell};

use super::cgroup::{MemoryRoom, Scratch};
use super::linux::Linux;
use super::system::{AddressRange, Mapped, Nanos, Os, PurgeOutcome};

#[derive(Default)]
pub(crate) struct FakeOs {
    pub time: Cell<Nanos>,
    pub exact_time: Cell<Nanos>,
    pub purged: RefCell<Vec<AddressRange>>,
    pub purge_calls: Cell<u64>,
    /// Ranges that contain one of these addresses are refused.
    pub locked: RefCell<Vec<usize>>,
    pub out_of_memory: Cell<bool>,
    pub room: Cell<Option<MemoryRoom>>,
}

impl FakeOs {
    pub fn advance_millis(&self, millis: u64) {
        self.time.set(Nanos(self.time.get().0 + Nanos::from_millis(millis).0));
    }

    pub fn purged_bytes(&self) -> usize {
        self.purged.borrow().iter().map(|range| range.bytes).sum()
    }
}

impl Os for FakeOs {
    fn map(&self, range: AddressRange) -> Mapped {
        if self.out_of_memory.get() { Mapped::Refused } else { Linux.map(range) }
    }

    fn purge(&self, ranges: &[AddressRange]) -> PurgeOutcome {
        self.purge_calls.set(self.purge_calls.get() + 1);
        let (began, took) = (self.exact_now(), Nanos::from_millis(1));
        self.exact_time.set(Nanos(began.0 + took.0));
        let mut outcome = PurgeOutcome { calls: 1, refused: 0, began, took };
        for (i, range) in ranges.iter().enumerate() {
            let within = |&at: &usize| at.wrapping_sub(range.start) < range.bytes;
            if self.locked.borrow().iter().any(within) {
                outcome.refused |= 1 << i;
            } else {
                self.purged.borrow_mut().push(*range);
                // What is purged reads as zero, as others may rely on.
                assert_eq!(Linux.purge(&[*range]).refused, 0);
            }
        }
        outcome
    }

    fn now(&self) -> Nanos {
        self.time.get()
    }

    fn exact_now(&self) -> Nanos {
        self.exact_time.set(Nanos(self.exact_time.get().0 + 1000));
        self.exact_time.get()
    }

    fn memory_room(&self, _: &mut Scratch) -> Option<MemoryRoom> {
        self.room.get()
    }
}
