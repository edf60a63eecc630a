//! Names of code that a program compiles while it runs: interpreters and virtual machines write them to
//! `/tmp/perf-PID.map`, as perf reads it. A line is `start size name`, with hexadecimal numbers; where
//! places are used again, the last line counts.
//!
//! Anybody may write a file of that name: it counts only if it is the process's user's, or root's.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use super::frame::{Frame, printable};

/// More of a file is not read. A large virtual machine's has a few MiB.
const MAX_BYTES: u64 = 64 << 20;

/// The functions at those addresses that a process has named in its file. Reads the whole of it.
pub fn find(process: u32, addresses: &[u64]) -> Vec<(u64, Frame)> {
    let Some(text) = read(process) else { return Vec::new() };
    look_up(&String::from_utf8_lossy(&text), addresses)
}

fn look_up(text: &str, addresses: &[u64]) -> Vec<(u64, Frame)> {
    let mut found: Vec<(u64, Frame)> = Vec::new();
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let mut number = || u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok();
        let (Some(start), Some(bytes)) = (number(), number()) else { continue };
        let Some(name) = words.next().filter(|name| !name.is_empty()) else { continue };
        for &address in addresses {
            // That of the call which returns there.
            if address.wrapping_sub(1).wrapping_sub(start) < bytes {
                let function = printable(name);
                let frame = Frame { function, ..Frame::default() };
                match found.iter_mut().find(|(known, _)| *known == address) {
                    Some((_, known)) => *known = frame,
                    None => found.push((address, frame)),
                }
            }
        }
    }
    found
}

/// The file, by the name that it has in the process's own namespaces.
fn read(process: u32) -> Option<Vec<u8>> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let own = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let own = own.and_then(|numbers| numbers.split_whitespace().next_back());
    let own = own.map_or_else(|| process.to_string(), str::to_string);
    let path = format!("/proc/{process}/root/tmp/perf-{own}.map");
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let (found, owner) = (file.metadata().ok()?, fs::metadata(format!("/proc/{process}")).ok()?);
    if !found.is_file() || (found.uid() != owner.uid() && found.uid() != 0) {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_perf_has_them_and_the_last_counts() {
        let text =
            "7f00 10 old name\n0x7f00 0x20 py::f:/app.py\nnonsense\n9000 zz x\n\n7f40 8 \n8000 8 g";
        let found = look_up(text, &[0x7f00, 0x7f01, 0x7f20, 0x7f21, 0x7f44, 0x8008, u64::MAX]);
        let names: Vec<(u64, &str)> =
            found.iter().map(|(address, frame)| (*address, &frame.function[..])).collect();
        let f = "py::f:/app.py";
        assert_eq!(names, [(0x7f01, f), (0x7f20, f), (0x8008, "g")]);
    }

    #[test]
    fn a_file_counts_that_is_the_processs_own() {
        let path = format!("/tmp/perf-{}.map", std::process::id());
        fs::write(&path, "1000 10 compiled\n").expect("writable");
        let found = find(std::process::id(), &[0x1001]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.function, "compiled");
        fs::remove_file(&path).expect("it was there");
        std::os::unix::fs::symlink("/etc/passwd", &path).expect("writable");
        assert!(find(std::process::id(), &[0x1001]).is_empty(), "a link is not followed");
        fs::remove_file(&path).expect("it was there");
    }
}
