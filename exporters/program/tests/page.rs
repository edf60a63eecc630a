//! The live page in a real browser: it draws, it updates, its numbers are right, and it can be
//! read.

mod browser;
mod common;
mod stage;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use browser::{Browser, CHROMIUM, DESK, PHONE};
use common::{Demo, PATIENCE, have_tool};
use serde_json::{Value, json};
use stage::{FILLED_SEGMENT, MIB, Stage, figures, filled};

/// Every chart's figure.
const CHARTS: [&str; 4] = ["memory", "breakdown", "ledger", "calls"];

/// Waits until the page has shown an answer.
const LIVE: &str = "document.querySelector('#status').dataset.state == 'live'";
const LOST: &str = "document.querySelector('#status').dataset.state == 'lost'";

/// Waits as long as the page takes for more than two questions.
const PERIODS_PASS: &str = "new Promise(done => setTimeout(done, 2500))";

/// The browser at the page, with figures on it.
fn open(address: &str) -> Browser {
    let mut browser = Browser::start();
    browser.open(address);
    browser.wait_for(LIVE);
    browser
}

fn open_demo() -> (Demo, Browser) {
    let demo = Demo::start(&[]);
    let browser = open(&format!("http://{}/", demo.address));
    (demo, browser)
}

/// Scrolls to the map until it has so many segments: what is drawn above it meanwhile may push it out of
/// the view again, and it is asked for where it is seen.
fn wait_for_segments(browser: &mut Browser, how_many: &str) {
    browser.wait_for(&format!(
        "document.querySelector('#map').scrollIntoView(), \
         document.querySelectorAll('#segments button').length {how_many}"
    ));
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn sum(family: &Value) -> f64 {
    family.as_object().expect("labels").values().map(|value| value.as_f64().expect("number")).sum()
}

/// Asserts that what the page shows reads so.
fn assert_reads(browser: &mut Browser, expected: &[(&str, &str)]) {
    for (selector, text) in expected {
        assert_eq!(browser.text(selector), *text, "{selector}");
    }
}

/// A reverse proxy that has the endpoint under `/node1`, and nothing else. Serves for as long as the test
/// lives.
fn proxy(behind: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("accepted");
            // A browser also opens connections that it does not use.
            thread::spawn(move || pass_on(client, behind));
        }
    });
    address
}

/// One request to `/node1…`, answered by the endpoint without that.
fn pass_on(mut client: TcpStream, behind: SocketAddr) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match client.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).expect("text");
    let target = head.split(' ').nth(1).unwrap_or_default();
    let answer = match target.strip_prefix("/node1") {
        None => b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
        Some(rest) => {
            let rest = if rest.is_empty() { "/" } else { rest };
            let request = format!("GET {rest} HTTP/1.0\r\nHost: x\r\n\r\n");
            common::exchange_bytes(behind, request.as_bytes())
        }
    };
    // It may have gone on to another page meanwhile.
    let _ = client.write_all(&answer);
}

#[test]
fn behind_a_proxy_under_a_path_it_is_the_same() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let demo = Demo::start(&[]);
    let proxy = proxy(demo.address);
    let mut browser = open(&format!("http://{proxy}/node1/"));
    for place in ["/node1/", "/node1"] {
        browser.value(&format!("window.isOld = true; void (location.href = '{place}')"));
        // In between there is a document without anything.
        browser.wait_for(&format!("!window.isOld && location.pathname == '/node1/' && {LIVE}"));
        let links = "Array.from(document.links, link => link.href)";
        let mut found = browser.value(links);
        browser.value("void (location.href = '/node1/debug/pprof')");
        let is_there = "location.pathname == '/node1/debug/pprof/' && document.links.length > 10";
        browser.wait_for(is_there);
        let more = browser.value(links);
        let found = found.as_array_mut().expect("links");
        found.extend(more.as_array().expect("links").iter().cloned());
        assert!(found.len() > 20, "{found:?}");
        for link in found {
            let link = text(link).split('#').next().expect("one");
            let path = link.strip_prefix(&format!("http://{proxy}")).expect(link);
            // Windows take their time; where they lead is what counts.
            let path = path.split('?').next().expect("one");
            let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
            let answer = common::exchange_bytes(proxy, request.as_bytes());
            assert!(answer.starts_with(b"HTTP/1.0 200"), "{link}");
        }
    }
}

