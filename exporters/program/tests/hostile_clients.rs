//! The server against clients that are slow, broken or hostile. Whatever they do, a good client is
//! served meanwhile, and afterwards the process has as many descriptors, threads and live bytes as
//! before.

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::{Demo, PATIENCE, exchange, get};
use slackwater_exporters::http::{self, Address, Answer, Request, Response, TEXT};

#[global_allocator]
static ALLOCATOR: slackwater::Slackwater = slackwater::Slackwater::new();

/// More than the buffers of any connection hold.
const LARGE_BYTES: usize = 64 << 20;

/// The server's limits (serve/http/mod.rs).
const MAX_CONNECTIONS: usize = 32;
const MAX_LASTING: usize = 4;
const MAX_BODY_BYTES: usize = 1 << 20;

/// What lasting answers wait for.
#[derive(Default)]
struct Gate {
    /// How many answers wait, and whether they need not.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().expect("nobody panics with it");
        state.0 += 1;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| !state.1).expect("as above");
        state.0 -= 1;
        self.changed.notify_all();
    }

    fn set_open(&self, is_open: bool) {
        self.state.lock().expect("as above").1 = is_open;
        self.changed.notify_all();
    }

    fn wait_for(&self, waiting: usize) {
        let state = self.state.lock().expect("as above");
        let waited = self.changed.wait_timeout_while(state, PATIENCE, |state| state.0 != waiting);
        let (state, timeout) = waited.expect("as above");
        assert!(!timeout.timed_out(), "{} instead of {waiting} answers wait", state.0);
    }
}

struct Server {
    address: SocketAddr,
    gate: Arc<Gate>,
}

/// The one server of all tests, and the right to it: they count what the process has.
fn server() -> (&'static Server, MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    static SERVER: OnceLock<Server> = OnceLock::new();
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = SERVER.get_or_init(|| {
        let large: &'static [u8] = vec![b'x'; LARGE_BYTES].leak();
        let gate = Arc::new(Gate::default());
        let lasting = gate.clone();
        let answer = move |request: &Request| -> Answer {
            match request.path() {
                "/large" => Response::ok(TEXT, large).into(),
                "/lasting" => {
                    let gate = lasting.clone();
                    Answer::Later(Box::new(move |_| {
                        gate.pass();
                        Response::ok(TEXT, "at last\n")
                    }))
                }
                "/body" if request.is_post() => Answer::ToBody(Box::new(|body| {
                    Response::ok(TEXT, format!("{} bytes\n", body.len()))
                })),
                _ => Response::ok(TEXT, "good\n").into(),
            }
        };
        let any = "127.0.0.1:0".parse::<Address>().expect("an address");
        let served = http::serve(&any, answer).expect("a free port").detach();
        let address = served.tcp().expect("it is TCP");
        Server { address, gate }
    });
    (server, alone)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    stream
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

fn assert_serves(address: SocketAddr) {
    let response = get(address, "/");
    assert_eq!((response.status, response.body.as_str()), (200, "good\n"));
}

/// Reads until the server ends the connection, in whatever way. Red if it does not.
fn assert_closed(mut stream: TcpStream) {
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
            Err(error) => panic!("the server keeps the connection: {error}"),
        }
    }
}

/// What the process has.
#[derive(Debug)]
struct Possessions {
    descriptors: usize,
    server_threads: usize,
    live_bytes: u64,
}

impl Possessions {
    fn now() -> Possessions {
        let count = |folder: &str| fs::read_dir(folder).expect("Linux has it");
        let is_ours = |thread: &fs::DirEntry| {
            let comm = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            comm.starts_with("slackwater-")
        };
        Possessions {
            // Less the one that counts.
            descriptors: count("/proc/self/fd").count() - 1,
            server_threads: count("/proc/self/task").flatten().filter(is_ours).count(),
            live_bytes: slackwater::snapshot().memory_bytes.live,
        }
    }

