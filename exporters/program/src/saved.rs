//! The file of a saved snapshot: one JSON object, a head and the figures of `/snapshot.json`.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use slackwater_exporters::{Observation, json};

use slackwater_exporters::attach::Target;

use super::failure::Failure;
use super::figures;

/// What the file says it is.
const FORMAT: &str = "slackwater-snapshot";

/// Counted up when a reader of the last version would go wrong.
const VERSION: u32 = 1;

/// No snapshot is this large; `/dev/zero` is.
const MAX_BYTES: u64 = 16 << 20;

/// A snapshot with all that is needed to compare it with another.
#[derive(Debug, Deserialize, Serialize)]
pub struct Saved {
    format: String,
    version: u32,
    /// The version of Slackwater that wrote it.
    pub slackwater: String,
    /// The release of the kernel.
    pub kernel: String,
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// When it was started, in the kernel's ticks since boot.
    pub started: u64,
    /// When the figures were taken, in seconds since 1970.
    pub time: f64,
    /// The figures, by family.
    pub figures: Map<String, Value>,
}

/// The part of the head that says whether the rest can be understood.
#[derive(Deserialize)]
struct FileKind {
    format: String,
    version: u32,
}

impl Saved {
    /// The figures of a process.
    pub fn new(target: &Target, observation: &Observation) -> Saved {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Saved {
            format: FORMAT.to_string(),
            version: VERSION,
            slackwater: env!("CARGO_PKG_VERSION").to_string(),
            kernel: kernel.trim().to_string(),
            pid: target.pid(),
            comm: target.comm().to_string(),
            started: target.started(),
            time: figures::now(),
            figures: json::figures(observation),
        }
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.unwrap_or_else(|error| unreachable!("keys are text, numbers finite: {error}")) + "\n"
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Saved, Failure> {
        let named = |what: String| Failure::bad_input(format_args!("{}: {what}", path.display()));
        let expected = "expected a file written by `slackwater snapshot PID -o FILE`";
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| named(format!("cannot be read: {error}; {expected}")))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(named(format!("larger than any snapshot; {expected}")));
        }
        let foreign = |_| named(format!("not a snapshot of Slackwater's; {expected}"));
        let value: Value = serde_json::from_slice(&bytes).map_err(foreign)?;
        let kind = FileKind::deserialize(&value).map_err(foreign)?;
        if kind.format != FORMAT {
            return Err(named(format!("its format is '{}'; expected '{FORMAT}'", kind.format)));
        }
        if kind.version != VERSION {
            let found = kind.version;
            return Err(named(format!(
                "a snapshot of version {found}; expected version {VERSION}: use the slackwater \
                 that wrote it"
            )));
        }
        Saved::deserialize(value)
            .map_err(|error| named(format!("a damaged snapshot: {error}; {expected}")))
    }

    /// Whether both are of one and the same process.
    pub fn is_of_same_process(&self, other: &Saved) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }

    /// The numbers in the figures with their names: `family` or `family{label}`; of a histogram, its
    /// sum and its count.
    pub fn numbers(&self) -> Vec<(String, f64)> {
        let mut numbers = Vec::new();
        for (family, value) in &self.figures {
            match value {
                Value::Object(parts) if parts.contains_key("buckets") => {
                    for part in ["sum", "count"] {
                        let number = parts.get(part).and_then(Value::as_f64);
                        numbers.extend(number.map(|number| (format!("{family}_{part}"), number)));
                    }
                }
                Value::Object(series) => {
                    numbers.extend(series.iter().filter_map(|(label, value)| {
                        Some((format!("{family}{{{label}}}"), value.as_f64()?))
                    }))
                }
                value => numbers.extend(value.as_f64().map(|number| (family.clone(), number))),
            }
        }
        numbers
    }
}