#[test]
fn it_draws_and_updates_without_a_complaint() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let (_demo, mut browser) = open_demo();
    // The load goes up and down, so both a line and what was purged come to be seen.
    browser.wait_for("document.querySelector('#memory path.rss')?.getAttribute('d').split('L')[3]");
    browser.wait_for("document.querySelector('#memory path.purged')");
    for chart in CHARTS {
        let path = browser.value(&format!(
            "Math.max(...Array.from(document.querySelectorAll('#{chart} path'),
                path => path.getBBox().width))"
        ));
        assert!(path.as_f64().is_some_and(|width| width > 0.0), "{chart} draws {path}");
    }
    let first = browser.number("#rss data");
    browser.wait_for(&format!("document.querySelector('#rss data').value != {first}"));
    // The map of a real arena, down to the pages of a segment.
    wait_for_segments(&mut browser, "> 0");
    browser.click("#segments button");
    browser.wait_for("document.querySelectorAll('#chunks .pages i').length == 512");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn its_figures_are_those_of_the_snapshot_it_got() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let (_demo, mut browser) = open_demo();
    browser.wait_for("document.querySelector('#memory path.purged')");
    // Frozen, so that the answer and what is shown belong together: once an answer that is on its way has come, and
    // been drawn.
    browser.click("#pause");
    browser.wait_for("document.querySelector('#status').dataset.state == 'paused'");
    let began = Instant::now();
    while let Some(difference) = difference_to_last_answer(&mut browser) {
        assert!(began.elapsed() < PATIENCE, "{difference}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// What the page shows other than the last snapshot that it got has it.
fn difference_to_last_answer(browser: &mut Browser) -> Option<String> {
    let snapshot: Value =
        serde_json::from_str(&browser.last_answer("/snapshot.json")).expect("JSON");
    for (selector, expected) in shown_figures(&snapshot) {
        let shown = browser.number(selector);
        // The JSON on the way here may cost a quotient its last bit.
        let least = expected.abs() * f64::EPSILON;
        if (shown - expected).abs() > least {
            return Some(format!("{selector}: {shown}, not {expected}"));
        }
    }
    let summary = format!(
        "[slackwater] enq={} coalesce={} purged_pages={} madvise_calls={}\n  \
         idle_ticks={} busy_ticks={} drop={}",
        sum(&snapshot["release_enqueued_total"]),
        snapshot["release_coalesced_total"],
        sum(&snapshot["release_purged_pages_total"]),
        snapshot["release_madvise_calls_total"],
        snapshot["epoch_ticks_total"]["idle"],
        snapshot["epoch_ticks_total"]["busy"],
        snapshot["release_dropped_total"],
    );
    let shown = browser.value("document.querySelector('#summary').textContent");
    (text(&shown) != summary).then(|| format!("{shown}, not {summary}"))
}

/// Where the page shows figures, and what they are in a snapshot.
fn shown_figures(snapshot: &Value) -> [(&'static str, f64); 20] {
    let pages = sum(&snapshot["release_purged_pages_total"]);
    let number = |value: &Value| value.as_f64().expect("a number");
    [
        ("#rss data", sum(&snapshot["process_resident_bytes"])),
        ("#rss-more data", number(&snapshot["rss_peak_bytes"])),
        ("#live data", number(&snapshot["memory_bytes"]["live"])),
        ("#purged data", number(&snapshot["release_purged_bytes_total"])),
        ("#purged-more data", pages),
        ("#per-call data", pages / number(&snapshot["release_madvise_calls_total"])),
        ("#per-call-more data", number(&snapshot["release_madvise_calls_total"])),
        ("#gate data", number(&snapshot["gate_state"])),
        ("#drop data", number(&snapshot["release_dropped_total"])),
        ("#drop-more data", sum(&snapshot["release_enqueued_total"])),
        ("#memory .legend .rss data", sum(&snapshot["process_resident_bytes"])),
        ("#ledger .legend .dirty data", number(&snapshot["release_pending_bytes"])),
        ("#breakdown .legend .live data", number(&snapshot["rss_bytes"]["live"])),
        ("#breakdown .legend .file data", number(&snapshot["rss_bytes"]["file"])),
        ("#breakdown .legend .unattributed data", number(&snapshot["rss_unattributed_bytes"])),
        ("#breakdown .legend .total data", sum(&snapshot["process_resident_bytes"])),
        ("#purge-duration .about data", number(&snapshot["purge_duration_seconds"]["count"])),
        ("#purge-batch .about data", number(&snapshot["purge_batch_pages"]["count"])),
        ("#classes tfoot td:nth-child(2) data", sum(&snapshot["size_class_live_bytes"])),
        ("#classes tfoot td:nth-child(3) data", sum(&snapshot["size_class_span_bytes"])),
    ]
}

#[test]
fn figures_read_well() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let stage = Stage::start(3, |_| figures());
    let mut browser = open(&stage.page());
    assert_reads(
        &mut browser,
        &[
            ("#rss", "104 MiB"),
            ("#rss-more", "peak 300 MiB"),
            ("#live", "70.0 MiB"),
            ("#live-more", "67 % of RSS"),
            ("#purged", "1.14 GiB"),
            ("#purged-more", "300 000 pages"),
            ("#per-call", "188"),
            ("#per-call-more", "1 600 calls"),
            ("#gate", "busy"),
            ("#drop", "3"),
            ("#drop-more", "of 21 000 ranges"),
            ("#ledger .legend", "pending 12.0 MiB age 250 ms"),
            (
                "#summary",
                "[slackwater] enq=21000 coalesce=11000 purged_pages=300000 madvise_calls=1600 \
                 idle_ticks=500 busy_ticks=300 drop=3",
            ),
            ("#purge-duration .about", "1 600 purges took 320 ms; one takes 200 µs"),
            // From the first bucket that has any to the last, each by itself.
            ("#purge-duration ol", "≤ 16 µs 10 ≤ 64 µs 40 ≤ 1 ms 1 540 > 1 ms 10"),
            ("#purge-batch .about", "1 600 purges gave back 300 000 pages; one gives 188"),
            ("#purge-batch ol", "≤ 16 400 ≤ 256 1 200"),
            (
                "#reasons",
                "small spans 250 000 spans of 2 to 4 KiB 40 000 spans up to 32 KiB 9 000 \
                 large runs 800 inside spans in use 200",
            ),
            (
                "#also",
                "Live, never touched 6.00 MiB Swapped out 4.00 MiB Backed by huge pages 4.00 MiB Arena in use 512 MiB \
                 Threads with a cache 6 Pages reused before their purge 1 234 567 \
                 Pages used again after it 77 Caches taken over 41 Purges refused 2 \
                 Control group’s memory 310 MiB Needed of it 260 MiB \
                 Control group’s limit 512 MiB Slowed down above 480 MiB Times slowed down 1 234 \
                 Tasks killed for memory 3 Stalled for memory 1.50 s Allocations 123 000 456",
            ),
        ],
    );
    let about = browser.text("#about");
    for part in ["Slackwater 9.8.7", "observing took 750 ms of CPU"] {
        assert!(about.contains(part), "{about}");
    }
}

#[test]
fn what_the_service_does_not_say_is_absent_and_never_0() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let stage = Stage::start(0, |_| json!({}));
    let mut browser = open(&stage.page());
    for selector in [
        "#rss",
        "#live",
        "#purged",
        "#per-call",
        "#gate",
        "#drop",
        "#memory .legend",
        "#breakdown .legend",
        "#ledger .legend",
        "#classes tfoot",
        "#purge-duration .about",
        "#purge-batch .about",
        "#reasons",
        "#also",
    ] {
        let shown = browser.text(selector);
        assert!(shown.contains("absent"), "{selector}: {shown}");
        let figures =
            browser.value(&format!("document.querySelectorAll('{selector} data').length"));
        assert_eq!(figures, 0, "{selector}: {shown}");
    }
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn the_stack_sums_to_the_rss() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let stage = Stage::start(3, |_| figures());
    let mut browser = open(&stage.page());
    // The first answer is drawn some time after it has come.
    browser.wait_for("document.querySelectorAll('#breakdown .area').length == 12");
    browser.wait_for("Number(document.querySelector('#breakdown .legend .total data').value) > 0");
    let legend = browser.value(
        "Array.from(document.querySelectorAll('#breakdown .legend .stack'),
            item => [item.className, Number(item.querySelector('data').value)])",
    );
    let legend: BTreeMap<String, f64> =
        serde_json::from_value::<Vec<_>>(legend).expect("names and values").into_iter().collect();
    let rss = sum(&figures()["process_resident_bytes"]);
    assert_eq!(legend.len(), 12, "{legend:?}");
    assert_eq!(legend.values().sum::<f64>(), rss);
    assert_eq!(browser.number("#breakdown .legend .total data"), rss);

    // And as it is drawn: the highest area ends where the kernel's line runs.
    let top = browser.value(
        "['area', 'line'].map(mark => Math.min(...Array.from(
            document.querySelectorAll(`#breakdown path.${mark}`), path => path.getBBox().y)))",
    );
    let (stack, line) = (top[0].as_f64().expect("a place"), top[1].as_f64().expect("a place"));
    assert!((stack - line).abs() <= 0.5, "the stack ends at {stack}, the line is at {line}");
}

