//! What is written of a profile, and where it is put.

use std::io::{self, Write};
use std::path::Path;

use slackwater_exporters::profile::folded;
use slackwater_exporters::profile::kind::Kind;
use slackwater_exporters::profile::names::Names;
use slackwater_exporters::profile::pprof::{self, DefaultType};
use slackwater_exporters::profile::reading::ProfileReading;
use slackwater_exporters::profile::table;

use crate::arguments::{ProfileFormat, ResultArguments, Symbolize};
use crate::failure::Failure;
use crate::output;

impl ResultArguments {
    /// Where it goes, unless that is standard output or error.
    pub(super) fn file(&self) -> Option<&Path> {
        self.output.as_deref().filter(|path| output::is_elsewhere(path))
    }

    /// The format that is asked for, or else the one that is usual there.
    pub(super) fn format(&self) -> ProfileFormat {
        let is_for_tools = self.file().is_some();
        let usual = if is_for_tools { ProfileFormat::Pprof } else { ProfileFormat::Text };
        self.format.unwrap_or(usual)
    }
}

/// What is written of a profile.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub format: ProfileFormat,
    pub symbolize: Symbolize,
}

/// A profile, or what was added to it since an earlier reading, in that form.
pub(super) fn render(
    form: Form,
    before: Option<&ProfileReading>,
    after: &ProfileReading,
) -> Vec<u8> {
    let names = match form.symbolize {
        Symbolize::None => Names::default(),
        Symbolize::Local => after.names(),
    };
    let (profile, seconds) = after.since(before);
    match form.format {
        ProfileFormat::Pprof => pprof::render(&profile, &names, DefaultType::InuseSpace, seconds),
        ProfileFormat::Text => table::render(&profile, &names, seconds).into_bytes(),
        ProfileFormat::Folded => match before {
            None => folded::render(&Kind::Live.folded(after, &names)).into_bytes(),
            Some(before) => {
                let [before, after] = [before, after].map(|one| Kind::Alloc.folded(one, &names));
                folded::render_growth(&before, &after).into_bytes()
            }
        },
    }
}

/// Writes to the file, or to standard error: standard output is the program's.
pub(super) fn write_beside(arguments: &ResultArguments, content: &[u8]) -> Result<(), Failure> {
    match &arguments.output {
        Some(path) => output::write_file(path, content),
        None => io::stderr()
            .write_all(content)
            .map_err(|error| Failure::broken(format_args!("standard error: {error}"))),
    }
}
