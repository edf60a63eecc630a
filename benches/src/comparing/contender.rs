//! Who is compared: allocators with their settings, and how a program comes by each.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::watcher::Watcher;

/// How a program comes by its allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// It is the global allocator that a Rust program is built with.
    Linked,
    /// It is a shared object that the dynamic linker puts before the C library.
    Preloaded,
}

/// What a contender's version is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This repository.
    Ours,
    /// The C library of the machine.
    CLibrary,
    /// A package of `Cargo.lock`, of which it is the part named, if it is not the whole.
    Crate(&'static str, &'static str),
    /// The distribution's package that its shared object is from.
    Distribution,
}

/// An allocator with its setting.
#[derive(Debug)]
pub struct Contender {
    /// Its name, on the command line and in the tables.
    pub name: &'static str,
    /// The build that it needs: of the benches, by cargo feature. What is preloaded, is so before
    /// the build without an allocator of its own.
    pub build: &'static str,
    /// What it is from.
    pub source: Source,
    /// Names its shared object may have, if it is preloaded; the first that is found is taken.
    objects: &'static [&'static str],
    /// Whether it is scraped while it runs.
    pub is_watched: bool,
    /// What it is set by.
    environment: &'static [(&'static str, &'static str)],
}

const fn linked(name: &'static str, source: Source) -> Contender {
    Contender { name, build: name, source, objects: &[], is_watched: false, environment: &[] }
}

const fn preloaded(
    name: &'static str,
    source: Source,
    objects: &'static [&'static str],
) -> Contender {
    Contender { name, build: "system", source, objects, is_watched: false, environment: &[] }
}

impl Contender {
    /// The same, by another name and with settings.
    const fn set(
        self,
        name: &'static str,
        environment: &'static [(&'static str, &'static str)],
    ) -> Self {
        Contender { name, environment, ..self }
    }
}

const OURS_LINKED: Contender = linked("slackwater", Source::Ours);
const MIMALLOC: Contender = linked("mimalloc", Source::Crate("libmimalloc-sys", "v3"));
const JEMALLOC: Contender = linked("jemalloc", Source::Crate("tikv-jemalloc-sys", ""));

/// Slackwater with all that it has to observe it at work, and built without the observer.
pub const OBSERVER_NAMES: [&str; 2] = ["observed", "unobserved"];

/// All that can be linked; each comparison has some of them.
static LINKED: [Contender; 16] = [
    OURS_LINKED,
    OURS_LINKED.set("slackwater-release-on", &[("SLACKWATER_RELEASE", "on")]),
    OURS_LINKED.set("slackwater-release-off", &[("SLACKWATER_RELEASE", "off")]),
    OURS_LINKED.set("slackwater-profile-off", &[("SLACKWATER_PROFILE_RATE_BYTES", "0")]),
    Contender { is_watched: true, ..linked(OBSERVER_NAMES[0], Source::Ours) },
    linked(OBSERVER_NAMES[1], Source::Ours),
    MIMALLOC,
    MIMALLOC.set("mimalloc-delay-0", &[("MIMALLOC_PURGE_DELAY", "0")]),
    linked("mimalloc2", Source::Crate("libmimalloc-sys", "v2")),
    JEMALLOC,
    JEMALLOC.set(
        "jemalloc-background",
        &[("_RJEM_MALLOC_CONF", "background_thread:true,dirty_decay_ms:1000")],
    ),
    linked("snmalloc", Source::Crate("snmalloc-sys", "")),
    linked("tcmalloc", Source::Crate("libtcmalloc-sys", "")),
    linked("rpmalloc", Source::Crate("rpmalloc-sys", "")),
    linked("rusty_alloc", Source::Crate("rusty_alloc", "")),
    linked("system", Source::CLibrary),
];

const OURS_PRELOADED: Contender =
    preloaded("slackwater", Source::Ours, &["libslackwater_preload.so"]);

