//! What a program has the kernel do to pages of its blocks, and what becomes of that when they are freed.

use crate::heap::{HEAP, altered};
use crate::os::AddressRange;

/// Says that the program has the kernel change something about these addresses that lasts: `madvise` (advice that
/// lasts, as `MADV_DONTFORK` does), `mlock`, `mprotect`, `mbind`, or a mapping of its own in their place. What of it
/// lies in blocks ends with them: fresh pages are there before anybody else gets them. To be said before the call,
/// whether or not that succeeds; twice does no harm, nor do addresses that are not the allocator's. Of blocks up to
/// 32 KiB, which share pages, the change ends when none of them is in use any more.
///
/// Under the preload library it is said by the functions of libc, which are its own.
///
/// Any thread, and any signal handler: takes no lock. Nanoseconds; two comparisons where the addresses are elsewhere.
pub fn will_change(start: *const u8, bytes: usize) {
    altered::mark(&HEAP, AddressRange { start: start as usize, bytes });
}
