//! This process's figures over HTTP: `/metrics`, `/snapshot.json`, `/map.json`, profiles under
//! `/debug/`, and a page for people.

use std::fmt::Display;
use std::io;

use hyper::StatusCode;
use hyper::header;

use crate::figures::observation::Observation;
use crate::figures::residency;
use crate::formats::exposition::{self, Format, Source};
use crate::formats::{json, map};
use crate::page;
#[cfg(feature = "profiles")]
use crate::profile::apart;
use crate::serve::http::{self, Address, Answer, HTML, JSON, Request, Response, Server};
use crate::serve::profiles;

/// A served address, until this is dropped.
///
/// It serves Slackwater's families alone: a service that publishes other metrics through the facade
/// has a recorder already, and uses a [`Publisher`](crate::Publisher) instead.
#[derive(Debug)]
#[must_use = "it serves until it is dropped; `detach` serves for good"]
pub struct Endpoint {
    server: Server,
}

impl Endpoint {
    /// Serves `address` from a thread of its own: an IP address and a port like `127.0.0.1:9464` or
    /// `[::1]:9464` (port 0 takes any free one), or `unix:/run/service.sock`. See [`http::serve`].
    /// Works inside of an async runtime and outside.
    ///
    /// Dropping the endpoint closes the address at once; requests that are being answered have a second.
    ///
    /// # Errors
    ///
    /// When `address` is neither, or cannot be had, or the system gives no thread or no event queue.
    pub fn bind(address: &str) -> io::Result<Endpoint> {
        let address = address.parse::<Address>().map_err(|expected| {
            let message = format!("{address:?}: {expected}");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        #[cfg(feature = "profiles")]
        apart::remember_filters();
        Ok(Endpoint { server: http::serve(&address, answer)? })
    }

    /// The address that is served, with the port that the system chose.
    pub fn address(&self) -> &Address {
        self.server.address()
    }

    /// Serves for as long as the process lives; returns the address.
    pub fn detach(self) -> Address {
        self.server.detach()
    }

    /// Closes the address, answers the requests that have come, and returns when the thread has ended:
    /// after two seconds at most. See [`Server::stop`].
    pub fn stop(self) {
        self.server.stop();
    }
}

fn answer(request: &Request) -> Answer {
    match request.path() {
        "/" => page().into(),
        "/metrics" => {
            let observation = Observation::take();
            metrics(request, &[Source { labels: &[], figures: &observation }]).into()
        }
        "/snapshot.json" => snapshot(&Observation::take()).into(),
        "/map.json" => map(request, |query| {
            residency::look_at_this_process(|memory, heap, pagemap| {
                map::render(query, memory, heap, pagemap)
            })
        })
        .into(),
        path => profiles::answer(request).unwrap_or_else(|| {
            let line = format!(
                "{path}: expected /, /metrics, /snapshot.json, /map.json, /debug/pprof/, \
                 /debug/leaks or one of /debug/flame/live.svg, alloc.svg, peak.svg, \
                 fragmentation.svg, release.svg"
            );
            Response::refusal(StatusCode::NOT_FOUND, line).into()
        }),
    }
}

/// The page for people. It reads `/snapshot.json` of whoever serves it.
pub fn page() -> Response {
    Response::ok(HTML, page::PAGE).with_header(header::CONTENT_SECURITY_POLICY, page::POLICY)
}

/// The observations as Prometheus scrapes them, in the format that the request prefers.
pub fn metrics(request: &Request, sources: &[Source<'_>]) -> Response {
    let format = Format::accepted(&request.accept());
    Response::ok(format.content_type(), exposition::render(format, sources))
        .with_header(header::VARY, "accept")
}

/// The map of a heap, or the part of it that the request asks for. `render` draws it.
pub fn map<E: Display>(
    request: &Request,
    render: impl FnOnce(map::Query) -> Result<Result<String, String>, E>,
) -> Response {
    let query = match map::Query::parse(request.parameters()) {
        Ok(query) => query,
        Err(line) => return Response::refusal(StatusCode::BAD_REQUEST, line),
    };
    match render(query) {
        Ok(Ok(json)) => Response::ok(JSON, json),
        Ok(Err(line)) => Response::refusal(StatusCode::BAD_REQUEST, line),
        Err(error) => {
            Response::refusal(StatusCode::INTERNAL_SERVER_ERROR, profiles::unreadable(error))
        }
    }
}

/// An observation as one JSON object.
pub fn snapshot(observation: &Observation) -> Response {
    Response::ok(JSON, json::render(observation))
}