#[test]
fn one_cursor_shows_every_chart_at_one_time() {
    if !have_tool(CHROMIUM) {
        return;
    }
    // Each answer has a MiB more than the one before, so the figures tell which one they are of.
    let stage = Stage::start(3, |number| {
        let mut figures = figures();
        let more = number as u64 * MIB;
        figures["process_resident_bytes"] = json!({ "anon": 100 * MIB + more });
        figures["release_pending_bytes"] = json!(MIB + more);
        figures
    });
    let mut browser = open(&stage.page());
    browser.wait_for("document.querySelector('#memory path.rss')?.getAttribute('d').split('L')[3]");
    browser.click("#pause");
    browser.wait_for("document.querySelector('#status').dataset.state == 'paused'");
    let latest = browser.number("#rss data");
    let assert_shows = |browser: &mut Browser, rss: f64| {
        assert_eq!(browser.number("#memory .legend .rss data"), rss);
        assert_eq!(browser.number("#breakdown .legend .rss data"), rss);
        assert_eq!(browser.number("#ledger .legend .dirty data"), rss - 99.0 * MIB as f64);
    };
    let cursors = "document.querySelectorAll('.plot .cursor').length";

    assert_eq!(browser.value(cursors), 0);
    browser.value("document.querySelector('#memory .plot').focus()");
    browser.press("ArrowLeft");
    assert_eq!(browser.value(cursors), CHARTS.len());
    assert_shows(&mut browser, latest - MIB as f64);
    browser.press("ArrowLeft");
    assert_shows(&mut browser, latest - 2.0 * MIB as f64);
    browser.press("ArrowRight");
    assert_shows(&mut browser, latest - MIB as f64);
    browser.press("Escape");
    assert_eq!(browser.value(cursors), 0);
    assert_shows(&mut browser, latest);

    // The middle of a minute is long before the first observation, so that is the nearest.
    browser.point_at("#ledger .plot");
    assert_eq!(browser.value(cursors), CHARTS.len());
    assert_shows(&mut browser, 100.0 * MIB as f64);
}

