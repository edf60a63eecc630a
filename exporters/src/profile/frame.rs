//! A function on a stack, as people know it.

use std::fmt;
use std::sync::Arc;

/// Longer names of functions are cut: some generic ones have no end.
#[cfg(feature = "profiles")]
const MAX_NAME_BYTES: usize = 1000;

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

/// A name without what may not be shown: names come from files that anybody may have written, and end up on
/// terminals and in pages.
#[cfg(feature = "profiles")]
pub(super) fn printable(name: &str) -> String {
    let short = name.char_indices().take_while(|(at, c)| at + c.len_utf8() <= MAX_NAME_BYTES);
    short.map(|(_, c)| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(all(test, feature = "profiles"))]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_to_be_shown() {
        assert_eq!(printable("a\x1b[31m\nb"), "a?[31m?b");
        assert_eq!(printable(&"ä".repeat(1000)).len(), MAX_NAME_BYTES);
    }
}
