//! The kernel's own figures for a process, from `/proc/PID/status`.
//!
//! `status` is preferred to `smaps_rollup`, which walks page tables and takes milliseconds on a
//! large heap, and to `statm`, which has no peak and does not tell shared memory from files.

/// What the kernel counts as a process's resident memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Resident anonymous memory (`RssAnon`): the heap, the stacks, private data.
    pub anon_bytes: u64,
    /// Resident pages of mapped files (`RssFile`).
    pub file_bytes: u64,
    /// Resident shared memory (`RssShmem`).
    pub shmem_bytes: u64,
    /// The highest resident size so far (`VmHWM`).
    pub peak_bytes: u64,
    /// Anonymous memory that is swapped out (`VmSwap`), and so no part of what is resident; `None` where
    /// the kernel has no swap to tell of.
    pub swapped_bytes: Option<u64>,
}

impl ProcessMemory {
    /// Reads `/proc/self/status`; `None` where there is none or it lacks one of the four lines, so
    /// that an unknown figure is absent and never 0.
    pub fn read() -> Option<ProcessMemory> {
        // Bytes, not text: a thread may have given itself a name that is no UTF-8, and a long list
        // of groups makes the file larger than any fixed buffer.
        Self::parse(&std::fs::read("/proc/self/status").ok()?)
    }

    /// The same for another process.
    pub fn of(process: u32) -> Option<ProcessMemory> {
        Self::parse(&std::fs::read(format!("/proc/{process}/status")).ok()?)
    }

    /// What is swapped out, if anything is.
    pub fn swapped(&self) -> Option<u64> {
        self.swapped_bytes.filter(|&bytes| bytes > 0)
    }

    /// Everything that is resident.
    pub fn resident_bytes(&self) -> u64 {
        self.anon_bytes + self.file_bytes + self.shmem_bytes
    }

    fn parse(status: &[u8]) -> Option<ProcessMemory> {
        Some(ProcessMemory {
            anon_bytes: field_bytes(status, b"RssAnon:")?,
            file_bytes: field_bytes(status, b"RssFile:")?,
            shmem_bytes: field_bytes(status, b"RssShmem:")?,
            peak_bytes: field_bytes(status, b"VmHWM:")?,
            swapped_bytes: field_bytes(status, b"VmSwap:"),
        })
    }
}

/// The value of one line, which the kernel writes as `Name:   123 kB`.
fn field_bytes(status: &[u8], name: &[u8]) -> Option<u64> {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name))?;
    let kib = std::str::from_utf8(line.strip_suffix(b"kB")?).ok()?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_lines_are_found_among_others() {
        let status = b"Name:\tRssAnon: \xff 1 kB\nGroups:\t1 2 \nVmHWM:\t    2048 kB\n\
            RssAnon:\t     100 kB\nRssFile:\t       8 kB\nRssShmem:\t       4 kB\nVmSwap:\t      16 kB\nThreads:\t1\n";
        let memory = ProcessMemory::parse(status).expect("all four lines are there");
        assert_eq!(
            memory,
            ProcessMemory {
                anon_bytes: 102_400,
                file_bytes: 8192,
                shmem_bytes: 4096,
                peak_bytes: 2 << 20,
                swapped_bytes: Some(16384),
            }
        );
        assert_eq!(memory.resident_bytes(), 114_688);
    }

    #[test]
    fn a_missing_or_odd_line_is_no_figure() {
        for status in [
            "",
            "VmHWM: 1 kB\nRssAnon: 1 kB\nRssFile: 1 kB\n",
            "VmHWM: 1 kB\nRssAnon: x kB\nRssFile: 1 kB\nRssShmem: 1 kB\n",
            "VmHWM: 1 MB\nRssAnon: 1 kB\nRssFile: 1 kB\nRssShmem: 1 kB\n",
            "VmHWM: 99999999999999999999 kB\nRssAnon: 1 kB\nRssFile: 1 kB\nRssShmem: 1 kB\n",
        ] {
            assert_eq!(ProcessMemory::parse(status.as_bytes()), None, "{status:?}");
        }
    }

    #[test]
    fn this_process_is_resident() {
        let memory = ProcessMemory::read().expect("Linux has /proc/self/status");
        assert!(memory.anon_bytes > 0);
        assert!(memory.resident_bytes() <= memory.peak_bytes);
    }
}