#[test]
fn rates_and_shades_are_of_what_the_counters_grew_by() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let stage = Stage::start(3, |number| {
        let number = number as u64;
        let mut figures = figures();
        figures["release_purged_pages_total"] = json!({ "large_free": 1000 + 50 * number });
        figures["release_purged_bytes_total"] = json!((1000 + 50 * number) * 4096);
        figures["release_madvise_calls_total"] = json!(100 + 2 * number);
        figures["epoch_ticks_total"] = json!({ "idle": 5 * number, "busy": 15 * number });
        figures
    });
    let mut browser = open(&stage.page());
    browser.wait_for("document.querySelectorAll('#memory rect.band').length >= 2");
    let shades = browser.value(
        "Array.from(document.querySelectorAll('#memory rect.band'),
            band => band.getAttribute('opacity'))",
    );
    let shades = shades.as_array().expect("shades");
    assert!(shades.iter().all(|shade| shade == "0.75"), "{shades:?}");
    assert_eq!(browser.text("#gate-more"), "75 % of ticks busy");
    assert_eq!(browser.number("#memory .legend .purged data"), 50.0 * 4096.0);
    assert_eq!(browser.number("#calls .legend li:last-of-type data"), 25.0);
    let per_call = browser.number("#calls .legend li:nth-of-type(1) data")
        / browser.number("#calls .legend li:nth-of-type(2) data");
    assert!((per_call - 25.0).abs() < 1e-9, "pages/s are {per_call} times calls/s");
}

