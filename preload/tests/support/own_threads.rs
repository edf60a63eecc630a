//! What the allocator's own threads can reach: libc has not made them, so any function that is not the library's own
//! may look for a thread's state that is not there, and somebody may have put theirs in the place of libc's.
//!
//! The code is read as it was built: from the two functions that such threads run, along all calls.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::support;

/// The functions that run on them, by a piece of their mangled names.
const STARTS: [&str; 2] = ["7release6ticker3run", "7release9assistant3run"];

/// `_Unwind_Resume` is where a panic goes on, and these threads have none.
const ALLOWED: [&str; 1] = ["_Unwind_Resume"];

/// A panic ends the process: what is beyond is not looked at. Pieces of mangled names.
const ENDS: [&str; 3] = ["9panicking", "_failed", "slice5index"];

/// Where a call goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    /// Code of the library's, by its address.
    Own(u64),
    /// A place in the library's table of addresses.
    Place(u64),
    /// What the linker has made for another library's function.
    Other(String),
}

/// A function: its name, and where it calls or jumps to.
struct Function {
    name: String,
    targets: BTreeSet<Target>,
}

/// The functions in what `objdump -d` writes, by their addresses.
fn functions(listing: &str) -> BTreeMap<u64, Function> {
    let mut found = BTreeMap::new();
    let mut at = 0;
    for line in listing.lines() {
        let header = line.strip_suffix(">:").and_then(|line| line.split_once(" <"));
        if let Some((address, name)) = header {
            at = u64::from_str_radix(address, 16).expect("an address");
            found.insert(at, Function { name: name.to_owned(), targets: BTreeSet::new() });
        } else if let Some(target) = target(line) {
            let function: &mut Function = found.get_mut(&at).expect("code is some function's");
            function.targets.insert(target);
        }
    }
    found
}

/// Where a line of code calls or jumps to, if it does and the line says so.
fn target(line: &str) -> Option<Target> {
    let code = line.split_once(":\t")?.1;
    let (instruction, rest) = code.split_once(' ')?;
    if instruction != "call" && !instruction.starts_with('j') {
        return None;
    }
    let address = |text: &str| u64::from_str_radix(text, 16).ok();
    let rest = rest.trim();
    if rest.starts_with('*') {
        // "*0x7d940(%rip)        # 7d988 <…>". Through a register: not said here.
        let place = rest.split_once("(%rip)")?.1.trim().strip_prefix("# ")?;
        return address(place.split(' ').next()?).map(Target::Place);
    }
    let (to, name) = rest.split_once(" <")?;
    match name.strip_suffix("@plt>") {
        Some(other) => Some(Target::Other(other.to_owned())),
        None => address(to).map(Target::Own),
    }
}

/// What the loader writes into the library's places, from what `readelf -rW` writes.
fn places(listing: &str) -> BTreeMap<u64, Target> {
    let mut found = BTreeMap::new();
    for line in listing.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &&str| u64::from_str_radix(text, 16).ok();
        let (Some(place), Some(kind)) = (words.first().and_then(number), words.get(2)) else {
            continue;
        };
        let target = match *kind {
            "R_X86_64_RELATIVE" => words.get(3).and_then(number).map(Target::Own),
            // A symbol's value is 0 where another library has it.
            "R_X86_64_GLOB_DAT" | "R_X86_64_JUMP_SLOT" => words.get(4).map(|name| {
                let name = name.split('@').next().unwrap_or(name).to_owned();
                match words.get(3).and_then(number) {
                    Some(value) if value != 0 => Target::Own(value),
                    _ => Target::Other(name),
                }
            }),
            _ => None,
        };
        found.extend(target.map(|target| (place, target)));
    }
    found
}

