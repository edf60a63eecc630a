//! Real programs under the library do their work right: the same answers as without it, and nothing
//! lost on the way. Their children run under it too.

mod browser;
mod compilers;
mod databases;
mod debuggers;
mod git;
mod interpreters;
mod loaders;
mod nginx;
mod postgres;
#[path = "../support/programs_in_c.rs"]
mod programs_in_c;
mod runtimes;
mod sandboxes;
mod shared;
#[path = "../support/mod.rs"]
mod support;