#[test]
fn size_classes_show_their_occupancy_in_any_order() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let stage = Stage::start(3, |_| figures());
    let mut browser = open(&stage.page());
    let small = "16 B 64.0 KiB 128 KiB 50 %";
    let middle = "112 B 3.00 MiB 4.00 MiB 75 %";
    let empty = "2 048 B 0 B 640 KiB 0 %";
    let mut assert_order = |click: Option<&str>, order: [&str; 3]| {
        if let Some(column) = click {
            browser.click(&format!("#classes [data-column={column}]"));
        }
        assert_eq!(browser.text("#classes tbody"), order.join(" "), "{click:?}");
    };
    assert_order(None, [middle, empty, small]);
    assert_order(Some("occupancy"), [middle, small, empty]);
    assert_order(Some("block"), [empty, middle, small]);
    assert_order(Some("block"), [small, middle, empty]);
    assert_eq!(browser.text("#classes tfoot"), "all 3.06 MiB 4.75 MiB 64 %");
    let bar = browser.value(
        "(bar => bar.getBoundingClientRect().width
            / bar.parentElement.getBoundingClientRect().width)(
            document.querySelector('#classes tbody tr:nth-child(2) b'))",
    );
    assert!((bar.as_f64().expect("a part") - 0.75).abs() < 0.01, "{bar}");
}

