//! A small HTTP/1.1 server: from a request to a response, for clients that are good, slow or
//! hostile.
//!
//! One thread serves every client, so that watching a process adds one thread to it and not one for
//! each connection; answers that take seconds have threads of their own while they do. What a client
//! can do is bounded: so many connections at once, so many bytes of request head, so many seconds to
//! send it and to take the response, one request per connection. Bodies are read where an answer is
//! made from one ([`Answer::ToBody`]), up to a bound. Work that waits ends when its client hangs up
//! ([`Caller`]). When all connections are taken, the one whose
//! client has kept the server waiting for longest makes room: who asks at once is answered, however
//! many others hold on to theirs.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::Method;
pub use hyper::StatusCode;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::runtime::{self, Runtime};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::{self, AbortHandle};
use tokio::time::{sleep, timeout};

use crate::kernel::observer;

mod address;
mod answer;
mod encoding;
mod message;

pub use crate::formats::preference::Preference;
pub use address::{Address, BadAddress};
pub use answer::{Answer, Caller, Work, WorkOnBody};
pub use message::{HTML, JSON, PACKED, Request, Response, TEXT};

use address::Listener;
use answer::Connected;
use encoding::Encoding;
use message::joined;

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

/// How long the requests under way have when the server is stopped, and then the work for them.
const GRACE: Duration = Duration::from_secs(1);

/// How often to look meanwhile whether they are done.
const FINISH_PAUSE: Duration = Duration::from_millis(5);

/// An address that is served. Dropping it closes the address at once, and gives the requests that are
/// being answered a second; [`Server::detach`] serves for as long as the process lives.
#[derive(Debug)]
#[must_use = "the address is served until this is dropped; `detach` serves for good"]
pub struct Server {
    address: Address,
    /// Says that it is to end; gone without a word if it never is.
    stop: Option<oneshot::Sender<()>>,
    /// Ends when the address is closed.
    closed: Receiver<Infallible>,
    thread: Option<JoinHandle<()>>,
    /// Where the thread is: not in a child that was forked.
    process: u32,
}

impl Server {
    /// The address, with the port that the system chose if it was 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Closes the address, answers the requests that have come, for two seconds at most, and returns
    /// when the thread has ended. It blocks: inside of an async runtime, call it where that may be done.
    pub fn stop(mut self) {
        self.close();
        if let Some(thread) = self.thread.take()
            && self.process == std::process::id()
        {
            // A panic there has been reported by the hook.
            let _ = thread.join();
        }
    }

    /// Serves for as long as the process lives.
    pub fn detach(mut self) -> Address {
        self.stop = None;
        self.address.clone()
    }

