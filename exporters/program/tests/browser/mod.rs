//! A real browser, driven over the DevTools protocol: headless Chromium with one tab.
//!
//! The protocol is JSON over a WebSocket: a call has an id and gets one answer, and events come in
//! between. They are kept, so that a test can ask afterwards what the browser complained about.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde_json::{Value, json};
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

use crate::common::PATIENCE;

/// The browser's program.
pub const CHROMIUM: &str = "chromium";

/// Between two looks at something that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A phone's screen and a desk's, in CSS pixels.
pub const PHONE: (u32, u32) = (390, 844);
pub const DESK: (u32, u32) = (1280, 900);

/// A browser with one tab; ended when the test ends.
pub struct Browser {
    child: Child,
    profile: PathBuf,
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    session: Option<String>,
    calls: u64,
    events: Vec<Value>,
}

impl Browser {
    /// Starts Chromium with an empty tab of the size of a desk's screen.
    pub fn start() -> Browser {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let profile = env::temp_dir().join(format!("slackwater-page-{}-{number}", process::id()));
        let mut child = Command::new(CHROMIUM)
            .args(["--headless", "--remote-debugging-port=0", "--no-first-run"])
            .args(["--no-sandbox", "--disable-dev-shm-usage"])
            .args(["--disable-gpu", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("chromium starts");
        let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = loop {
            let line = said.next().expect("chromium says where it listens").expect("text");
            if let Some(address) = line.strip_prefix("DevTools listening on ") {
                break address.to_string();
            }
        };
        // Its end of the pipe stays open, or its next words would end it.
        thread::spawn(move || said.for_each(drop));
        let (socket, _) = tungstenite::connect(address).expect("a WebSocket");
        if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        }
        let mut browser =
            Browser { child, profile, socket, session: None, calls: 0, events: Vec::new() };
        browser.attach();
        browser
    }

    fn attach(&mut self) {
        let tab = self.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": tab["targetId"], "flatten": true });
        let session = self.call("Target.attachToTarget", attach);
        self.session = session["sessionId"].as_str().map(str::to_string);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        self.screen(DESK);
    }

    /// Calls a method of the protocol.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let answer = self.try_call(method, &params);
        answer.unwrap_or_else(|error| panic!("{method} {params}: {error}"))
    }

