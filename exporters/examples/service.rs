//! A service under Slackwater: one static, one line of set-up, and its `/metrics` has the
//! `slackwater_*` families.
//!
//! ```console
//! $ cargo run --release -p slackwater-exporters --example service
//! serving http://127.0.0.1:9464/metrics; each line of standard input is a request
//! ```

use std::collections::HashMap;
use std::io::{self, BufRead};

use slackwater_exporters::Endpoint;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

fn main() -> io::Result<()> {
    // A service with a `metrics` recorder of its own has this line instead:
    // slackwater_exporters::publish_every(std::time::Duration::from_secs(5))?;
    let endpoint = Endpoint::bind("127.0.0.1:9464")?;

    println!(
        "serving http://{}/metrics; each line of standard input is a request",
        endpoint.address()
    );
    let mut requests_by_text = HashMap::<String, u64>::new();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let count = requests_by_text.entry(line).or_default();
        *count += 1;
        println!("seen {count} times");
    }
    Ok(())
}
