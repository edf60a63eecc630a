//! Addresses and what backs them: mapped, guarded, moved, read with care.

use core::arch::asm;
use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use super::raw::system_call;
use super::seccomp;
use super::system::{AddressRange, Mapped};
use crate::base::units::PAGE_BYTES;

/// Where the kernel has last put a mapping that could be anywhere; 0 where there is none yet.
static LAST_PLACE: AtomicUsize = AtomicUsize::new(0);

/// Where the kernel looks for room for a mapping that may be anywhere. `None`: it has none.
pub(crate) fn mapping_area() -> Option<usize> {
    let known = LAST_PLACE.load(Ordering::Relaxed);
    if known != 0 {
        return Some(known);
    }
    let start = map(ptr::null_mut(), PAGE_BYTES, libc::PROT_NONE, libc::MAP_NORESERVE).ok()?;
    // SAFETY: it was mapped just now, and nobody knows of it.
    unsafe { unmap(AddressRange { start, bytes: PAGE_BYTES }) };
    Some(start)
}

/// Is something mapped at these addresses? `false`, too, where a limit forbids to look.
pub(crate) fn is_taken(range: AddressRange) -> bool {
    let mapped = map_at(range, libc::PROT_NONE, libc::MAP_NORESERVE);
    if mapped == Mapped::Here {
        // SAFETY: it was mapped just now, and nobody knows of it.
        unsafe { unmap(range) };
    }
    mapped == Mapped::Taken
}

/// Maps fresh zero memory at exactly these addresses, if nothing is mapped there.
pub(super) fn map_exactly(range: AddressRange) -> Mapped {
    map_at(range, libc::PROT_READ | libc::PROT_WRITE, 0)
}

fn map_at(range: AddressRange, protection: c_int, flags: c_int) -> Mapped {
    let flags = flags | libc::MAP_FIXED_NOREPLACE;
    match map(range.start as *mut c_void, range.bytes, protection, flags) {
        Ok(start) if start == range.start => Mapped::Here,
        Ok(start) => {
            // A kernel before 4.17 takes the address for a wish.
            // SAFETY: it was mapped just now, and nobody knows of it.
            unsafe { unmap(AddressRange { start, bytes: range.bytes }) };
            Mapped::Taken
        }
        Err(libc::EEXIST) => Mapped::Taken,
        Err(_) => Mapped::Refused,
    }
}

/// Maps fresh zero memory for the allocator's own records, without which it gets by.
pub(crate) fn map_metadata(bytes: usize) -> Option<usize> {
    if seccomp::is_strict() {
        return None;
    }
    let start = map(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, 0).ok()?;
    LAST_PLACE.store(start, Ordering::Relaxed);
    Some(start)
}

/// What [`map_aligned`] has mapped.
pub(crate) struct Aligned {
    pub start: usize,
    /// Zero memory as well, beside it: as good as [`map_metadata`]'s, and at least half as long but for a page.
    pub rest: AddressRange,
    /// How many calls it took.
    pub calls: usize,
}

/// The same, aligned to its size (a power of two), and never in huge pages: what is given back of it stays so.
pub(crate) fn map_aligned(bytes: usize) -> Option<Aligned> {
    let all = map_metadata(2 * bytes - PAGE_BYTES)?;
    let start = all.next_multiple_of(bytes);
    let end = start + bytes;
    let mut calls = 2;
    let before = AddressRange { start: all, bytes: start - all };
    let behind = AddressRange { start: end, bytes: all + bytes - PAGE_BYTES - start };
    let (rest, unused) =
        if before.bytes < behind.bytes { (behind, before) } else { (before, behind) };
    if unused.bytes > 0 {
        // SAFETY: this part was mapped just now, and nobody knows of it.
        unsafe { unmap(unused) };
        calls += 1;
    }
    forbid_huge_pages(AddressRange { start, bytes });
    Some(Aligned { start, rest, calls })
}

/// The address of a new mapping, or the error's number.
fn map(at: *mut c_void, bytes: usize, protection: c_int, flags: c_int) -> Result<usize, c_int> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // A page alone is written to at once by whoever maps it, and so need not be missed twice: to be read, and written.
    let is_used_at_once = bytes == PAGE_BYTES && protection & libc::PROT_WRITE != 0;
    let flags = flags | if is_used_at_once { libc::MAP_POPULATE } else { 0 };
    const NO_FILE: usize = usize::MAX;
    let arguments = [at as usize, bytes, protection as usize, flags as usize, NO_FILE, 0];
    // SAFETY: either a new mapping where there was none, or (`renew`) one over a range of the arena that
    // its caller owns alone.
    let address = unsafe { system_call(libc::SYS_mmap, arguments) };
    if address > 0 { Ok(address as usize) } else { Err(-address as c_int) }
}

