//! A real Prometheus server, for as long as a test runs.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;

/// A server of its own port and folder; ended and removed with this.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Prometheus {
    /// Starts a server with the configuration that `config` makes of the address it will have.
    pub fn start(config: impl FnOnce(SocketAddr) -> String) -> Prometheus {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("slackwater-prometheus-{}-{number}", std::process::id());
        let folder = env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a writable place");
        // Prometheus does not say which port it got, so it is told one that was free just now.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let file = folder.join("prometheus.yml");
        fs::write(&file, config(address)).expect("a writable place");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("log")).expect("a writable place"))
            .spawn()
            .expect("prometheus starts");
        Prometheus { child, address, folder }
    }

    /// What its API answers to `path` with these parameters; the error is Prometheus' own.
    pub fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        // Refused until the server is up.
        TcpStream::connect(self.address).map_err(|error| error.to_string())?;
        let mut target = format!("/api/v1/{path}?");
        for (name, value) in parameters {
            let _ = write!(target, "{name}={}&", percent_encoded(value));
        }
        let body = super::get(self.address, &target).body;
        let answer: Value =
            serde_json::from_str(&body).map_err(|_| format!("no JSON: {}", body.trim()))?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer["error"].as_str().unwrap_or("no error named").to_string()),
        }
    }

    /// The values of an instant query's series.
    pub fn query(&self, query: &str) -> Result<Vec<f64>, String> {
        let data = self.ask("query", &[("query", query)])?;
        let results = data["result"].as_array().cloned().unwrap_or_default();
        let value = |result: &Value| result["value"][1].as_str()?.parse().ok();
        Ok(results.iter().filter_map(value).collect())
    }

    /// The rules as it has loaded them, when each has been evaluated once.
    pub fn rules(&self) -> Vec<Rule> {
        let word = |value: &Value| value.as_str().expect("a word").to_string();
        self.wait_for("the rules' first evaluation", || {
            let data = self.ask("rules", &[]).ok()?;
            let groups = data["groups"].as_array().expect("groups").iter();
            let rules: Vec<Rule> = groups
                .flat_map(|group| group["rules"].as_array().expect("rules"))
                .map(|rule| Rule {
                    records: rule["type"] == "recording",
                    name: word(&rule["name"]),
                    query: word(&rule["query"]),
                    health: word(&rule["health"]),
                })
                .collect();
            rules.iter().all(|rule| rule.health != "unknown").then_some(rules)
        })
    }

    /// Asks until there is an answer with a number in it.
    pub fn answer(&self, query: &str) -> Vec<f64> {
        self.wait_for(query, || {
            self.query(query).ok().filter(|values| values.iter().any(|value| value.is_finite()))
        })
    }

    /// Tries until `attempt` succeeds; `what` is for the message if it never does.
    pub fn wait_for<T>(&self, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(result) = attempt() {
                return result;
            }
            thread::sleep(Duration::from_millis(200));
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        panic!("waited in vain for {what}; prometheus says:\n{log}");
    }
}

/// A rule as Prometheus has loaded it.
pub struct Rule {
    /// It records a series; otherwise it is an alert.
    pub records: bool,
    /// Of the series, or of the alert.
    pub name: String,
    /// Its expression.
    pub query: String,
    /// `ok`, or `err` if its last evaluation failed.
    pub health: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => encoded.push(byte.into()),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        encoded
    })
}
