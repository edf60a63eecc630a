//! A real Prometheus scrapes the running demo and answers a query.

mod common;

use std::env;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::Demo;

/// How long to wait for something that normally takes a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Prometheus {
    fn scraping(target: SocketAddr) -> Prometheus {
        let folder = env::temp_dir().join(format!("slackwater-prometheus-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a writable place");
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs: [{{job_name: demo, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        fs::write(&config, text).expect("a writable place");
        // Prometheus does not say which port it got, so it is told one that was free just now.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("log")).expect("a writable place"))
            .spawn()
            .expect("prometheus starts");
        Prometheus { child, address, folder }
    }

    /// The values of an instant query; empty while the server is not up or knows nothing.
    fn query(&self, query: &str) -> Vec<f64> {
        if TcpStream::connect(self.address).is_err() {
            return Vec::new();
        }
        let response = common::get(self.address, &format!("/api/v1/query?query={query}"));
        let Ok(json) = serde_json::from_str::<serde_json::Value>(&response.body) else {
            return Vec::new();
        };
        let results = json["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |result: &serde_json::Value| result["value"][1].as_str()?.parse().ok();
        results.iter().filter_map(value).collect()
    }

    /// Asks until there is an answer.
    fn answer(&self, query: &str) -> Vec<f64> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let values = self.query(query);
            if !values.is_empty() {
                return values;
            }
            thread::sleep(Duration::from_millis(200));
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        panic!("no answer to {query}; prometheus says:\n{log}");
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn prometheus_scrapes_the_demo_and_answers() {
    if !common::have_tool("prometheus") {
        return;
    }
    let demo = Demo::start(&[]);
    let prometheus = Prometheus::scraping(demo.address);
    assert_eq!(prometheus.answer("slackwater_build_info"), [1.0]);
    assert_eq!(prometheus.answer("up"), [1.0]);
    let resident = prometheus.answer("sum(slackwater_process_resident_bytes)");
    assert!(resident[0] > 0.0);
    assert_eq!(prometheus.answer("count(slackwater_memory_bytes)"), [6.0]);
    // What Prometheus asks for first is OpenMetrics. Only there has a family a unit.
    let path = "/api/v1/targets/metadata?metric=slackwater_rss_peak_bytes";
    let metadata = common::get(prometheus.address, path).body;
    assert!(metadata.contains("\"unit\":\"bytes\""), "{metadata}");
    // Two scrapes of a counter make a rate.
    prometheus.answer("rate(slackwater_allocated_bytes_total[10s])");
}
