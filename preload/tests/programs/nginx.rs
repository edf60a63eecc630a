//! nginx under load: static files, compression, proxied answers and a cache, while it is told to start anew.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::shared::{Scratch, Server, installed_in, is_root};
use crate::support::{plain, preloaded};

/// DIRECTORY stands for the test's own, USER for who the workers are.
const CONFIGURATION: &str = r#"
daemon off;
USER
worker_processes 2;
pid DIRECTORY/pid;
error_log DIRECTORY/errors notice;
events { worker_connections 256; }
http {
    types { text/html html; text/plain txt; }
    access_log DIRECTORY/accesses combined buffer=32k;
    client_body_temp_path DIRECTORY/bodies;
    proxy_temp_path DIRECTORY/proxied;
    fastcgi_temp_path DIRECTORY/fastcgi;
    uwsgi_temp_path DIRECTORY/uwsgi;
    scgi_temp_path DIRECTORY/scgi;
    proxy_cache_path DIRECTORY/cache keys_zone=cache:1m;
    gzip_http_version 1.0;
    gzip_types text/plain;
    keepalive_requests 1000000;
    client_max_body_size 10m;
    upstream back { server unix:DIRECTORY/back; keepalive 8; }
    server {
        listen unix:DIRECTORY/front;
        root DIRECTORY/files;
        location / { ssi on; }
        location /packed/ { alias DIRECTORY/files/; gzip on; }
        location /proxied/ { proxy_pass http://back/; proxy_buffers 4 4k; }
        location /cached/ { proxy_pass http://back/; proxy_cache cache; proxy_cache_valid 200 1h; }
        location ~ ^/moved/(?<rest>.*)$ { return 301 /$rest; }
        location /taken {
            client_body_buffer_size 1k;
            proxy_pass http://back;
        }
    }
    server {
        listen unix:DIRECTORY/back;
        root DIRECTORY/files;
        location /taken { return 200 "taken: $content_length\n"; }
    }
}
"#;

const PATHS: [&str; 9] = [
    "/small.txt",
    "/large.txt",
    "/packed/large.txt",
    "/proxied/small.txt",
    "/proxied/large.txt",
    "/cached/large.txt",
    "/moved/small.txt",
    "/included.html",
    "/not/there",
];

struct Nginx {
    server: Server,
    socket: PathBuf,
    directory: Scratch,
}

impl Nginx {
    fn start(mut command: Command) -> Self {
        let directory = Scratch::new("nginx");
        let files = directory.join("files");
        fs::create_dir(&files).expect("make a directory");
        let write = |name: &str, content: String| fs::write(files.join(name), content).expect(name);
        write("small.txt", "slack water\n".into());
        write("large.txt", (0..40_000).map(|line| format!("{}\n", line * 7919)).collect());
        let include = "<!--# include virtual=\"/proxied/small.txt\" -->".repeat(20);
        write("included.html", format!("<p>{include}</p>"));
        let at = directory.0.to_str().expect("a path in UTF-8");
        // Root's workers would be another user's, who may not enter the directory.
        let user = if is_root() { "user root root;" } else { "" };
        let text = CONFIGURATION.replace("DIRECTORY", at).replace("USER", user);
        let configuration = directory.write("configuration", &text);
        command.arg("-p").arg(&directory.0).arg("-c").arg(configuration);
        command.arg("-e").arg(directory.join("errors"));
        let server = Server::start(command, &directory);
        let socket = directory.join("front");
        server.wait_until("it answers", || UnixStream::connect(&socket).is_ok());
        server.wait_until("both workers run", || server.children().len() >= 2);
        Self { server, socket, directory }
    }

    /// Sends a request, or several in a row, and reads until the server hangs up.
    fn ask(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.socket).expect("connect to nginx");
        let mut reader = stream.try_clone().expect("duplicate a descriptor");
        thread::scope(|scope| {
            let read = scope.spawn(move || {
                let mut answer = Vec::new();
                reader.read_to_end(&mut answer).expect("read an answer");
                String::from_utf8_lossy(&answer).into_owned()
            });
            stream.write_all(request).expect("send a request");
            read.join().expect("the reader ends")
        })
    }

    /// Each path's answer by a connection of its own, but for the times in it.
    fn answers(&self) -> BTreeMap<&'static str, String> {
        let answer = |path: &'static str| {
            let request =
                format!("GET {path} HTTP/1.0\r\nHost: tide\r\nAccept-Encoding: gzip\r\n\r\n");
            (path, without_times(&self.ask(request.as_bytes())))
        };
        let body = vec![b'x'; 3_000_000];
        let head =
            format!("POST /taken HTTP/1.0\r\nHost: tide\r\nContent-Length: {}\r\n\r\n", body.len());
        let taken = self.ask(&[head.as_bytes(), &body].concat());
        PATHS.map(answer).into_iter().chain([("/taken", without_times(&taken))]).collect()
    }

    /// Many requests on one connection, all of them sent before the answers are waited for.
    fn pipelined(&self) -> String {
        let request = "GET /small.txt HTTP/1.1\r\nHost: tide\r\n";
        let mut requests = format!("{request}\r\n").repeat(500);
        requests.push_str(&format!("{request}Connection: close\r\n\r\n"));
        without_times(&self.ask(requests.as_bytes()))
    }

    /// What it answers under load; always the same.
    fn under_load(&self) -> (BTreeMap<&'static str, String>, String) {
        const CLIENTS: usize = 6;
        let pipelined = self.pipelined();
        thread::scope(|scope| {
            let clients = [(); CLIENTS].map(|()| scope.spawn(|| self.pipelined()));
            for client in clients {
                assert_eq!(client.join().expect("a client ends"), pipelined);
            }
        });
        let answers = self.answers();
        thread::scope(|scope| {
            let clients = [(); CLIENTS].map(|()| {
                scope.spawn(|| {
                    for _ in 0..5 {
                        assert_eq!(self.answers(), answers);
                    }
                })
            });
            // New workers take over, and the old ones end when they have answered.
            for _ in 0..3 {
                let old = self.server.children();
                self.server.signal(libc::SIGHUP);
                self.server.wait_until("there are new workers", || {
                    self.server.children().iter().filter(|child| !old.contains(child)).count() >= 2
                });
            }
            for client in clients {
                client.join().expect("a client ends");
            }
        });
        (answers, pipelined)
    }

    fn stop(self) {
        let Self { server, directory, .. } = self;
        server.signal(libc::SIGQUIT);
        server.expect_end();
        let errors = fs::read_to_string(directory.join("errors")).expect("nginx has a log");
        for bad in ["exited on signal", "exited with fatal", "[crit]", "[emerg]"] {
            assert!(!errors.contains(bad), "{bad}: {errors}");
        }
    }
}

fn without_times(answer: &str) -> String {
    let is_time = |line: &&str| {
        ["Date:", "Last-Modified:", "ETag:"].iter().any(|name| line.starts_with(name))
    };
    answer.split('\n').filter(|line| !is_time(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn nginx_answers_the_same_under_load() {
    const TEST: &str = "nginx_answers_the_same_under_load";
    let folder = Path::new("/usr/sbin").to_owned();
    let Some(program) = installed_in(TEST, &[folder], "nginx") else { return };
    let without = Nginx::start(plain(&program));
    let expected = without.under_load();
    without.stop();
    for (path, answer) in &expected.0 {
        let status = if path.contains("moved") { "301" } else { "200" };
        let status = if path.contains("not") { "404" } else { status };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    let under = Nginx::start(preloaded(&program));
    under.server.expect_library();
    assert!(under.under_load() == expected, "the answers differ");
    under.stop();
}
