//! `slackwater diff`: what changed between two saved snapshots.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use serde_json::{Map, Value, json};
use slackwater_exporters::families::{FAMILIES, Family, Unit};

use super::amounts;
use super::arguments::DiffArguments;
use super::failure::Failure;
use super::output;
use super::saved::Saved;

/// Compares two files, the older one first.
pub fn diff(arguments: &DiffArguments) -> Result<(), Failure> {
    let before = Saved::read(&arguments.before)?;
    let after = Saved::read(&arguments.after)?;
    if before.is_of_same_process(&after) && before.time > after.time {
        return Err(Failure::bad_input(format_args!(
            "{} was taken before {}; expected the older snapshot first",
            arguments.after.display(),
            arguments.before.display()
        )));
    }
    let diff = Diff::new(before, after);
    output::print(&if arguments.json { diff.to_json() } else { diff.to_text() })
}

/// One figure that is not the same in both.
#[derive(Debug, PartialEq)]
struct Change {
    name: String,
    /// `None` where the snapshot does not have it.
    before: Option<f64>,
    after: Option<f64>,
}

struct Diff {
    before: Saved,
    after: Saved,
    /// Between them; `None` if they are of two processes, between which nothing happens.
    seconds: Option<f64>,
    changes: Vec<Change>,
}

/// The part of a series' name that is its family's.
fn family_of(name: &str) -> &str {
    name.split('{').next().unwrap_or(name)
}

impl Diff {
    fn new(before: Saved, after: Saved) -> Diff {
        let changes = changes(&before.numbers(), &after.numbers());
        let seconds = before.is_of_same_process(&after).then_some(after.time - before.time);
        Diff { seconds, changes, before, after }
    }

    /// How fast it changed; a state has no speed.
    fn per_second(&self, change: &Change) -> Option<f64> {
        let family = known(&change.name);
        if family.is_some_and(|family| family.unit.is_none()) {
            return None;
        }
        let seconds = self.seconds.filter(|&seconds| seconds > 0.0)?;
        Some((change.after? - change.before?) / seconds)
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        let Diff { before, after, .. } = self;
        let _ = match self.seconds {
            Some(seconds) => {
                writeln!(text, "{} ({}), {seconds:.1} s", after.comm, after.pid)
            }
            None => writeln!(
                text,
                "{} ({}) against {} ({}): two processes, so there is no time between them",
                before.comm, before.pid, after.comm, after.pid
            ),
        };
        if self.changes.is_empty() {
            text.push_str("no figure differs\n");
        }
        let mut rows = Vec::new();
        if !self.changes.is_empty() {
            rows.push(["figure", "before", "after", "change", "per second"].map(String::from));
        }
        for change in &self.changes {
            let is_bytes = is_in_bytes(&change.name);
            let plain =
                |value: Option<f64>| value.map_or("-".to_string(), |value| amount(value, is_bytes));
            let signed = |value: Option<f64>| match value {
                None => "-".to_string(),
                Some(value) if value < 0.0 => format!("-{}", amount(-value, is_bytes)),
                Some(value) => format!("+{}", amount(value, is_bytes)),
            };
            rows.push([
                change.name.clone(),
                plain(change.before),
                plain(change.after),
                signed(change.after.zip(change.before).map(|(after, before)| after - before)),
                signed(self.per_second(change)),
            ]);
        }
        let widths: [usize; 5] =
            std::array::from_fn(|i| rows.iter().map(|row| row[i].len()).max().unwrap_or(0));
        for [name, numbers @ ..] in &rows {
            let _ = write!(text, "{name:<0$}", widths[0]);
            for (number, width) in numbers.iter().zip(&widths[1..]) {
                let _ = write!(text, "  {number:>width$}");
            }
            text.push('\n');
        }
        // The files may hold anything, and this may be a terminal.
        let printable = |c: char| if c.is_control() && c != '\n' { '?' } else { c };
        text.chars().map(printable).collect()
    }