/// The calls of other libraries' functions that are reached from `starts`: who calls whom.
fn foreign_calls(
    functions: &BTreeMap<u64, Function>,
    places: &BTreeMap<u64, Target>,
    starts: &[u64],
) -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    let mut seen: BTreeSet<u64> = starts.iter().copied().collect();
    let mut left = starts.to_vec();
    while let Some(at) = left.pop() {
        let function = &functions[&at];
        for target in &function.targets {
            let target = match target {
                Target::Place(place) => places.get(place).cloned(),
                known => Some(known.clone()),
            };
            match target {
                Some(Target::Own(to)) => {
                    // A jump within a function leads into its middle.
                    let Some((&start, callee)) = functions.range(..=to).next_back() else {
                        continue;
                    };
                    let is_end = ENDS.iter().any(|end| callee.name.contains(end));
                    if !is_end && seen.insert(start) {
                        left.push(start);
                    }
                }
                Some(Target::Other(name)) if !ALLOWED.contains(&name.as_str()) => {
                    told.insert(format!("{} calls {name}", function.name));
                }
                Some(Target::Other(_)) => {}
                Some(Target::Place(place)) => {
                    told.insert(format!("{} calls through {place:#x}", function.name));
                }
                None => {
                    told.insert(format!("{} calls what nobody writes down", function.name));
                }
            }
        }
    }
    told
}

/// What a program of binutils says of the library; none if it is not installed.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let library = support::library()?;
    match Command::new(program).args(arguments).arg(library).output() {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => panic!("{program}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            support::skipped("own_threads", &format!("{program}: {error}"));
            None
        }
    }
}

#[test]
fn they_reach_no_function_of_another_library() {
    if !cfg!(target_arch = "x86_64") {
        return support::skipped("own_threads", "it reads the code of x86_64");
    }
    let arguments = ["-d", "--no-show-raw-insn", "-w"];
    let (Some(code), Some(relocations)) = (said("objdump", &arguments), said("readelf", &["-rW"]))
    else {
        return;
    };
    let (functions, places) = (functions(&code), places(&relocations));
    let is_start = |name: &str| STARTS.iter().any(|start| name.contains(start));
    let starts: Vec<u64> =
        functions.iter().filter(|(_, f)| is_start(&f.name)).map(|(&at, _)| at).collect();
    assert_eq!(starts.len(), STARTS.len(), "the functions that these threads run are found");
    let told = foreign_calls(&functions, &places, &starts);
    assert!(told.is_empty(), "{}", told.into_iter().collect::<Vec<_>>().join("\n"));
}

/// A call of each kind is seen, through whatever is between.
#[test]
fn what_is_forbidden_is_found() {
    let code = "\
0000000000001000 <start>:
    1000:\tcall   1100 <middle>
    1005:\tcall   *0x2000(%rip)        # 4000 <_DYNAMIC+0x10>
    1006:\tcall   *%rax
0000000000001100 <middle>:
    1100:\tjne    1108 <middle+0x8>
    1108:\tjmp    1200 <last>
0000000000001200 <last>:
    1200:\tcall   1500 <getpid@plt>
    1205:\tcall   *0x2000(%rip)        # 4008 <syscall@GLIBC_2.2.5>
    1208:\tcall   *0x2000(%rip)        # 4010 <memcpy@GLIBC_2.14>
0000000000001300 <by_table>:
    1300:\tjmp    *0x2000(%rip)        # 4018 <_DYNAMIC+0x18>
0000000000001400 <never>:
    1400:\tcall   1500 <abort@plt>
";
    let relocations = "\
000000004000  000000000008 R_X86_64_RELATIVE                         1300
000000004008  000600000006 R_X86_64_GLOB_DAT      0000000000000000 syscall@GLIBC_2.2.5 + 0
000000004010  000600000006 R_X86_64_GLOB_DAT      0000000000000000 memcpy@GLIBC_2.14 + 0
000000004018  000700000007 R_X86_64_JUMP_SLOT     0000000000000000 free + 0
";
    let told = foreign_calls(&functions(code), &places(relocations), &[0x1000]);
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let expected =
        ["by_table calls free", "last calls getpid", "last calls memcpy", "last calls syscall"];
    assert_eq!(told, expected);
}
