//! Atomics, and the one fence the lock-free transitions use.
//!
//! The models (`tests/models.rs`) put the model checker's in the place of this file.

pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// Keeps the compiler from moving memory operations across. The processor is held back by the other
/// side's barrier (`os::barrier_all_threads`).
#[inline(always)]
pub(crate) fn compiler_barrier() {
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// Orders an atomic read-modify-write before every later load, against the same on other threads.
///
/// The lock-free transitions are of the kind "announce with a read-modify-write, then look at what
/// the other side announces": each side must see the other's announcement, or be seen. In the
/// language's memory model that takes a sequentially consistent fence on both sides. On x86_64 a
/// locked instruction already is a full barrier, so only the compiler has to be held back; a real
/// `mfence` there would cost more than the read-modify-write itself.
#[inline(always)]
pub(crate) fn fence_after_rmw() {
    if cfg!(target_arch = "x86_64") {
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}
