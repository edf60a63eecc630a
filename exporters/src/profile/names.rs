//! What addresses are called, once it is known: functions, and those that were inlined into them.
//!
//! How it is found out is `symbols`' business, and takes feature `profiles`. Without that every address is
//! its own name, and `pprof` looks the names up itself, where the program's file is.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use slackwater::observer;

use super::modules::Modules;
#[cfg(feature = "profiles")]
use super::symbols;

/// A function, and a place in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Its name, demangled.
    pub function: String,
    /// The source file, as the compiler knew it; empty: not known.
    pub file: String,
    /// The line; 0: not known.
    pub line: u32,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file[..] {
            "" => f.write_str(&self.function),
            file => write!(f, "{} {file}:{}", self.function, self.line),
        }
    }
}

/// The functions at one address: first the innermost that was inlined there, last the one that they
/// are in.
pub type Frames = Arc<[Frame]>;

/// The name of everything that is allocated to look at the program: see [`observer`].
pub const OBSERVER: &str = "[slackwater observer]";

static OBSERVER_FRAMES: LazyLock<[Frame; 1]> =
    LazyLock::new(|| [Frame { function: OBSERVER.to_string(), ..Frame::default() }]);

/// What addresses are called.
#[derive(Clone, Debug, Default)]
pub struct Names {
    frames: HashMap<u64, Frames>,
    lack: Option<String>,
}

impl Names {
    /// Names that are known already.
    pub fn new(frames: impl IntoIterator<Item = (u64, Vec<Frame>)>) -> Names {
        let frames = frames.into_iter().filter(|(_, frames)| !frames.is_empty());
        let frames = frames.map(|(address, frames)| (address, frames.into())).collect();
        Names { frames, lack: None }
    }

    /// Finds the names of return addresses: of the calls that they return to. None without feature
    /// `profiles`. It takes milliseconds to hundreds of them, and reads files; those of this process are
    /// found in a child process, if one can be had.
    pub fn find(modules: &Modules, addresses: &[u64]) -> Names {
        #[cfg(feature = "profiles")]
        return symbols::find(modules, addresses);
        #[cfg(not(feature = "profiles"))]
        {
            let _ = (modules, addresses);
            Names::default()
        }
    }

    /// The functions at a return address; `None`: not known. The observer's is known always.
    pub fn get(&self, address: u64) -> Option<&[Frame]> {
        if address == observer::FRAME {
            return Some(&*OBSERVER_FRAMES);
        }
        self.frames.get(&address).map(|frames| &frames[..])
    }

    /// Why names were not found that might have been, for the end of a sentence about them.
    pub fn lack(&self) -> Option<&str> {
        self.lack.as_deref()
    }

    #[cfg(feature = "profiles")]
    pub(super) fn set_lack(&mut self, why: String) {
        self.lack = Some(why);
    }

    /// Adds what was found out of an address; nothing, if it was nothing.
    #[cfg(feature = "profiles")]
    pub(super) fn add(&mut self, address: u64, frames: Frames) {
        if !frames.is_empty() {
            self.frames.insert(address, frames);
        }
    }
}
