//! A small HTTP/1.1 server: from a request to a response, for clients that are good, slow or
//! hostile.
//!
//! One thread serves every client, so that watching a process adds one thread to it and not one for
//! each connection; answers that take seconds have threads of their own while they do. What a client
//! can do is bounded: so many connections at once, so many bytes of request head, so many seconds to
//! send it and to take the response, one request per connection. Bodies are read where an answer is
//! made from one ([`Answer::ToBody`]), up to a bound. When all connections are taken, the one whose
//! client has kept the server waiting for longest makes room: who asks at once is answered, however
//! many others hold on to theirs.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::Method;
pub use hyper::StatusCode;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{self, AbortHandle};
use tokio::time::{sleep, timeout};

use crate::observer;

mod address;
mod encoding;
mod preference;

pub use address::{Address, BadAddress};
pub use preference::Preference;

use address::Listener;
use encoding::Encoding;

/// Connections at once.
const MAX_CONNECTIONS: usize = 32;

/// The longest request head that is read.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// From accepting a connection to the end of the request's head.
const MAX_HEAD_TIME: Duration = Duration::from_secs(10);

/// The longest body that is read.
const MAX_BODY_BYTES: usize = 1 << 20;

/// From the end of the head to that of the body.
const MAX_BODY_TIME: Duration = Duration::from_secs(10);

/// From the response to its last byte in the system's buffers.
const MAX_SEND_TIME: Duration = Duration::from_secs(10);

/// Answers that take seconds, at once.
const MAX_LASTING: usize = 4;

/// How long to wait before accepting again after the system refused.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The type of a line of text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// The type of what is packed already, and gains nothing by being packed again.
pub const PACKED: &str = "application/octet-stream";

/// The head of a GET (or HEAD) request without a body, or of a POST request.
pub struct Request(Parts);