/// All that can be preloaded; each comparison has some of them.
static PRELOADED: [Contender; 10] = [
    OURS_PRELOADED,
    OURS_PRELOADED.set("slackwater-profile-off", &[("SLACKWATER_PROFILE_RATE_BYTES", "0")]),
    preloaded("mimalloc", Source::Crate("libmimalloc-sys", "v3"), &["libmimalloc3.so"]),
    preloaded("mimalloc2", Source::Distribution, &["libmimalloc.so.2", "libmimalloc.so.2.0"]),
    preloaded("jemalloc", Source::Distribution, &["libjemalloc.so.2"]),
    preloaded("gperftools", Source::Distribution, &["libtcmalloc_minimal.so.4"]),
    preloaded(
        "scudo",
        Source::Distribution,
        &["libclang_rt.scudo_standalone-x86_64.so", "libclang_rt.scudo_standalone-aarch64.so"],
    ),
    preloaded("snmalloc", Source::Crate("snmalloc-sys", ""), &["libsnmalloc.so"]),
    preloaded("rpmalloc", Source::Crate("rpmalloc-sys", ""), &["librpmalloc.so"]),
    preloaded("glibc", Source::CLibrary, &[]),
];

/// Who is compared as preloaded objects, if nobody is chosen.
pub const PRELOADED_NAMES: [&str; 9] = [
    "slackwater",
    "mimalloc",
    "mimalloc2",
    "jemalloc",
    "snmalloc",
    "gperftools",
    "rpmalloc",
    "scudo",
    "glibc",
];