    fn close(&mut self) {
        let Some(stop) = self.stop.take() else { return };
        if self.process == std::process::id() && stop.send(()).is_ok() {
            // Until the listener is dropped: whoever takes the address next finds it free.
            let _ = self.closed.recv();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes `address` and answers what comes there, from a thread of its own. Works inside of an async
/// runtime and outside.
///
/// Nothing here asks who is calling: take a loopback address or a Unix socket unless the network is
/// trusted. The file of a Unix socket is removed when the server or the process ends by itself; one
/// that a killed process left is replaced.
///
/// # Errors
///
/// When the address cannot be had, or the system gives no thread or no event queue.
pub fn serve(
    address: &Address,
    answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> io::Result<Server> {
    let (tell_begun, begun) = mpsc::sync_channel(1);
    let (tell_closed, closed) = mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let wanted = address.clone();
    // The runtime lives and ends on this thread: where it ends inside of another one, that panics.
    let work = move || {
        let (runtime, listener) = match begin(&wanted) {
            Ok((runtime, listener, address)) => {
                // Who waits for it is in `serve`.
                let _ = tell_begun.send(Ok(address));
                (runtime, listener)
            }
            Err(error) => {
                let _ = tell_begun.send(Err(error));
                return;
            }
        };
        let service = Service { answer, lasting: Arc::new(Semaphore::new(MAX_LASTING)) };
        runtime.block_on(accept(listener, Arc::new(service), stopped, tell_closed));
        runtime.shutdown_timeout(GRACE);
    };
    let thread = thread::Builder::new().name("slackwater-http".into());
    let thread = thread.spawn(|| observer::count(work))?;
    let address = begun.recv().unwrap_or_else(|_| Err(io::Error::other("no thread serves")))?;
    let (stop, thread) = (Some(stop), Some(thread));
    Ok(Server { address, stop, closed, thread, process: std::process::id() })
}

fn begin(address: &Address) -> io::Result<(Runtime, Listener, Address)> {
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
    Ok((runtime, listener, address))
}

/// What every connection needs.
struct Service<F> {
    answer: F,
    lasting: Arc<Semaphore>,
}

async fn accept<F>(
    listener: Listener,
    service: Arc<Service<F>>,
    stopped: oneshot::Receiver<()>,
    closed: mpsc::Sender<Infallible>,
) where
    F: Fn(&Request) -> Answer + Send + Sync + 'static,
{
    let mut connections = Connections::default();
    {
        let mut accept = pin!(accept_all(&listener, service, &mut connections));
        let mut stopped = pin!(stopped);
        let mut is_detached = false;
        poll_fn(|context| {
            if !is_detached {
                match stopped.as_mut().poll(context) {
                    Poll::Ready(Ok(())) => return Poll::Ready(()),
                    Poll::Ready(Err(_)) => is_detached = true,
                    Poll::Pending => {}
                }
            }
            accept.as_mut().poll(context)
        })
        .await;
    }
    drop(listener);
    drop(closed);
    // Who has been heard is answered.
    let _ = timeout(GRACE, connections.all_answered()).await;
    connections.0.iter().for_each(|connection| connection.task.abort());
}

async fn accept_all<F>(listener: &Listener, service: Arc<Service<F>>, connections: &mut Connections)
where
    F: Fn(&Request) -> Answer + Send + Sync + 'static,
{
    loop {
        let accepted = match listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                connections.start(|client| converse(stream, service.clone(), client));
            }),
            Listener::Unix(listener, _) => listener.accept().await.map(|(stream, _)| {
                connections.start(|client| converse(stream, service.clone(), client));
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
    /// Its request has come.
    is_heard: AtomicBool,
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

    /// Waits until everybody who has asked has the whole answer.
    async fn all_answered(&self) {
        // Relaxed: both sides run on the server's thread.
        let is_asking = |one: &Connection| one.client.is_heard.load(Ordering::Relaxed);
        while self.0.iter().any(|one| is_asking(one) && !one.task.is_finished()) {
            sleep(FINISH_PAUSE).await;
        }
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
async fn converse<S, F>(stream: S, service: Arc<Service<F>>, client: Arc<Client>)
where
    S: AsyncRead + AsyncWrite + AsRawFd + Unpin,
    F: Fn(&Request) -> Answer,
{
    let answered = Notify::new();
    let descriptor = stream.as_raw_fd();
    let (service, client, answered) = (&*service, &*client, &answered);
    let answer_one = service_fn(|request: hyper::Request<Incoming>| async move {
        client.waits.store(true, Ordering::Relaxed);
        client.is_heard.store(true, Ordering::Relaxed);
        let response = service.respond(request, client, descriptor).await;
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

impl<F: Fn(&Request) -> Answer> Service<F> {
    async fn respond(
        &self,
        request: hyper::Request<Incoming>,
        client: &Client,
        descriptor: RawFd,
    ) -> Response {
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
                Ok(body) => {
                    let work = move |_: &Caller| work(&body).encoded(encoding);
                    self.do_lasting(work, descriptor).await
                }
                Err(refusal) => refusal,
            },
            _ if is_post => wrong_method(&Method::POST),
            Answer::Now(response) => response.encoded(encoding),
            Answer::Later(work) => {
                let work = move |caller: &Caller| work(caller).encoded(encoding);
                self.do_lasting(work, descriptor).await
            }
        }
    }

    async fn do_lasting(
        &self,
        work: impl FnOnce(&Caller) -> Response + Send + 'static,
        descriptor: RawFd,
    ) -> Response {
        let Ok(place) = self.lasting.clone().try_acquire_owned() else {
            let line = format!("{MAX_LASTING} requests that last are being answered: try later");
            return Response::refusal(StatusCode::SERVICE_UNAVAILABLE, line);
        };
        let connected = Connected(Arc::default());
        let caller = connected.0.clone();
        // The place is free again when the work ends, whether or not the client is still there.
        let mut work = task::spawn_blocking(move || {
            let _place = place;
            observer::count(|| work(&caller))
        });
        let mut hung_up = pin!(hung_up(descriptor));
        let mut is_there = true;
        let done = poll_fn(|context| {
            let done = pin!(&mut work).poll(context);
            if done.is_pending() && is_there && hung_up.as_mut().poll(context).is_ready() {
                is_there = false;
                connected.0.leave();
            }
            done
        });
        done.await.unwrap_or_else(|_| {
            Response::refusal(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made")
        })
    }
}

/// Ends when the client has closed its side of the connection; never where that cannot be seen. Takes a
/// descriptor meanwhile.
async fn hung_up(descriptor: RawFd) {
    // SAFETY: it is that of the connection, which this future is a part of.
    let connection = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let copy = connection.try_clone_to_owned().ok();
    let watch = |copy| {
        // SAFETY: the copy's descriptor stays the same, and open, for as long as it lives.
        unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }.ok()
    };
    if let Some(watched) = copy.and_then(watch) {
        while let Ok(mut guard) = watched.readable().await {
            if guard.ready().is_read_closed() {
                return;
            }
            // Bytes that nobody asked for: they are not looked at.
            guard.clear_ready();
        }
    }
    pending().await
}
