//! Who is compared: allocators with their settings.

use std::path::Path;
use std::process::{Command, Stdio};

/// An allocator with its setting.
#[derive(Debug)]
pub struct Contender {
    /// Its name, on the command line and in the tables.
    pub name: &'static str,
    /// The cargo feature it is built with.
    pub build: &'static str,
    /// What it is set by.
    environment: &'static [(&'static str, &'static str)],
}

/// All there are; each comparison has some of them.
static CONTENDERS: [Contender; 11] = [
    Contender { name: "slackwater", build: "slackwater", environment: &[] },
    Contender {
        name: "slackwater-release-on",
        build: "slackwater",
        environment: &[("SLACKWATER_RELEASE", "on")],
    },
    Contender {
        name: "slackwater-release-off",
        build: "slackwater",
        environment: &[("SLACKWATER_RELEASE", "off")],
    },
    Contender {
        name: "slackwater-profile-off",
        build: "slackwater",
        environment: &[("SLACKWATER_PROFILE_RATE_BYTES", "0")],
    },
    Contender { name: "mimalloc", build: "mimalloc", environment: &[] },
    Contender {
        name: "mimalloc-delay-0",
        build: "mimalloc",
        environment: &[("MIMALLOC_PURGE_DELAY", "0")],
    },
    Contender { name: "jemalloc", build: "jemalloc", environment: &[] },
    Contender {
        name: "jemalloc-background",
        build: "jemalloc",
        environment: &[("_RJEM_MALLOC_CONF", "background_thread:true,dirty_decay_ms:1000")],
    },
    Contender { name: "snmalloc", build: "snmalloc", environment: &[] },
    Contender { name: "tcmalloc", build: "tcmalloc", environment: &[] },
    Contender { name: "system", build: "system", environment: &[] },
];

impl Contender {
    /// The one of this name.
    pub fn named(name: &str) -> Result<&'static Contender, String> {
        CONTENDERS.iter().find(|known| known.name == name).ok_or_else(|| {
            let names: Vec<_> = CONTENDERS.iter().map(|known| known.name).collect();
            format!("unknown allocator: {name}; there are {}", names.join(" "))
        })
    }

    /// The ones of these names.
    pub fn all_named<'a>(
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<&'static Contender>, String> {
        names.into_iter().map(Contender::named).collect()
    }

    /// Runs a bench and returns what it printed. In `built` each build has a folder of its name.
    pub fn run(&self, built: &Path, bench: &str, arguments: &[&str]) -> Result<String, String> {
        let program = built.join(self.build).join("release").join(bench);
        let output = Command::new(&program)
            .args(arguments)
            .envs(self.environment.iter().copied())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        if !output.status.success() {
            let arguments = arguments.join(" ");
            return Err(format!("{bench} {arguments} under {}: {}", self.name, output.status));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// What is to be built for `contenders`, each build once.
pub fn builds(contenders: &[&'static Contender]) -> Vec<&'static str> {
    let mut builds = Vec::new();
    for contender in contenders {
        if !builds.contains(&contender.build) {
            builds.push(contender.build);
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
            assert_eq!(Contender::named(name).unwrap().build, name);
        }
        assert!(CONTENDERS.iter().all(|contender| NAMES.contains(&contender.build)));
        let error = Contender::named("dlmalloc").unwrap_err();
        assert!(error.starts_with("unknown allocator: dlmalloc; there are slackwater "), "{error}");
    }

    #[test]
    fn contenders_of_one_build_need_it_once() {
        let names = ["slackwater-release-off", "mimalloc", "slackwater-release-on"];
        let contenders = Contender::all_named(names).unwrap();
        assert_eq!(builds(&contenders), ["slackwater", "mimalloc"]);
    }
}