impl Contender {
    /// The one of this name.
    pub fn named(face: Face, name: &str) -> Result<&'static Contender, String> {
        let known: &[Contender] = match face {
            Face::Linked => &LINKED,
            Face::Preloaded => &PRELOADED,
        };
        known.iter().find(|known| known.name == name).ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|known| known.name).collect();
            format!("unknown allocator: {name}; there are {}", names.join(" "))
        })
    }

    /// The ones of these names.
    pub fn all_named<'a>(
        face: Face,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<&'static Contender>, String> {
        names.into_iter().map(|name| Contender::named(face, name)).collect()
    }

    /// Its shared object; none if it has none to preload, an error if none is installed.
    pub fn object(&self, built: &Path) -> Result<Option<PathBuf>, String> {
        if self.objects.is_empty() {
            return Ok(None);
        }
        let folders = object_folders(built);
        let places = folders.iter().flat_map(|folder| self.objects.iter().map(|o| folder.join(o)));
        let found = places.into_iter().find(|place| place.exists());
        found.map(Some).ok_or_else(|| format!("{}: no {}", self.name, self.objects.join(", no ")))
    }

    /// What starts `program` under it. In `built` each build has a folder of its name.
    pub fn command(&self, built: &Path, program: impl AsRef<OsStr>) -> Result<Command, String> {
        let mut command = Command::new(program);
        command.env_remove("LD_PRELOAD").envs(self.environment.iter().copied());
        if let Some(object) = self.object(built)? {
            command.env("LD_PRELOAD", object);
        }
        Ok(command)
    }

    /// Where its build of a bench is.
    pub fn program(&self, built: &Path, bench: &str) -> PathBuf {
        built.join(self.build).join("release").join(bench)
    }

    /// Runs a bench and returns what it printed.
    pub fn run(&self, built: &Path, bench: &str, arguments: &[&str]) -> Result<String, String> {
        let program = self.program(built, bench);
        let failed = |error| format!("{}: {error}", program.display());
        let mut command = self.command(built, &program)?;
        command.args(arguments).stderr(Stdio::inherit());
        let watcher = self.is_watched.then(|| Watcher::start(&mut command));
        let watcher = watcher.transpose().map_err(failed)?;
        let output = command.output().map_err(failed)?;
        watcher.map(Watcher::stop);
        if !output.status.success() {
            let arguments = arguments.join(" ");
            return Err(format!("{bench} {arguments} under {}: {}", self.name, output.status));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Where shared objects are looked for: what this repository builds, then what the machine has.
fn object_folders(built: &Path) -> Vec<PathBuf> {
    // The dynamic linker would not find a relative path from elsewhere.
    let built = std::path::absolute(built).unwrap_or_else(|_| built.to_owned());
    let mut folders = vec![built.join("preload/release"), built.join("peers")];
    folders.extend(
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
            .map(PathBuf::from),
    );
    // /usr/lib/llvm-14/lib/clang/14.0.6/lib/linux, whatever the version.
    let names = |folder: PathBuf| {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    for versioned in names(PathBuf::from("/usr/lib")) {
        for resources in names(versioned.join("lib/clang")) {
            folders.push(resources.join("lib/linux"));
        }
    }
    folders
}

/// Those of `contenders` that are installed, and why the others are not. Says so on stderr.
pub fn installed(
    contenders: &[&'static Contender],
    built: &Path,
) -> (Vec<&'static Contender>, Vec<String>) {
    let mut missing = Vec::new();
    let mut there = contenders.to_vec();
    there.retain(|contender| {
        let Err(reason) = contender.object(built) else { return true };
        eprintln!("LEFT OUT, not installed: {reason}");
        missing.push(reason);
        false
    });
    (there, missing)
}

/// What is to be built for `contenders`, each build once: `preload` is slackwater's own shared object,
/// `peers` are those of crates.
pub fn builds(contenders: &[&'static Contender]) -> Vec<&'static str> {
    let mut builds = Vec::new();
    for contender in contenders {
        let object = match contender.source {
            _ if contender.objects.is_empty() => None,
            Source::Ours => Some("preload"),
            Source::Crate(..) => Some("peers"),
            Source::CLibrary | Source::Distribution => None,
        };
        for build in [Some(contender.build), object] {
            builds.extend(build.filter(|build| !builds.contains(build)));
        }
    }
    builds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::NAMES;

    #[test]
    fn every_build_has_its_contender_and_every_contender_its_build() {
        for name in NAMES {
            assert_eq!(Contender::named(Face::Linked, name).unwrap().build, name);
        }
        let all = LINKED.iter().chain(&PRELOADED);
        let is_built = |build| NAMES.contains(&build) || OBSERVER_NAMES.contains(&build);
        assert!(all.into_iter().all(|contender| is_built(contender.build)));
        Contender::all_named(Face::Preloaded, PRELOADED_NAMES).unwrap();
        let error = Contender::named(Face::Linked, "dlmalloc").unwrap_err();
        assert!(error.starts_with("unknown allocator: dlmalloc; there are slackwater "), "{error}");
    }

    #[test]
    fn contenders_of_one_build_need_it_once() {
        let names = ["slackwater-release-off", "mimalloc", "slackwater-release-on"];
        let contenders = Contender::all_named(Face::Linked, names).unwrap();
        assert_eq!(builds(&contenders), ["slackwater", "mimalloc"]);
        let contenders = Contender::all_named(Face::Preloaded, PRELOADED_NAMES).unwrap();
        assert_eq!(builds(&contenders), ["system", "preload", "peers"]);
    }

    #[test]
    fn what_is_not_installed_is_named_and_what_is_gets_preloaded() {
        let folder =
            std::env::temp_dir().join(format!("slackwater-objects-{}", std::process::id()));
        let missing = OURS_PRELOADED.command(&folder, "true").unwrap_err();
        assert_eq!(missing, "slackwater: no libslackwater_preload.so");
        let object = folder.join("preload/release/libslackwater_preload.so");
        std::fs::create_dir_all(object.parent().unwrap()).unwrap();
        std::fs::write(&object, "").unwrap();
        let command = OURS_PRELOADED.command(&folder, "true").unwrap();
        let preloaded = command.get_envs().find(|(name, _)| *name == "LD_PRELOAD");
        assert_eq!(preloaded.unwrap().1, Some(object.as_os_str()));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