    fn to_json(&self) -> String {
        let head =
            |saved: &Saved| json!({"pid": saved.pid, "comm": saved.comm, "time": saved.time});
        let changes: Map<String, Value> = self
            .changes
            .iter()
            .map(|change| {
                let of = json!({
                    "before": change.before,
                    "after": change.after,
                    "change": change.after.zip(change.before).map(|(after, before)| after - before),
                    "per_second": self.per_second(change),
                });
                (change.name.clone(), of)
            })
            .collect();
        let object = json!({
            "before": head(&self.before),
            "after": head(&self.after),
            "seconds": self.seconds,
            "changes": changes,
        });
        object.to_string() + "\n"
    }
}

/// What differs, in the order of `after`, and at the end what only `before` has. A label value that
/// is missing from a family that is there stands for nothing: a size class without memory.
fn changes(before: &[(String, f64)], after: &[(String, f64)]) -> Vec<Change> {
    let (old, new) = (Numbers::of(before), Numbers::of(after));
    let only_before = before.iter().filter(|(name, _)| !new.values.contains_key(name.as_str()));
    after
        .iter()
        .chain(only_before)
        .map(|(name, _)| Change {
            before: old.value(name),
            after: new.value(name),
            name: name.clone(),
        })
        .filter(|change| change.before != change.after)
        .collect()
}

/// A snapshot's numbers by name, and the families that they are of.
struct Numbers<'a> {
    values: HashMap<&'a str, f64>,
    families: HashSet<&'a str>,
}

impl<'a> Numbers<'a> {
    fn of(numbers: &'a [(String, f64)]) -> Numbers<'a> {
        Numbers {
            values: numbers.iter().map(|(name, value)| (name.as_str(), *value)).collect(),
            families: numbers.iter().map(|(name, _)| family_of(name)).collect(),
        }
    }

    /// The value of `name`: 0 where its family has others, as of a size class that has no memory.
    fn value(&self, name: &str) -> Option<f64> {
        let family = family_of(name);
        let is_one_of_others = family != name && self.families.contains(family);
        self.values.get(name).copied().or(is_one_of_others.then_some(0.0))
    }
}

/// The family, if it is one of this version's.
fn known(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|known| known.name == family_of(name))
}

fn is_in_bytes(name: &str) -> bool {
    known(name).is_some_and(|family| family.unit == Some(Unit::Bytes))
}

fn amount(value: f64, is_bytes: bool) -> String {
    if is_bytes {
        amounts::bytes(value as u64)
    } else if value.fract() == 0.0 {
        format!("{value}")
    } else {
        let decimals = if value < 100.0 { 3 } else { 1 };
        format!("{value:.decimals$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(list: &[(&str, f64)]) -> Vec<(String, f64)> {
        list.iter().map(|&(name, value)| (name.to_string(), value)).collect()
    }

    #[test]
    fn only_what_differs_is_told_and_a_missing_label_is_nothing() {
        let before = numbers(&[
            ("threads", 4.0),
            ("frees_total", 10.0),
            ("size_class_live_bytes{16}", 4096.0),
            ("cgroup_limit_bytes", 5.0),
        ]);
        let after = numbers(&[
            ("threads", 4.0),
            ("frees_total", 30.0),
            ("size_class_live_bytes{32}", 8192.0),
        ]);
        let expected = [
            ("frees_total", Some(10.0), Some(30.0)),
            ("size_class_live_bytes{32}", Some(0.0), Some(8192.0)),
            ("size_class_live_bytes{16}", Some(4096.0), Some(0.0)),
            ("cgroup_limit_bytes", Some(5.0), None),
        ];
        let expected: Vec<Change> = expected
            .into_iter()
            .map(|(name, before, after)| Change { name: name.to_string(), before, after })
            .collect();
        assert_eq!(changes(&before, &after), expected);
        assert_eq!(changes(&after, &after), []);
    }

    #[test]
    fn amounts_have_the_unit_of_their_family() {
        assert!(is_in_bytes("size_class_live_bytes{32}") && is_in_bytes("allocated_bytes_total"));
        assert!(!is_in_bytes("frees_total"));
        assert_eq!(amount(2048.0, true), "2.0 KiB");
        assert_eq!(amount(2048.0, false), "2048");
        assert_eq!(amount(0.0625, false), "0.062");
    }
}
