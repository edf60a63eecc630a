//! Takes the events out of the journal.

use crate::base::ring::Cursor;
use crate::release::RELEASE;
use crate::release::journal::Event;

/// Takes this process's events out, each once. Any thread may have one, with events of its own.
///
/// # Examples
///
/// ```
/// let mut reader = slackwater::journal::Reader::new();
/// while let Some(event) = reader.read() {
///     println!("{event:?}");
/// }
/// ```
#[derive(Debug)]
pub struct Reader(Cursor);

impl Reader {
    /// Begins with the oldest event that is still there.
    pub fn new() -> Reader {
        Reader(RELEASE.journal.oldest())
    }

    /// The next event; `None` if there is none yet. Allocates nothing and takes no lock; some 10 ns.
    pub fn read(&mut self) -> Option<Event> {
        RELEASE.journal.read(&mut self.0)
    }

    /// Events that this reader has missed so far: they were overwritten before it came.
    pub fn lost(&self) -> u64 {
        RELEASE.journal.lost(&self.0)
    }
}

impl Default for Reader {
    fn default() -> Reader {
        Reader::new()
    }
}
