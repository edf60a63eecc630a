//! Arrays of which only as much is mapped as there is use for: the profiler's tables could be some megabytes long,
//! and are some pages in most programs.

use core::ops::{Deref, DerefMut};
use core::slice;

use crate::base::units::PAGE_BYTES;
use crate::os::{AddressRange, Linux, Mapped, Os};

/// Elements become accessible so many at a time: readers outside take as many, those after the last one included.
pub(crate) const READ_BATCH: usize = 64;

/// An array at addresses that are set aside for it, as a slice of its first elements.
///
/// # Invariants
/// - `length` elements from `start` on, a multiple of [`READ_BATCH`], are mapped, and nobody else's. They read as
///   zero until they are written.
/// - `mapped` bytes from `start` on are mapped; `capacity` elements, such a multiple too, are set aside.
#[repr(C)]
pub(crate) struct GrowingArray<T> {
    pub start: *mut T,
    length: usize,
    capacity: usize,
    mapped: usize,
}

impl<T: Copy> GrowingArray<T> {
    /// The addresses that an array of so many elements may need, in bytes.
    pub const fn bytes_for(capacity: usize) -> usize {
        (capacity * size_of::<T>()).next_multiple_of(PAGE_BYTES)
    }

    /// Sets `start`, the first of [`GrowingArray::bytes_for`] unused bytes, aside for an array without elements.
    ///
    /// # Safety
    /// All-zero memory is a `T`, `start` is a multiple of a page, and nobody else uses these addresses.
    pub unsafe fn set_aside(&mut self, start: usize, capacity: usize) {
        debug_assert!(capacity.is_multiple_of(READ_BATCH));
        *self = GrowingArray { start: start as *mut T, length: 0, capacity, mapped: 0 };
    }

    /// Makes at least the first `length` elements accessible, if they are not. `false`: there are no more, or the
    /// system has no memory.
    pub fn reach(&mut self, length: usize) -> bool {
        if length <= self.length {
            return true;
        }
        let length = length.next_multiple_of(READ_BATCH);
        if length > self.capacity {
            return false;
        }
        let bytes = GrowingArray::<T>::bytes_for(length);
        if bytes > self.mapped {
            let start = self.start as usize + self.mapped;
            let range = AddressRange { start, bytes: bytes - self.mapped };
            if Linux.map(range) != Mapped::Here {
                return false;
            }
            self.mapped = bytes;
        }
        self.length = length;
        true
    }
}

impl<T> Deref for GrowingArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        if self.start.is_null() {
            return &[];
        }
        // SAFETY: that many elements are mapped, all-zero is one, and `&self` keeps them from being written.
        unsafe { slice::from_raw_parts(self.start, self.length) }
    }
}

impl<T> DerefMut for GrowingArray<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        if self.start.is_null() {
            return &mut [];
        }
        // SAFETY: as in `deref`; `&mut self` is the only way to them.
        unsafe { slice::from_raw_parts_mut(self.start, self.length) }
    }
}

/// Gives all-zero memory with arrays in it addresses of its own, for tests.
#[cfg(test)]
pub(crate) fn addresses_for_a_test() -> usize {
    use crate::geometry::arena::Arena;
    let arena = Arena::new();
    assert!(arena.choose_window(&Linux, 0));
    arena.tables()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr;

    #[test]
    fn it_is_mapped_as_it_grows_and_no_further() {
        let mut array =
            GrowingArray::<[u64; 9]> { start: ptr::null_mut(), length: 0, capacity: 0, mapped: 0 };
        assert!(array.is_empty() && !array.reach(1), "nothing is set aside yet");
        let start = addresses_for_a_test();
        // SAFETY: numbers, at addresses of this test's.
        unsafe { array.set_aside(start, 1024) };
        assert!(array.is_empty());
        assert!(array.reach(1));
        assert_eq!((array.len(), array.mapped), (64, 8192));
        array[0] = [7; 9];
        assert!(array.reach(1000) && array.reach(3), "it never gets shorter");
        assert_eq!((array.len(), array.mapped), (1024, 18 * 4096));
        assert_eq!((array[0], array[1023]), ([7; 9], [0; 9]));
        assert!(!array.reach(1025));
    }

    #[test]
    fn what_others_have_there_stays_theirs() {
        let start = addresses_for_a_test();
        let mut array =
            GrowingArray::<u64> { start: ptr::null_mut(), length: 0, capacity: 0, mapped: 0 };
        // SAFETY: numbers, at addresses of this test's.
        unsafe { array.set_aside(start, 4096) };
        assert_eq!(Linux.map(AddressRange { start: start + 4096, bytes: 4096 }), Mapped::Here);
        assert!(array.reach(512));
        assert!(!array.reach(513));
        assert_eq!(array.len(), 512);
    }
}
