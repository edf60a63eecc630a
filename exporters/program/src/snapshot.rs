//! `slackwater snapshot`: the figures of a process, for later.

use slackwater_exporters::attach::Target;

use super::arguments::SnapshotArguments;
use super::failure::Failure;
use super::output;
use super::saved::Saved;

/// Writes a process's figures to a file, or to standard output.
pub fn snapshot(arguments: &SnapshotArguments) -> Result<(), Failure> {
    let mut target = Target::open(arguments.process).map_err(Failure::not_opened)?;
    let observation = target.observe().map_err(Failure::not_read)?;
    let text = Saved::new(&target, &observation).to_text();
    output::write_or_print(arguments.output.as_deref(), text)
}