impl Request {
    /// Whether it is a POST. Only [`Answer::ToBody`] is an answer to one.
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
fn joined(headers: &HeaderMap, name: HeaderName) -> String {
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

    fn new(status: StatusCode, content_type: &'static str, body: Bytes) -> Response {
        Response { status, headers: HeaderMap::new(), body }
            .with_header(header::CONTENT_TYPE, content_type)
            .with_header(header::CACHE_CONTROL, "no-store")
            .with_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
    }

    /// The same in another encoding, if it is long enough to gain by one.
    fn encoded(mut self, encoding: Encoding) -> Response {
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

/// How a request is answered.
pub enum Answer {
    /// On the server's thread: nobody else is served meanwhile, so it takes a few milliseconds at
    /// most.
    Now(Response),
    /// On a thread of its own, where it may take as long as it likes.
    Later(Work),
    /// The same from the body of a POST request, of 1 MiB at most. Every other answer to one is
    /// replaced by a refusal.
    ToBody(WorkOnBody),
}

/// What makes a response.
pub type Work = Box<dyn FnOnce() -> Response + Send>;

/// What makes a response from a body.
pub type WorkOnBody = Box<dyn FnOnce(&[u8]) -> Response + Send>;

impl From<Response> for Answer {
    fn from(response: Response) -> Answer {
        Answer::Now(response)
    }
}

/// Takes `address` and answers what comes there, from a thread of its own and for as long as the
/// process lives. Returns the address, with the port that the system chose if it was 0.
///
/// Nothing here asks who is calling: take a loopback address or a Unix socket unless the network is
/// trusted. The file of a Unix socket is removed when the process ends by itself; one that a killed
/// process left is replaced.
///
/// # Errors
///
/// When the address cannot be had, or the system gives no thread or no event queue.
pub fn serve(
    address: &Address,
    answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> io::Result<Address> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(MAX_LASTING)
        .thread_keep_alive(Duration::from_secs(1))
        .thread_name("slackwater-lasting")
        .build()?;
    let (listener, address) = {
        let _context = runtime.enter();
        Listener::bind(address)?
    };
    let server = Server { answer, lasting: Arc::new(Semaphore::new(MAX_LASTING)) };
    thread::Builder::new().name("slackwater-http".into()).spawn(move || {
        observer::count(|| runtime.block_on(accept(listener, Arc::new(server))));
    })?;
    Ok(address)
}

/// What every connection needs.
struct Server<F> {
    answer: F,
    lasting: Arc<Semaphore>,
}

async fn accept<F>(listener: Listener, server: Arc<Server<F>>)
where
    F: Fn(&Request) -> Answer + Send + Sync + 'static,
{
    let mut connections = Connections::default();
    loop {
        let accepted = match &listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                connections.start(|client| converse(stream, server.clone(), client));
            }),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                connections.start(|client| converse(stream, server.clone(), client));
            }),
        };
        match accepted {
            // What it has sent is looked at before the next one may displace it.
            Ok(()) => task::yield_now().await,
            Err(error) => {
                // A client that is gone already, or no descriptor left: neither ends the service.
                let exhausted = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
                if exhausted && connections.displace_one() {
                    task::yield_now().await;
                } else {
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The connections that are open, the oldest first.
#[derive(Default)]
struct Connections(VecDeque<Connection>);

struct Connection {
    task: AbortHandle,
    client: Arc<Client>,
}

/// Whose turn it is on a connection.
#[derive(Default)]
struct Client {
    /// The server is at work on its answer; else the server waits for the client to send its request
    /// or to take its response.
    waits: AtomicBool,
}

impl Connections {
    /// Begins to serve a connection, if need be in the place of another.
    fn start<C>(&mut self, converse: impl FnOnce(Arc<Client>) -> C)
    where
        C: Future<Output = ()> + Send + 'static,
    {
        self.0.retain(|connection| !connection.task.is_finished());
        if self.0.len() >= MAX_CONNECTIONS && !self.displace_one() {
            return; // All of them wait for answers that last; this one is closed.
        }
        let client = Arc::new(Client::default());
        let task = tokio::spawn(converse(client.clone())).abort_handle();
        self.0.push_back(Connection { task, client });
    }

    /// Closes the oldest connection whose client keeps the server waiting; `false` if none does.
    fn displace_one(&mut self) -> bool {
        // Relaxed: both sides run on the server's thread.
        let keeps_waiting = |one: &Connection| !one.client.waits.load(Ordering::Relaxed);
        let oldest = self.0.iter().position(keeps_waiting);
        let Some(connection) = oldest.and_then(|oldest| self.0.remove(oldest)) else {
            return false;
        };
        connection.task.abort();
        true
    }
}

/// One connection, from its beginning to its end.
async fn converse<S, F>(stream: S, server: Arc<Server<F>>, client: Arc<Client>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(&Request) -> Answer,
{
    let answered = Notify::new();
    let (server, client, answered) = (&*server, &*client, &answered);
    let answer_one = service_fn(|request: hyper::Request<Incoming>| async move {
        client.waits.store(true, Ordering::Relaxed);
        let response = server.respond(request, client).await;
        client.waits.store(false, Ordering::Relaxed);
        answered.notify_one();
        Ok::<_, Infallible>(hyper::Response::<Full<Bytes>>::from(response))
    });
    let mut exchange = pin!(
        http1::Builder::new()
            .keep_alive(false)
            // Who has said all that it has to say may still listen.
            .half_close(true)
            .max_buf_size(MAX_HEAD_BYTES)
            .timer(TokioTimer::new())
            .header_read_timeout(MAX_HEAD_TIME)
            .serve_connection(TokioIo::new(stream), answer_one)
    );
    let mut too_slow = pin!(async {
        answered.notified().await;
        sleep(MAX_SEND_TIME).await;
    });
    // A client that breaks off, sends nonsense or is too slow has been told what HTTP has to say
    // about it; there is nobody else to tell.
    poll_fn(|context| match exchange.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => too_slow.as_mut().poll(context),
    })
    .await;
    observer::settle();
}

fn wrong_method(method: &Method) -> Response {
    let line = format!("{method}: expected GET or HEAD");
    Response::refusal(StatusCode::METHOD_NOT_ALLOWED, line).with_header(header::ALLOW, "GET, HEAD")
}

/// Reads a body to its end, while the client keeps the server waiting.
async fn read_body(body: Incoming, client: &Client) -> Result<Bytes, Response> {
    let too_long = || {
        let line = format!("a longer body: expected {MAX_BODY_BYTES} bytes at most");
        Response::refusal(StatusCode::PAYLOAD_TOO_LARGE, line)
    };
    // One that says so before it comes is not waited for.
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(too_long());
    }
    client.waits.store(false, Ordering::Relaxed);
    let read = timeout(MAX_BODY_TIME, Limited::new(body, MAX_BODY_BYTES).collect()).await;
    client.waits.store(true, Ordering::Relaxed);
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(Response::refusal(StatusCode::BAD_REQUEST, "a body without its end")),
        Err(_) => Err(Response::refusal(StatusCode::REQUEST_TIMEOUT, "the body did not come")),
    }
}

impl<F: Fn(&Request) -> Answer> Server<F> {
    async fn respond(&self, request: hyper::Request<Incoming>, client: &Client) -> Response {
        let (head, body) = request.into_parts();
        let is_post = head.method == Method::POST;
        if !is_post && head.method != Method::GET && head.method != Method::HEAD {
            return wrong_method(&head.method);
        }
        if !is_post && !body.is_end_stream() {
            let line = "a body: expected a request without one";
            return Response::refusal(StatusCode::PAYLOAD_TOO_LARGE, line);
        }
        let encoding = Encoding::accepted(&joined(&head.headers, header::ACCEPT_ENCODING));
        match (self.answer)(&Request(head)) {
            Answer::ToBody(work) => match read_body(body, client).await {
                Ok(body) => self.do_lasting(move || work(&body).encoded(encoding)).await,
                Err(refusal) => refusal,
            },
            _ if is_post => wrong_method(&Method::POST),
            Answer::Now(response) => response.encoded(encoding),
            Answer::Later(work) => self.do_lasting(move || work().encoded(encoding)).await,
        }
    }

    async fn do_lasting(&self, work: impl FnOnce() -> Response + Send + 'static) -> Response {
        let Ok(place) = self.lasting.clone().try_acquire_owned() else {
            let line = format!("{MAX_LASTING} requests that last are being answered: try later");
            return Response::refusal(StatusCode::SERVICE_UNAVAILABLE, line);
        };
        // The place is free again when the work ends, whether or not the client is still there.
        let work = task::spawn_blocking(move || {
            let _place = place;
            observer::count(work)
        });
        work.await.unwrap_or_else(|_| {
            Response::refusal(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made")
        })
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
