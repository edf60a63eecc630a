//! An HTTP endpoint of our own: `/metrics`, `/snapshot.json` and a page for people.
//!
//! One thread serves every client, so that watching the process adds one thread to it and not one
//! for each connection. What a client can do is bounded: so many connections at once, so many bytes
//! of request head, so many seconds for the whole exchange, one request per connection.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::exposition::{self, Format, Source};
use crate::families::Sample;
use crate::{json, observer, page};

/// Connections served at once; further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 32;

/// The longest request head that is read.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// From accepting a connection to the last byte of the response.
const MAX_EXCHANGE: Duration = Duration::from_secs(10);

/// How long to wait before accepting again after the system refused a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// A served address. The endpoint lives as long as the process; this is only its description.
///
/// It serves Slackwater's families alone: a service that publishes other metrics through the facade
/// has a recorder already, and uses a [`Publisher`](crate::Publisher) instead.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    address: SocketAddr,
}

impl Endpoint {
    /// Binds `address` and serves it from a thread of its own. Port 0 takes any free port. Nothing
    /// here asks who is calling: bind a loopback address unless the network is trusted.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound, or the system gives no thread or no event queue.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<Endpoint> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let endpoint = Endpoint { address: listener.local_addr()? };
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        thread::Builder::new()
            .name("slackwater-http".into())
            .spawn(move || runtime.block_on(serve(listener)))?;
        Ok(endpoint)
    }

    /// The address that is served, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(listener: tokio::net::TcpListener) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return; // The semaphore is never closed.
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // A client that is gone already, or no descriptor left: neither ends the service.
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        tokio::spawn(async move {
            let answer_one = service_fn(|request| {
                let response = observer::count(|| answer(&request));
                async { Ok::<_, Infallible>(response) }
            });
            let exchange = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(MAX_HEAD_BYTES)
                .timer(TokioTimer::new())
                .header_read_timeout(MAX_EXCHANGE)
                .serve_connection(TokioIo::new(stream), answer_one);
            // A client that breaks off, sends nonsense or is too slow has been told what HTTP has
            // to say about it; there is nobody else to tell.
            let _ = timeout(MAX_EXCHANGE, exchange).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let text = "only GET and HEAD are served here\n";
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if !request.body().is_end_stream() {
        return respond(StatusCode::PAYLOAD_TOO_LARGE, TEXT, "a request has no body here\n");
    }
    match request.uri().path() {
        "/" => {
            let mut response = respond(StatusCode::OK, HTML, page::PAGE);
            let policy = HeaderValue::from_static(page::POLICY);
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            response
        }
        "/metrics" => {
            let sample = Sample::take();
            let text =
                exposition::render(Format::Prometheus, &[Source { labels: &[], sample: &sample }]);
            respond(StatusCode::OK, Format::Prometheus.content_type(), text)
        }
        "/snapshot.json" => respond(StatusCode::OK, JSON, json::render(&Sample::take())),
        _ => {
            let text = "not found: there are /, /metrics and /snapshot.json\n";
            respond(StatusCode::NOT_FOUND, TEXT, text)
        }
    }
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
