//! What a program's file says of allocators: the symbols and sections of ELF files, see elf(5).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What is known of a program's allocators.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Allocators {
    /// It exports a `malloc`, which goes before that of any library.
    pub exports_malloc: bool,
    /// Other allocators that it calls, or has in it, under their own names.
    pub named: Vec<&'static str>,
    /// A sanitizer whose run-time library must have every allocation.
    pub sanitizer: Option<&'static str>,
    /// It is written in Go, whose heap is no allocator's.
    pub is_go: bool,
}

/// Names by which allocators and sanitizers are known.
const NAMES: [(&str, &str); 10] = [
    ("mallocx", "jemalloc"),
    ("je_malloc", "jemalloc"),
    ("je_mallocx", "jemalloc"),
    ("_rjem_malloc", "jemalloc"),
    ("_rjem_mallocx", "jemalloc"),
    ("mi_malloc", "mimalloc"),
    ("mi_malloc_aligned", "mimalloc"),
    ("tc_malloc", "tcmalloc"),
    ("sn_malloc", "snmalloc"),
    ("sn_rust_alloc", "snmalloc"),
];
const SANITIZERS: [(&str, &str); 3] = [
    ("__asan_init", "AddressSanitizer"),
    ("__tsan_init", "ThreadSanitizer"),
    ("__msan_init", "MemorySanitizer"),
];

/// The section in which Go's linker names what a program was built of.
const GO_SECTION: &[u8] = b".go.buildinfo";

const HEADER_BYTES: usize = 64;
const SECTION_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;
const ALL_SYMBOLS: u32 = 2;
const EXPORTED_SYMBOLS: u32 = 11;

/// Larger tables are no program's.
const MAX_TABLE_BYTES: u64 = 512 << 20;

/// Reads a program's file; `None` where it is no ELF file of 64 bits, or says nothing of sections.
pub fn look(path: &Path) -> Option<Allocators> {
    let file = File::open(path).ok()?;
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0).ok()?;
    // Class 2 is 64 bits, encoding 1 little-endian.
    if !header.starts_with(b"\x7fELF\x02\x01") || u16_at(&header, 58) as usize != SECTION_BYTES {
        return None;
    }
    let mut headers = vec![0; SECTION_BYTES * u16_at(&header, 60) as usize];
    file.read_exact_at(&mut headers, u64_at(&header, 40)).ok()?;
    let sections: Vec<&[u8]> = headers.chunks_exact(SECTION_BYTES).collect();
    let mut found = Allocators::default();
    let names = content(&file, sections.get(u16_at(&header, 62) as usize)?)?;
    found.is_go = sections.iter().any(|section| name_at(&names, u32_at(section, 0)) == GO_SECTION);
    for section in &sections {
        let kind = u32_at(section, 4);
        if ![ALL_SYMBOLS, EXPORTED_SYMBOLS].contains(&kind) {
            continue;
        }
        let names =
            sections.get(u32_at(section, 40) as usize).and_then(|names| content(&file, names));
        let (Some(names), Some(symbols)) = (names, content(&file, section)) else { continue };
        for symbol in symbols.chunks_exact(SYMBOL_BYTES) {
            found.see(name_at(&names, u32_at(symbol, 0)), kind, u16_at(symbol, 6) != 0);
        }
    }
    Some(found)
}

impl Allocators {
    fn see(&mut self, name: &[u8], kind: u32, is_defined: bool) {
        let is = |(known, _): &&(&str, &str)| known.as_bytes() == name;
        self.exports_malloc |= kind == EXPORTED_SYMBOLS && is_defined && name == b"malloc";
        if let Some((_, allocator)) = NAMES.iter().find(is)
            && !self.named.contains(allocator)
        {
            self.named.push(allocator);
        }
        if let Some((_, sanitizer)) = SANITIZERS.iter().find(is) {
            self.sanitizer = Some(sanitizer);
        }
    }
}

/// What is in a section.
fn content(file: &File, section: &&[u8]) -> Option<Vec<u8>> {
    let bytes = u64_at(section, 32);
    if bytes > MAX_TABLE_BYTES || bytes > file.metadata().ok()?.len() {
        return None;
    }
    let mut content = vec![0; bytes as usize];
    file.read_exact_at(&mut content, u64_at(section, 24)).ok()?;
    Some(content)
}

/// The name at a place in a table of names; of none there, the empty one.
fn name_at(names: &[u8], at: u32) -> &[u8] {
    let name = names.get(at as usize..).unwrap_or_default();
    name.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_has_no_other_allocator() {
        let own = std::env::current_exe().expect("it is there");
        assert_eq!(look(&own), Some(Allocators::default()));
        assert_eq!(look(Path::new("/etc/passwd")), None);
    }

    #[test]
    fn symbols_are_known_by_their_whole_names() {
        let mut found = Allocators::default();
        found.see(b"malloc", EXPORTED_SYMBOLS, false);
        found.see(b"malloc", ALL_SYMBOLS, true);
        found.see(b"je_malloc_stats", ALL_SYMBOLS, true);
        assert_eq!(found, Allocators::default());
        found.see(b"malloc", EXPORTED_SYMBOLS, true);
        found.see(b"je_malloc", ALL_SYMBOLS, true);
        found.see(b"mallocx", EXPORTED_SYMBOLS, false);
        found.see(b"__asan_init", EXPORTED_SYMBOLS, false);
        let sanitizer = Some("AddressSanitizer");
        assert_eq!(
            found,
            Allocators { exports_malloc: true, named: vec!["jemalloc"], sanitizer, is_go: false }
        );
        assert_eq!(
            (name_at(b"\0ab\0c", 1), name_at(b"\0ab\0c", 4), name_at(b"x", 9)),
            (&b"ab"[..], &b"c"[..], &b""[..])
        );
    }
}