#[test]
fn a_segment_opens_on_its_512_pages() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let stage = Stage::start(3, |_| figures());
    let mut browser = open(&stage.page());
    wait_for_segments(&mut browser, "== 3");
    let cell = format!("#segments button:nth-child({})", FILLED_SEGMENT + 1);
    // As full as it has pages, from the bottom, in the colours of the key.
    let mut filled_up = 0.0;
    let mut bands = String::new();
    for (class, kind) in [("span", "s"), ("large", "L"), ("dirty", "d"), ("unattributed", "?")] {
        let colour = browser.value(&format!(
            "getComputedStyle(document.querySelector('.key .{class}'), '::before').backgroundColor"
        ));
        bands += &format!("{} {filled_up}%, ", text(&colour));
        filled_up += filled(kind) as f64 / 5.12;
        bands += &format!("{} {filled_up}%, ", text(&colour));
    }
    let filling = browser
        .value(&format!("getComputedStyle(document.querySelector('{cell}')).backgroundImage"));
    assert!(text(&filling).starts_with(&format!("linear-gradient(to top, {bands}")), "{filling}");

    browser.click(&cell);
    browser.wait_for("!document.querySelector('#segment').hidden");
    assert_reads(
        &mut browser,
        &[
            ("#segment-title", "Segment 1 at 0x7f3a40200000"),
            (
                "#segment-about",
                "48 of 512 pages resident; 2 of 32 chunks are spans. A square is a page of 4 KiB.",
            ),
            ("#chunks li:nth-child(1)", "112 B 80 %"),
            ("#chunks li:nth-child(2)", "2 048 B 100 %"),
            ("#chunks li:nth-child(3)", "large"),
            ("#chunks li:nth-child(4)", "free"),
        ],
    );
    for (class, kind) in [
        ("span", "s"),
        ("span hollow", "o"),
        ("large", "L"),
        ("large hollow", "l"),
        ("dirty", "d"),
        ("unattributed", "?"),
        ("clean", "."),
    ] {
        let shown = browser
            .value(&format!("document.querySelectorAll('.pages i[class=\"{class}\"]').length"));
        assert_eq!(shown, filled(kind), "{class}");
    }
    let pages = "document.querySelectorAll('#chunks .pages i').length";
    assert_eq!(browser.value(pages), 512);

    // The same with the keyboard: leave, walk to the next segment, look into it.
    browser.press("Escape");
    browser.wait_for("document.querySelector('#segment').hidden");
    browser.press("ArrowRight");
    browser.press("Enter");
    browser.wait_for("!document.querySelector('#segment').hidden");
    assert!(browser.text("#segment-title").starts_with("Segment 2 "));
    assert_eq!(browser.value("document.querySelectorAll('.pages .clean').length"), 512);
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn a_large_arena_is_turned_over_page_by_page() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let stage = Stage::start(1500, |_| figures());
    let mut browser = open(&stage.page());
    wait_for_segments(&mut browser, "== 1024");
    let cells = "document.querySelectorAll('#segments button').length";
    assert!(browser.text("#map-about").starts_with("Segments 0 to 1 023 of 1 500,"));
    browser.click("#map-on");
    browser.wait_for(&format!("{cells} == {}", 1500 - 1024));
    assert!(browser.text("#map-about").starts_with("Segments 1 024 to 1 499 of 1 500,"));
    browser.click("#segments button:nth-child(5)");
    browser.wait_for("!document.querySelector('#segment').hidden");
    assert!(browser.text("#segment-title").starts_with("Segment 1028 "));
    browser.click("#map-back");
    browser.wait_for(&format!("{cells} == 1024"));
}

#[test]
fn a_phone_need_not_scroll_sideways() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let stage = Stage::start(200, |_| figures());
    let mut browser = open(&stage.page());
    browser.screen(PHONE);
    wait_for_segments(&mut browser, "== 200");
    browser.click("#segments button:nth-child(2)");
    browser.wait_for("!document.querySelector('#segment').hidden");
    let width = PHONE.0;
    assert_eq!(browser.value("innerWidth"), width);
    assert_eq!(browser.value("document.documentElement.scrollWidth"), width);
    // Nothing reaches over its card either, or is cut off at its edge.
    let outside = browser.value(
        "Array.from(document.querySelectorAll('.card *, .tile *, header *, footer *'))
            .filter(element => !element.closest('.unseen, .choice input'))
            .filter(element => {
                const box = element.getBoundingClientRect();
                const around = element.closest('.card, .tile, header, footer')
                    .getBoundingClientRect();
                return box.width > 0 && (box.left < around.left || box.right > around.right);
            })
            .map(element => element.outerHTML.slice(0, 120))",
    );
    assert_eq!(outside, json!([]));
    let overlapping = browser.value(
        "Array.from(document.querySelectorAll('.plot')).flatMap(plot => {
            const texts = Array.from(plot.querySelectorAll('text'));
            const boxes = texts.map(text => text.getBoundingClientRect());
            const apart = (a, b) => a.right + 3 < b.left || b.right + 3 < a.left ||
                a.bottom <= b.top || b.bottom <= a.top;
            return texts.filter((_, one) => boxes.some((box, other) =>
                other < one && !apart(boxes[one], box))).map(text => text.textContent);
        })",
    );
    assert_eq!(overlapping, json!([]));
    let cut = browser.value(
        "Array.from(document.querySelectorAll('.tile dd'))
            .filter(element => element.scrollWidth > element.clientWidth)
            .map(element => element.textContent)",
    );
    assert_eq!(cut, json!([]));
}

