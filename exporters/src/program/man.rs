//! `slackwater man`: the manual, from the definition of the command line.

use clap_mangen::Man;

use super::arguments::{Arguments, ManArguments};
use super::failure::Failure;
use super::output;

/// Writes the program's page to standard output, or all pages into a folder: `slackwater.1`,
/// `slackwater-top.1` and so on.
pub fn man(arguments: &ManArguments) -> Result<(), Failure> {
    let definition = Arguments::definition();
    let Some(folder) = &arguments.output else {
        return output::print(&page(definition)?);
    };
    // `slackwater help` is clap's, and explains what the other pages do.
    let commands = definition.get_subcommands().filter(|command| command.get_name() != "help");
    for mut command in commands.cloned() {
        let name = format!("slackwater-{command}");
        command = command.display_name(&name);
        output::write_file(&folder.join(format!("{name}.1")), &page(command)?)?;
    }
    output::write_file(&folder.join("slackwater.1"), &page(definition)?)
}

fn page(command: clap::Command) -> Result<String, Failure> {
    let mut text = Vec::new();
    Man::new(command)
        .render(&mut text)
        .map_err(|error| Failure::broken(format_args!("man page: {error}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