    /// The same where it may fail.
    fn try_call(&mut self, method: &str, params: &Value) -> Result<Value, Value> {
        self.calls += 1;
        let id = self.calls;
        let mut call = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            call["sessionId"] = json!(session);
        }
        self.socket.send(Message::text(call.to_string())).expect("the browser listens");
        loop {
            let message = self.read();
            if message["id"] == id {
                return match &message["error"] {
                    Value::Null => Ok(message["result"].clone()),
                    error => Err(error.clone()),
                };
            }
            self.events.push(message);
        }
    }

    fn read(&mut self) -> Value {
        let message = self.socket.read().expect("the browser answers");
        serde_json::from_str(message.to_text().expect("text")).expect("JSON")
    }

    /// The events of that method so far, in order.
    fn events(&self, method: &str) -> impl DoubleEndedIterator<Item = &Value> {
        let of_method = move |event: &&Value| event["method"] == method;
        self.events.iter().filter(of_method).map(|event| &event["params"])
    }

    /// Sets the size of the screen.
    pub fn screen(&mut self, (width, height): (u32, u32)) {
        let mobile = width < DESK.0;
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Sets what the visitor prefers: `light` or `dark`.
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Opens an address and waits until it is there.
    pub fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({ "url": address }));
        self.wait_for(&format!(
            "location.href == {address:?} && document.readyState == 'complete'"
        ));
    }

    /// The value of an expression in the page; of a promise, when it has one.
    pub fn value(&mut self, expression: &str) -> Value {
        self.try_value(expression).unwrap_or_else(|error| panic!("{expression}: {error:#}"))
    }

    fn try_value(&mut self, expression: &str) -> Result<Value, Value> {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.try_call("Runtime.evaluate", &params)?;
        match &result["exceptionDetails"] {
            Value::Null => Ok(result["result"]["value"].clone()),
            exception => Err(exception.clone()),
        }
    }

    /// Looks until the expression holds; returns its value. While one page makes room for another there
    /// may be nothing that could be asked.
    pub fn wait_for(&mut self, expression: &str) -> Value {
        let began = Instant::now();
        loop {
            let value = self.try_value(expression).unwrap_or_default();
            let holds = !(value.is_null() || value == false || value == 0 || value == "");
            if holds {
                return value;
            }
            assert!(began.elapsed() < PATIENCE, "never came true: {expression}");
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// The text of an element as a visitor reads it, spaces made plain.
    pub fn text(&mut self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({selector:?}).innerText"));
        text.as_str().expect("text").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The exact number behind a figure.
    pub fn number(&mut self, selector: &str) -> f64 {
        let value = self.value(&format!("Number(document.querySelector({selector:?}).value)"));
        value.as_f64().unwrap_or_else(|| panic!("{selector} is no number: {value}"))
    }

    /// The middle of an element, which is scrolled to if need be, once it stays where it is.
    fn middle(&mut self, selector: &str) -> (f64, f64) {
        let look = format!(
            "(() => {{ const element = document.querySelector({selector:?});
                element.scrollIntoView({{ block: 'center', behavior: 'instant' }});
                const box = element.getBoundingClientRect();
                return [box.left + box.width / 2, box.top + box.height / 2]; }})()"
        );
        let mut place = self.value(&look);
        loop {
            thread::sleep(LOOK_AGAIN);
            let before = std::mem::replace(&mut place, self.value(&look));
            if before == place {
                break;
            }
        }
        (place[0].as_f64().expect("x"), place[1].as_f64().expect("y"))
    }

    fn mouse(&mut self, kind: &str, (x, y): (f64, f64)) {
        let button = if kind == "mouseMoved" { "none" } else { "left" };
        let event = json!({ "type": kind, "x": x, "y": y, "button": button, "clickCount": 1 });
        self.call("Input.dispatchMouseEvent", event);
    }

    /// Moves the mouse to the middle of an element.
    pub fn point_at(&mut self, selector: &str) {
        let place = self.middle(selector);
        self.mouse("mouseMoved", place);
    }

    /// Clicks on the middle of an element, as a hand does.
    pub fn click(&mut self, selector: &str) {
        let place = self.middle(selector);
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            self.mouse(kind, place);
        }
    }

    /// Presses a key, by its name in the DOM.
    pub fn press(&mut self, key: &str) {
        let text = if key == "Enter" { "\r" } else { "" };
        let code = if key == "Enter" { 13 } else { 0 };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({
                "type": kind, "key": key, "code": key, "text": text, "windowsVirtualKeyCode": code,
            });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// The last answer that the page got from that path.
    pub fn last_answer(&mut self, path: &str) -> String {
        // Everything that the browser has to say about it by now is read with this.
        self.value("0");
        let asked = self.events("Network.requestWillBeSent");
        let asked = asked.filter(|event| {
            event["request"]["url"].as_str().is_some_and(|url| url.ends_with(path))
        });
        let finished: Vec<&Value> =
            self.events("Network.loadingFinished").map(|event| &event["requestId"]).collect();
        let last = asked.map(|event| &event["requestId"]).rfind(|id| finished.contains(id));
        let last = last.unwrap_or_else(|| panic!("the page got no {path}")).clone();
        let body = self.call("Network.getResponseBody", json!({ "requestId": last }));
        body["body"].as_str().expect("text").to_string()
    }

    /// What the tab shows, as a PNG: a whole page of the screen's width.
    pub fn picture(&mut self) -> Vec<u8> {
        let size = self.call("Page.getLayoutMetrics", json!({}))["cssContentSize"].clone();
        let clip = json!({
            "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1,
        });
        let how = json!({ "clip": clip, "captureBeyondViewport": true });
        let picture = self.call("Page.captureScreenshot", how);
        BASE64.decode(picture["data"].as_str().expect("text").as_bytes()).expect("base64")
    }

    /// Errors and warnings of the page: exceptions, console, policy violations, failed requests.
    pub fn complaints(&mut self) -> Vec<String> {
        self.value("0");
        let thrown = self.events("Runtime.exceptionThrown").map(Value::to_string);
        let console = self.events("Runtime.consoleAPICalled");
        let console = console.filter(|event| event["type"] != "log").map(Value::to_string);
        let log = self.events("Log.entryAdded").map(|event| &event["entry"]);
        let log = log.filter(|entry| entry["level"] == "error" || entry["level"] == "warning");
        thrown.chain(console).chain(log.map(Value::to_string)).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to end, so that nothing of it is left to write into the profile. It may be gone
        // already, and a browser that does not listen is killed.
        let close = json!({ "id": self.calls + 1, "method": "Browser.close" });
        let _ = self.socket.send(Message::text(close.to_string()));
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if began.elapsed() > PATIENCE {
                let _ = self.child.kill();
            }
            thread::sleep(LOOK_AGAIN);
        }
        let _ = fs::remove_dir_all(&self.profile);
    }
}
