//! `slackwater man`: the manual, from the definition of the command line.

use std::path::Path;

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
    write_pages(folder, "slackwater", &definition)?;
    output::write_file(&folder.join("slackwater.1"), page(definition)?)
}

/// The pages of a command's commands, and of theirs.
fn write_pages(folder: &Path, of: &str, command: &clap::Command) -> Result<(), Failure> {
    // `slackwater help` is clap's, and explains what the other pages do.
    let commands = command.get_subcommands().filter(|command| command.get_name() != "help");
    for command in commands {
        let name = format!("{of}-{}", command.get_name());
        write_pages(folder, &name, command)?;
        let page = page(command.clone().display_name(&name))?;
        output::write_file(&folder.join(format!("{name}.1")), page)?;
    }
    Ok(())
}

fn page(command: clap::Command) -> Result<String, Failure> {
    let mut text = Vec::new();
    Man::new(command)
        .render(&mut text)
        .map_err(|error| Failure::broken(format_args!("man page: {error}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
