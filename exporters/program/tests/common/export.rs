//! `slackwater export` as a child.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A running exporter; killed if the test ends before it does.
pub struct Export {
    pub child: Child,
    pub output: BufReader<ChildStdout>,
    /// Where it serves, as it says.
    pub place: String,
}

impl Export {
    /// Starts it and waits until it serves.
    pub fn start(listen: &str) -> Export {
        let mut command = super::slackwater();
        command.args(["export", "--listen", listen]);
        Export::start_with(command)
    }

    /// The same with another command that executes it.
    pub fn start_with(mut command: Command) -> Export {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("readable");
        let place = line.trim().strip_prefix("slackwater export: ").expect("its place").to_string();
        Export { child, output, place }
    }

    /// The address it serves, if that is no socket file.
    pub fn address(&self) -> SocketAddr {
        let address = self.place.strip_prefix("http://").and_then(|url| url.split('/').next());
        address.expect("a URL").parse().expect("an address")
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
