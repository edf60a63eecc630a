//! The program `slackwater`: shows the allocator at work, and runs other programs under it.
//!
//! `slackwater --help` says what there is; everything is in `program`.

mod program;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

fn main() -> std::process::ExitCode {
    program::main()
}
