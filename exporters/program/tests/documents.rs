//! The documents against the code: what they name exists.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use common::{dashboards, slackwater};
use slackwater_exporters::Endpoint;

/// What people read, by its path in the repository.
const DOCUMENTS: [&str; 11] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "dashboards/README.md",
    "exporters/src/lib.rs",
    "src/lib.rs",
    "src/manual/costs.md",
    "src/manual/design.md",
    "src/manual/how_to.md",
    "src/manual/threats.md",
];

fn document(path: &str) -> String {
    fs::read_to_string(dashboards::root().join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every piece of code in a document: what stands between backquotes, and each line of its blocks.
fn code(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    let mut prose = String::new();
    for line in text.lines() {
        let line = line.trim_start_matches("//! ").trim_start_matches("//!");
        // An attribute may open one, and its opposite stand beside it.
        if line.contains("```") {
            in_block ^= !line.contains("not(");
        } else if in_block {
            found.push(line.to_string());
        } else {
            prose.push_str(line);
            prose.push(' ');
        }
    }
    found.extend(prose.split('`').skip(1).step_by(2).map(str::to_string));
    found
}

/// Asserts that whatever `names` finds in a piece of code of a document is so.
fn each(mut names: impl FnMut(&str) -> Vec<String>, is: impl Fn(&str) -> bool, what: &str) {
    let mut seen = BTreeSet::new();
    for path in DOCUMENTS {
        for piece in code(&document(path)) {
            for name in names(&piece) {
                assert!(is(&name), "{path} names {name} ({piece}): {what}");
                seen.insert(name);
            }
        }
    }
    assert!(!seen.is_empty(), "nothing was found to look at: {what}");
}

#[test]
fn routes_are_served() {
    let endpoint = Endpoint::bind("127.0.0.1:0").expect("a free port");
    let address: SocketAddr = endpoint.address().tcp().expect("it is TCP");
    let starts = ["/debug/", "/metrics", "/snapshot.json", "/map.json"];
    let route = |piece: &str| -> Vec<String> {
        let words = piece.split([' ', '"', '\'', '(', ')', ',']);
        words
            .filter_map(|word| {
                let at = starts.iter().filter_map(|start| word.find(start)).min()?;
                let elsewhere = !word[..at].is_empty()
                    && !word.starts_with("http")
                    && !word.contains("localhost");
                // A folder of routes, and files of other programs, are named by their starts.
                let path = word[at..].split(['?', '#']).next()?.trim_end_matches(['.', ';', ':']);
                (!elsewhere && path != "/debug/" && path != "/debug/flame/")
                    .then(|| path.to_string())
            })
            .collect()
    };
    let is_served = |path: &str| {
        let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
        let bytes = common::exchange_bytes(address, request.as_bytes());
        bytes.starts_with(b"HTTP/1.0 200") || bytes.starts_with(b"HTTP/1.0 301")
    };
    each(route, is_served, "no such route");
}

#[test]
fn files_and_folders_are_there() {
    let root = dashboards::root();
    let tops =
        ["src/", "exporters/", "preload/", "benches/", "scripts/", "dashboards/", "tests/", ".ci/"];
    let path = |piece: &str| -> Vec<String> {
        let words = piece.split([' ', ',', '"', '(', ')']);
        let words = words.filter(|word| tops.iter().any(|top| word.starts_with(top)));
        let words = words.filter(|word| !word.contains(['*', '…', '{', '<']));
        words.map(|word| word.trim_end_matches(['.', ':', ';']).to_string()).collect()
    };
    // Some name a file without its ending, or one beside the document.
    let is_there = |path: &str| {
        [
            path.to_string(),
            format!("{path}.rs"),
            format!("exporters/{path}"),
            format!("exporters/{path}.rs"),
        ]
        .iter()
        .any(|path| root.join(path).exists())
    };
    each(path, is_there, "no such file or folder");
}

#[test]
fn commands_are_there_with_their_flags() {
    let command = |piece: &str| -> Vec<String> {
        let words = piece.split_whitespace().skip_while(|word| word.ends_with(".so"));
        let mut words = words.map(|word| word.trim_start_matches("target/release/"));
        if words.next() != Some("slackwater") {
            return Vec::new();
        }
        let own = words.take_while(|word| !matches!(*word, "--" | "#" | "|"));
        let own: Vec<&str> = own.filter(|word| !word.starts_with('#')).collect();
        let flags = own.iter().filter(|word| word.starts_with("--"));
        let names = own.first().filter(|word| word.chars().all(|c| c.is_ascii_lowercase()));
        names.map_or(Vec::new(), |name| {
            let bare = [(*name).to_string()];
            bare.into_iter().chain(flags.map(|flag| format!("{name} {flag}"))).collect()
        })
    };
    let is_there = |name: &str| {
        let (name, flag) = name.split_once(' ').unwrap_or((name, "--help"));
        let help = |words: &[&str]| {
            let output = slackwater().args(words).arg("--help").output().expect("it starts");
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (is_command, text) = help(&[name]);
        let flag = flag.split('=').next().unwrap_or(flag).trim_end_matches([',', ';', ':']);
        is_command && (text.contains(flag) || help(&[name, "run"]).1.contains(flag))
    };
    each(command, is_there, "no such command or flag");
}

/// What cargo is told to run or test exists: binaries, tests, features and packages.
#[test]
fn what_cargo_is_told_is_there() {
    let manifests: String = [
        "Cargo.toml",
        "exporters/Cargo.toml",
        "exporters/program/Cargo.toml",
        "benches/Cargo.toml",
    ]
    .map(document)
    .concat();
    let root = dashboards::root();
    let asked = |piece: &str| -> Vec<String> {
        if !piece.contains("cargo ") {
            return Vec::new();
        }
        let words: Vec<&str> = piece.split_whitespace().collect();
        let pairs = words.windows(2).filter(|pair| {
            matches!(pair[0], "-p" | "--package" | "--bin" | "--test" | "--features" | "--example")
        });
        pairs
            .flat_map(|pair| pair[1].split(',').map(|name| format!("{} {name}", pair[0])))
            .collect()
    };
    let is_there = |asked: &str| {
        let (flag, name) = asked.split_once(' ').expect("two words");
        match flag {
            "--features" => manifests.contains(&format!("\n{name} = [")),
            "--test" => ["", "exporters/", "exporters/program/", "benches/", "preload/"]
                .iter()
                .any(|package| root.join(format!("{package}tests/{name}.rs")).exists()),
            _ => manifests.contains(&format!("name = \"{name}\"")),
        }
    };
    each(asked, is_there, "cargo has no such thing");
}

/// The README's table of what is asked of a system names knobs of its table of knobs, with values that they take.
#[test]
fn what_is_asked_of_a_system_is_switched_off_by_knobs() {
    let readme = document("README.md");
    let section = |title: &str| {
        let (_, rest) = readme.split_once(&format!("\n## {title}\n")).expect("it is there");
        rest.split("\n## ").next().expect("a section").to_string()
    };
    let (knobs, asked) = (section("Knobs"), section("What it asks of a system"));
    let rows = asked.lines().filter(|line| line.starts_with("| "));
    let mut named = 0;
    for row in rows {
        assert_eq!(row.matches(" |").count(), 5, "five cells: {row}");
        for knob in code(row).iter().filter(|piece| piece.starts_with("SLACKWATER_")) {
            let (name, value) = knob.split_once('=').expect("a value");
            let known = knobs.lines().find(|line| line.starts_with(&format!("| `{name}=")));
            let known = known.unwrap_or_else(|| panic!("{name} is no knob: {row}"));
            let takes = known.split('`').nth(1).and_then(|piece| piece.split_once('='));
            let takes = takes.expect("a value").1.replace('\\', "");
            let is_number = takes == "N" && value.parse::<u64>().is_ok();
            let is_taken = is_number || takes.split('|').any(|one| one == value);
            assert!(is_taken, "{name} does not take {value}: {row}");
            named += 1;
        }
    }
    assert!(named > 4, "{asked}");
}
