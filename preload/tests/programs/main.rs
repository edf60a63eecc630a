//! Real programs under the library do their work right: the same answers as without it, and nothing
//! lost on the way. Their children run under it too.

mod browser;
mod compilers;
mod databases;
mod git;
mod interpreters;
mod nginx;
mod postgres;
mod runtimes;
mod shared;
#[path = "../support/mod.rs"]
mod support;
