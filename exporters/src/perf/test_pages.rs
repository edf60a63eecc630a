//! For tests: page faults that can be counted.

use std::io::Write;

use super::plan::Plan;

const PAGE: usize = 4096;

/// What can be counted here; `None`, and a word about it, where nothing can. In CI, something can.
pub fn plan() -> Option<Plan> {
    let plan = Plan::probe();
    if let Err(error) = &plan {
        assert!(std::env::var_os("CI").is_none(), "{error}, and this is CI");
        // Not `eprintln!`, which the test runner keeps to itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {error}");
    }
    plan.ok()
}

/// Pages that nobody has touched.
pub struct Fresh {
    start: *mut u8,
    pages: usize,
}

impl Fresh {
    /// So many.
    pub fn new(pages: usize) -> Fresh {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, wherever there is room.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, access, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: the mapping just made. One fault a page, whatever the system's setting.
        unsafe { libc::madvise(start, pages * PAGE, libc::MADV_NOHUGEPAGE) };
        Fresh { start: start.cast(), pages }
    }

    /// Faults once for each of these pages.
    pub fn touch(&self, pages: std::ops::Range<usize>) {
        assert!(pages.end <= self.pages);
        for page in pages {
            // SAFETY: inside the mapping.
            let place = unsafe { self.start.add(page * PAGE) };
            // SAFETY: as above.
            unsafe { place.write_volatile(1) };
        }
    }
}

// SAFETY: an address range of its own, which stays.
unsafe impl Send for Fresh {}
