//! Where a command's result goes: a file, written whole or not at all, or standard output, which `-` names,
//! too.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use slackwater_exporters::http::Address;

use super::failure::Failure;

/// The name that is no file's.
const STANDARD_OUTPUT: &str = "-";

/// Is it anything but standard output?
pub fn is_elsewhere(path: &Path) -> bool {
    path != Path::new(STANDARD_OUTPUT)
}

/// Is it a plain file, or would be one, which can be written again and again? What goes elsewhere goes
/// there once.
pub fn is_a_file(path: &Path) -> bool {
    is_elsewhere(path) && fs::metadata(path).map_or(true, |found| found.is_file())
}

/// Writes `content` to `path`. A file that is there keeps its content until the new one is complete
/// and on disk; what is no plain file (a pipe, a device) is written to as it is.
pub fn write_file(path: &Path, content: impl AsRef<[u8]>) -> Result<(), Failure> {
    if !is_elsewhere(path) {
        return print_bytes(content.as_ref()).map(|_| ());
    }
    write(path, content.as_ref()).map_err(|error| {
        let path = path.display();
        Failure::bad_input(match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                format!("{path}: no such folder; expected a file in a folder that exists")
            }
            io::ErrorKind::IsADirectory => {
                format!("{path}: is a folder; expected the name of a file")
            }
            io::ErrorKind::PermissionDenied => {
                format!("{path}: permission denied; expected a file that can be written")
            }
            _ => format!("{path}: cannot be written: {error}; expected a file that can be"),
        })
    })
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    // The file that a link leads to is what is meant, and stays where it is.
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_path_buf(),
        Err(error) => return Err(error),
    };
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if !found.is_file() => {
            return File::options().write(true).open(path)?.write_all(content);
        }
        // One that its owner has made read-only is not replaced either.
        Ok(_) => drop(File::options().append(true).open(&path)?),
        Err(_) => {}
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut new = tempfile::Builder::new()
        .prefix(".slackwater-")
        // As any new file: what the creation mask leaves of this.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    new.write_all(content)?;
    new.as_file().sync_all()?;
    new.persist(&path)?;
    Ok(())
}

/// Writes `content` to `path`, or to standard output where there is none.
pub fn write_or_print(path: Option<&Path>, content: impl AsRef<[u8]>) -> Result<(), Failure> {
    match path {
        Some(path) => write_file(path, content),
        None => print_bytes(content.as_ref()).map(|_| ()),
    }
}

/// Writes `text` to standard output. A reader that has seen enough (`| head`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    print_on(text).map(|_| ())
}

/// The same for one of many texts: says whether anybody still reads.
pub fn print_on(text: &str) -> Result<bool, Failure> {
    print_bytes(text.as_bytes())
}

fn print_bytes(content: &[u8]) -> Result<bool, Failure> {
    let mut out = io::stdout();
    match out.write_all(content).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::broken(format_args!("standard output: {error}"))),
    }
}

/// How to get at what is served at `address`: for a browser, or for a shell.
pub fn place(address: &Address, path: &str) -> String {
    match address {
        Address::Tcp(address) => format!("http://{address}{path}"),
        Address::Unix(socket) => {
            format!("curl --unix-socket {} http://localhost{path}", socket.display())
        }
    }
}
