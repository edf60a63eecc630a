//! What the kernel says of a process: its memory, its name, when it was started, and whose child it is.
//!
//! Of its memory `status` tells. `smaps_rollup` walks page tables, which takes milliseconds on a large heap; `statm`
//! has no peak, and does not tell shared memory from files.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

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
        Self::parse(&fs::read("/proc/self/status").ok()?)
    }

    /// The same for another process.
    pub fn of(process: u32) -> Option<ProcessMemory> {
        Self::parse(&fs::read(format!("/proc/{process}/status")).ok()?)
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

/// Resident memory of which what several processes share (forked workers do) is divided by their number:
/// summed over them it is what there really is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProportionalMemory {
    /// Of anonymous memory (`Pss_Anon`).
    pub anon_bytes: u64,
    /// Of mapped files (`Pss_File`).
    pub file_bytes: u64,
    /// Of shared memory (`Pss_Shmem`).
    pub shmem_bytes: u64,
}

impl ProportionalMemory {
    /// Reads `/proc/PID/smaps_rollup`; `None` where the kernel has none, or it may not be read. The kernel
    /// walks all of the process's pages for it: some 10 ms for each GiB that is resident.
    pub fn of(process: u32) -> Option<ProportionalMemory> {
        Self::parse(&fs::read(format!("/proc/{process}/smaps_rollup")).ok()?)
    }

    fn parse(rollup: &[u8]) -> Option<ProportionalMemory> {
        Some(ProportionalMemory {
            anon_bytes: field_bytes(rollup, b"Pss_Anon:")?,
            file_bytes: field_bytes(rollup, b"Pss_File:")?,
            shmem_bytes: field_bytes(rollup, b"Pss_Shmem:")?,
        })
    }
}

/// The least time for which [`ProportionalMemory`] is believed, and of what it took to read, how many
/// times as long: a two hundredth of a processor's time at most.
const MIN_BELIEVED: Duration = Duration::from_secs(10);
const BELIEVED_SHARE: u32 = 200;

/// The last that was read of a process's [`ProportionalMemory`].
#[derive(Debug, Default)]
pub(crate) struct LastProportional(Option<(Instant, Option<ProportionalMemory>)>);

impl LastProportional {
    /// What was read last, or is read now if that was long ago.
    pub(crate) fn of(&mut self, process: u32) -> Option<ProportionalMemory> {
        let now = Instant::now();
        match self.0 {
            Some((until, last)) if now < until => last,
            _ => {
                let read = ProportionalMemory::of(process);
                let believed = MIN_BELIEVED.max(now.elapsed() * BELIEVED_SHARE);
                self.0 = Some((now + believed, read));
                read
            }
        }
    }
}

/// The value of one line, which the kernel writes as `Name:   123 kB`.
pub(crate) fn field_bytes(status: &[u8], name: &[u8]) -> Option<u64> {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name))?;
    let kib = std::str::from_utf8(line.strip_suffix(b"kB")?).ok()?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The numbers of all processes that can be seen.
pub fn processes() -> impl Iterator<Item = u32> {
    numbers_in(Path::new("/proc")).into_iter().flatten()
}

/// The numbers that a folder lists: processes, or a process's threads.
///
/// # Errors
///
/// When it cannot be read, as that of a process that has ended.
pub(crate) fn numbers_in(folder: &Path) -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir(folder)?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// A process as people know it: `redis-server (1234)`.
pub(crate) fn name_of(comm: &str, process: u32) -> String {
    format!("{comm} ({process})")
}

/// A process's name, or a thread's. Anything may be in it, and it ends up on terminals.
pub(crate) fn comm(process: u32) -> String {
    let name = fs::read(format!("/proc/{process}/comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name);
    name.trim_end_matches('\n').chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// When a process was started, in the kernel's ticks since boot. `None` for one that has ended, also while its
/// parent has not asked for its exit code.
pub fn start_time(process: u32) -> Option<u64> {
    stat_number(process, 22)
}

/// The process that started another one, or the one that took it over from that. `None` as for
/// [`start_time`].
pub fn parent(process: u32) -> Option<u32> {
    stat_number(process, 4)?.try_into().ok()
}

/// Is it one of the kernel's own, which have no memory of their own? See `PF_KTHREAD` in the kernel's
/// `include/linux/sched.h`.
pub(crate) fn is_kernel_thread(process: u32) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    stat_number(process, 9).is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// A field of a process's `stat`, counted from 1 as in proc(5); one behind the state. The second is a name
/// in parentheses that may hold anything.
fn stat_number(process: u32, field: usize) -> Option<u64> {
    let stat = fs::read(format!("/proc/{process}/stat")).ok()?;
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let fields = str::from_utf8(&stat[after_name..]).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(field - 4)?.parse().ok()
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
    fn the_proportional_parts_are_found_where_there_are_all_of_them() {
        let rollup =
            b"00400000-7ffd ---p 00000000 00:00 0 [rollup]\nRss:    100 kB\nPss:     30 kB\n\
            Pss_Dirty:  9 kB\nPss_Anon:   20 kB\nPss_File:    8 kB\nPss_Shmem:   2 kB\n";
        let expected =
            ProportionalMemory { anon_bytes: 20 << 10, file_bytes: 8 << 10, shmem_bytes: 2 << 10 };
        assert_eq!(ProportionalMemory::parse(rollup), Some(expected));
        assert_eq!(ProportionalMemory::parse(b"Pss_Anon:   20 kB\n"), None);
        let mut last = LastProportional::default();
        let first = last.of(std::process::id());
        assert_eq!(last.of(u32::MAX), first, "it is believed for a while");
    }

    #[test]
    fn this_process_is_resident() {
        let memory = ProcessMemory::read().expect("Linux has /proc/self/status");
        assert!(memory.anon_bytes > 0);
        assert!(memory.resident_bytes() <= memory.peak_bytes);
    }
}
