//! Runs a program under callgrind and reads which of its instructions locked the bus, how often.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// An instruction of a program: the object that it is in, the function's symbol, and its address there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instruction {
    pub object: String,
    pub function: String,
    pub address: u64,
}

/// What a run executed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Instructions that lock the bus, and how often they did.
    pub locked: HashMap<Instruction, u64>,
    /// Calls of functions (by their object and symbol) from an instruction, and how often the bus was locked in them
    /// and in all that they called.
    pub calls: HashMap<(Instruction, (String, String)), u64>,
}

/// Runs `program` by `valgrind`; returns what it printed and its profile.
pub fn run(
    mut valgrind: Command,
    program: &Path,
    arguments: &[&str],
) -> Result<(String, Profile), String> {
    let failed = |said: &str| format!("valgrind, {}: {said}", arguments.join(" "));
    let file = profile_file();
    let output = valgrind
        .args(["-q", "--tool=callgrind", "--collect-bus=yes", "--dump-instr=yes"])
        .args(["--compress-pos=no", "--compress-strings=no"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(arguments)
        .output()
        .map_err(|error| failed(&error.to_string()))?;
    let profile = fs::read_to_string(&file);
    let _ = fs::remove_file(&file);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(said.lines().last().unwrap_or("nothing said")));
    }
    let profile = profile.map_err(|error| failed(&error.to_string()))?;
    let profile = parse(&profile).map_err(|reason| failed(&reason))?;
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), profile))
}

/// A file of one run's own.
fn profile_file() -> PathBuf {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("slackwater-bus-{}-{run}", std::process::id()))
}

/// Reads callgrind's format: a line that names something holds until the next of its kind, and the line after one that
/// begins with `calls=` is what the call took.
fn parse(text: &str) -> Result<Profile, String> {
    let mut profile = Profile::default();
    let (mut object, mut function) = (String::new(), String::new());
    let (mut called_object, mut called) = (None, String::new());
    let mut is_call = false;
    let (mut has_bus_events, mut total, mut told) = (false, 0, None);
    for line in text.lines() {
        if let Some((key, value)) = line.split_once(['=', ':']) {
            match key {
                "ob" => object = value.to_owned(),
                "fn" => function = value.to_owned(),
                "cob" => called_object = Some(value.to_owned()),
                "cfn" => called = value.to_owned(),
                "calls" => is_call = true,
                "events" => has_bus_events = value.trim() == "Ir Ge",
                "summary" | "totals" => told = value.split_whitespace().nth(1).map(str::to_owned),
                _ => {}
            }
            continue;
        }
        let Some((address, locked)) = cost(line) else { continue };
        let instruction =
            Instruction { object: object.clone(), function: function.clone(), address };
        if is_call {
            let object = called_object.take().unwrap_or_else(|| object.clone());
            if locked > 0 {
                *profile.calls.entry((instruction, (object, called.clone()))).or_default() +=
                    locked;
            }
        } else if locked > 0 {
            total += locked;
            *profile.locked.entry(instruction).or_default() += locked;
        }
        is_call = false;
    }
    if !has_bus_events {
        return Err("callgrind counts no bus events".to_owned());
    }
    let told = told.unwrap_or("0".to_owned());
    if told != total.to_string() {
        return Err(format!("{total} bus events, of {told}"));
    }
    Ok(profile)
}

/// The address of a cost line, and its bus events; they are left out where there are none.
fn cost(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let address = u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok()?;
    let locked = fields.nth(2).map_or(Some(0), |field| field.parse().ok())?;
    Some((address, locked))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# callgrind format
events: Ir Ge
summary: 60 7

ob=/bin/program
fl=a.rs
fn=take::{closure#0}
0x10 65 3
0x13 65 3 3
fi=lock.rs
0x17 66 3 1
cob=/lib/libc.so
cfn=wake
calls=3 0x99 5
0x1b 67 9 2
fn=other
cfn=take::{closure#0}
calls=3 0x10 65
0x30 9 18 6
0x33 9 3 1

ob=/lib/libc.so
fl=libc.c
fn=wake
0x99 5 9 2

totals: 60 7
";

    fn instruction(object: &str, function: &str, address: u64) -> Instruction {
        Instruction { object: object.to_owned(), function: function.to_owned(), address }
    }

    #[test]
    fn instructions_and_calls_are_told_apart() {
        let profile = parse(TEXT).unwrap();
        let (program, libc) = ("/bin/program", "/lib/libc.so");
        let closure = "take::{closure#0}";
        let locked = HashMap::from([
            (instruction(program, closure, 0x13), 3),
            (instruction(program, closure, 0x17), 1),
            (instruction(program, "other", 0x33), 1),
            (instruction(libc, "wake", 0x99), 2),
        ]);
        assert_eq!(profile.locked, locked);
        let callee = |object: &str, name: &str| (object.to_owned(), name.to_owned());
        let calls = HashMap::from([
            ((instruction(program, closure, 0x1b), callee(libc, "wake")), 2),
            ((instruction(program, "other", 0x30), callee(program, closure)), 6),
        ]);
        assert_eq!(profile.calls, calls);
    }

    #[test]
    fn what_was_not_counted_or_got_lost_is_an_error() {
        assert_eq!(parse("events: Ir\n").unwrap_err(), "callgrind counts no bus events");
        let lost = TEXT.replace("totals: 60 7", "totals: 60 8");
        assert!(parse(&lost).unwrap_err().starts_with("7 bus events, of "));
    }
}
