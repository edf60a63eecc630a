//! What a process has mapped where: the lines of `/proc/PID/maps`, and of `/proc/PID/smaps` with what
//! the kernel backs of each mapping.

use std::collections::BTreeMap;
use std::ops::Range;

/// One mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapsLine<'a> {
    pub start: u64,
    pub end: u64,
    /// As the kernel writes it: `rw-p`.
    pub access: &'a str,
    /// Where in the file it begins.
    pub offset: u64,
    /// What the file is on.
    pub device: &'a str,
    /// The number of the file that is mapped, or 0.
    pub inode: u64,
    /// A path, or a word in brackets, or nothing.
    pub name: &'a str,
}

impl<'a> MapsLine<'a> {
    /// Reads a line of `maps`, or a first line of `smaps`; `None` for any other.
    pub(crate) fn parse(line: &'a str) -> Option<MapsLine<'a>> {
        // The name may have blanks in it, the five fields before it may not.
        let mut fields = line.splitn(6, ' ');
        let address = |digits| u64::from_str_radix(digits, 16).ok();
        let (start, end) = fields.next()?.split_once('-')?;
        let (start, end) = (address(start)?, address(end)?);
        let access = fields.next().filter(|access| access.len() == 4)?;
        let offset = address(fields.next()?)?;
        let device = fields.next()?;
        let inode = fields.next()?.parse().ok()?;
        let name = fields.next().unwrap_or("").trim_start_matches(' ');
        let mapping = MapsLine { start, end, access, offset, device, inode, name };
        (start < end).then_some(mapping)
    }

    /// The file that is mapped, in any place of it.
    pub(crate) fn file(&self) -> (&'a str, u64) {
        (self.device, self.inode)
    }

    /// May it be executed?
    pub(crate) fn is_executable(&self) -> bool {
        self.access.contains('x')
    }

    /// Is it memory of the process alone, and of no file?
    pub(crate) fn is_private_anonymous(&self) -> bool {
        self.inode == 0 && self.access.ends_with('p')
    }

    /// May nobody touch it?
    pub(crate) fn is_guard(&self) -> bool {
        self.is_private_anonymous() && self.access.starts_with("---")
    }
}

/// A mapping, or all mappings of one name, and how much of it is resident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingUse {
    /// What `/proc/PID/smaps` calls it: the path of a file, a word in brackets (`[heap]`, `[anon:…]`), or
    /// its range of addresses where it has no name. Without control characters.
    pub name: String,
    /// How much of it is resident.
    pub resident_bytes: u64,
}

/// The `most` largest mappings in the text of `smaps` of which at least `least_bytes` are resident, the
/// largest first. What touches one of `except` is left out; mappings of one name count as one.
pub(crate) fn largest(
    smaps: &str,
    except: &[Range<u64>],
    least_bytes: u64,
    most: usize,
) -> Vec<MappingUse> {
    let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
    let mut name = None;
    for line in smaps.lines() {
        if let Some(mapping) = MapsLine::parse(line) {
            let is_left_out =
                except.iter().any(|one| mapping.start < one.end && one.start < mapping.end);
            name = (!is_left_out).then(|| match mapping.name {
                "" => format!("{:x}-{:x}", mapping.start, mapping.end),
                name => name.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
            });
        } else if let (Some(name), Some(kib)) = (&name, resident_kib(line)) {
            *by_name.entry(name.clone()).or_default() += kib.saturating_mul(1024);
        }
    }
    let mut uses: Vec<MappingUse> = by_name
        .into_iter()
        .map(|(name, resident_bytes)| MappingUse { name, resident_bytes })
        .filter(|one| one.resident_bytes >= least_bytes)
        .collect();
    uses.sort_by_key(|one| std::cmp::Reverse(one.resident_bytes));
    uses.truncate(most);
    uses
}

fn resident_kib(line: &str) -> Option<u64> {
    line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_others_left_alone() {
        let line =
            "7f00a000-7f00b000 rw-s 00001000 fe:01 1234                 /dev/shm/a b (deleted)";
        let expected = MapsLine {
            start: 0x7f00_a000,
            end: 0x7f00_b000,
            access: "rw-s",
            offset: 0x1000,
            device: "fe:01",
            inode: 1234,
            name: "/dev/shm/a b (deleted)",
        };
        assert_eq!(MapsLine::parse(line), Some(expected));
        let unnamed = MapsLine::parse("7f00a000-7f00b000 ---p 00000000 00:00 0").expect("one");
        assert_eq!((unnamed.name, unnamed.is_guard()), ("", true));
        for line in [
            "",
            "Rss:                 100 kB",
            "VmFlags: rd wr mr mw me ac sd",
            "b-a rw-p 0 00:00 0",
            "x-y rw-p 0 00:00 0",
            "1-2 rw 0 00:00 0",
        ] {
            assert_eq!(MapsLine::parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_largest_are_named_and_those_of_one_name_are_one() {
        let smaps = "1000-2000 rw-p 00000000 00:00 0\nSize: 4 kB\nRss:     900 kB\n\
            2000-3000 rw-p 00000000 00:00 0          [anon:a pool]\nRss:      600 kB\nPss: 1 kB\n\
            3000-4000 rw-s 00000000 00:01 9          /memfd:x\u{1b} (deleted)\nRss:    800 kB\n\
            4000-5000 rw-p 00000000 00:00 0          [anon:a pool]\nRss:      700 kB\n\
            5000-6000 rw-p 00000000 00:00 0\nRss:      9000 kB\n\
            6000-7000 rw-p 00000000 00:00 0\nRss:      99 kB\n";
        let found = |least, most| {
            let uses = largest(smaps, std::slice::from_ref(&(0x5000..0x6000)), least, most);
            uses.into_iter().map(|one| (one.name, one.resident_bytes >> 10)).collect::<Vec<_>>()
        };
        let all = [("[anon:a pool]", 1300), ("1000-2000", 900), ("/memfd:x? (deleted)", 800)]
            .map(|(name, kib)| (name.to_string(), kib));
        assert_eq!(found(100 << 10, 5), all);
        assert_eq!(found(100 << 10, 1), all[..1]);
        assert_eq!(found(1000 << 10, 5), all[..1]);
        assert_eq!(largest("nonsense\nRss: 5 kB\n", &[], 0, 5), []);
    }
}
