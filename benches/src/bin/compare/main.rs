//! Runs rows of benches under every allocator, interleaved, counts them if that is asked for, and
//! prints Markdown tables.
//!
//! `scripts/bench` builds what this needs and starts it.

mod plan;
mod report;

use std::process::ExitCode;

use slackwater_benches::comparing::options::exit_code;

use plan::Plan;

fn main() -> ExitCode {
    let plan = Plan::from_arguments(std::env::args().skip(1));
    exit_code(plan.and_then(Plan::carry_out).map(|()| true))
}
