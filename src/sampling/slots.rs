//! Where sampled blocks lie: slots of 64 KiB at the arena's end, one block in each, its end against a
//! page that cannot be touched.
//!
//! ```text
//!  │ chunk 0: unused │ slot 1 … block│guard │ slot 2 … block│guard │ …
//! ```
//!
//! A slot is a chunk for which the page map says "not a span". So `free` finds out for nothing that a
//! block is sampled, and the slot's number leads to what is known about it.
//!
//! A slot at rest has no memory, and cannot be touched at all: with its block freed, each use of that is
//! a fault, too. On Linux 6.13 and later this is done by guard markers in the page tables
//! (`madvise(MADV_GUARD_INSTALL)`), elsewhere by protections, of which a process can have some tens of
//! thousands; slots beyond that are unguarded.

use core::ptr;

use crate::base::units::{PAGE_BYTES, SEGMENT_BYTES, SPAN_BYTES};
use crate::geometry::arena::Arena;
use crate::geometry::slot::SlotIndex;
use crate::os::{self, AddressRange, Os};

/// A slot's last page is never touched.
const GUARD_BYTES: usize = PAGE_BYTES;

/// Slots that are made accessible together: a segment's worth.
const STEP: u32 = (SEGMENT_BYTES / SPAN_BYTES) as u32;

/// How many slots are guarded by protections. Each splits the mapping twice, and a process may have
/// 65,530 mappings.
const PROTECTED_SLOTS: u32 = 8 << 10;

/// How slots are guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guards {
    /// It has not been tried yet.
    Unknown,
    Markers,
    Protections,
    Off,
}

/// # Invariants
/// - The slots below `ready` are accessible, or guarded.
/// - Slots are touched only between [`Slots::open`] and [`Slots::close`] of theirs.
pub(crate) struct Slots {
    guards: Guards,
    ready: u32,
}

/// The place of a block in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The block's offset from the slot's start.
    pub offset: usize,
    /// Its pages.
    pub first_page: usize,
    pub end_page: usize,
}

/// The page that most blocks take: a slot's last but the guard.
pub(crate) const WARM: Place =
    Place { offset: WARM_PAGE * PAGE_BYTES, first_page: WARM_PAGE, end_page: WARM_PAGE + 1 };

const WARM_PAGE: usize = SPAN_BYTES / PAGE_BYTES - 2;

impl Place {
    /// Is it on [`WARM`]'s page alone?
    pub fn is_warm(&self) -> bool {
        (self.first_page, self.end_page) == (WARM.first_page, WARM.end_page)
    }

    /// That of `bytes`, at least one and at most 32 KiB, as close to the guard as `align` (a power of two,
    /// at most half a slot) allows.
    pub fn of(bytes: usize, align: usize) -> Place {
        let offset = (SPAN_BYTES - GUARD_BYTES - bytes) & !(align - 1);
        let end_page = (offset + bytes).div_ceil(PAGE_BYTES);
        Place { offset, first_page: offset / PAGE_BYTES, end_page }
    }

    /// Bytes between the block's end and its last page's.
    pub fn slack(&self, bytes: usize) -> usize {
        self.end_page * PAGE_BYTES - self.offset - bytes
    }

    /// Can the block have so many bytes where it is?
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.offset + bytes <= self.end_page * PAGE_BYTES
    }

    pub fn pages(&self) -> usize {
        self.end_page - self.first_page
    }

    fn range(&self, slot: usize) -> AddressRange {
        let start = slot + self.first_page * PAGE_BYTES;
        AddressRange { start, bytes: self.pages() * PAGE_BYTES }
    }
}

impl Slots {
    pub const fn new() -> Slots {
        Slots { guards: Guards::Unknown, ready: 0 }
    }

    /// Without guards, from the start.
    pub fn switch_guards_off(&mut self) {
        self.guards = Guards::Off;
    }

    /// Makes a place accessible; it reads as zero. `slot` is the address of slot `index`. `false`: the
    /// system has no memory for it.
    pub fn open(&mut self, os: &impl Os, index: SlotIndex, slot: usize, place: &Place) -> bool {
        if index as u32 >= self.ready && !self.make_ready(os, index, slot) {
            return false;
        }
        match self.guards_of(index) {
            // SAFETY: the slot is at rest: its pages hold nothing, and nobody has a block there.
            Guards::Markers => unsafe { os::remove_guards(place.range(slot)) },
            Guards::Protections => os.commit(place.range(slot)),
            Guards::Unknown | Guards::Off => true,
        }
    }

