//! What the doctor says: lines of one thing each, in sections.

use std::fmt::Write;

use serde_json::{Value, json};

/// How much there is of what a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// All of it.
    Works,
    /// Some of it, or all of it at a cost.
    Less,
    /// Nothing.
    Missing,
}

impl Mark {
    fn name(self) -> &'static str {
        match self {
            Mark::Works => "ok",
            Mark::Less => "less",
            Mark::Missing => "no",
        }
    }
}

/// One line: what was looked at, how much there is of it, and what that means.
#[derive(Clone, Debug)]
pub struct Finding {
    pub what: &'static str,
    pub mark: Mark,
    pub says: String,
}

impl Finding {
    fn to_json(&self) -> Value {
        json!({ "what": self.what, "mark": self.mark.name(), "says": self.says })
    }
}

pub fn works(what: &'static str, says: impl Into<String>) -> Finding {
    Finding { what, mark: Mark::Works, says: says.into() }
}

pub fn less(what: &'static str, says: impl Into<String>) -> Finding {
    Finding { what, mark: Mark::Less, says: says.into() }
}

pub fn missing(what: &'static str, says: impl Into<String>) -> Finding {
    Finding { what, mark: Mark::Missing, says: says.into() }
}

/// Lines that belong together.
#[derive(Debug)]
pub struct Section {
    pub title: &'static str,
    /// Without what a line here calls missing, no memory is given back.
    pub is_essential: bool,
    pub findings: Vec<Finding>,
}

impl Section {
    /// What is missing here, and memory is not given back without.
    pub fn lacks(&self) -> impl Iterator<Item = &Finding> {
        let findings = self.findings.iter().filter(|finding| finding.mark == Mark::Missing);
        findings.filter(|_| self.is_essential)
    }

    pub fn to_text(&self) -> String {
        let mut text = format!("\n{}\n", self.title);
        for Finding { what, mark, says } in &self.findings {
            let _ = writeln!(text, "  {:<4}  {what}: {}", mark.name(), printable(says));
        }
        text
    }

    pub fn to_json(&self) -> Value {
        let lines: Vec<Value> = self.findings.iter().map(Finding::to_json).collect();
        json!({ "title": self.title, "lines": lines })
    }
}

/// A file's name may hold anything; a line stays a line.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line_and_only_essential_sections_lack_anything() {
        let findings = vec![works("a", "b\nc"), less("d", "e"), missing("f", "g")];
        let mut section = Section { title: "T", is_essential: true, findings };
        assert_eq!(section.to_text(), "\nT\n  ok    a: b?c\n  less  d: e\n  no    f: g\n");
        assert_eq!(section.lacks().map(|finding| finding.what).collect::<Vec<_>>(), ["f"]);
        section.is_essential = false;
        assert_eq!(section.lacks().count(), 0);
    }
}
