//! Sampled blocks: allocated, freed, resized; and the large ones that are sampled where they are.

use core::ptr;
use core::sync::atomic::Ordering;

use super::call_sites::{Amount, OBJECT, StackId, UNKNOWN};
use super::countdown;
use super::misuse::{self, Misuse};
use super::record::{Sample, Tables};
use super::sampler::Sampler;
use super::slots::{self, PAD, Place};
use crate::geometry::arena::Arena;
use crate::geometry::size_class::SizeClass;
use crate::geometry::slot::SlotIndex;
use crate::os::{self, Linux};
use crate::pages::HeapPages;
use crate::stack::Registers;

impl Sampler {
    /// A sampled block of up to 32 KiB, aligned to `align`; `None` if it cannot be had, and should be an
    /// ordinary one. `frame` is an address in the frame of the function that the program has
    /// called ([`crate::stack::address_in_frame`]).
    #[cold]
    pub fn allocate(
        &self,
        pages: &HeapPages,
        bytes: usize,
        align: usize,
        rate: u32,
        frame: usize,
    ) -> Option<*mut u8> {
        let amount = amount(bytes, rate);
        // One of 0 bytes has a place, too.
        let bytes = bytes.max(1);
        let Some(mut open) = self.lock(pages) else { return self.drop_one() };
        let slot = open.open_slot(&pages.arena, bytes, align);
        let Some((index, address, place)) = slot else { return self.drop_one() };
        let stack = open.allocating_stack(frame);
        let class = SizeClass::for_layout(bytes, align).unwrap_or(SizeClass::NONE);
        let sample = new_sample(address, bytes, amount, stack, place, class);
        open.record_allocation(index, sample, pages.totals.figures().used_pages.get());
        open.account(pages);
        Some(address as *mut u8)
    }

    /// Frees the sampled block at `address`, which is a sample's. What is none is a caller's mistake that
    /// ends the process. A signal handler that interrupted its thread here leaves the block as it is.
    #[cold]
    pub fn free(&self, pages: &HeapPages, address: usize, frame: usize) {
        let Some(mut open) = self.lock(pages) else { return };
        let index = slots::index_of(&pages.arena, address);
        let sample = open.tables().samples[index as usize];
        if sample.address != address as u64 || !sample.is_in_slot() {
            let stack = open.stack(frame);
            misuse::fail(&mut open, Misuse::NoBlock, address, None, stack);
        }
        if !sample.is_live() {
            let stack = open.stack(frame);
            misuse::fail(&mut open, Misuse::DoubleFree, address, Some(index), stack);
        }
        let place = sample.place();
        if let Some(touched) = first_overwritten(&sample, &place) {
            let stack = open.stack(frame);
            misuse::report(&mut open, Misuse::Overflow, touched, Some(index), stack);
        }
        let is_quarantined = open.has_quarantine();
        let stack = if is_quarantined { open.stack(frame) } else { UNKNOWN };
        open.record_free(index, stack);
        self.altered.make_ordinary(&pages.arena, index, &place);
        if is_quarantined || !open.put_warm(index, &place) {
            open.state.slots.close(&Linux, index, slots::address(&pages.arena, index), &place);
            open.put(index);
        }
        open.account(pages);
    }

    /// The live sample whose block is at `address`, a sample's, as whoever has the block may read it without the
    /// lock. `None`: there is no block at this address.
    pub fn live_in_slot(&self, arena: &Arena, address: usize) -> Option<Sample> {
        let index = slots::index_of(arena, address);
        // Acquire: partner of the Release in `Open::take`: the tables are there, and this record in them.
        if index as u32 >= self.readings.fresh.load(Ordering::Acquire) {
            return None;
        }
        let tables = self.readings.tables.load(Ordering::Relaxed) as *const Tables;
        // SAFETY: the tables are mapped for good.
        let start = unsafe { &raw const (*tables).samples.start };
        // SAFETY: as above; it was written when they were made ready, and never since.
        let samples = unsafe { start.read() };
        // SAFETY: its index is below `fresh`, so there is such a record.
        let record = unsafe { samples.add(index as usize) };
        // SAFETY: mapped, as above. While its block is live a record is changed by nobody but those who have the block:
        // nobody writes to it now, unless the program uses what it does not have.
        let sample = unsafe { record.read() };
        let is_it = sample.address == address as u64 && sample.is_in_slot() && sample.is_live();
        is_it.then_some(sample)
    }

