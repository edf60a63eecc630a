//! Which versions are compared.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::contender::{Contender, Source};

/// What cargo built the peers from.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// The contender with its version, in words.
pub fn described(contender: &Contender, built: &Path) -> String {
    let version = match contender.source {
        Source::Ours => Some(ours()),
        Source::CLibrary => said("getconf", &["GNU_LIBC_VERSION"]),
        Source::Crate(package, part) => locked(LOCK, package).map(|version| {
            let of = if part.is_empty() { "" } else { ", its " };
            format!("crate {package} {version}{of}{part}")
        }),
        Source::Distribution => packaged(contender, built),
    };
    format!("{} ({})", contender.name, version.unwrap_or_else(|| "version unknown".to_owned()))
}

/// Our version, the commit, and whether there are changes on top of it.
pub fn ours() -> String {
    let here = env!("CARGO_MANIFEST_DIR");
    let commit = said("git", &["-C", here, "describe", "--always", "--dirty", "--exclude=*"]);
    let commit = commit.map_or(String::new(), |commit| format!(", commit {commit}"));
    format!("{}{commit}", env!("CARGO_PKG_VERSION"))
}

/// The version of a package, of the text of a `Cargo.lock`; with two, the first.
fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let (_, after) = lock.split_once(&format!("\nname = \"{package}\"\nversion = \""))?;
    after.split('"').next()
}

/// The distribution's package that has the shared object, and its version; or else the file.
fn packaged(contender: &Contender, built: &Path) -> Option<String> {
    let object = fs::canonicalize(contender.object(built).ok()??).ok()?;
    let file = object.to_str()?;
    let owner = said("dpkg-query", &["--search", file]);
    let package = owner.as_deref().and_then(|owner| owner.split(": ").next());
    let version = package.and_then(|package| {
        said("dpkg-query", &["--show", "--showformat=${Package} ${Version}", package])
    });
    version.or_else(|| Some(file.to_owned()))
}

/// The first line that a program says, if it goes well.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparing::contender::Face;

    #[test]
    fn every_crate_that_is_linked_is_in_the_lock() {
        for name in crate::allocator::NAMES {
            let contender = Contender::named(Face::Linked, name).unwrap();
            if let Source::Crate(package, _) = contender.source {
                assert!(locked(LOCK, package).is_some(), "{package}");
            }
        }
    }

    #[test]
    fn a_version_is_that_of_the_whole_name() {
        let lock = "\nname = \"ab\"\nversion = \"1\"\n\nname = \"b\"\nversion = \"2+c\"\n";
        assert_eq!(locked(lock, "b"), Some("2+c"));
        assert_eq!(locked(lock, "c"), None);
    }
}