/// Returns a mapping that turned out not to be needed.
///
/// # Safety
/// Nothing uses the range any more.
pub(crate) unsafe fn unmap(range: AddressRange) {
    // SAFETY: the caller says that nothing uses the range.
    unsafe { system_call(libc::SYS_munmap, [range.start, range.bytes]) };
}

/// What becomes of the place that pages are moved from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// It is mapped, and reads as zero.
    Mapped,
    /// It is not ours any more.
    Lost,
}

/// Moves the pages of `from` to `to` (as many bytes) by their page table entries, with the flags that the program may
/// have given to their mapping. `None` if the kernel refused, and nothing has changed.
///
/// # Safety
/// Both ranges are inside the arena and owned by the caller alone; they do not overlap.
pub(crate) unsafe fn move_pages(from: AddressRange, to: usize, has_flags: bool) -> Option<Left> {
    const MREMAP_DONTUNMAP: c_int = 4;
    if seccomp::is_strict() {
        return None;
    }
    // Locked pages that leave a mapping behind are counted as locked for ever (Linux 6.18).
    let stays = if has_flags { 0 } else { MREMAP_DONTUNMAP };
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | stays;
    let arguments = [from.start, from.bytes, from.bytes, flags as usize, to];
    // SAFETY: the caller owns both ranges.
    if unsafe { system_call(libc::SYS_mremap, arguments) } <= 0 {
        return None;
    }
    let is_mapped = !has_flags || map_exactly(from) == Mapped::Here;
    Some(if is_mapped { Left::Mapped } else { Left::Lost })
}

/// Makes what cannot be touched readable and writable. `false` if the system has no memory for it.
pub(crate) fn unprotect(range: AddressRange) -> bool {
    let read_write = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range lies in a mapping of ours; widening its protection harms nothing.
    unsafe { set_protection(range, read_write) }
}

/// Maps memory for a thread's stack, whose first `guard` bytes cannot be touched.
pub(crate) fn map_stack(bytes: usize, guard: usize) -> Option<usize> {
    let start = map(ptr::null_mut(), bytes, libc::PROT_NONE, libc::MAP_NORESERVE).ok()?;
    let range = AddressRange { start: start + guard, bytes: bytes - guard };
    if !unprotect(range) {
        // SAFETY: the range was mapped just now and nobody knows of it.
        unsafe { unmap(AddressRange { start, bytes }) };
        return None;
    }
    Some(start)
}

/// Since Linux 6.13; libc does not name them yet.
const MADV_GUARD_INSTALL: c_int = 102;

const MADV_GUARD_REMOVE: c_int = 103;

/// Gives the pages of `range` back and makes every touch of them a fault, without splitting the
/// mapping. `false` if the kernel cannot; nothing has changed then.
///
/// # Safety
/// The caller owns these pages, nobody else touches them, and what they hold is not needed any more.
pub(crate) unsafe fn install_guards(range: AddressRange) -> bool {
    // SAFETY: the caller says so of these pages.
    unsafe { advise_guards(range, MADV_GUARD_INSTALL) }
}

/// Makes the pages of `range` accessible again; they read as zero. `false` if the kernel does not: it may say that
/// it does (see `purge`), so it is asked whether it can read there before anybody else does.
///
/// # Safety
/// The caller owns these pages, nobody else touches them, and what they hold is not needed any more.
pub(crate) unsafe fn remove_guards(range: AddressRange) -> bool {
    // SAFETY: the caller says so of these pages.
    let are_removed = unsafe { advise_guards(range, MADV_GUARD_REMOVE) };
    are_removed && is_readable(range.start)
}

/// # Safety
/// As [`install_guards`].
unsafe fn advise_guards(range: AddressRange, advice: c_int) -> bool {
    // A filter may look at the advice, too.
    if seccomp::is_announced() {
        return false;
    }
    // SAFETY: the caller owns these pages and needs nothing of what they hold.
    unsafe { system_call(libc::SYS_madvise, [range.start, range.bytes, advice as usize]) == 0 }
}

/// Makes every touch of `range` a fault. `false` if the kernel refuses.
///
/// # Safety
/// The caller owns these pages, nobody else touches them, and what they hold is not needed any more.
pub(crate) unsafe fn protect(range: AddressRange) -> bool {
    // SAFETY: the caller owns these pages and does not touch them from here on.
    unsafe { set_protection(range, libc::PROT_NONE) }
}

/// # Safety
/// The pages are ours; nobody touches them whom the new protection does not let.
unsafe fn set_protection(range: AddressRange, protection: c_int) -> bool {
    if seccomp::is_strict() {
        return false;
    }
    let arguments = [range.start, range.bytes, protection as usize];
    // SAFETY: the caller says so.
    unsafe { system_call(libc::SYS_mprotect, arguments) == 0 }
}

