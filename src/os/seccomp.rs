//! What is known of filters of system calls (seccomp(2)), and so which calls may be made.
//!
//! A filter may end the process for a call that it does not know, and asking whether there is one is a call, too. So
//! the program says so before it sets one (`api::seccomp`), and from then on there are only the calls that any
//! malloc makes, and no thread of our own. A filter that was there before the program, as its service manager's or
//! its container's, is seen in `/proc`, in the way in which the loader has just read files: such filters are made
//! for programs of all kinds, and our threads do without what they are known to forbid.

use core::sync::atomic::{AtomicU32, Ordering};

use super::files::each_line;

/// What is known, or one of the values below. It only grows.
static KNOWN: AtomicU32 = AtomicU32::new(NOTHING);

/// Nobody has looked yet.
const NOTHING: u32 = 0;
/// There was none when somebody looked.
const NO_FILTER: u32 = 1;
/// There was one before the program.
const INHERITED: u32 = 2;
/// The same, and the kernel is older than `close_range`, which the filter may not know either.
const INHERITED_LONG_AGO: u32 = 3;
/// The program sets one.
const ANNOUNCED: u32 = 4;
/// The program leaves itself `read`, `write` and its end.
const STRICT: u32 = 5;

/// Looks for a filter that was there before the program, if nobody has yet. On a thread of the program's, which opens
/// a file for it: once, when the first thread of our own is about to start.
#[cold]
pub(crate) fn look_for_inherited() {
    if KNOWN.load(Ordering::Relaxed) != NOTHING {
        return;
    }
    let mut status = Status::UNREADABLE;
    each_line(c"/proc/self/status", &mut [0; 256], |line| {
        status.note(line);
        true
    });
    // What was announced meanwhile counts more.
    KNOWN.fetch_max(status.meaning(), Ordering::Relaxed);
}

/// What a `status` file in `/proc` says of filters.
struct Status {
    /// `0`: there is none.
    mode: u8,
    /// It says how many there are: since Linux 5.9, as `close_range`.
    counts_filters: bool,
}

impl Status {
    /// Where it cannot be read there may be anything.
    const UNREADABLE: Status = Status { mode: b'2', counts_filters: false };

    fn note(&mut self, line: &[u8]) {
        if let (true, Some(&mode)) = (line.starts_with(b"Seccomp:"), line.last()) {
            self.mode = mode;
        }
        self.counts_filters |= line.starts_with(b"Seccomp_filters:");
    }

    fn meaning(&self) -> u32 {
        match (self.mode, self.counts_filters) {
            (b'0', _) => NO_FILTER,
            (_, true) => INHERITED,
            (_, false) => INHERITED_LONG_AGO,
        }
    }
}

/// Was there a filter before the program? For threads of our own.
pub(crate) fn is_inherited() -> bool {
    matches!(KNOWN.load(Ordering::Relaxed), INHERITED | INHERITED_LONG_AGO)
}

/// May a thread of our own call `close_range`?
pub(super) fn may_close_range() -> bool {
    KNOWN.load(Ordering::Relaxed) != INHERITED_LONG_AGO
}

/// The program is about to set a filter, or, if `is_strict`, to leave itself `read`, `write` and its end.
pub(crate) fn announce(is_strict: bool) {
    KNOWN.fetch_max(if is_strict { STRICT } else { ANNOUNCED }, Ordering::Relaxed);
}

/// Are only the calls left that any malloc makes?
#[inline]
pub(crate) fn is_announced() -> bool {
    KNOWN.load(Ordering::Relaxed) >= ANNOUNCED
}

/// Is no call to be made but for memory that is not there yet?
#[inline]
pub(crate) fn is_strict() -> bool {
    KNOWN.load(Ordering::Relaxed) == STRICT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_of_filters_and_how_old_the_kernel_is() {
        let meaning = |text: &str| {
            let mut status = Status::UNREADABLE;
            text.lines().for_each(|line| status.note(line.as_bytes()));
            status.meaning()
        };
        assert_eq!(meaning(""), INHERITED_LONG_AGO, "nothing is known");
        assert_eq!(meaning("NoNewPrivs:\t1\nSeccomp:\t0\nSeccomp_filters:\t0"), NO_FILTER);
        assert_eq!(meaning("NoNewPrivs:\t0\nSeccomp:\t0\nThreads:\t2"), NO_FILTER);
        assert_eq!(meaning("Seccomp:\t2\nSeccomp_filters:\t3"), INHERITED);
        assert_eq!(meaning("NoNewPrivs:\t0\nSeccomp:\t2"), INHERITED_LONG_AGO);
    }
}