/// For every text that can be seen: the text, and its contrast against what is behind it, as WCAG
/// has it.
const CONTRASTS: &str = r#"
(() => {
  const numbers = colour => colour.match(/[\d.]+/g).map(Number);
  const luminance = colour => {
    const [r, g, b] = numbers(colour).slice(0, 3).map(value => value / 255)
      .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const opaque = colour => (numbers(colour)[3] ?? 1) === 1;
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (opaque(colour)) return colour;
    }
    throw new Error("nothing is behind " + element.outerHTML);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) {
    const words = texts.currentNode.textContent.trim();
    const element = texts.currentNode.parentElement;
    if (!words || !element.checkVisibility() || element.closest("script, .unseen")) continue;
    const style = getComputedStyle(element);
    const colour = element.closest("svg") ? style.fill : style.color;
    if (!opaque(colour)) throw new Error(words + " is translucent");
    const [low, high] = [luminance(colour), luminance(behind(element))].sort((a, b) => a - b);
    found.push([words, (high + 0.05) / (low + 0.05)]);
  }
  return found;
})()
"#;

/// The least contrast that WCAG 2 (AA) asks of text.
const LEAST_CONTRAST: f64 = 4.5;

#[test]
fn both_schemes_can_be_read() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let stage = Stage::start(3, |_| figures());
    let mut browser = open(&stage.page());
    wait_for_segments(&mut browser, "== 3");
    browser.click("#segments button:nth-child(2)");
    browser.wait_for("!document.querySelector('#segment').hidden");
    let ground = "getComputedStyle(document.documentElement).backgroundColor";
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        grounds.push(browser.value(ground));
        let contrasts: Vec<(String, f64)> =
            serde_json::from_value(browser.value(CONTRASTS)).expect("texts and contrasts");
        assert!(contrasts.len() > 150, "{} texts were found", contrasts.len());
        let pale: Vec<_> =
            contrasts.iter().filter(|(_, contrast)| *contrast < LEAST_CONTRAST).collect();
        assert!(pale.is_empty(), "{scheme}: {pale:?}");
    }
    assert_ne!(grounds[0], grounds[1]);

    // The visitor's word counts for more than the system's, and is kept.
    for (theme, expected) in [("light", &grounds[0]), ("dark", &grounds[1]), ("auto", &grounds[1])]
    {
        browser.click("#theme");
        assert_eq!(browser.text("#theme"), format!("Theme: {theme}"));
        assert_eq!(browser.value(ground), *expected, "{theme}");
    }
    browser.click("#theme");
    browser.open(&stage.page());
    assert_eq!(browser.value(ground), grounds[0], "after another visit");
}