    /// Gives the live sampled block at `address`, which is to grow within its class, all the room of that class, once
    /// and for all: an ordinary block has it, too, and stays where it is then, uncounted, so that this remains the
    /// sample that it is. Returns where it is now. `None`: it must become another block.
    ///
    /// The block moves down within its slot, so that the guard stays where it is and is right behind the room. A class
    /// of up to a page needs no further page for that, and no system call.
    #[cold]
    pub fn make_room(
        &self,
        pages: &HeapPages,
        address: usize,
        align: usize,
        frame: usize,
    ) -> Option<*mut u8> {
        let mut open = self.lock(pages)?;
        let index = slots::index_of(&pages.arena, address);
        let sample = open.tables().samples[index as usize];
        let place = sample.place();
        if let Some(touched) = first_overwritten(&sample, &place) {
            let stack = open.stack(frame);
            misuse::report(&mut open, Misuse::Overflow, touched, Some(index), stack);
        }
        let bytes = sample.class.block_bytes().get();
        let roomy = place.with_room_for(bytes, align)?;
        if !open.state.slots.widen(&Linux, &pages.arena, index, &place, &roomy) {
            return self.drop_one();
        }
        let roomy_address = slots::address(&pages.arena, index) + roomy.offset;
        let (from, to) = (address as *const u8, roomy_address as *mut u8);
        // SAFETY: the block has so many bytes, and its slot is open from its new address to the old one's end.
        unsafe { ptr::copy(from, to, sample.bytes as usize) };
        slots::fill_pad(roomy_address, bytes, &roomy);
        open.record_move(index, roomy_address, bytes, &roomy);
        Some(to)
    }

    /// Ends the process, for there is no block at `address`, a sample's. Returns only in a signal handler that
    /// interrupted its thread here.
    #[cold]
    pub fn fail_for_no_block(&self, pages: &HeapPages, address: usize) {
        if let Some(mut open) = self.lock(pages) {
            misuse::fail(&mut open, Misuse::NoBlock, address, None, UNKNOWN);
        }
    }

    /// Remembers a large block where it is. `None`: there is no room for it.
    #[cold]
    pub fn sample_large(
        &self,
        pages: &HeapPages,
        address: usize,
        bytes: usize,
        rate: u32,
        frame: usize,
    ) -> Option<SlotIndex> {
        let Some(mut open) = self.lock(pages) else { return self.drop_one() };
        let Some(index) = open.take(slots::count(&pages.arena)) else { return self.drop_one() };
        let stack = open.allocating_stack(frame);
        let nowhere = Place { offset: 0, first_page: 0, end_page: 0 };
        let (amount, class) = (amount(bytes, rate), SizeClass::NONE);
        let sample = new_sample(address, bytes, amount, stack, nowhere, class);
        open.record_allocation(index, sample, pages.totals.figures().used_pages.get());
        open.account(pages);
        Some(index)
    }

    /// The end of a large block, which was remembered as sample `index`, or not (0).
    pub fn forget_large(&self, pages: &HeapPages, index: SlotIndex) {
        if index == 0 {
            return;
        }
        // A signal handler that interrupted its thread here leaves the sample: it seems to live on.
        if let Some(mut open) = self.lock(pages) {
            open.record_free(index, UNKNOWN);
            open.put(index);
        }
    }

    /// Tells on standard error what an access at `address` means, an address among the slots. In the handler of
    /// the fault.
    pub fn explain_fault(&self, pages: &HeapPages, address: usize, registers: Registers) {
        misuse::explain_fault(self.lock(pages), &pages.arena, address, registers);
    }
}

/// What a sample of `bytes` at `rate` stands for.
fn amount(bytes: usize, rate: u32) -> Amount {
    let weight = countdown::weight(bytes as u64, rate);
    Amount { objects: (weight * OBJECT + 0.5) as u64, bytes: (weight * bytes as f64 + 0.5) as u64 }
}

fn new_sample(
    address: usize,
    bytes: usize,
    amount: Amount,
    stack: StackId,
    place: Place,
    class: SizeClass,
) -> Sample {
    Sample {
        address: address as u64,
        bytes: bytes as u64,
        amount,
        allocated_at: os::precise_now().0,
        freed_at: 0,
        stack,
        freed_stack: UNKNOWN,
        thread: os::known_thread(),
        freed_thread: 0,
        first_page: place.first_page as u8,
        end_page: place.end_page as u8,
        next: 0,
        class,
    }
}

/// The first byte behind a sample's block that has been written to.
fn first_overwritten(sample: &Sample, place: &Place) -> Option<usize> {
    let end = sample.address as usize + sample.bytes as usize;
    let pad = end as *const u8;
    // SAFETY: these bytes are its pages', which are open while it is live.
    let pad = unsafe { core::slice::from_raw_parts(pad, place.slack(sample.bytes as usize)) };
    pad.iter().position(|&byte| byte != PAD).map(|offset| end + offset)
}
