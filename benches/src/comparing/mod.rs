//! What the programs that compare allocators share: who is compared, on which machine, how often,
//! what was measured, what that proves, and how it is shown.

pub mod chart;
pub mod contender;
pub mod counting;
pub mod head;
pub mod machine;
pub mod measurements;
pub mod options;
pub mod ratios;
pub mod statistics;
pub mod table;
pub mod versions;
pub mod watched_count;
pub mod watcher;
