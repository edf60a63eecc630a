//! What addresses are called, once it is known: functions, and those that were inlined into them.
//!
//! How it is found out is `symbols`' business, and takes feature `profiles`. Without that every address is
//! its own name, and `pprof` looks the names up itself, where the program's file is.

use std::collections::HashMap;
use std::sync::LazyLock;

use slackwater::observer;

pub use super::frame::{Frame, Frames};
use super::modules::Modules;
#[cfg(feature = "profiles")]
use super::symbols;

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
        {
            let symbols::Found { frames, lack } = symbols::find(modules, addresses);
            Names { frames, lack }
        }
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
}
