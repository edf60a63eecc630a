//! What keeps a program from being preloaded: the loader reads `LD_PRELOAD`, where there is one, and where
//! it is the one that the library was made for.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How many interpreters of interpreters the kernel follows.
const MAX_INTERPRETERS: usize = 5;

/// A script's first line, and an ELF header.
const HEAD_BYTES: usize = 256;

/// More of a program's headers than these are none of its loader's.
const MAX_HEADERS: u16 = 256;

const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;

/// What to do instead, where nothing can be preloaded.
const INSTEAD: &str =
    "has no Slackwater, unless it links the crate `slackwater` as its global allocator";

/// Why a program of that name cannot be preloaded, in one line; `None`: nothing is known against it.
pub fn obstacle(program: &OsStr) -> Option<String> {
    let files = executed_for(program);
    let against =
        |(path, why): (&PathBuf, String)| format!("{}: {why}, so it {INSTEAD}", path.display());
    let raised = files.iter().find_map(|path| Some((path, raised_rights(path)?.to_string())));
    raised.or_else(|| files.last().and_then(|path| Some((path, why_not(path)?)))).map(against)
}

/// The files that the system opens to execute a program of that name: a script and its interpreter, or the
/// program alone. Nothing where there is none.
pub fn executed_for(program: &OsStr) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut next = found_in_path(program);
    while let Some(path) = next.filter(|_| files.len() <= MAX_INTERPRETERS) {
        next = head_of(&path).and_then(|head| interpreter(head.strip_prefix(b"#!")?));
        files.push(path);
    }
    files
}

fn head_of(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(HEAD_BYTES as u64).read_to_end(&mut head).ok()?;
    Some(head)
}

/// The file that the system executes for a name, as `execvp` finds it.
pub fn found_in_path(program: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let folders = env::var_os("PATH")?;
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
    };
    env::split_paths(&folders).map(|folder| folder.join(program)).find(is_program)
}

/// The program that a script's first line names, or that `env` is to find by it.
fn interpreter(line: &[u8]) -> Option<PathBuf> {
    let line = line.split(|&byte| byte == b'\n').next()?;
    let mut words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    let first = PathBuf::from(OsString::from_vec(words.next()?.to_vec()));
    if first.file_name() != Some(OsStr::new("env")) {
        return Some(first);
    }
    // Its own options, and variables that it sets, come first.
    let found = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='));
    found.map_or(Some(first), |name| found_in_path(OsStr::from_bytes(name)))
}

/// A program that runs with more rights than its user has is not preloaded by them.
fn raised_rights(path: &Path) -> Option<&'static str> {
    // SAFETY: takes numbers.
    if unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } == 1 {
        // It has no more here, and is preloaded.
        return None;
    }
    let found = fs::metadata(path).ok()?;
    // SAFETY: no arguments, and it cannot fail.
    let user = unsafe { libc::geteuid() };
    // SAFETY: as above.
    let group = unsafe { libc::getegid() };
    let mode = found.permissions().mode();
    if mode & SET_USER != 0 && found.uid() != user {
        return Some("runs as another user (set-user-id), for which LD_PRELOAD is ignored");
    }
    if mode & SET_GROUP != 0 && found.gid() != group {
        return Some("runs as another group (set-group-id), for which LD_PRELOAD is ignored");
    }
    (user != 0 && has_capabilities(path))
        .then_some("is given capabilities by its file, for which LD_PRELOAD is ignored")
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let name = c"security.capability";
    // SAFETY: two C strings, and no room for a value, whose length alone is asked for.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

