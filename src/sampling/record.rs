//! What is kept of a sample, and what is read from outside.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

use super::call_sites::{Amount, StackId, StackTable};
use super::countdown::Countdowns;
use super::growing_array::GrowingArray;
use super::modules::ModuleTable;
use super::slots::Place;
use crate::base::counter::Counter;
use crate::base::units::{PAGE_BYTES, SPAN_BYTES};
use crate::geometry::size_class::SizeClass;
use crate::geometry::slot::{MAX_SLOTS, SlotIndex, TABLE_BYTES};
use crate::os::sequence::Sequence;
use crate::stack::Scratch;

/// One sampled allocation, live or in quarantine. All-zero memory is one that never was used.
///
/// # Invariants
/// Live: `freed_at` is 0. It lies in its slot where `end_page` is not 0.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Sample {
    pub address: u64,
    pub bytes: u64,
    /// What it stands for.
    pub amount: Amount,
    pub allocated_at: u64,
    pub freed_at: u64,
    pub stack: StackId,
    pub(super) freed_stack: StackId,
    pub(super) thread: u32,
    pub(super) freed_thread: u32,
    pub(super) first_page: u8,
    pub(super) end_page: u8,
    /// In quarantine: the one that was freed next.
    pub(super) next: SlotIndex,
    /// In a slot: the class that it would have as an ordinary block.
    pub class: SizeClass,
}

impl Sample {
    pub(super) fn place(&self) -> Place {
        Place {
            offset: self.address as usize % SPAN_BYTES,
            first_page: self.first_page as usize,
            end_page: self.end_page as usize,
        }
    }

    pub(super) fn is_in_slot(&self) -> bool {
        self.end_page != 0
    }

    pub fn is_live(&self) -> bool {
        self.address != 0 && self.freed_at == 0
    }
}

/// What does not fit into the static records: mapped when the first sample is taken. All-zero memory becomes
/// tables by [`Tables::make_ready`].
#[repr(C)]
pub(crate) struct Tables {
    pub stacks: StackTable,
    pub modules: ModuleTable,
    /// The first one stands for none.
    pub samples: GrowingArray<Sample>,
    pub(super) scratch: Scratch,
}

const SAMPLES: usize = MAX_SLOTS as usize + 1;

const _: () = assert!(
    StackTable::BYTES + ModuleTable::BYTES + GrowingArray::<Sample>::bytes_for(SAMPLES)
        <= TABLE_BYTES
);

impl Tables {
    /// Before their first use; `addresses` is the first of [`TABLE_BYTES`] unused ones. `false`: the system has no
    /// memory for them.
    ///
    /// # Safety
    /// Nobody else uses these addresses.
    pub unsafe fn make_ready(&mut self, addresses: usize) -> bool {
        let modules = addresses + StackTable::BYTES;
        // SAFETY: the caller says so.
        unsafe { self.modules.make_ready(modules) };
        // SAFETY: the caller says so, and a sample is nothing but numbers.
        unsafe { self.samples.set_aside(modules + ModuleTable::BYTES, SAMPLES) };
        // SAFETY: the caller says so.
        self.samples.reach(1) && unsafe { self.stacks.make_ready(addresses) }
    }
}

/// Figures that are read without the lock, and from outside.
///
/// # Invariants
/// `sequence` is odd while tables change. The others are written with the lock held, but for `dropped`.
#[repr(C)]
pub(crate) struct ProfilerCounters {
    pub sequence: Sequence,
    pub tables: AtomicUsize,
    /// Samples `1..fresh` have been used.
    pub fresh: AtomicU32,
    pub(super) padding: AtomicU32,
    pub samples: Counter,
    /// Those that could not be kept, or whose stack could not.
    pub dropped: AtomicU64,
    /// Live samples in slots; their pages, and those kept open.
    pub live_blocks: Counter,
    pub live_pages: Counter,
    pub started: AtomicU64,
    pub peak_at: AtomicU64,
    pub countdowns: Countdowns,
}

const _: () = assert!(size_of::<Sample>() == 72 && PAGE_BYTES * 16 == SPAN_BYTES);
