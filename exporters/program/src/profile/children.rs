//! The children of a program that is profiled: whoever it starts, and whoever they do.
//!
//! A script's own memory is of no interest, and what it runs is. A child has the socket's name, too, and
//! is read at its end; one that ends without its exit handlers was last read within the second before.
//! Each has a file of its own, beside that of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use slackwater_exporters::attach::{self, Target};
use slackwater_exporters::profile::reading::ProfileReading;

use super::super::executable;
use super::super::output;
use super::form::{Form, render};

/// Files of children that are written. A build starts thousands.
const MAX_FILES: usize = 64;

/// Processes that were seen below a program.
pub struct Children<'a> {
    /// The program's own file; without one, children are counted only.
    output: Option<&'a Path>,
    form: Form,
    known: BTreeMap<u32, Child>,
    written: usize,
    /// Children that had a profile, and no file.
    without_file: u64,
    /// Programs of children without a heap that were looked at.
    obstacles: BTreeSet<PathBuf>,
}

struct Child {
    started: u64,
    name: String,
    /// What was last read of it, and whether it is in its file.
    last: Option<Box<ProfileReading>>,
    file: Option<PathBuf>,
    /// It has said that it ends, and was read then.
    is_done: bool,
}

impl<'a> Children<'a> {
    pub fn new(output: Option<&'a Path>, form: Form) -> Children<'a> {
        Children {
            output,
            form,
            known: BTreeMap::new(),
            written: 0,
            without_file: 0,
            obstacles: BTreeSet::new(),
        }
    }

    /// Reads those that are there, below `program`, and keeps what is left of those that are not.
    pub fn look(&mut self, program: u32) {
        for process in below(program) {
            self.read(process);
        }
        let is_gone = |(&process, child): (&u32, &Child)| {
            (attach::start_time(process) != Some(child.started)).then_some(process)
        };
        let gone: Vec<u32> = self.known.iter().filter_map(is_gone).collect();
        for process in gone {
            let child = self.known.remove(&process);
            self.keep(process, child);
        }
    }

    /// One of them has run its exit handlers, and waits to be read.
    pub fn ends(&mut self, process: u32) {
        self.read(process);
        if let Some(child) = self.known.get_mut(&process) {
            child.is_done = true;
        }
        let child = self.known.remove(&process);
        self.keep(process, child);
    }

    /// The program has ended. Children may outlive it; they are known as of now.
    pub fn finish(mut self) {
        while let Some((process, child)) = self.known.pop_first() {
            self.keep(process, Some(child));
        }
        if self.without_file > 0 {
            let expected = match self.output {
                None => ": -o FILE keeps each in a file beside it",
                Some(_) => ", more than there are files for",
            };
            say(&format!("{} children had profiles of their own{expected}", self.without_file));
        }
    }

    fn read(&mut self, process: u32) {
        let Some(started) = attach::start_time(process) else { return };
        let mut target = match Target::open(process) {
            Ok(target) => target,
            Err(error) => {
                if error.is_no_heap() {
                    self.tell_obstacle(process);
                }
                return;
            }
        };
        let Ok(reading) = target.reading() else { return };
        let child = self.known.entry(process).or_insert_with(|| Child {
            started,
            name: String::new(),
            last: None,
            file: None,
            is_done: false,
        });
        child.name = target.comm().to_string();
        child.last = Some(Box::new(reading));
    }

    /// Says of a child without a heap why it has none, once for each program, if that is known.
    fn tell_obstacle(&mut self, process: u32) {
        let Ok(program) = fs::read_link(format!("/proc/{process}/exe")) else { return };
        if self.obstacles.contains(&program) || self.obstacles.len() == MAX_FILES {
            return;
        }
        if let Some(why) = executable::obstacle(program.as_os_str()) {
            say(&format!("child {process} is not profiled: {why}"));
        }
        self.obstacles.insert(program);
    }

    /// Writes the files of those that are there, as they are known now.
    pub fn write(&mut self) {
        let processes: Vec<u32> = self.known.keys().copied().collect();
        for process in processes {
            let Some(mut child) = self.known.remove(&process) else { continue };
            self.write_one(process, &mut child);
            self.known.insert(process, child);
        }
    }

    /// It is no more: what is known of it goes into its file, and is told.
    fn keep(&mut self, process: u32, child: Option<Child>) {
        let Some(mut child) = child else { return };
        self.write_one(process, &mut child);
        match (&child.file, &child.last) {
            (Some(file), _) => {
                let end = if child.is_done { "" } else { ", as of up to a second before it ended" };
                let line = format!("child {} ({process}): {}{end}", child.name, file.display());
                say(&line);
            }
            (None, Some(reading)) if has_samples(reading) => self.without_file += 1,
            (None, _) => {}
        }
    }

    fn write_one(&mut self, process: u32, child: &mut Child) {
        let (Some(output), Some(reading)) = (self.output, &child.last) else { return };
        if !has_samples(reading) || child.file.is_none() && self.written == MAX_FILES {
            return;
        }
        let path = beside(output, process);
        if output::write_file(&path, render(self.form, None, reading)).is_ok()
            && child.file.is_none()
        {
            self.written += 1;
            child.file = Some(path);
        }
    }
}

/// Without one there is nothing to see.
fn has_samples(reading: &ProfileReading) -> bool {
    !reading.profile.stacks.is_empty()
}

/// `a/p.pb.gz` of the program is `a/p.1234.pb.gz` of its child.
fn beside(output: &Path, process: u32) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (stem, rest) = match name.split_once('.') {
        Some((stem, rest)) if !stem.is_empty() => (stem, format!(".{rest}")),
        _ => (&name[..], String::new()),
    };
    output.with_file_name(OsString::from(format!("{stem}.{process}{rest}")))
}

/// The processes that descend from one, as far as their parents live.
fn below(program: u32) -> Vec<u32> {
    let parents: BTreeMap<u32, u32> = attach::processes()
        .filter_map(|process| Some((process, attach::parent(process)?)))
        .collect();
    let descends = |mut process: u32| {
        // Numbers may have changed hands meanwhile: no circle is followed for ever.
        for _ in 0..parents.len() {
            match parents.get(&process) {
                Some(&parent) if parent == program => return true,
                Some(&parent) => process = parent,
                None => return false,
            }
        }
        false
    };
    parents.keys().copied().filter(|&process| descends(process)).collect()
}

fn say(line: &str) {
    // Where nobody hears it, nobody is told.
    let _ = writeln!(io::stderr(), "slackwater: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_file_is_beside_the_programs() {
        for (output, expected) in [
            ("p.pb.gz", "p.7.pb.gz"),
            ("a.b/p.folded", "a.b/p.7.folded"),
            ("/x/profile", "/x/profile.7"),
            (".hidden", ".hidden.7"),
        ] {
            assert_eq!(beside(Path::new(output), 7), Path::new(expected));
        }
    }

    #[test]
    fn descendants_are_found_over_generations() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo started; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).expect("readable");
        let found = below(std::process::id());
        assert!(found.contains(&child.id()));
        let sleeps = below(child.id());
        assert_eq!(sleeps.len(), 1);
        assert!(found.contains(&sleeps[0]));
        // SAFETY: a signal to a child of the shell, which has not ended.
        unsafe { libc::kill(sleeps[0] as libc::pid_t, libc::SIGKILL) };
        child.wait().expect("it ends");
    }
}
