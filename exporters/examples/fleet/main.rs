//! A fleet for Prometheus to scrape, without the fleet: see `simulation.rs`.
//!
//! ```console
//! $ cargo run --release -p slackwater-exporters --example fleet -- 127.0.0.1:9500 200
//! 200 instances; targets for Prometheus: http_sd_configs: [{url: 'http://127.0.0.1:9500/targets'}]
//! ```

mod simulation;

use std::env;
use std::net::TcpListener;
use std::process::ExitCode;
use std::thread;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

fn main() -> ExitCode {
    match start() {
        Ok(()) => loop {
            thread::park();
        },
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn start() -> Result<(), String> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, instances] = &arguments[..] else {
        return Err(format!("{} arguments; expected ADDRESS INSTANCES", arguments.len()));
    };
    let count = instances
        .parse()
        .ok()
        .filter(|count| (1..=100_000).contains(count))
        .ok_or(format!("{instances}: expected a number of instances from 1 to 100000"))?;
    let listener = TcpListener::bind(address)
        .map_err(|error| format!("{address}: {error}; expected an address like 127.0.0.1:9500"))?;
    let address = simulation::serve(listener, count).map_err(|error| error.to_string())?;
    println!(
        "{count} instances; targets for Prometheus: \
         http_sd_configs: [{{url: 'http://{address}/targets'}}]"
    );
    Ok(())
}
