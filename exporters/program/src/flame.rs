//! `slackwater flame`: where a process's memory comes from, as a picture.

use std::thread;
use std::time::Duration;

use slackwater_exporters::attach::Target;
use slackwater_exporters::profile::flamegraph;
use slackwater_exporters::profile::names::Names;
use slackwater_exporters::profile::reading::ProfileReading;

use super::arguments::FlameArguments;
use super::failure::Failure;
use super::output;

/// Draws a flamegraph of a process.
pub fn flame(arguments: &FlameArguments) -> Result<(), Failure> {
    let kind = arguments.kind;
    let mut target = Target::open(arguments.process).map_err(Failure::not_opened)?;
    let (before, after) = look(&mut target, arguments.seconds)?;
    let names = if kind.has_stacks() { after.names() } else { Names::default() };
    let picture = flamegraph::draw(kind, &target.name(), before.as_ref(), &after, &names)
        .map_err(|error| Failure::broken(format_args!("flamegraph: {error}")))?;
    output::write_or_print(arguments.output.as_deref(), picture)
}

/// A process now, and if there is a window, before it.
pub fn look(
    target: &mut Target,
    seconds: Option<u64>,
) -> Result<(Option<ProfileReading>, ProfileReading), Failure> {
    let before = match seconds {
        None => None,
        Some(seconds) => {
            let before = target.reading().map_err(Failure::not_read)?;
            thread::sleep(Duration::from_secs(seconds));
            Some(before)
        }
    };
    Ok((before, target.reading().map_err(Failure::not_read)?))
}
