//! The static probes: those of the catalogue are in the library, where its notes say they are, and tracers
//! see what they should. Every script of `scripts/bpftrace` is run.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use slackwater::probes::CATALOGUE;
use support::{LIMIT, installed, library, plain, preloaded, run, skipped, unique_path};

/// Blocks that `c/probed.c` allocates, of how many bytes, and how many it keeps.
const BLOCKS: u64 = 4000;
const REQUEST: u64 = 1000;
const KEPT: u64 = 250;
/// Their class.
const BLOCK_BYTES: u64 = 1024;

/// The mean distance of samples, in bytes.
const SAMPLE_RATE: u64 = 64 << 10;

/// A note of the library's: one place of a probe.
#[derive(Debug)]
struct Note {
    name: String,
    arguments: Vec<String>,
    address: u64,
}

fn number(bytes: &[u8], at: u64, len: usize) -> u64 {
    let mut value = [0; 8];
    value[..len].copy_from_slice(&bytes[at as usize..at as usize + len]);
    u64::from_le_bytes(value)
}

fn text(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|&byte| byte == 0).expect("a terminating zero");
    (String::from_utf8(bytes[..end].to_vec()).expect("text"), &bytes[end + 1..])
}

/// The notes in a 64-bit ELF file's section `.note.stapsdt`.
fn notes_in(elf: &[u8]) -> Vec<Note> {
    let (sections, count) = (number(elf, 0x28, 8), number(elf, 0x3c, 2));
    let section = |index: u64| {
        let header = sections + index * 64;
        (number(elf, header, 4), number(elf, header + 0x18, 8), number(elf, header + 0x20, 8))
    };
    let (_, names, _) = section(number(elf, 0x3e, 2));
    let found = (0..count)
        .map(section)
        .find(|&(name, ..)| text(&elf[(names + name) as usize..]).0 == ".note.stapsdt");
    let (_, start, bytes) = found.expect("the library has a section .note.stapsdt");
    let (mut at, end) = (start, start + bytes);
    let mut notes = Vec::new();
    while at < end {
        let (name_bytes, content_bytes) = (number(elf, at, 4), number(elf, at + 4, 4));
        assert_eq!((name_bytes, number(elf, at + 8, 4)), (8, 3), "stapsdt, type 3");
        let content = at + 12 + 8;
        // Address, base and semaphore; then three texts.
        let (provider, rest) = text(&elf[content as usize + 24..]);
        let (name, rest) = text(rest);
        let (arguments, _) = text(rest);
        assert_eq!((provider.as_str(), number(elf, content + 16, 8)), ("slackwater", 0));
        let arguments = arguments.split_whitespace().map(str::to_owned).collect();
        notes.push(Note { name, arguments, address: number(elf, content, 8) });
        at = content + content_bytes.next_multiple_of(4);
    }
    notes
}

/// Addresses and file offsets of what the file says is code.
fn code_in(elf: &[u8]) -> Vec<(std::ops::Range<u64>, u64)> {
    let (headers, count) = (number(elf, 0x20, 8), number(elf, 0x38, 2));
    let loads = (0..count)
        .map(|i| headers + i * 56)
        .filter(|&header| number(elf, header, 4) == 1 && number(elf, header + 4, 4) & 1 == 1);
    loads
        .map(|header| {
            let address = number(elf, header + 0x10, 8);
            (address..address + number(elf, header + 0x20, 8), number(elf, header + 8, 8))
        })
        .collect()
}

const NOP: &[u8] = if cfg!(target_arch = "x86_64") { &[0x90] } else { &[0x1f, 0x20, 0x03, 0xd5] };

#[test]
fn the_library_has_the_probes_of_the_catalogue() {
    let Some(library) = library() else { return };
    let elf = fs::read(library).expect("the library");
    let notes = notes_in(&elf);
    for probe in CATALOGUE {
        assert!(notes.iter().any(|note| note.name == probe.name), "{} is nowhere", probe.name);
    }
    let code = code_in(&elf);
    for note in &notes {
        let probe = CATALOGUE.iter().find(|probe| probe.name == note.name);
        let probe = probe.unwrap_or_else(|| panic!("{note:?} is not in the catalogue"));
        assert_eq!(note.arguments.len(), probe.arguments.len(), "{note:?}");
        assert!(note.arguments.iter().all(|argument| argument.starts_with("-8@")), "{note:?}");
        let (segment, offset) = code
            .iter()
            .find(|(segment, _)| segment.contains(&note.address))
            .unwrap_or_else(|| panic!("{note:?} is not in code: {code:x?}"));
        assert_eq!(*offset, segment.start, "perf takes an address for a place in the file");
        let at = note.address as usize;
        assert_eq!(&elf[at..at + NOP.len()], NOP, "{note:?}");
    }
}