    /// Waits until there is no more than this again, beside `clients` of this test's sockets.
    fn assert_returned(&self, clients: usize) {
        const SLACK_BYTES: u64 = 512 << 10;
        let start = Instant::now();
        loop {
            let now = Possessions::now();
            if now.descriptors <= self.descriptors + clients
                && now.server_threads <= self.server_threads
                && now.live_bytes <= self.live_bytes + SLACK_BYTES
            {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{now:?}, {clients} clients; before: {self:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A server at rest, as it is before each test.
fn before(server: &Server) -> Possessions {
    assert_serves(server.address);
    let mut before = Possessions::now();
    // The good client's connection may still be on its way out.
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(5));
        let now = Possessions::now();
        if now.descriptors < before.descriptors {
            before = now;
        }
    }
    before
}

#[test]
fn clients_that_are_slow_are_given_up() {
    let (server, _alone) = server();
    let before = before(server);
    let address = server.address;
    let mut slow = Vec::new();
    for _ in 0..4 {
        // Silent; a head that never ends; a head byte by byte, below.
        slow.push(connect(address));
        let mut unfinished = connect(address);
        unfinished.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ").expect("sent");
        slow.push(unfinished);
    }
    let mut drops = connect(address);
    let dropping = drops.try_clone().expect("a descriptor");
    let drip = thread::spawn(move || {
        let head = request("/").replace("Host: x", &format!("Host: {}", "x".repeat(100_000)));
        // Until the server has had enough.
        for byte in head.as_bytes() {
            if drops.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    // They ask, and do not take the response.
    let never_reading: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = connect(address);
            stream.write_all(request("/large").as_bytes()).expect("sent");
            stream
        })
        .collect();
    for _ in 0..10 {
        assert_serves(address);
    }
    for stream in slow {
        assert_closed(stream);
    }
    assert_closed(dropping);
    drip.join().expect("it ends when the server closes");
    // Their own ends are all that is left, though nobody has read a byte.
    before.assert_returned(never_reading.len());
    drop(never_reading);
    before.assert_returned(0);
}

#[test]
fn bodies_are_read_where_they_are_wanted_and_up_to_a_bound() {
    let (server, _alone) = server();
    let before = before(server);
    let address = server.address;
    let post = |path: &str, length: usize, body: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        exchange(address, (head + body).as_bytes())
    };
    let response = post("/body", 5, "hello");
    assert_eq!((response.status, response.body.as_str()), (200, "5 bytes\n"));
    assert_eq!(post("/body", 0, "").body, "0 bytes\n");
    let longest = "x".repeat(MAX_BODY_BYTES);
    assert_eq!(post("/body", longest.len(), &longest).body, "1048576 bytes\n");
    drop(longest);
    assert_eq!(post("/body", MAX_BODY_BYTES + 1, "x").status, 413);
    let mut unannounced =
        b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    unannounced.extend(format!("{:x}\r\n", MAX_BODY_BYTES + 1).as_bytes());
    unannounced.extend(vec![b'x'; MAX_BODY_BYTES + 1]);
    assert_eq!(exchange(address, &unannounced).status, 413);
    drop(unannounced);
    assert_eq!(post("/", 5, "hello").status, 405);
    let chunked = "POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense";
    assert_eq!(exchange(address, chunked.as_bytes()).status, 400);

    // Bodies that never come take no place from those who ask.
    let held: Vec<TcpStream> = (0..2 * MAX_CONNECTIONS)
        .map(|_| {
            let mut stream = connect(address);
            let head = "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf";
            stream.write_all(head.as_bytes()).expect("sent");
            stream
        })
        .collect();
    for _ in 0..10 {
        assert_serves(address);
    }
    for stream in held {
        assert_closed(stream);
    }
    before.assert_returned(0);
}

#[test]
fn more_connections_than_there_is_room_for_displace_the_oldest() {
    let (server, _alone) = server();
    let before = before(server);
    let clients = 5 * MAX_CONNECTIONS;
    let held: Vec<TcpStream> = (0..clients).map(|_| connect(server.address)).collect();
    for _ in 0..10 {
        assert_serves(server.address);
    }
    // Served means that all the others have been accepted.
    let open = Possessions::now().descriptors - before.descriptors - clients;
    assert!(open <= MAX_CONNECTIONS, "{open} connections are open");
    assert_closed(held.into_iter().next().expect("there are some"));
    before.assert_returned(0);
}

/// Sets it when it goes out of scope, be it by a panic.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_client_that_asks_at_once_is_served_while_others_hold_on() {
    let (server, _alone) = server();
    let before = before(server);
    let address = server.address;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut held = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = connect(address);
                    let _ = stream.write_all(b"GET / HT");
                    held.push(stream);
                    if held.len() == 50 {
                        held.clear();
                    }
                }
            });
        }
        let _stop = SetAtEnd(&stop);
        for _ in 0..200 {
            assert_serves(address);
        }
    });
    before.assert_returned(0);
}

#[test]
fn clients_that_break_off_leave_nothing() {
    let (server, _alone) = server();
    let before = before(server);
    for i in 0..200 {
        let mut stream = connect(server.address);
        let text = request("/large");
        let sent = if i % 2 == 0 { &text } else { &text[..20] };
        let _ = stream.write_all(sent.as_bytes());
        if i % 4 < 2 {
            // The next close is a reset.
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            // SAFETY: an open socket, and an option of the size that is said.
            let failed = unsafe {
                libc::setsockopt(
                    stream.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_LINGER,
                    (&raw const linger).cast(),
                    size_of_val(&linger) as libc::socklen_t,
                )
            };
            assert_eq!(failed, 0);
        }
    }
    assert_serves(server.address);
    before.assert_returned(0);
}

#[test]
fn a_client_that_has_said_all_is_still_answered() {
    let (server, _alone) = server();
    for path in ["/", "/lasting"] {
        server.gate.set_open(true);
        let mut stream = connect(server.address);
        stream.write_all(request(path).as_bytes()).expect("sent");
        stream.shutdown(Shutdown::Write).expect("open");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("text");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {text:?}");
        server.gate.set_open(false);
    }
}

