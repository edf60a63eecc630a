//! Many instances out of one process, for measuring what a fleet costs Prometheus.
//!
//! The process has a burst/idle load of its own and keeps its last minute of real `/metrics` pages.
//! Each instance serves that history as its own: so many seconds late, and so many times as large.
//! So the pages are real ones, sums add up and counters never go back, and no two instances agree.
//!
//! `/targets` lists the instances for Prometheus' HTTP service discovery; `/instances/N/metrics` is
//! the page of one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write;
use std::hint::black_box;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use slackwater_exporters::Observation;
use slackwater_exporters::exposition::{Format, Source, render};
use tokio::runtime;

/// Pages kept, one for each second.
const HISTORY: usize = 60;

const JOBS: [&str; 5] = ["shop", "search", "mail", "feed", "billing"];
const CLUSTERS: [&str; 2] = ["east", "west"];

/// What a burst holds, and what the load holds at all times.
const BURST_BYTES: usize = 64 << 20;
const LIVE_BYTES: usize = 8 << 20;
const BURST: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(9);

/// The last pages, oldest first.
type History = Arc<Mutex<VecDeque<Arc<str>>>>;

/// Serves `instances` instances from threads of its own, for as long as the process lives.
pub fn serve(listener: TcpListener, instances: usize) -> io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let history = History::default();
    thread::Builder::new().name("load".into()).spawn(work)?;
    let recorder = history.clone();
    thread::Builder::new().name("recorder".into()).spawn(move || record(&recorder))?;
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    thread::Builder::new().name("server".into()).spawn(move || {
        // Its only errors are the listener's.
        let ended = runtime.block_on(accept(listener, &Fleet { address, instances, history }));
        eprintln!("the fleet is not served any more: {ended:?}");
    })?;
    Ok(address)
}

/// Bursts and pauses, so that the pages have something to tell.
fn work() {
    let mut random = 1_u64;
    let mut fill = |bytes: usize| {
        let mut blocks = Vec::new();
        let mut held = 0;
        while held < bytes {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let base = 16_usize << (random >> 60).min(11);
            let block = vec![1_u8; base + (random >> 32) as usize % base];
            held += block.len();
            blocks.push(black_box(block));
        }
        blocks
    };
    loop {
        let live = fill(LIVE_BYTES);
        let burst = fill(BURST_BYTES);
        thread::sleep(BURST);
        drop(burst);
        thread::sleep(IDLE);
        drop(live);
    }
}

/// Keeps a page for each second.
fn record(history: &History) {
    loop {
        let source = Source { labels: &[], figures: &Observation::take() };
        let page = render(Format::Prometheus, &[source]).into();
        let mut pages = history.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.len() == HISTORY {
            pages.pop_front();
        }
        pages.push_back(page);
        drop(pages);
        thread::sleep(Duration::from_secs(1));
    }
}

#[derive(Clone)]
struct Fleet {
    address: SocketAddr,
    instances: usize,
    history: History,
}

async fn accept(listener: TcpListener, fleet: &Fleet) -> io::Result<Infallible> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let fleet = fleet.clone();
        tokio::spawn(async move {
            let answer_one = service_fn(|request: Request<Incoming>| {
                let response = fleet.answer(request.uri().path());
                async { Ok::<_, Infallible>(response) }
            });
            // A scraper that goes away in the middle of a page is no matter here.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer_one).await;
        });
    }
}

impl Fleet {
    fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        let instance = |path: &str| {
            let number = path.strip_prefix("/instances/")?.strip_suffix("/metrics")?;
            number.parse::<usize>().ok().filter(|number| *number < self.instances)
        };
        let (kind, body) = if path == "/targets" {
            ("application/json", self.targets())
        } else if let Some(page) = instance(path).and_then(|number| self.page(number)) {
            (Format::Prometheus.content_type(), page)
        } else {
            let mut response = Response::new(Full::from("not found: there is /targets\n"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        };
        let mut response = Response::new(Full::from(body));
        let kind = hyper::header::HeaderValue::from_static(kind);
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
        response
    }

    /// In the format of Prometheus' HTTP service discovery.
    fn targets(&self) -> String {
        let target = |number: usize| {
            format!(
                "{{\"targets\":[\"{}\"],\"labels\":{{\"__metrics_path__\":\
                 \"/instances/{number}/metrics\",\"instance\":\"node-{number:05}\",\
                 \"job\":\"{}\",\"cluster\":\"{}\"}}}}",
                self.address,
                JOBS[number % JOBS.len()],
                CLUSTERS[number / JOBS.len() % CLUSTERS.len()],
            )
        };
        format!("[{}]", (0..self.instances).map(target).collect::<Vec<_>>().join(","))
    }

    /// The page of one instance; `None` before the first is recorded.
    fn page(&self, number: usize) -> Option<String> {
        // Spread well, and the same in every run.
        let spread = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let late = (spread >> 32) as usize % HISTORY;
        let factor = 0.5 + (spread >> 48) as f64 / 65536.0 * 3.5;
        let pages = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let page = pages.get((pages.len().checked_sub(1)?).saturating_sub(late))?.clone();
        drop(pages);
        Some(enlarged(&page, factor))
    }
}

/// The page with every counter, histogram and size multiplied; states, ages and the like as they are.
fn enlarged(page: &str, factor: f64) -> String {
    let mut text = String::with_capacity(page.len() + page.len() / 8);
    let mut multiply = false;
    for line in page.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            multiply = !typed.ends_with(" gauge") || typed.ends_with("_bytes gauge");
        }
        let sample = if line.starts_with('#') { None } else { line.rsplit_once(' ') };
        let parsed = sample.and_then(|(series, value)| Some((series, value.parse::<f64>().ok()?)));
        let _ = match parsed {
            Some((series, value)) if multiply && value.fract() == 0.0 => {
                writeln!(text, "{series} {}", (value * factor).round())
            }
            Some((series, value)) if multiply => writeln!(text, "{series} {}", value * factor),
            _ => writeln!(text, "{line}"),
        };
    }
    text
}