fn why_not(path: &Path) -> Option<String> {
    const NEEDED: u32 = 3;
    let (file, head) = (File::open(path).ok()?, head_of(path)?);
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let word = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    let wide = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    // Class 2 is 64 bits, encoding 1 little-endian.
    if head.get(4..6) != Some(&[2, 1]) || word(18)? != wide {
        let own = env::consts::ARCH;
        return Some(format!("is of another architecture than this library's ({own}, 64 bits)"));
    }
    // The loader itself has no loader, and reads LD_PRELOAD.
    if path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"ld-")) {
        return None;
    }
    let start = u64::from_le_bytes(head.get(32..40)?.try_into().ok()?);
    let (bytes, count) = (word(54)? as usize, word(56)?.min(MAX_HEADERS) as usize);
    if bytes < 56 {
        return None;
    }
    let mut headers = vec![0; bytes * count];
    file.read_exact_at(&mut headers, start).ok()?;
    let number =
        |header: &[u8], at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    let needed = |header: &&[u8]| u32::from_le_bytes(std::array::from_fn(|i| header[i])) == NEEDED;
    let Some(loader) = headers.chunks_exact(bytes).find(needed) else {
        return Some("is statically linked, and LD_PRELOAD has no effect on it".to_string());
    };
    let mut name = vec![0; number(loader, 32).min(4096) as usize];
    file.read_exact_at(&mut name, number(loader, 8)).ok()?;
    let name = String::from_utf8_lossy(&name);
    let name = name.trim_end_matches('\0');
    name.contains("musl")
        .then(|| format!("is made for another C library ({name}), and this one is for glibc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &[u8]) -> PathBuf {
        let path =
            env::temp_dir().join(format!("slackwater-executable-{name}-{}", std::process::id()));
        fs::write(&path, content).expect("writable");
        path
    }

    /// A header, and as many program headers as there are kinds.
    fn elf(class: u8, machine: u16, loader: Option<&str>) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56 + 64];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = if loader.is_some() { 3 } else { 1 };
        let loader = loader.unwrap_or_default();
        bytes[64 + 8] = 120;
        bytes[64 + 32] = loader.len() as u8;
        bytes[120..120 + loader.len()].copy_from_slice(loader.as_bytes());
        bytes
    }

    #[test]
    fn programs_that_read_no_preload_are_known_by_their_heads() {
        let own = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
        for (name, content, says) in [
            ("static", elf(2, own, None), Some("is statically linked")),
            ("narrow", elf(1, 3, Some("/lib/ld-linux.so.2")), Some("of another architecture")),
            ("other", elf(2, 40, None), Some("of another architecture")),
            (
                "musl",
                elf(2, own, Some("/lib/ld-musl-x86_64.so.1")),
                Some("another C library (/lib/ld-musl"),
            ),
            ("glibc", elf(2, own, Some("/lib64/ld-linux-x86-64.so.2")), None),
            ("short", elf(2, own, None)[..40].to_vec(), None),
            ("text", b"hello".to_vec(), None),
            ("empty", Vec::new(), None),
        ] {
            let path = file(name, &content);
            let found = obstacle(path.as_os_str());
            match says {
                None => assert_eq!(found, None, "{name}"),
                Some(says) => {
                    let line = found.expect(name);
                    assert!(line.contains(says) && line.contains("links the crate"), "{line}");
                }
            }
            let script = format!("#! {} -x\necho\n", path.display());
            let script = file(&format!("script-{name}"), script.as_bytes());
            assert_eq!(
                obstacle(script.as_os_str()).is_some(),
                says.is_some(),
                "a script of {name}"
            );
            for line in ["#!/usr/bin/env -S", "#!/usr/bin/env A=b", "#! /bin/env"] {
                let by_env = format!("{line} {} -x\n", path.display());
                let by_env = file(&format!("env-{name}"), by_env.as_bytes());
                assert_eq!(obstacle(by_env.as_os_str()).is_some(), says.is_some(), "{line} {name}");
                let _ = fs::remove_file(by_env);
            }
            let _ = (fs::remove_file(path), fs::remove_file(script));
        }
        let itself = file("itself", b"");
        fs::write(&itself, format!("#!{}\n", itself.display())).expect("writable");
        assert_eq!(obstacle(itself.as_os_str()), None, "it does not go on for ever");
        let _ = fs::remove_file(itself);
        assert_eq!(obstacle(OsStr::new("sh")), None);
        assert_eq!(obstacle(OsStr::new("no-such-program-anywhere")), None);
    }
}