    /// Gives a place's memory back; where slots are guarded it cannot be touched from now on.
    pub fn close(&self, os: &impl Os, index: SlotIndex, slot: usize, place: &Place) {
        let range = place.range(slot);
        match self.guards_of(index) {
            // SAFETY: the block that lay there is freed.
            Guards::Markers if unsafe { os::install_guards(range) } => {}
            Guards::Protections => {
                os.purge(&[range]);
                // SAFETY: as for the markers: the block that lay there is freed.
                unsafe { os::protect(range) };
            }
            _ => {
                os.purge(&[range]);
            }
        }
    }

    fn guards_of(&self, index: SlotIndex) -> Guards {
        match self.guards {
            Guards::Protections if index as u32 >= PROTECTED_SLOTS => Guards::Off,
            guards => guards,
        }
    }

    /// Prepares the slots up to the end of the step that `index` is in.
    #[cold]
    fn make_ready(&mut self, os: &impl Os, index: SlotIndex, slot: usize) -> bool {
        while self.ready <= index as u32 {
            let ahead = (index as u32 - self.ready) as usize;
            let step = AddressRange { start: slot - ahead * SPAN_BYTES, bytes: SEGMENT_BYTES };
            if self.guards == Guards::Unknown {
                self.guards = Guards::Protections;
                if os.commit(step) {
                    // SAFETY: no slot of the step has ever been used.
                    self.guards = match unsafe { os::install_guards(step) } {
                        true => Guards::Markers,
                        // SAFETY: no slot of the step has ever been used.
                        false if unsafe { os::protect(step) } => Guards::Protections,
                        false => Guards::Off,
                    };
                }
            } else {
                // With protections a step is reserved as it is: not to be touched.
                let index = self.ready as SlotIndex;
                let is_ready = match self.guards_of(index) {
                    // SAFETY: no slot of the step has ever been used.
                    Guards::Markers => os.commit(step) && unsafe { os::install_guards(step) },
                    Guards::Protections => true,
                    Guards::Unknown | Guards::Off => os.commit(step),
                };
                if !is_ready {
                    return false;
                }
            }
            self.ready += STEP;
        }
        true
    }
}

/// Bytes behind a block, up to its page's end, hold this until it is freed.
pub(super) const PAD: u8 = 0xa5;

/// Slots there are addresses for, the unused one in front included.
pub(super) fn count(arena: &Arena) -> u32 {
    (arena.sample_range().bytes / SPAN_BYTES) as u32
}

/// The address of slot `index`.
pub(super) fn address(arena: &Arena, index: SlotIndex) -> usize {
    arena.sample_range().start + index as usize * SPAN_BYTES
}

/// The slot that `address`, a sample's, lies in.
pub(super) fn index_of(arena: &Arena, address: usize) -> SlotIndex {
    // Below MAX_SLOTS + 1: there are no more addresses of samples.
    ((address - arena.sample_range().start) / SPAN_BYTES) as SlotIndex
}

/// Fills what is behind a block of `bytes`, up to its last page's end, which is open.
pub(super) fn fill_pad(address: usize, bytes: usize, place: &Place) {
    let pad = (address + bytes) as *mut u8;
    // SAFETY: from the block's end to its last page's, which was opened for it.
    unsafe { ptr::write_bytes(pad, PAD, place.slack(bytes)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_ends_where_the_guard_begins_if_its_alignment_allows() {
        for shift in 0..=15 {
            let align = 1usize << shift;
            for bytes in (1..=32 << 10).step_by(7) {
                let place = Place::of(bytes, align);
                assert!(place.offset.is_multiple_of(align));
                assert!(place.first_page * PAGE_BYTES <= place.offset);
                assert!(place.offset + bytes <= place.end_page * PAGE_BYTES);
                assert!(place.end_page * PAGE_BYTES <= SPAN_BYTES - GUARD_BYTES);
                let to_guard = SPAN_BYTES - GUARD_BYTES - place.offset - bytes;
                assert!(to_guard < align, "{bytes} at {align}: {to_guard}");
                assert!(place.pages() >= 1 && place.slack(bytes) < PAGE_BYTES);
            }
        }
    }
}