#[test]
fn of_requests_sent_at_once_the_first_is_answered() {
    let (server, _alone) = server();
    let before = before(server);
    let mut stream = connect(server.address);
    stream.write_all(request("/").repeat(100).as_bytes()).expect("sent");
    let mut bytes = Vec::new();
    // A reset may follow: the others were not read.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).expect("text");
    assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "{text}");
    assert!(text.to_ascii_lowercase().contains("connection: close"), "{text}");
    drop(stream);
    before.assert_returned(0);
}

#[test]
fn nonsense_is_refused() {
    let (server, _alone) = server();
    let long = format!("GET /?{} HTTP/1.1\r\nHost: x\r\n\r\n", "q".repeat(8 << 10));
    let longer = format!("GET /?{} HTTP/1.1\r\nHost: x\r\n\r\n", "q".repeat(1 << 20));
    let header = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let headers = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: x\r\n".repeat(1000));
    let before = before(server);
    for (bytes, expected) in [
        (long.as_bytes(), &[200][..]),
        (longer.as_bytes(), &[414, 431]),
        (header.as_bytes(), &[431]),
        (headers.as_bytes(), &[431]),
        (b"nonsense\r\n\r\n", &[400]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", &[400]),
        (b"GET / HTTP/9.9\r\n\r\n", &[400, 505]),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", &[200, 400]),
        (b"GET /%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n", &[200]),
        (b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\nAccept: \xff\xfe\r\n\r\n", &[200, 400]),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", &[400]),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", &[405]),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", &[405]),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", &[405]),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n", &[413]),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", &[413]),
    ] {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let status = exchange(server.address, bytes).status;
        assert!(expected.contains(&status), "{shown:?}: {status}");
    }
    // Whoever speaks HTTP/2 alone would not understand a refusal.
    let mut stream = connect(server.address);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("sent");
    assert_closed(stream);
    before.assert_returned(0);
}

#[test]
fn a_body_without_end_is_not_read() {
    let (server, _alone) = server();
    let before = before(server);
    let mut stream = connect(server.address);
    let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("sent");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    // 6 GiB, were it not refused.
    let refused = (0..100_000).find_map(|_| stream.write_all(chunk.as_bytes()).err());
    let kind = refused.map(|error| error.kind());
    let broken = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    assert!(kind.is_some_and(|kind| broken.contains(&kind)), "{kind:?}");
    drop(stream);
    before.assert_returned(0);
}

#[test]
fn answers_that_last_are_few_and_keep_nobody_waiting() {
    let (server, _alone) = server();
    let before = before(server);
    let address = server.address;
    let ask = || {
        let mut stream = connect(address);
        stream.write_all(request("/lasting").as_bytes()).expect("sent");
        stream
    };
    let mut waiting: Vec<TcpStream> = (0..MAX_LASTING).map(|_| ask()).collect();
    server.gate.wait_for(MAX_LASTING);
    let refused = get(address, "/lasting");
    assert_eq!(refused.status, 503, "{}", refused.body);
    // Nobody displaces a client that waits for the server.
    let held: Vec<TcpStream> = (0..2 * MAX_CONNECTIONS).map(|_| connect(address)).collect();
    assert_serves(address);
    drop(held);
    // Who leaves does not end the work; who comes then is not above the limit for that.
    drop(waiting.pop());
    assert_eq!(get(address, "/lasting").status, 503);
    server.gate.set_open(true);
    for mut stream in waiting {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("text");
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("at last\n"), "{text:?}");
    }
    server.gate.wait_for(0);
    // The last place is free when the work's thread has let go of it.
    let start = Instant::now();
    while get(address, "/lasting").status != 200 {
        assert!(start.elapsed() < PATIENCE, "the places are not free again");
    }
    server.gate.set_open(false);
    before.assert_returned(0);
}

/// A program with few descriptors: the connections that hold on to theirs make room.
#[test]
fn a_process_without_descriptors_still_serves() {
    let (_, _alone) = server();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 20 && exec \"$0\" \"$@\""]);
    limited.arg(common::slackwater().get_program());
    let demo = Demo::start_by(limited, "127.0.0.1:0", &[]);
    let address = demo.address;
    let open = || fs::read_dir(format!("/proc/{}/fd", demo.id())).expect("it runs").count();
    let before = open();
    // So many that giving up one after the other would take longer than a good client waits.
    let held: Vec<TcpStream> = (0..100).map(|_| connect(address)).collect();
    for _ in 0..10 {
        assert_eq!(get(address, "/metrics").status, 200);
    }
    drop(held);
    let start = Instant::now();
    while open() > before {
        assert!(start.elapsed() < PATIENCE, "{} descriptors; before: {before}", open());
        thread::sleep(Duration::from_millis(20));
    }
    common::assert_complete(&get(address, "/metrics").body);
}
