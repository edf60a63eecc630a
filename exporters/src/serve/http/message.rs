//! What is asked and what is said: a request's head, a response, and the types of bodies.

use http_body_util::Full;
use hyper::Method;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;

use super::encoding::{self, Encoding};

/// The type of a line of text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// The type of a page.
pub const HTML: &str = "text/html; charset=utf-8";

/// The type of an object for scripts.
pub const JSON: &str = "application/json";

/// The type of what is packed already, and gains nothing by being packed again.
pub const PACKED: &str = "application/octet-stream";

/// The head of a GET (or HEAD) request without a body, or of a POST request.
pub struct Request(pub(super) Parts);

impl Request {
    /// Whether it is a POST. Only [`Answer::ToBody`](super::Answer::ToBody) is an answer to one.
    pub fn is_post(&self) -> bool {
        self.0.method == Method::POST
    }

    /// The path, as sent.
    pub fn path(&self) -> &str {
        self.0.uri.path()
    }

    /// The query as sent, without its question mark.
    pub fn query(&self) -> &str {
        self.0.uri.query().unwrap_or_default()
    }

    /// Names and values of the query, in its order and as sent.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let parameters = self.query().split('&').filter(|parameter| !parameter.is_empty());
        parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
    }

    /// The header that says which formats the client prefers; empty if it does not care.
    pub fn accept(&self) -> String {
        joined(&self.0.headers, header::ACCEPT)
    }
}

/// A header that may come in several lines, in one.
pub(super) fn joined(headers: &HeaderMap, name: HeaderName) -> String {
    let lines: Vec<&str> =
        headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
    lines.join(",")
}

/// What a request is answered with.
#[derive(Debug)]
pub struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Response {
    /// What was asked for.
    pub fn ok(content_type: &'static str, body: impl Into<Bytes>) -> Response {
        Response::new(StatusCode::OK, content_type, body.into())
    }

    /// A refusal: one line, without its end, that names the value and what was expected.
    pub fn refusal(status: StatusCode, line: impl Into<String>) -> Response {
        Response::new(status, TEXT, Bytes::from(line.into() + "\n"))
    }

    /// What was asked for is elsewhere, for good: `place` is relative to where it was looked for.
    pub fn moved(place: &'static str) -> Response {
        Response::new(StatusCode::MOVED_PERMANENTLY, TEXT, Bytes::from(format!("{place}\n")))
            .with_header(header::LOCATION, place)
    }

    fn new(status: StatusCode, content_type: &'static str, body: Bytes) -> Response {
        Response { status, headers: HeaderMap::new(), body }
            .with_header(header::CONTENT_TYPE, content_type)
            .with_header(header::CACHE_CONTROL, "no-store")
            .with_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
    }

    /// The same in another encoding, if it is long enough to gain by one.
    pub(super) fn encoded(mut self, encoding: Encoding) -> Response {
        let is_packed = self.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == PACKED);
        if self.body.len() < encoding::MIN_BYTES || is_packed {
            return self;
        }
        if encoding == Encoding::Gzip {
            self.body = encoding::gzip(&self.body).into();
            self = self.with_header(header::CONTENT_ENCODING, "gzip");
        }
        // After any that the answer itself depends on.
        self.headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &'static str) -> Response {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }
}

impl From<Response> for hyper::Response<Full<Bytes>> {
    fn from(response: Response) -> hyper::Response<Full<Bytes>> {
        let mut to_send = hyper::Response::new(Full::new(response.body));
        *to_send.status_mut() = response.status;
        *to_send.headers_mut() = response.headers;
        to_send
    }
}
