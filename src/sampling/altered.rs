//! Slots in which a program had the kernel change something about the pages: the same for samples as
//! `heap::altered` is for other blocks.

use core::sync::atomic::{AtomicU64, Ordering};

use super::slots::{self, Place};
use crate::base::units::SPAN_BYTES;
use crate::geometry::arena::Arena;
use crate::geometry::slot::{MAX_SLOTS, SlotIndex};
use crate::os::{self, AddressRange};

const WORDS: usize = (MAX_SLOTS as usize + 1) / 64;

/// A bit for each slot, which any thread may set at any time, a signal handler too. Whoever frees the block has it from
/// whoever set the bit: that orders them.
pub(crate) struct AlteredSlots([AtomicU64; WORDS]);

impl AlteredSlots {
    pub const fn new() -> AlteredSlots {
        AlteredSlots([const { AtomicU64::new(0) }; WORDS])
    }

    fn set(&self, slot: usize) {
        self.0[slot / 64].fetch_or(1 << (slot % 64), Ordering::Relaxed);
    }

    fn take(&self, slot: SlotIndex) -> bool {
        let (word, bit) = (&self.0[slot as usize / 64], 1 << (slot % 64));
        word.load(Ordering::Relaxed) & bit != 0
            && word.fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }

    /// Marks the slots in `range`. Any thread and any signal handler: takes no lock.
    pub fn mark(&self, arena: &Arena, range: AddressRange) {
        let first_slot = slots::address(arena, 0);
        let start = range.start.max(first_slot);
        let end = range.start.saturating_add(range.bytes);
        let end = end.min(first_slot.saturating_add(slots::count(arena) as usize * SPAN_BYTES));
        if start < end {
            let (first, last) = (start - first_slot, end - 1 - first_slot);
            (first / SPAN_BYTES..=last / SPAN_BYTES).for_each(|slot| self.set(slot));
        }
    }

    /// Makes the pages of a slot ordinary, if they are marked: its block is freed, or elsewhere.
    pub(super) fn make_ordinary(&self, arena: &Arena, index: SlotIndex, place: &Place) {
        if self.take(index) {
            let range = place.range(slots::address(arena, index));
            // SAFETY: the slot has no block, and nobody else gets it meanwhile.
            if !unsafe { os::renew(range) } {
                // SAFETY: as above. Where the kernel refuses, the slot is not opened again.
                unsafe { os::undo_flags(range) };
            }
        }
    }
}
