//! Finds the preload library without the user naming a path.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use slackwater::remote::NOTE_NAME;

use super::failure::Failure;

const FILE_NAME: &str = "libslackwater_preload.so";

/// Names the library outright; nothing else is tried then.
const VARIABLE: &str = "SLACKWATER_PRELOAD_LIB";

/// The library's absolute path.
pub fn find() -> Result<PathBuf, Failure> {
    let library = match env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        Some(named) => named_by_variable(named)?,
        None => near_the_program()?,
    };
    let path = library.to_string_lossy();
    if path.contains([' ', ':']) {
        return Err(Failure::bad_input(format_args!(
            "{path}: LD_PRELOAD cannot express a path with a space or a colon; \
             expected a copy elsewhere, named by {VARIABLE}"
        )));
    }
    Ok(library)
}

fn named_by_variable(named: OsString) -> Result<PathBuf, Failure> {
    // Absolute: the program may change its directory before it starts another one.
    match fs::canonicalize(&named) {
        Ok(library) if library.is_file() => match is_ours(&library) {
            true => Ok(library),
            false => Err(Failure::bad_input(format_args!(
                "{VARIABLE}={}: is not Slackwater's library; expected the path of {FILE_NAME}",
                named.to_string_lossy()
            ))),
        },
        _ => Err(Failure::bad_input(format_args!(
            "{VARIABLE}={}: no such file; expected the path of {FILE_NAME}",
            named.to_string_lossy()
        ))),
    }
}

/// Is it a library, or a program, that brings the allocator? It carries the note by which a process's heap is found
/// (`slackwater::remote`), which ELF aligns to four bytes. The loader would leave out anything else
/// with a line of its own, or load what is of no use.
pub fn is_ours(file: &Path) -> bool {
    let Ok(content) = fs::read(file) else { return false };
    content.starts_with(b"\x7fELF")
        && content
            .chunks_exact(4)
            .enumerate()
            .any(|(i, word)| word == &NOTE_NAME[..4] && content[i * 4..].starts_with(NOTE_NAME))
}

fn near_the_program() -> Result<PathBuf, Failure> {
    let program = env::current_exe()
        .map_err(|error| Failure::broken(format_args!("/proc/self/exe: {error}")))?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    search(folder).ok_or_else(|| {
        Failure::bad_input(format_args!(
            "{FILE_NAME} not found beside {}, in deps/ or ../lib from there; \
             expected it in one of these places or named by {VARIABLE}",
            program.display()
        ))
    })
}

/// `folder` is where the program is. In a build tree the library is beside the program after
/// `cargo build`, and in `deps/` after `cargo run` or `cargo test`; where both are there one may
/// be of an older build. In an installation it is under `lib`.
fn search(folder: &Path) -> Option<PathBuf> {
    let built = [folder.join(FILE_NAME), folder.join("deps").join(FILE_NAME)];
    // Of equally new ones (they are the same file then) the first wins.
    let newest = built
        .into_iter()
        .filter_map(|path| Some((modified(&path)?, path)))
        .reduce(|first, second| if second.0 > first.0 { second } else { first })
        .map(|(_, path)| path);
    let installed = ["../lib", "../lib/slackwater"]
        .into_iter()
        .map(|lib| folder.join(lib).join(FILE_NAME))
        .find_map(|path| fs::canonicalize(path).ok());
    newest.or(installed)
}

fn modified(path: &Path) -> Option<SystemTime> {
    let metadata = fs::metadata(path).ok()?;
    metadata.is_file().then(|| metadata.modified().ok())?
}

#[cfg(test)]
mod tests {
    use std::fs::{File, create_dir_all};
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newer_build_wins_and_a_build_wins_over_an_installation() {
        let root = env::temp_dir().join(format!("slackwater-library-{}", std::process::id()));
        let folder = root.join("bin");
        let place = |at: &str, age_seconds: u64| {
            let path = folder.join(at).join(FILE_NAME);
            create_dir_all(path.parent().expect("has a parent")).expect("a writable place");
            let file = File::create(&path).expect("a writable place");
            file.set_modified(SystemTime::now() - Duration::from_secs(age_seconds)).expect("set");
            path
        };
        create_dir_all(&folder).expect("a writable place");
        assert_eq!(search(&folder), None);
        let installed = place("../lib/slackwater", 0);
        assert_eq!(search(&folder), fs::canonicalize(installed).ok());
        let deps = place("deps", 50);
        assert_eq!(search(&folder), Some(deps.clone()));
        let beside = place(".", 10);
        assert_eq!(search(&folder), fs::canonicalize(&beside).ok());
        place(".", 90);
        assert_eq!(search(&folder), Some(deps));
        fs::remove_dir_all(root).expect("made by this test");
    }
}
