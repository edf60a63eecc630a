//! A service under Slackwater whose log shows the allocator giving memory back: one static, one line of
//! set-up, and whatever `tracing` subscriber it has.
//!
//! ```console
//! $ cargo run --release -p slackwater-exporters --example traced
//! DEBUG tick{start_unix_nano=… micros=2154 gate="idle" operations=0 pages=25600}:purge{…}: slackwater: close …
//! ```
//!
//! `tracing` has no times but those of the telling: the true ones are the fields.

use std::io;
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::format::FmtSpan;

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// A request that needs much memory for a moment.
fn burst() -> usize {
    let blocks: Vec<Vec<u8>> = (0..100_000).map(|i| vec![1; 16 + i % 2048]).collect();
    blocks.iter().map(Vec::len).sum()
}

fn main() -> io::Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        // A line for each span, when it is over.
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .init();
    slackwater_exporters::trace_every(Duration::from_millis(100))?;

    for _ in 0..3 {
        tracing::info!(bytes = burst(), "served a request");
        // The memory goes back while nothing happens.
        thread::sleep(Duration::from_millis(700));
    }
    Ok(())
}
