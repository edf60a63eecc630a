//! Runs real programs under allocators that are preloaded, interleaved, and prints wall time and
//! peak RSS as Markdown tables.
//!
//! `scripts/bench programs` builds what this needs and starts it.

mod process;
mod programs;

use std::fmt::Write as _;
use std::process::ExitCode;

use slackwater_benches::comparing::contender::{
    Contender, Face, PRELOADED_NAMES, builds, installed,
};
use slackwater_benches::comparing::head::{Head, legend};
use slackwater_benches::comparing::measurements::{Figure, Outcome};
use slackwater_benches::comparing::options::{Files, Options, exit_code, value};
use slackwater_benches::comparing::table::{OURS, Table};
use slackwater_benches::rows::selected;

use programs::{PROGRAMS, Program, Stage};

const USAGE: &str = "usage: scripts/bench programs [--rounds N] [--processor-time] [--csv FILE] \
                     [--plot FILE] [--allocators NAME,…] [PROGRAM…]";

fn main() -> ExitCode {
    let plan = Plan::from_arguments(std::env::args().skip(1));
    exit_code(plan.and_then(Plan::carry_out).map(|()| true))
}

struct Plan {
    options: Options,
    files: Files,
    contenders: Vec<&'static Contender>,
    programs: Vec<&'static Program>,
    /// By which clock the tables go.
    clock: Figure,
    left_out: Vec<String>,
}

impl Plan {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Plan {
            options: Options::default(),
            files: Files::default(),
            contenders: Contender::all_named(Face::Preloaded, PRELOADED_NAMES)?,
            programs: Vec::new(),
            clock: Figure::Seconds,
            left_out: Vec::new(),
        };
        let mut names = Vec::new();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                _ if plan.options.take(&argument, &mut arguments)? => {}
                _ if plan.files.take(&argument, &mut arguments)? => {}
                "--processor-time" => plan.clock = Figure::ProcessorSeconds,
                "--allocators" => {
                    let names = value(&argument, &mut arguments)?;
                    plan.contenders = Contender::all_named(Face::Preloaded, names.split(','))?;
                }
                flag if flag.starts_with('-') => {
                    return Err(format!("unknown flag: {flag}; {USAGE}"));
                }
                _ => names.push(argument),
            }
        }
        plan.programs = selected(&PROGRAMS, |program| program.name, &names)?;
        Ok(plan)
    }

    fn carry_out(mut self) -> Result<(), String> {
        if self.options.only_allocators {
            println!("{}", builds(&self.contenders).join("\n"));
            return Ok(());
        }
        (self.contenders, self.left_out) = installed(&self.contenders, &self.options.built);
        self.programs.retain(|program| {
            let Some(missing) = program.missing() else { return true };
            eprintln!("LEFT OUT, not installed: {}: no {missing}", program.name);
            self.left_out.push(format!("{}: no {missing}", program.name));
            false
        });
        let mut outcome = Outcome::default();
        self.measure(&mut outcome)?;
        let rows: Vec<_> = self.programs.iter().map(|program| program.name.to_owned()).collect();
        let contenders: Vec<_> = self.contenders.iter().map(|contender| contender.name).collect();
        print!("{}", self.report(&outcome, &rows, &contenders));
        self.files.write(&outcome.measurements, &rows, &contenders, self.clock)
    }

    /// Neighbours in time are the same program under other allocators; who comes first changes from
    /// round to round.
    fn measure(&self, outcome: &mut Outcome) -> Result<(), String> {
        let stage = Stage::set_up(&self.options.built)?;
        for round in 0..self.options.rounds {
            eprintln!("round {} of {}", round + 1, self.options.rounds);
            for program in &self.programs {
                for turn in 0..self.contenders.len() {
                    let contender = self.contenders[(round + turn) % self.contenders.len()];
                    let figures = (program.run)(&stage, contender)
                        .map(|taken| taken.figures())
                        .map_err(|why| format!("{} under {}: {why}", program.name, contender.name));
                    outcome.add(program.name, contender.name, round + 1, figures);
                }
            }
        }
        Ok(())
    }

    fn report(&self, outcome: &Outcome, rows: &[String], contenders: &[&'static str]) -> String {
        let head = Head {
            face: Face::Preloaded,
            contenders: &self.contenders,
            built: &self.options.built,
            left_out: &self.left_out,
            failures: &outcome.failures,
        };
        let mut paragraphs = head.paragraphs();
        paragraphs.push(legend(self.options.rounds));
        let mut report = paragraphs.join("\n\n") + "\n";
        let measurements = &outcome.measurements;
        for figure in [self.clock, Figure::PeakMib] {
            let table = Table { measurements, rows, contenders, ours: OURS, figure, beside: &[] };
            let _ = write!(report, "\n{}", table.markdown());
        }
        report
    }
}
