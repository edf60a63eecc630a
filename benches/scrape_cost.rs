//! What does a scrape cost the process that is scraped?
//!
//! ```console
//! $ cargo run --release -p slackwater-benches --features exporters --bin scrape_cost -- \
//!       [SCRAPES] [LIVE_MIB] [THREADS]
//! ```
//!
//! THREADS threads hold LIVE_MIB together, in blocks of 16 B to 32 KiB, and then rest, or go on
//! replacing blocks. Then the parts of a scrape, each by itself, in this thread's CPU time; then whole
//! scrapes over HTTP, in CPU time of the server's thread: what the kernel says it used, and beside it
//! what the process says of itself (`observer_cpu_seconds_total`).

use std::env;
use std::fs;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use slackwater_benches::random::Random;
use slackwater_exporters::exposition::{Format, Source, render};
use slackwater_exporters::{Endpoint, Observation, json, observer};

/// Long enough for the last scrape's pages to have been given back, and for caches to be cold.
const PAUSE: Duration = Duration::from_millis(300);

const MAX_BLOCK_BYTES: usize = 32 << 10;

struct Arguments {
    scrapes: u64,
    live_mib: u64,
    threads: u64,
}

fn arguments() -> Option<Arguments> {
    let mut numbers = env::args().skip(1);
    let mut number = |default| match numbers.next() {
        Some(text) => text.parse().ok().filter(|&number: &u64| number > 0),
        None => Some(default),
    };
    let arguments =
        Arguments { scrapes: number(1000)?, live_mib: number(64)?, threads: number(4)? };
    numbers.next().is_none().then_some(arguments)
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!(
            "scrape_cost: expected up to three whole numbers from 1: SCRAPES LIVE_MIB THREADS"
        );
        return ExitCode::from(2);
    };
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scrape_cost: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let Arguments { scrapes, live_mib, threads } = *arguments;
    let endpoint = Endpoint::bind("127.0.0.1:0")?;
    let address = endpoint.address().tcp();
    let address = address.ok_or_else(|| io::Error::other("it was to be a TCP address"))?;
    for is_busy in [false, true] {
        let load = if is_busy { "busy" } else { "resting" };
        println!("{live_mib} MiB live, {threads} threads, {load}; {scrapes} times each");
        let stop = AtomicBool::new(false);
        let filled = Barrier::new(threads as usize + 1);
        let share = (live_mib << 20) / threads;
        thread::scope(|scope| {
            for seed in 1..=threads {
                let (filled, stop) = (&filled, &stop);
                scope.spawn(move || hold(seed, share, filled, stop, is_busy));
            }
            filled.wait();
            parts(scrapes);
            let outcome = whole(address, scrapes);
            stop.store(true, Ordering::Relaxed);
            outcome
        })?;
    }
    Ok(())
}

