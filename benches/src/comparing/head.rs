//! The head of a report: what was compared, and on what.

use std::path::Path;

use super::contender::{Contender, Face};
use super::{machine, versions};

/// What stands above the tables.
pub struct Head<'a> {
    /// How programs come by what is compared.
    pub face: Face,
    /// What is compared.
    pub contenders: &'a [&'static Contender],
    /// Where the builds are.
    pub built: &'a Path,
    /// What is not installed.
    pub left_out: &'a [String],
    /// What failed.
    pub failures: &'a [String],
}

impl Head<'_> {
    /// Its paragraphs.
    pub fn paragraphs(&self) -> Vec<String> {
        let mut paragraphs = machine::lines();
        let contenders = self.contenders.iter();
        let described: Vec<_> =
            contenders.map(|contender| versions::described(contender, self.built)).collect();
        let face = match self.face {
            Face::Linked => "linked as the global allocator",
            Face::Preloaded => "preloaded before the system's",
        };
        paragraphs.push(format!("Compared, {face}: {}.", described.join("; ")));
        if !self.left_out.is_empty() {
            paragraphs.push(format!("**Left out, not installed: {}.**", self.left_out.join("; ")));
        }
        paragraphs.extend(self.failures.iter().map(|failure| format!("**Failed: {failure}.**")));
        paragraphs
    }
}

/// How the tables of `rounds` are to be read.
pub fn legend(rounds: usize) -> String {
    format!(
        "Medians of {rounds}, interleaved, threads pinned in turn to the cores; in brackets the spread: the \
         distance between the quartiles, of fewer than four the whole range. Who differs by no more than \
         the spread of either is tied. Load average at the end: {}.",
        machine::load()
    )
}
