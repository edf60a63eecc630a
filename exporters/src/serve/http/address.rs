//! Where a server listens: a TCP address or a Unix socket, and how it is taken and given back.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use tokio::net::{TcpListener, UnixListener, UnixSocket};

/// What a Unix socket's name begins with.
const UNIX: &str = "unix:";

/// The longest path of a Unix socket: the kernel's 108 bytes less the zero at the end.
const MAX_PATH_BYTES: usize = 107;

/// Owner and group may connect, others may not. The process's umask may take away more.
const SOCKET_MODE: u32 = 0o660;

/// Connections that the kernel accepts before the server does.
const BACKLOG: u32 = 128;

/// Where a server listens.
///
/// # Examples
///
/// ```
/// use slackwater_exporters::http::Address;
///
/// for text in ["127.0.0.1:9464", "[::1]:9464", "unix:/run/service/metrics.sock"] {
///     let address: Address = text.parse().expect("one of the three forms");
///     assert_eq!(address.to_string(), text);
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port; 0 takes any free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket. Whoever may write to the file may connect: the owner and the
    /// group (mode 0660, less what the umask takes away).
    Unix(PathBuf),
}

impl Address {
    /// The IP address and the port, if it is such an address.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// A text that is no [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress(&'static str);

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadAddress {}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Address, BadAddress> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return match path.len() {
                1..=MAX_PATH_BYTES if !path.contains('\0') => Ok(Address::Unix(path.into())),
                _ => Err(BadAddress("expected unix: and a path of 1 to 107 bytes")),
            };
        }
        // The one name that needs no resolver.
        let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        let address = numeric.as_deref().unwrap_or(text).parse();
        address.map(Address::Tcp).map_err(|_| {
            BadAddress("expected an IP address and a port, like 127.0.0.1:9464, or unix:PATH")
        })
    }
}

/// An address that has been taken.
pub(super) enum Listener {
    Tcp(TcpListener),
    /// With the file that it made.
    Unix(UnixListener, PathBuf),
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            remove_file_of(path);
        }
    }
}

impl Listener {
    /// Takes `address`; returns it with the port that the system chose. To be called in the context
    /// of a runtime.
    pub(super) fn bind(address: &Address) -> io::Result<(Listener, Address)> {
        match address {
            Address::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let address = Address::Tcp(listener.local_addr()?);
                Ok((Listener::Tcp(TcpListener::from_std(listener)?), address))
            }
            Address::Unix(path) => {
                // The process may change its folder before it removes the file.
                let path = std::path::absolute(path)?;
                let listener = Listener::Unix(bind_unix(&path)?, path.clone());
                Ok((listener, Address::Unix(path)))
            }
        }
    }
}

/// Replaces the file of a server that has ended, not of one that serves, nor anything else.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    match socket.bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if !fs::symlink_metadata(path)?.file_type().is_socket() {
                let what = format!("{} exists and is no socket", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
            }
            let refused = match UnixStream::connect(path) {
                Ok(_) => false,
                Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            };
            if !refused {
                return Err(error);
            }
            fs::remove_file(path)?;
            socket.bind(path)?;
        }
        outcome => outcome?,
    }
    // Nobody can connect before it listens.
    let mode = fs::symlink_metadata(path)?.permissions().mode() & SOCKET_MODE;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    remove_at_exit(path)?;
    socket.listen(BACKLOG)
}

/// The file of a socket that this process made.
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// A child that was forked later does not remove its parent's.
    process: u32,
}

/// What is to be removed when the process ends by itself; one that is killed leaves its files, and
/// its next server replaces them.
static FILES: Mutex<Vec<SocketFile>> = Mutex::new(Vec::new());

fn remove_at_exit(path: &Path) -> io::Result<()> {
    let file = fs::symlink_metadata(path)?;
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    if files.is_empty() {
        // SAFETY: a function without arguments that may be called at exit: it does not unwind.
        let refused = unsafe { libc::atexit(remove_files) };
        if refused != 0 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
    }
    files.push(SocketFile {
        path: path.to_path_buf(),
        device: file.dev(),
        inode: file.ino(),
        process: std::process::id(),
    });
    Ok(())
}

/// Removes the file of a server that is stopped.
fn remove_file_of(path: &Path) {
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    files.retain(|file| {
        let is_its = file.path == path;
        if is_its {
            file.remove();
        }
        !is_its
    });
}

extern "C" fn remove_files() {
    let Ok(files) = FILES.try_lock() else { return };
    files.iter().for_each(SocketFile::remove);
}

impl SocketFile {
    fn remove(&self) {
        // It may be another server's by now.
        let is_ours = self.process == std::process::id()
            && fs::symlink_metadata(&self.path)
                .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_read_and_others_are_refused() {
        let parse = |text: &str| text.parse::<Address>();
        assert_eq!(parse("localhost:0"), Ok(Address::Tcp(([127, 0, 0, 1], 0).into())));
        assert_eq!(parse("unix:a b"), Ok(Address::Unix("a b".into())));
        for text in ["", ":9464", "9464", "127.0.0.1", "::1:x", "example.org:80", "UNIX:/x"] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains("an IP address and a port"), "{text}: {error}");
        }
        for path in ["", "a\0b", &"x".repeat(108)] {
            let error = parse(&format!("unix:{path}")).expect_err(path).to_string();
            assert!(error.contains("1 to 107 bytes"), "{path}: {error}");
        }
    }
}
