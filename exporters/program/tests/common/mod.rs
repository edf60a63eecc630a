//! What the tests of the program share: the program as a child, and what the library's tests have.

// Every test file is a program of its own and uses a part of this.
#![allow(dead_code, unused_imports)]

pub mod export;
#[path = "../../../../src/testing/filter.rs"]
pub mod filter;
#[path = "../../../tests/common/mod.rs"]
mod library;

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

pub use library::*;

/// The program under test.
pub fn slackwater() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slackwater"));
    // What the tests look at must not depend on who runs them.
    for variable in ["LD_PRELOAD", "SLACKWATER_SUMMARY", "SLACKWATER_PRELOAD_LIB"] {
        command.env_remove(variable);
    }
    command
}

/// A running demo; killed if the test ends before it does.
pub struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Where it serves.
    pub address: SocketAddr,
}

impl Demo {
    /// Starts the demo on a free port.
    pub fn start(arguments: &[&str]) -> Demo {
        Demo::start_at("127.0.0.1:0", arguments)
    }

    /// Starts the demo there, and reads its address from what it prints.
    pub fn start_at(listen: &str, arguments: &[&str]) -> Demo {
        Demo::start_by(slackwater(), listen, arguments)
    }

    /// The same through `program`, which is the program under test, or something that becomes it.
    pub fn start_by(mut program: Command, listen: &str, arguments: &[&str]) -> Demo {
        let mut child = program
            .args(["demo", "--listen", listen])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let address = loop {
            let line = lines.next().expect("the demo prints its address").expect("text");
            let address = line.split_once("http://").and_then(|(_, url)| url.split('/').next());
            if let Some(address) = address {
                break address.parse().expect("an address");
            }
        };
        Demo { child, lines, address }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads on until a line begins with `start`.
    pub fn read_until(&mut self, start: &str) {
        for line in self.lines.by_ref() {
            if line.expect("text").starts_with(start) {
                return;
            }
        }
        panic!("the demo never printed {start:?}");
    }

    /// Waits for the demo to end; returns what it printed since the last read, and its stderr.
    pub fn finish(mut self) -> Output {
        let stdout: Vec<u8> = self
            .lines
            .by_ref()
            .flat_map(|line| (line.expect("text") + "\n").into_bytes())
            .collect();
        let mut stderr = Vec::new();
        let mut pipe = self.child.stderr.take().expect("piped");
        pipe.read_to_end(&mut stderr).expect("readable");
        Output { status: self.child.wait().expect("the demo ends"), stdout, stderr }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Fails when it has ended, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell, or another program, under `slackwater run`, which waits; killed if the test ends before it does.
pub struct Shell(Child);

impl Shell {
    /// Starts it and waits until it is there: the process has executed it by then.
    pub fn start() -> Shell {
        Shell::run("echo ready; read line")
    }

    /// The same with a script that prints `ready` and waits.
    pub fn run(script: &str) -> Shell {
        Shell::run_by(Path::new("sh"), script)
    }

    /// The same by another shell, or by another name for it.
    pub fn run_by(shell: &Path, script: &str) -> Shell {
        Shell::of(shell, &["-c", script])
    }

    /// Any program under `slackwater run` that prints `ready` and waits for a line, or for the end of its
    /// input.
    pub fn of(program: &Path, arguments: &[&str]) -> Shell {
        let mut child = slackwater()
            .args(["run", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("readable");
        assert_eq!(line, "ready\n");
        Shell(child)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Lets it go on with its script, and waits for its end.
    pub fn finish(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("it ends");
    }

    /// Lets it go on with its script.
    pub fn go_on(&mut self) {
        let mut input = self.0.stdin.as_ref().expect("piped");
        input.write_all(b"\n").expect("it reads");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
