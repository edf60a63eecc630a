//! `slackwater doctor`: what of Slackwater will work on this machine, under these limits, for that program.
//!
//! A section is a file, and a line a function, which asks and says what the answer means. What might end who asks
//! is asked in a child (`asking`). Nothing is changed, and nothing but the named program is run.

mod asking;
mod finding;
mod limits;
mod looking;
mod preload;
mod program;
mod release;
mod status;
mod symbols;
mod trial;

use std::env::consts::ARCH;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::arguments::DoctorArguments;
use super::failure::Failure;
use super::output;
use super::watched::exit_code;
use finding::{Mark, Section, missing};
use status::OwnStatus;
use trial::Trial;

/// Looks at the machine, and at a program where one is named; the exit code says whether memory will be given back.
pub fn doctor(arguments: &DoctorArguments) -> Result<ExitCode, Failure> {
    if let Some(name) = arguments.command.first() {
        program::must_be_there(name)?;
    }
    let mut report = Report { is_json: arguments.json, sections: Vec::new(), program_code: None };
    report.begin()?;
    let status = OwnStatus::read();
    report.add(release::section(status.as_ref()))?;
    report.add(limits::section(status.as_ref()))?;
    report.add(looking::section(status.as_ref()))?;
    report.add(preload::section())?;
    if let Some(name) = arguments.command.first() {
        let has_library =
            report.sections.last().is_some_and(|preload| preload.lacks().next().is_none());
        report.add(program::section(name))?;
        if has_library {
            let trial = Trial::run(&arguments.command)?;
            report.program_code = Some(exit_code(trial.status));
            report.add(trial.section())?;
        } else {
            let findings = vec![missing(
                "run",
                "it was not started, for there is no library to start it under",
            )];
            report.add(Section { title: "What it did", is_essential: true, findings })?;
        }
    }
    report.end()
}

/// What has been found so far; as text it is printed as it comes, for a program may run for long.
struct Report {
    is_json: bool,
    sections: Vec<Section>,
    program_code: Option<u8>,
}

impl Report {
    fn begin(&self) -> Result<(), Failure> {
        self.print(&format!("Slackwater {} on Linux, {ARCH}\n", env!("CARGO_PKG_VERSION")))
    }

    fn add(&mut self, section: Section) -> Result<(), Failure> {
        let printed = self.print(&section.to_text());
        self.sections.push(section);
        printed
    }

    fn print(&self, text: &str) -> Result<(), Failure> {
        if self.is_json { Ok(()) } else { output::print(text) }
    }

    fn end(&self) -> Result<ExitCode, Failure> {
        let lacks: Vec<&str> =
            self.sections.iter().flat_map(Section::lacks).map(|lack| lack.what).collect();
        if self.is_json {
            output::print(&format!("{}\n", self.to_json(lacks.is_empty())))?;
        } else {
            output::print(&format!("\n{}\n", self.verdict(&lacks)))?;
        }
        let own = u8::from(!lacks.is_empty());
        Ok(ExitCode::from(self.program_code.filter(|&code| code != 0).unwrap_or(own)))
    }

    fn verdict(&self, lacks: &[&str]) -> String {
        let findings = || self.sections.iter().flat_map(|section| &section.findings);
        if !lacks.is_empty() {
            format!("Memory will not be given back: see {}.", lacks.join(", "))
        } else if findings().any(|finding| finding.mark != Mark::Works) {
            "Memory will be given back; what does not work, or with less, is marked `no` or `less`."
                .to_string()
        } else {
            "Memory will be given back; all works.".to_string()
        }
    }

    fn to_json(&self, works: bool) -> Value {
        let sections: Vec<Value> = self.sections.iter().map(Section::to_json).collect();
        json!({
            "slackwater": env!("CARGO_PKG_VERSION"),
            "works": works,
            "program_exit_code": self.program_code,
            "sections": sections,
        })
    }
}
