//! The numbers of the slots at the arena's end, one for each sampled block.

/// The number of a slot, and of a sample: 1 to [`MAX_SLOTS`].
pub(crate) type SlotIndex = u16;

/// The most slots of a process.
pub(crate) const MAX_SLOTS: u32 = SlotIndex::MAX as u32;

/// Addresses behind the slots for the tables about samples.
pub(crate) const TABLE_BYTES: usize = 16 << 20;
