//! Who scrapes a bench while it runs, as Prometheus would: each second, over HTTP, from another process.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::watched;

const PERIOD: Duration = Duration::from_secs(1);

/// What Prometheus 2.42 asks for.
const REQUEST: &str = "GET /metrics HTTP/1.1\r\nHost: bench\r\nUser-Agent: Prometheus/2.42.0\r\n\
                       Accept: application/openmetrics-text;version=1.0.0,\
                       application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n\
                       Accept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: 1\r\n\r\n";

/// Scrapes one process until it is told to end.
pub struct Watcher {
    end: Sender<()>,
    thread: JoinHandle<u64>,
}

impl Watcher {
    /// For the process that `command` will start, which is told where it is to be scraped. The first scrape comes
    /// after half a period: so a process is scraped as often, on average, as it has seconds.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        command.env(watched::ADDRESS, address.to_string());
        let (end, is_over) = mpsc::channel();
        let thread = thread::spawn(move || {
            let (mut answered, mut pause) = (0, PERIOD / 2);
            while is_over.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                // A process may not have begun, or be at its end.
                answered += scrape(address).is_ok() as u64;
                pause = PERIOD;
            }
            answered
        });
        Ok(Watcher { end, thread })
    }

    /// Ends, and returns how many scrapes were answered.
    pub fn stop(self) -> u64 {
        drop(self.end);
        self.thread.join().unwrap_or(0)
    }
}

fn scrape(address: SocketAddr) -> io::Result<()> {
    let mut connection = TcpStream::connect(address)?;
    connection.write_all(REQUEST.as_bytes())?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_scraped_until_the_end() {
        let mut command = Command::new("true");
        let watcher = Watcher::start(&mut command).unwrap();
        let (name, address) = command.get_envs().next().unwrap();
        assert_eq!(name, watched::ADDRESS);
        let server = TcpListener::bind(address.unwrap().to_str().unwrap()).unwrap();
        for said in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 503 Busy\r\n\r\n"] {
            let (mut client, _) = server.accept().unwrap();
            let mut asked = vec![0; REQUEST.len()];
            client.read_exact(&mut asked).unwrap();
            assert_eq!(asked, REQUEST.as_bytes());
            client.write_all(said.as_bytes()).unwrap();
        }
        drop(server);
        assert_eq!(watcher.stop(), 1, "a refusal is no scrape");
    }
}