#[test]
fn a_service_that_is_gone_is_said_to_be_and_one_that_is_back_goes_on() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let (demo, mut browser) = open_demo();
    browser.wait_for("document.querySelector('#memory path.rss')?.getAttribute('d').split('L')[2]");
    assert_eq!(browser.complaints(), [""; 0]);
    let address = demo.address.to_string();
    drop(demo);
    browser.wait_for(LOST);
    let status = browser.text("#status");
    assert!(status.starts_with("disconnected since "), "{status}");
    let alert = browser.text("#lost");
    assert!(alert.contains("The figures are of "), "{alert}");
    assert!(browser.number("#rss data") > 0.0, "the last figures stay");

    let _demo = Demo::start_at(&address, &[]);
    browser.wait_for(LIVE);
    assert!(browser.value("document.querySelector('#lost').hidden") == true);
    let before = browser.number("#rss data");
    browser.wait_for(&format!("document.querySelector('#rss data').value != {before}"));
    // It is another process: a new line begins, and nothing is made of counters that went back.
    let paths = browser.value(
        "Array.from(document.querySelectorAll('.plot path'), path => path.getAttribute('d'))",
    );
    assert!(!paths.to_string().contains("NaN"), "{paths}");
    let lines = browser.value("document.querySelector('#memory path.rss').getAttribute('d')");
    assert_eq!(text(&lines).matches('M').count(), 2, "{lines}");
}

#[test]
fn a_page_that_is_not_looked_at_asks_nothing() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let stage = Stage::start(3, |_| figures());
    let mut browser = open(&stage.page());
    let hide = |hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});
            document.dispatchEvent(new Event('visibilitychange'))"
        )
    };
    browser.value(&hide(true));
    // The question that was on its way is answered within the first of these.
    browser.value(PERIODS_PASS);
    let answered = stage.answered();
    browser.value(PERIODS_PASS);
    assert_eq!(stage.answered(), answered);
    browser.value(&hide(false));
    browser.wait_for("document.querySelector('#memory path.rss')?.getAttribute('d').includes('L')");
    assert!(stage.answered() > answered);
}

#[test]
fn a_quarter_of_an_hour_is_kept_and_no_more() {
    if !have_tool(CHROMIUM) {
        return;
    }
    let stage = Stage::start(3, |_| figures());
    let mut browser = Browser::start();
    // An hour that passes in seconds: four seconds from one look at the clock to the next.
    let quick = "const wait = setTimeout, begin = Date.now();
        let looks = 0;
        setTimeout = (what, time) => wait(what, time / 100);
        Date.now = () => begin + 4000 * ++looks;";
    browser.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": quick }));
    browser.open(&stage.page());
    browser.click("#windows label:last-of-type");
    let points =
        "document.querySelector('#memory path.rss').getAttribute('d').match(/[ML]/g).length";
    browser.wait_for(&format!("document.querySelector('#memory path.rss') && {points} == 226"));
    let shown = browser.value("document.querySelector('#memory path.rss').getBBox().width");
    let plot = browser.value("document.querySelector('#memory .grid').getBBox().width");
    assert_eq!(shown, plot, "the line goes from one edge to the other");
    let answered = stage.answered();
    while stage.answered() < answered + 50 {
        browser.value(PERIODS_PASS);
    }
    assert_eq!(browser.value(points), 226);
    let times = browser.value("document.querySelector('#memory .plot').textContent");
    assert!(text(&times).contains("−15 min"), "{times}");
}

/// Not a check: pictures of the page for people, in the directory that `SLACKWATER_PICTURES` names.
#[test]
#[ignore = "makes pictures of the page, and takes a minute for it"]
fn pictures() {
    let directory = env::var_os("SLACKWATER_PICTURES")
        .expect("SLACKWATER_PICTURES is not set; expected the directory that pictures go to");
    let (_demo, mut browser) = open_demo();
    browser.value("document.querySelector('#map').scrollIntoView()");
    browser.value("new Promise(done => setTimeout(done, 60_000))");
    for (name, screen, scheme) in
        [("page-light", DESK, "light"), ("page-dark", DESK, "dark"), ("page-phone", PHONE, "light")]
    {
        browser.screen(screen);
        browser.prefer(scheme);
        browser.value("scrollTo(0, 0)");
        // Charts are drawn anew when they find that their width is another.
        browser.value("new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))");
        let path = Path::new(&directory).join(format!("{name}.png"));
        fs::write(&path, browser.picture())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
