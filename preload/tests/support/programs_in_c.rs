//! The programs in `c/`: built with the system's compiler when a test first needs one.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::support::{LIMIT, installed, plain, run};

/// Sources that make libraries.
const LIBRARIES: [&str; 9] = [
    "plugin.c",
    "early.c",
    "interposer.c",
    "deepbound.c",
    "early_foreign.c",
    "next_allocator.c",
    "audit.c",
    "recorder.c",
    "own_operators.cpp",
];

/// Programs that are linked with one of these.
const LINKED: [(&str, &str); 3] = [
    ("forks.c", "early.c"),
    ("foreign.c", "early_foreign.c"),
    ("library_operators.cpp", "own_operators.cpp"),
];

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c");

/// The program made from `source`, made now if this process has not made it yet.
pub fn built(source: &str) -> Option<PathBuf> {
    static BUILT: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    // Before the lock is taken, which building it takes, too.
    let library = match LINKED.iter().find(|(program, _)| *program == source) {
        Some((_, library)) => Some(built(library)?),
        None => None,
    };
    let compiler = installed(source, if source.ends_with(".cpp") { "c++" } else { "cc" })?;
    // Held while compiling: other tests wait for the same program rather than make it again. A
    // failed build poisons it, and every test that needs it says so.
    let mut built = BUILT.lock().expect("an earlier build failed");
    let programs = built.get_or_insert_default();
    if let Some(program) = programs.get(source) {
        return Some(program.clone());
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{source}.program"));
    // Another test process may run the program of the same name: make it aside and rename it.
    let aside = target.with_extension(std::process::id().to_string());
    let mut compile = plain(compiler);
    compile.args(["-O2", "-g", "-fno-builtin", "-pthread"]);
    compile.arg(if source.ends_with(".cpp") { "-std=c++17" } else { "-std=gnu11" });
    if LIBRARIES.contains(&source) {
        compile.args(["-shared", "-fPIC"]);
    }
    compile.arg(Path::new(SOURCES).join(source)).arg("-o").arg(&aside);
    if let Some(library) = library {
        compile.arg(library);
    }
    compile.arg("-ldl");
    run(&mut compile, "", LIMIT).expect_success();
    fs::rename(&aside, &target).expect("put the program in its place");
    programs.insert(source.to_owned(), target.clone());
    Some(target)
}
