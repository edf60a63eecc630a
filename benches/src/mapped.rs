//! Arrays outside the allocator that is measured: what a bench writes down while it measures must
//! neither be an allocation nor become resident at the wrong moment.

use std::io;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;

/// An array of fixed length in a mapping of its own.
///
/// # Invariants
///
/// `first` is the start of a private mapping of `mapped_bytes(len)` bytes, which belongs to this
/// value alone, and all `len` elements in it are initialized.
pub struct Mapped<T: Copy> {
    first: NonNull<T>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, as a `Vec`'s buffer does.
unsafe impl<T: Copy + Send> Send for Mapped<T> {}
// SAFETY: as above; shared references give out shared references.
unsafe impl<T: Copy + Sync> Sync for Mapped<T> {}

impl<T: Copy> Mapped<T> {
    /// An array of `len` times `value`: written once, so resident as a whole.
    pub fn new(len: usize, value: T) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped_bytes::<T>(len),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(start.cast::<T>()).expect("nothing is mapped at 0");
        // SAFETY: the mapping is large enough, page-aligned, new, and need not be initialized for
        // this type.
        let elements =
            unsafe { slice::from_raw_parts_mut(first.as_ptr().cast::<MaybeUninit<T>>(), len) };
        elements.fill(MaybeUninit::new(value));
        Ok(Mapped { first, len })
    }
}

/// What is mapped for `len` elements: at least one byte, for the kernel maps no less.
fn mapped_bytes<T>(len: usize) -> usize {
    len.saturating_mul(size_of::<T>()).max(1)
}

impl<T: Copy> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the invariants.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T: Copy> DerefMut for Mapped<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the invariants; `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T: Copy> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, as long as this, and nothing borrows from it any more.
        unsafe { libc::munmap(self.first.as_ptr().cast(), mapped_bytes::<T>(self.len)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_there_from_the_start_and_keep_what_is_written() {
        let mut numbers = Mapped::new(3000, 7_u32).unwrap();
        assert!(numbers.iter().all(|number| *number == 7));
        numbers[2999] = 1;
        assert_eq!((numbers.len(), numbers[2998], numbers[2999]), (3000, 7, 1));
        assert!(Mapped::new(0, 7_u32).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        assert!(Mapped::new(usize::MAX, 7_u64).is_err());
    }
}
