//! What a profile costs the service that is looked at, and what of it stays: a small service with a large
//! program file, which this test program is as a child of itself.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{env, io};

use common::get;
use slackwater_exporters::Endpoint;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// Says that this process is the service, and of which kind.
const SERVICE: &str = "SLACKWATER_TEST_SERVICE";

/// What the service holds.
#[inline(never)]
fn keep_rows(mib: usize) -> Vec<Vec<u8>> {
    (0..mib * 1024).map(|_| vec![7; 1024]).collect()
}

/// The service, if it is asked for: it holds 12 MiB and serves until its input ends.
#[test]
fn service() {
    let Ok(_kind) = env::var(SERVICE) else { return };
    let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
    let rows = keep_rows(12);
    say(&format!("ready {}", endpoint.address()));
    for _line in io::stdin().lines() {
        say("heard");
    }
    drop(rows);
}

/// Not `println!`, which the test runner keeps to itself.
fn say(line: &str) {
    let mut output = io::stdout();
    writeln!(output, "\n{line}").and_then(|()| output.flush()).expect("somebody listens");
}

/// A service of a kind; killed if the test ends before it does.
struct Service {
    child: Child,
    _input: ChildStdin,
    _output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Service {
    fn start(kind: &str) -> Service {
        let mut child = Command::new(env::current_exe().expect("known"))
            .args(["--exact", "service", "--nocapture"])
            .env(SERVICE, kind)
            // Enough samples for shares.
            .env("SLACKWATER_PROFILE_RATE_BYTES", "16384")
            .env("SLACKWATER_PROFILE_EPOCH_SAMPLES", "100000")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let input = child.stdin.take().expect("piped");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let address = loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).expect("text") > 0, "it ended");
            if let Some(address) = line.strip_prefix("ready ") {
                break address.trim().parse().expect("an address");
            }
        };
        Service { child, _input: input, _output: output, address }
    }

    fn get(&self, path: &str) -> String {
        let response = get(self.address, path);
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        response.body
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of a flamegraph: the bytes of all, and those of functions whose names contain `part`.
fn bytes_in(picture: &str, part: &str) -> (f64, f64) {
    let mut all = 0.0;
    let mut of_part: f64 = 0.0;
    for title in picture.split("<title>").skip(1) {
        let title = title.split("</title>").next().expect("it ends");
        let Some((name, rest)) = title.rsplit_once(" (") else { continue };
        let Some((number, _)) = rest.split_once(" bytes") else { continue };
        let bytes: f64 = number.replace(',', "").parse().expect("a number");
        if name == "all" {
            all = bytes;
        } else if name.contains(part) {
            of_part = of_part.max(bytes);
        }
    }
    (all, of_part)
}

/// However often somebody looks, the program's call sites are as if nobody did.
#[test]
fn what_looking_allocates_has_a_name_of_its_own() {
    let service = Service::start("plain");
    for _ in 0..3 {
        service.get("/debug/pprof/allocs?debug=1");
        service.get("/metrics");
    }
    for kind in ["alloc", "live", "peak"] {
        let picture = service.get(&format!("/debug/flame/{kind}.svg"));
        let (all, rows) = bytes_in(&picture, "keep_rows");
        assert!(all > 11e6 && rows > 11e6, "{kind}: {all} {rows}");
        for part in ["slackwater_exporters::profile", "slackwater_exporters::http", "blazesym"] {
            let (_, looked) = bytes_in(&picture, part);
            assert!(looked < 0.01 * all, "{kind}: {looked} of {all} are {part}'s");
        }
        let (_, observer) = bytes_in(&picture, "[slackwater observer]");
        assert!(kind != "alloc" || observer > 0.0, "{kind}: it is in the sum");
    }
}
