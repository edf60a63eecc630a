//! What the kernel says about this process, asked without allocating.

use std::io;

/// The process's RSS, again and again from one open file.
pub struct Rss {
    statm: libc::c_int,
    page_bytes: u64,
}

impl Rss {
    /// Opens the file.
    pub fn open() -> io::Result<Self> {
        // SAFETY: the path ends with a zero byte and lives through the call.
        let statm =
            unsafe { libc::open(c"/proc/self/statm".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if statm < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a question about a constant.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Ok(Rss { statm, page_bytes: page_bytes as u64 })
    }

    /// Resident bytes now.
    pub fn bytes(&self) -> u64 {
        let mut line = [0_u8; 128];
        // SAFETY: the buffer is as large as is said and lives through the call.
        let read = unsafe { libc::pread(self.statm, line.as_mut_ptr().cast(), line.len(), 0) };
        let line = line.get(..read.max(0) as usize).unwrap_or_default();
        resident_pages(line).expect("the kernel says the RSS") * self.page_bytes
    }
}

impl Drop for Rss {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours, and open.
        unsafe { libc::close(self.statm) };
    }
}

/// The second number of a line of `/proc/PID/statm`.
fn resident_pages(line: &[u8]) -> Option<u64> {
    let field = line.split(|byte| *byte == b' ').nth(1)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Page faults so far that needed no I/O, of all threads.
pub fn minor_faults() -> u64 {
    // SAFETY: an rusage is made of integers; all zeroes is one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is the one asked for and lives through the call.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    assert!(failed == 0, "the kernel does not count page faults");
    usage.ru_minflt as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_number_of_statm_is_the_rss() {
        assert_eq!(resident_pages(b"1234 567 89 1 0 22 0\n"), Some(567));
        assert_eq!(resident_pages(b"1234"), None);
        assert_eq!(resident_pages(b"1234 x 89"), None);
    }

    #[test]
    fn the_rss_grows_by_what_is_touched() {
        const MIB: u64 = 1 << 20;
        let rss = Rss::open().unwrap();
        let (before, faults) = (rss.bytes(), minor_faults());
        let touched = crate::mapped::Mapped::new(64 << 20, 1_u8).unwrap();
        let grown = rss.bytes() - before;
        assert!((60 * MIB..80 * MIB).contains(&grown), "{grown}");
        assert!(minor_faults() > faults);
        drop(touched);
    }
}
