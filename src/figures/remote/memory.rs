//! The memory that is read, and what can go wrong.

use core::mem::MaybeUninit;

/// How often to read again what changed while it was read.
pub(super) const MAX_ATTEMPTS: u32 = 64;

/// No address of a program is as high.
pub(super) const ADDRESS_END: u64 = 1 << 57;

/// The memory that is read.
pub trait Memory {
    /// Fills `into` with what is at `address`; `false` if not all of it can be read.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;

    /// Fills each piece of `bytes` bytes in `into` with what is at `first`, `first + stride`, …
    fn read_strided(&self, first: u64, stride: u64, bytes: usize, into: &mut [u8]) -> bool {
        into.chunks_exact_mut(bytes)
            .zip(0..)
            .all(|(piece, i)| self.read(first.wrapping_add(stride.wrapping_mul(i)), piece))
    }
}

/// Why a heap could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteError {
    /// There is no root at the address.
    NoRoot,
    /// The heap is one of another version, whose layout this program does not know.
    OtherLayout {
        /// What it says its layout is.
        found: u32,
        /// What this program reads.
        expected: u32,
    },
    /// Memory that the heap says is its own cannot be read: the process has ended, or has no heap yet.
    Unreadable {
        /// Where.
        address: u64,
    },
    /// What was read cannot be: the named thing is out of all bounds.
    Nonsense(&'static str),
}

impl core::fmt::Display for RemoteError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            RemoteError::NoRoot => f.write_str("there is no heap of Slackwater's"),
            RemoteError::OtherLayout { found, expected } => write!(
                f,
                "its heap has layout {found}, and this program reads layout {expected}: use the \
                 slackwater of the same version"
            ),
            RemoteError::Unreadable { address } => {
                write!(f, "its memory at {address:#x} cannot be read")
            }
            RemoteError::Nonsense(what) => write!(f, "its {what} cannot be what they say"),
        }
    }
}

impl core::error::Error for RemoteError {}

/// The bytes at `address`, as a `T` that may not be a valid one.
pub(super) fn read_plain<T>(
    memory: &impl Memory,
    address: u64,
) -> Result<MaybeUninit<T>, RemoteError> {
    let mut value = MaybeUninit::<T>::zeroed();
    let start = value.as_mut_ptr().cast::<u8>();
    // SAFETY: the bytes are `value`'s, all initialized, and nobody else's while the slice is used.
    let bytes = unsafe { core::slice::from_raw_parts_mut(start, size_of::<T>()) };
    if memory.read(address, bytes) { Ok(value) } else { Err(RemoteError::Unreadable { address }) }
}

pub(super) fn read_words(
    memory: &impl Memory,
    address: u64,
    into: &mut [u64],
) -> Result<(), RemoteError> {
    let (start, bytes) = (into.as_mut_ptr().cast::<u8>(), size_of_val(into));
    // SAFETY: the bytes are those of `into`, and every value is valid.
    let bytes = unsafe { core::slice::from_raw_parts_mut(start, bytes) };
    if memory.read(address, bytes) { Ok(()) } else { Err(RemoteError::Unreadable { address }) }
}

pub(super) fn read_word(memory: &impl Memory, address: u64) -> Result<u64, RemoteError> {
    let mut bytes = [0; 8];
    if !memory.read(address, &mut bytes) {
        return Err(RemoteError::Unreadable { address });
    }
    Ok(u64::from_le_bytes(bytes))
}
