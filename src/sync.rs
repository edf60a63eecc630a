//! Atomics, from `core` or from the model checker, and the one fence the lock-free transitions use.
//!
//! This is the only place where `cfg(loom)` chooses between two things.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Orders an atomic read-modify-write before every later load, against the same on other threads.
///
/// The lock-free transitions are of the kind "announce with a read-modify-write, then look at what
/// the other side announces": each side must see the other's announcement, or be seen. In the
/// language's memory model that takes a sequentially consistent fence on both sides. On x86_64 a
/// locked instruction already is a full barrier, so only the compiler has to be held back; a real
/// `mfence` there would cost more than the read-modify-write itself.
#[inline(always)]
pub(crate) fn fence_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(all(not(target_arch = "x86_64"), not(loom)))]
    core::sync::atomic::fence(Ordering::SeqCst);
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}