/// Puts fresh zero pages in the place of `range`, which becomes one mapping with its neighbours
/// again. `false` if the kernel refused; the old pages are then still there.
///
/// # Safety
/// The caller owns these pages, nobody else touches them, and what they hold is not needed any more.
pub(crate) unsafe fn renew(range: AddressRange) -> bool {
    if seccomp::is_strict() {
        return false;
    }
    let read_write = libc::PROT_READ | libc::PROT_WRITE;
    let renewed = map(range.start as *mut c_void, range.bytes, read_write, libc::MAP_FIXED)
        == Ok(range.start);
    advise_huge_pages(range);
    renewed
}

/// Takes back what a program may have said of these pages, as far as that goes without a new mapping: they can be
/// read and written, children have them, and core dumps. `false` if the kernel refuses any of it.
///
/// # Safety
/// The caller owns these pages.
pub(crate) unsafe fn undo_flags(range: AddressRange) -> bool {
    let read_write = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the caller owns these pages.
    let is_accessible = unsafe { set_protection(range, read_write) };
    let undone = [libc::MADV_DOFORK, libc::MADV_KEEPONFORK, libc::MADV_DODUMP];
    is_accessible && undone.into_iter().all(|advice| advise(range, advice))
}

/// What the kernel is told about huge pages for the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HugePages {
    Never,
    /// Whatever the system's setting is.
    System,
    Always,
}

/// The advice in force, or [`NO_ADVICE`].
static HUGE_PAGE_ADVICE: AtomicI32 = AtomicI32::new(NO_ADVICE);

const NO_ADVICE: i32 = -1;

/// Says of all that is mapped for the heap later whether it may have huge pages.
pub(crate) fn set_huge_pages(huge_pages: HugePages) {
    let advice = match huge_pages {
        HugePages::Never => libc::MADV_NOHUGEPAGE,
        HugePages::System => NO_ADVICE,
        HugePages::Always => libc::MADV_HUGEPAGE,
    };
    HUGE_PAGE_ADVICE.store(advice, Ordering::Relaxed);
}

/// Says that `range` is to have no huge pages, whatever is said of the rest.
pub(crate) fn forbid_huge_pages(range: AddressRange) {
    advise(range, libc::MADV_NOHUGEPAGE);
}

/// Gives the advice that is in force for a new part of the heap, which becomes one mapping with its neighbours.
pub(crate) fn advise_huge_pages(range: AddressRange) {
    let advice = HUGE_PAGE_ADVICE.load(Ordering::Relaxed);
    if advice != NO_ADVICE {
        advise(range, advice);
    }
}

/// About huge pages, dumps and forks. `false` if the kernel refuses: one without huge pages does; a filter may do
/// worse, and is not tried.
fn advise(range: AddressRange, advice: c_int) -> bool {
    if seccomp::is_announced() {
        return false;
    }
    // SAFETY: this advice changes no content.
    unsafe { system_call(libc::SYS_madvise, [range.start, range.bytes, advice as usize]) == 0 }
}

/// Copies the page in which `address` is, a multiple of 8 on the calling thread's stack or anywhere; `false` if it
/// cannot be read. An address at which nothing is mapped does no harm: the kernel is asked whether it can read there,
/// by a call that every malloc makes, so that filters allow it.
pub(crate) fn read_own_page(address: usize, words: &mut [u64]) -> bool {
    debug_assert_eq!(words.len(), PAGE_BYTES / 8);
    if !is_readable(address) {
        return false;
    }
    // SAFETY: the kernel has read from this page just now, and a thread's stack stays.
    unsafe { read_mapped_memory(address - address % PAGE_BYTES, words) };
    true
}

/// Copies what is at `address`, a multiple of 8, without asking. In assembly: other threads may write to it, which is
/// no business of the compiler's, nor of a sanitizer's.
///
/// # Safety
/// All of it is mapped.
pub(crate) unsafe fn read_mapped_memory(address: usize, words: &mut [u64]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller says that all of it is mapped; it goes to `words`, which has so many.
    unsafe {
        asm!("rep movsq", inout("rcx") words.len() => _, inout("rsi") address => _,
            inout("rdi") words.as_mut_ptr() => _, options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    for (place, from) in words.iter_mut().zip((address..).step_by(8)) {
        // SAFETY: the caller says that it is mapped.
        unsafe {
            asm!("ldr {}, [{}]", out(reg) *place, in(reg) from,
                options(nostack, preserves_flags, readonly));
        }
    }
}

/// Can the kernel read the page of `address`, a multiple of 4? Before it would wait there for no time it compares
/// what is there with a value, which hardly ever is the same.
fn is_readable(address: usize) -> bool {
    const SOME_VALUE: usize = 0x7a3c_91e5;
    if seccomp::is_strict() {
        return false;
    }
    let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let wait = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    let arguments = [address, wait, SOME_VALUE, &raw const no_time as usize];
    // SAFETY: the kernel refuses addresses that it cannot read, and writes nothing.
    let result = unsafe { system_call(libc::SYS_futex, arguments) };
    [-libc::EAGAIN, -libc::ETIMEDOUT].contains(&(result as c_int))
}
