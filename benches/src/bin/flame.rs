//! From what `perf script` prints, on standard input, to a flamegraph, on standard output. The arguments
//! are its title and the event that was recorded. For `scripts/hot-path`.

use std::env;
use std::io::{self, BufReader};
use std::process::ExitCode;

use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph::{self, Options};

fn main() -> ExitCode {
    match draw() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flame: {error}; expected the output of perf script, with samples");
            ExitCode::from(2)
        }
    }
}

fn draw() -> Result<(), String> {
    let mut folded = Vec::new();
    let input = BufReader::new(io::stdin().lock());
    Folder::default().collapse(input, &mut folded).map_err(|error| error.to_string())?;
    let mut options = Options::default();
    let [title, event] = [1, 2].map(|place| env::args().nth(place).unwrap_or_default());
    // perf weighs its clock's samples with the time that they stand for.
    options.count_name = if event.starts_with("cpu-clock") { "ns".to_string() } else { event };
    options.title = title;
    let output = io::stdout().lock();
    flamegraph::from_reader(&mut options, &folded[..], output).map_err(|error| error.to_string())
}