/// Fills a share of the heap, and keeps it until the end.
fn hold(seed: u64, bytes: u64, filled: &Barrier, stop: &AtomicBool, is_busy: bool) {
    let mut random = Random::new(seed);
    // As many small as large ones: the exponent is what is even.
    let block = |random: &mut Random| {
        let bytes = 16 << random.below(11);
        vec![1_u8; (bytes + random.below(bytes)).min(MAX_BLOCK_BYTES)]
    };
    let mut blocks = Vec::new();
    let mut held = 0;
    while held < bytes {
        let new = block(&mut random);
        held += new.len() as u64;
        blocks.push(new);
    }
    filled.wait();
    while !stop.load(Ordering::Relaxed) {
        if is_busy {
            let place = random.below(blocks.len());
            blocks[place] = block(&mut random);
        } else {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The work of a scrape without the clients, piece by piece.
fn parts(times: u64) {
    let observation = Observation::take();
    let source = || [Source { labels: &[], figures: &observation }];
    let text = render(Format::Prometheus, &source());
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    println!("  {series} series");
    report("collect", times, || {
        black_box(Observation::take());
    });
    report("  snapshot", times, || {
        black_box(slackwater::snapshot());
    });
    report("  residency", times, || {
        black_box(slackwater_exporters::residency::of_this_process(None));
    });
    report("  /proc/self/status", times, || {
        black_box(slackwater_exporters::process::ProcessMemory::read());
    });
    report("  control group", times, || {
        black_box(slackwater_exporters::cgroup::CgroupMemory::read());
    });
    for format in [Format::Prometheus, Format::OpenMetrics] {
        report(&format!("render {format:?}"), times, || {
            drop(black_box(render(format, &source())));
        });
    }
    report("render JSON", times, || drop(black_box(json::render(&observation))));
}

fn report(name: &str, times: u64, work: impl Fn()) {
    let before = thread_cpu_nanos();
    for _ in 0..times {
        work();
    }
    let micros = (thread_cpu_nanos() - before) as f64 / 1e3 / times as f64;
    println!("  {name:<24} {micros:>8.1} us");
}

/// Whole scrapes, as clients make them.
fn whole(address: SocketAddr, times: u64) -> io::Result<()> {
    const OPEN_METRICS: &str = "Accept: application/openmetrics-text;version=1.0.0\r\n";
    const GZIP: &str = "Accept-Encoding: gzip\r\n";
    println!("  {:<24} {:>11} {:>11} {:>7} {:>9}", "", "kernel says", "it says", "bytes", "at 1/s");
    let open_metrics_gzip = format!("{OPEN_METRICS}{GZIP}");
    for (name, path, headers, times, pause) in [
        ("/metrics", "/metrics", "", times, Duration::ZERO),
        ("/metrics gzip", "/metrics", GZIP, times, Duration::ZERO),
        ("OpenMetrics", "/metrics", OPEN_METRICS, times, Duration::ZERO),
        ("OpenMetrics gzip", "/metrics", &open_metrics_gzip, times, Duration::ZERO),
        ("OpenMetrics gzip, rarely", "/metrics", &open_metrics_gzip, 20, PAUSE),
        ("/snapshot.json gzip", "/snapshot.json", GZIP, times, Duration::ZERO),
        ("/map.json gzip", "/map.json", GZIP, times, Duration::ZERO),
        ("/ (the page)", "/", "", times, Duration::ZERO),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
        let mut bytes = 0;
        let before = (server_cpu_nanos()?, observer::cpu_seconds());
        for _ in 0..times {
            thread::sleep(pause);
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(request.as_bytes())?;
            let mut response = Vec::new();
            stream.read_to_end(&mut response)?;
            let head = response.windows(4).position(|end| end == b"\r\n\r\n");
            let head = head.ok_or_else(|| io::Error::other("a response without a head"))?;
            bytes = response.len() - head - 4;
        }
        let kernel = (server_cpu_nanos()? - before.0) as f64 / 1e3 / times as f64;
        let own = (observer::cpu_seconds() - before.1) * 1e6 / times as f64;
        let share = kernel / 1e6 * 100.0;
        println!("  {name:<24} {kernel:>8.1} us {own:>8.1} us {bytes:>7} {share:>7.3} %");
    }
    Ok(())
}

/// The CPU time of the server's threads as the kernel counts it.
fn server_cpu_nanos() -> io::Result<u64> {
    let mut nanos = 0;
    for thread in fs::read_dir("/proc/self/task")? {
        let thread = thread?.path();
        // The ticker comes and goes.
        let comm = fs::read_to_string(thread.join("comm")).unwrap_or_default();
        if comm.starts_with("slackwater-http") {
            let times = fs::read_to_string(thread.join("schedstat"))?;
            let running = times.split(' ').next().and_then(|running| running.parse::<u64>().ok());
            nanos += running.ok_or_else(|| io::Error::other("schedstat: expected a number"))?;
        }
    }
    Ok(nanos)
}

fn thread_cpu_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