/// A fresh directory with a copy of the library, which nobody else's tracers and processes share.
struct Scratch {
    path: PathBuf,
    library: PathBuf,
}

impl Scratch {
    fn new() -> Option<Scratch> {
        let original = library()?;
        let path = unique_path("probes");
        fs::create_dir(&path).expect("a directory");
        let library = path.join("libslackwater.so");
        fs::copy(original, &library).expect("a copy of the library");
        Some(Scratch { path, library })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: a test that failed has more to say than this.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A child that is killed if the test ends before it does.
struct Running(Child);

impl Running {
    fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("wait for a child").is_none()
    }

    fn finish(mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        while self.is_running() {
            assert!(Instant::now() < deadline, "{:?} does not end", self.0);
            thread::sleep(Duration::from_millis(5));
        }
        self.0.wait().expect("wait for a child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended, as it should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program of `c/probed.c`, under the scratch directory's library.
fn probed(scratch: &Scratch, compiler: &Path) -> Command {
    let program = scratch.path.join("probed");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c/probed.c");
    let mut compile = plain(compiler);
    compile.args(["-O1", "-fno-builtin", "-pthread", source, "-o"]).arg(&program);
    run(&mut compile, "", LIMIT).expect_success();
    let mut command = preloaded(program);
    command.env("LD_PRELOAD", &scratch.library).env("SLACKWATER_SUMMARY", "1");
    command.env("SLACKWATER_TICKER", "off").env("SLACKWATER_PROFILE_EPOCH_SAMPLES", "1000000");
    command.env("SLACKWATER_PROFILE_RATE_BYTES", SAMPLE_RATE.to_string());
    command
}

/// What a run of the program came to.
#[derive(Debug)]
struct Traced {
    /// What the tracer printed.
    output: String,
    /// Where the program's large block was.
    large: u64,
    /// The program's at-exit summary, by name.
    summary: BTreeMap<String, u64>,
}

/// `enq=1 coalesce=2 …`
fn summary(stderr: &str) -> BTreeMap<String, u64> {
    let words = stderr.split_whitespace().filter_map(|word| word.split_once('='));
    words.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
}

/// Runs the program with bpftrace attached to it, which is given `script` (its arguments), attaches to
/// `probes`, and prints `last` of the last event, if it prints any. An error says why it cannot.
fn trace(
    (compiler, bpftrace): (&Path, &Path),
    script: &[&OsStr],
    probes: &BTreeSet<&str>,
    last: &str,
) -> Result<Traced, String> {
    let scratch = Scratch::new().ok_or("the system's malloc has no probes")?;
    let file = |name| File::create(scratch.path.join(name)).expect("a file");
    let read = |name| fs::read_to_string(scratch.path.join(name)).expect("a file's text");

    let mut program = probed(&scratch, compiler);
    let program = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file("program.err"));
    let mut program = Running(program.spawn().expect("the program starts"));
    let mut lines = BufReader::new(program.0.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert_eq!(line(), "ready");

    let mut tracer = plain(bpftrace);
    tracer
        .args(["-B", "line", "-p"])
        .arg(program.0.id().to_string())
        .args(script)
        .stdin(Stdio::null());
    let mut tracer = Running(
        tracer
            .stdout(file("tracer.out"))
            .stderr(file("tracer.err"))
            .spawn()
            .expect("the tracer starts"),
    );
    let places = places(program.0.id(), &scratch.library, probes);
    let deadline = Instant::now() + LIMIT;
    while !places.iter().all(|&place| is_attached(program.0.id(), place)) {
        assert!(Instant::now() < deadline, "it never attaches: {}", read("tracer.err"));
        if !tracer.is_running() {
            return Err(read("tracer.err"));
        }
        thread::sleep(Duration::from_millis(20));
    }

    let mut input = program.0.stdin.take().expect("piped");
    input.write_all(b"\n").expect("it reads");
    let large = line().parse().expect("an address");
    let deadline = Instant::now() + LIMIT;
    while !read("tracer.out").contains(last) {
        assert!(Instant::now() < deadline, "no {last:?}: {}", read("tracer.out"));
        thread::sleep(Duration::from_millis(5));
    }
    // Before the program ends, whose memory has the names of the functions in it.
    let deadline = Instant::now() + LIMIT;
    while tracer.is_running() {
        assert!(Instant::now() < deadline, "it does not end: {}", read("tracer.err"));
        // Again, much later: one that comes while it is still at its beginning is forgotten, and one that comes
        // while it is at its end already ends it at once, without a word.
        // SAFETY: kill reads and writes no memory; the child is not reaped yet.
        unsafe { libc::kill(tracer.0.id().cast_signed(), libc::SIGINT) };
        let again = Instant::now() + Duration::from_secs(20);
        while tracer.is_running() && Instant::now() < again {
            thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(tracer.finish().success(), "{}", read("tracer.err"));
    drop(input);
    assert!(program.finish().success());
    let output = read("tracer.out");
    assert!(!read("tracer.err").contains("Lost"), "{}", read("tracer.err"));
    Ok(Traced { output, large, summary: summary(&read("program.err")) })
}

/// Where the probes are in the process's memory.
fn places(process: u32, library: &Path, probes: &BTreeSet<&str>) -> Vec<u64> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("a process's maps");
    let first = maps.lines().find(|line| line.ends_with(library.to_str().expect("text")));
    let base = first.and_then(|line| line.split('-').next()).expect("the library is mapped");
    let base = u64::from_str_radix(base, 16).expect("an address");
    let notes = notes_in(&fs::read(library).expect("the library"));
    let wanted = notes.iter().filter(|note| probes.contains(note.name.as_str()));
    wanted.map(|note| base + note.address).collect()
}

/// A tracer puts a breakpoint in the `nop`'s place.
fn is_attached(process: u32, place: u64) -> bool {
    let mut there = vec![0; NOP.len()];
    let memory = File::open(format!("/proc/{process}/mem")).expect("a process's memory");
    memory.read_exact_at(&mut there, place).expect("the library's code");
    there != NOP
}

/// A tracer and a compiler, and somebody who may trace.
fn tools(test: &str, tracer: &str) -> Option<(PathBuf, PathBuf)> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        skipped(test, "only root may attach to probes");
        return None;
    }
    Some((installed(test, "cc")?, installed(test, tracer)?))
}

#[test]
fn a_tracer_sees_every_probe_with_its_arguments() {
    const TEST: &str = "a_tracer_sees_every_probe_with_its_arguments";
    let Some((compiler, bpftrace)) = tools(TEST, "bpftrace") else { return };
    let mut script = String::new();
    for probe in CATALOGUE {
        let formats = "%lu ".repeat(probe.arguments.len());
        let arguments: Vec<_> = (0..probe.arguments.len()).map(|i| format!("arg{i}")).collect();
        script += &format!(
            "usdt:*:slackwater:{0} {{ printf(\"{0} {formats}\\n\", {1}); }}\n",
            probe.name,
            arguments.join(", ")
        );
    }
    let probes = CATALOGUE.iter().map(|probe| probe.name).collect();
    let script = ["-e".as_ref(), script.as_ref()];
    let traced = match trace((&compiler, &bpftrace), &script, &probes, "refill 32768 ") {
        Ok(traced) => traced,
        Err(reason) => return skipped(TEST, &reason),
    };
    let mut events: BTreeMap<&str, Vec<Vec<u64>>> = BTreeMap::new();
    for line in traced.output.lines() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next().filter(|name| probes.contains(name)) else { continue };
        let arguments = words.map(|word| word.parse().expect("a number")).collect();
        events.entry(name).or_default().push(arguments);
    }
    let of = |name| events.get(name).unwrap_or_else(|| panic!("no {name}: {}", traced.output));
    let sum = |name, argument: usize| of(name).iter().map(|event| event[argument]).sum::<u64>();
    let of_blocks = |name| -> u64 {
        of(name).iter().filter(|event| event[0] == BLOCK_BYTES).map(|event| event[1]).sum()
    };

    // Sampled blocks are in no span. What was claimed beyond the others was spilled with those that were
    // freed.
    let sampled = |name| of(name).iter().filter(|event| event[1] == REQUEST).count() as u64;
    assert!(of_blocks("refill") + sampled("sample_alloc") >= BLOCKS, "{traced:?}");
    let live = sampled("sample_alloc") - sampled("sample_free");
    assert_eq!(of_blocks("refill") - of_blocks("spill") + live, KEPT, "{traced:?}");
    assert!(of("refill").iter().all(|event| event[1] <= event[2].max(1)), "{traced:?}");

    let large = [3, traced.large, 256, 256];
    assert_eq!(of("release").iter().filter(|event| event[..] == large).count(), 1, "{traced:?}");
    // Before the tracer came, the start of the program may have freed a block that was sampled.
    let unseen = traced.summary["enq"] - of("release").len() as u64;
    assert!(unseen <= 1, "{traced:?}");
    let retired = |event: &&Vec<u64>| event[0] == 0 && event[2] == 16;
    let spans: BTreeSet<u64> = of("release").iter().filter(retired).map(|event| event[1]).collect();
    for event in of("retire") {
        assert!(event[1].is_multiple_of(64 << 10) && event[2] <= 16, "{event:?}");
        assert!(event[0] != BLOCK_BYTES || spans.contains(&event[1]), "{event:?}");
    }

    // A sample stands for itself and for what lies before it, near the rate on average.
    let allocated: BTreeSet<_> = of("sample_alloc").iter().map(|event| event[0]).collect();
    assert!(of("sample_free").iter().all(|event| allocated.contains(&event[0])), "{traced:?}");
    for event in of("sample_alloc") {
        let near = event[1]..=event[1] + SAMPLE_RATE + 1;
        assert!(near.contains(&event[2]), "{event:?}");
    }

    assert_eq!(sum("purge_end", 1), traced.summary["purged_pages"], "{traced:?}");
    assert_eq!(sum("purge_end", 2), traced.summary["madvise_calls"], "{traced:?}");
    assert_eq!(of("purge_begin").len(), of("purge_end").len(), "{traced:?}");
    for (begin, end) in of("purge_begin").iter().zip(of("purge_end")) {
        assert_eq!((begin[0], begin[1]), (end[0], end[4]), "{traced:?}");
    }
    assert!(of("purge_end").iter().any(|event| event[4] == 1), "{traced:?}");
    assert!(of("tick").iter().all(|event| event[0] <= 1), "{traced:?}");
    // The thread that rests: at the end, and at ticks that came before it, or after it and found nothing.
    assert!(of("takeover").iter().any(|event| event[..] == [1, 0]), "{traced:?}");
}

#[test]
fn every_script_runs() {
    const TEST: &str = "every_script_runs";
    let Some((compiler, bpftrace)) = tools(TEST, "bpftrace") else { return };
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/bpftrace");
    for entry in fs::read_dir(scripts).expect("the scripts") {
        let path = entry.expect("an entry").path();
        let script = fs::read_to_string(&path).expect("a script");
        let probes: BTreeSet<&str> = script
            .match_indices("usdt:*:slackwater:")
            .map(|(at, before)| script[at + before.len()..].split([' ', ',', '\n']).next())
            .map(|name| name.expect("a name"))
            .collect();
        for name in &probes {
            assert!(CATALOGUE.iter().any(|probe| probe.name == *name), "{name}: {path:?}");
        }
        match trace((&compiler, &bpftrace), &[path.as_os_str()], &probes, "") {
            // A map that has something in it.
            Ok(traced) => {
                assert!(traced.output.contains("@"), "{path:?}: {traced:?}");
            }
            Err(reason) => return skipped(TEST, &reason),
        }
    }
}

/// perf's own way: the library's notes become events of the kernel's.
#[test]
fn perf_sees_a_probe_with_its_arguments() {
    const TEST: &str = "perf_sees_a_probe_with_its_arguments";
    let Some((compiler, perf)) = tools(TEST, "perf") else { return };
    let Some(scratch) = Scratch::new() else { return };
    let perf = |arguments: &[&str]| {
        let mut command = plain(&perf);
        // Where it keeps what it knows of libraries.
        command.env("HOME", &scratch.path).current_dir(&scratch.path).args(arguments);
        command
    };
    let library = scratch.library.to_str().expect("text");
    run(&mut perf(&["buildid-cache", "--add", library]), "", LIMIT).expect_success();
    /// The kernel's events are there for all; they go with the test.
    struct Events<F: Fn()>(F);
    impl<F: Fn()> Drop for Events<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    let _events = Events(|| {
        run(&mut perf(&["probe", "--quiet", "--del", "sdt_slackwater:*"]), "", LIMIT);
    });
    let added = run(&mut perf(&["probe", "--add", "sdt_slackwater:release"]), "", LIMIT);
    if !added.status.success() {
        return skipped(TEST, &added.stderr);
    }
    let program = probed(&scratch, &compiler);
    let mut record = perf(&["record", "--quiet", "-e", "sdt_slackwater:release*", "-o", "data"]);
    record.arg("--").arg("env");
    for (name, value) in program.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        record.arg(format!("{}={}", name.display(), value.display()));
    }
    let recorded = run(record.arg(program.get_program()), "\n", LIMIT).expect_success();
    let large = recorded.stdout.lines().nth(1).expect("an address");
    let script = run(&mut perf(&["script", "-i", "data"]), "", LIMIT).expect_success();
    let expected = format!("arg1=3 arg2={large} arg3=256 arg4=256");
    let found = script.stdout.lines().filter(|line| line.ends_with(&expected)).count();
    assert_eq!(found, 1, "{expected}: {}", script.said());
}
