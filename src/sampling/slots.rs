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
//! a fault, too. In the first thousand slots, which few programs exceed, this is done by protections: each open
//! slot is a mapping of its own, which debuggers read like any other. A process can have only some tens of
//! thousands of mappings. So in the others it is done by guard markers in the page tables
//! (`madvise(MADV_GUARD_INSTALL)`, Linux 6.13), which a debugger that reads the whole mapping stumbles over; where
//! the kernel has none, by protections in some more, and the rest is unguarded.

use core::ptr;

use crate::base::units::{PAGE_BYTES, SPAN_BYTES};
use crate::geometry::arena::Arena;
use crate::geometry::slot::SlotIndex;
use crate::os::{self, AddressRange, Os, seccomp};

/// A slot's last page is never touched.
const GUARD_BYTES: usize = PAGE_BYTES;

/// Slots that are made accessible together.
const STEP: u32 = 8;

/// How many slots are guarded by protections, and how many where there are no markers. Each splits the mapping
/// twice, and a process may have 65,530 mappings.
const FIRST_SLOTS: u32 = 1 << 10;
const PROTECTED_SLOTS: u32 = 8 << 10;

/// How a slot is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guards {
    Markers,
    Protections,
    Off,
}

/// # Invariants
/// - The slots below `ready` are mapped, and accessible or guarded.
/// - Slots are touched only between [`Slots::open`] and [`Slots::close`] of theirs.
pub(crate) struct Slots {
    is_unguarded: bool,
    /// The kernel has no guard markers.
    has_no_markers: bool,
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

impl Place {
    pub fn has_the_pages_of(&self, other: &Place) -> bool {
        (self.first_page, self.end_page) == (other.first_page, other.end_page)
    }

    /// That of `bytes`, at least one and at most 32 KiB, as close to the guard as `align` (a power of two,
    /// at most half a slot) allows.
    pub fn of(bytes: usize, align: usize) -> Place {
        let offset = (SPAN_BYTES - GUARD_BYTES - bytes) & !(align - 1);
        let end_page = (offset + bytes).div_ceil(PAGE_BYTES);
        Place { offset, first_page: offset / PAGE_BYTES, end_page }
    }

    /// That of a block of `bytes` which ends as close to this place's end as `align` allows, and has all pages of
    /// this place. `None`: there is none.
    pub fn with_room_for(&self, bytes: usize, align: usize) -> Option<Place> {
        let offset = (self.end_page * PAGE_BYTES).checked_sub(bytes)? & !(align - 1);
        let first_page = self.first_page.min(offset / PAGE_BYTES);
        Some(Place { offset, first_page, end_page: self.end_page })
    }

    /// Bytes between the block's end and its last page's.
    pub fn slack(&self, bytes: usize) -> usize {
        self.end_page * PAGE_BYTES - self.offset - bytes
    }

    pub fn pages(&self) -> usize {
        self.end_page - self.first_page
    }

    pub fn range(&self, slot: usize) -> AddressRange {
        let start = slot + self.first_page * PAGE_BYTES;
        AddressRange { start, bytes: self.pages() * PAGE_BYTES }
    }
}

impl Slots {
    pub const fn new() -> Slots {
        Slots { is_unguarded: false, has_no_markers: false, ready: 0 }
    }

    /// Without guards, from the start.
    pub fn switch_guards_off(&mut self) {
        self.is_unguarded = true;
    }

    /// Are slots guarded, as far as is known?
    pub fn has_guards(&self) -> bool {
        !self.is_unguarded
    }

    /// Makes a place in slot `index` accessible; it reads as zero. `false`: the system has no memory for it,
    /// or is not to be asked.
    pub fn open(&mut self, os: &impl Os, arena: &Arena, index: SlotIndex, place: &Place) -> bool {
        if seccomp::is_strict() {
            return false;
        }
        if index as u32 >= self.ready && !self.make_ready(os, arena, index) {
            return false;
        }
        let slot = address(arena, index);
        match self.guards_of(index) {
            // SAFETY: the slot is at rest: its pages hold nothing, and nobody has a block there.
            Guards::Markers => unsafe { os::remove_guards(place.range(slot)) },
            Guards::Protections => os::unprotect(place.range(slot)),
            Guards::Off => true,
        }
    }

    /// Makes the pages of `wider` accessible in slot `index`, where those of `place` are: those before them. Returns
    /// and requires what [`Slots::open`] does.
    pub fn widen(
        &mut self,
        os: &impl Os,
        arena: &Arena,
        index: SlotIndex,
        place: &Place,
        wider: &Place,
    ) -> bool {
        let more = Place { end_page: place.first_page, ..*wider };
        more.pages() == 0 || self.open(os, arena, index, &more)
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
        match index as u32 {
            _ if self.is_unguarded => Guards::Off,
            0..FIRST_SLOTS => Guards::Protections,
            _ if !self.has_no_markers => Guards::Markers,
            FIRST_SLOTS..PROTECTED_SLOTS => Guards::Protections,
            _ => Guards::Off,
        }
    }

    /// Prepares the slots up to the end of the step that `index` is in.
    #[cold]
    fn make_ready(&mut self, os: &impl Os, arena: &Arena, index: SlotIndex) -> bool {
        while self.ready <= index as u32 {
            let first = self.ready as SlotIndex;
            let bytes = STEP as usize * SPAN_BYTES;
            if !arena.extend_samples(os, bytes) {
                return false;
            }
            let step = AddressRange { start: address(arena, first), bytes };
            if self.guards_of(first) == Guards::Markers {
                // SAFETY: no slot of the step has ever been used.
                let is_refused = !unsafe { os::install_guards(step) };
                // Those that have markers keep them, so this is decided once. Later the kernel refuses what is
                // locked into memory; slots there are guarded when their first block is freed, if they can be.
                self.has_no_markers |= is_refused && self.ready == FIRST_SLOTS;
            }
            if self.guards_of(first) == Guards::Protections {
                // SAFETY: no slot of the step has ever been used. One that is not protected now is so when its
                // first block is freed.
                unsafe { os::protect(step) };
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
    arena.slot_capacity()
}

/// The address of slot `index`.
pub(super) fn address(arena: &Arena, index: SlotIndex) -> usize {
    arena.samples() + index as usize * SPAN_BYTES
}

/// The slot that `address`, a sample's, lies in.
pub(super) fn index_of(arena: &Arena, address: usize) -> SlotIndex {
    // Below MAX_SLOTS + 1: there are no more addresses of samples.
    ((address - arena.samples()) / SPAN_BYTES) as SlotIndex
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
