//! What is left of a burst when every thread sleeps?
//!
//! ```text
//! burst_idle OBJECTS IDLE_SECONDS CYCLES KEEP_PERCENT THREADS MIN_SIZE MAX_SIZE \
//!            KEEP_HOLD IDLE_TICK_MS DUMP [--csv FILE] [--svg FILE] [--line]
//! burst_idle 200000 10 3 0 4 256 4096 1 100 1
//! ```
//!
//! The arguments, and their order, are those of hz3's bench. In each cycle
//!
//! 1. all threads together allocate OBJECTS blocks of random sizes from MIN_SIZE to MAX_SIZE, and
//!    write every byte of them;
//! 2. they free all but KEEP_PERCENT of them, chosen at random, in random order; of each thread's
//!    blocks half are freed by the next thread, which frees them in turn with its own (a single
//!    thread is its own next);
//! 3. they sleep for IDLE_SECONDS: no thread allocates or frees anything, while the main thread
//!    reads RSS every IDLE_TICK_MS, and 0.1, 0.3, 1 and 3 seconds after the last free.
//!
//! With KEEP_HOLD 1 kept blocks stay until the program ends, so they become more with each cycle.
//! With KEEP_HOLD 0 each thread begins the next cycle with freeing what it kept of the last; these
//! frees are not counted as operations. What the last cycle kept is not freed in either case.
//!
//! *base* is RSS before the first allocation, when all threads are there and everything that this
//! bench writes down has its memory, none of it from the allocator that is measured. *peak* is RSS
//! when all blocks of a cycle are there. *floor* is the base and the pages with at least one byte
//! of a kept block: less than that no allocator can keep. Percentages are of the peak above the
//! base.
//!
//! DUMP 1 prints the time series as well, in the format of `--csv`. `--svg` draws it: RSS against
//! purged pages, which are known only where slackwater is linked. `--line` prints nothing but what
//! `scripts/bench burst_idle` reads: a line for each cycle and one for all.
//!
//! Blocks come from `std::alloc::alloc`, so the build with feature `system` measures whatever is
//! preloaded.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use slackwater_benches::allocator::{self, Release};
use slackwater_benches::block::OS_PAGE_BYTES;
use slackwater_benches::burst::Shape;
use slackwater_benches::comparing::chart::{Chart, Line};
use slackwater_benches::cores;
use slackwater_benches::mapped::Mapped;
use slackwater_benches::pages::{PageRange, distinct_bytes};
use slackwater_benches::process::{Rss, minor_faults};
use slackwater_benches::random::Random;

const MIB: f64 = (1 << 20) as f64;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(Options::carry_out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

#[derive(Debug)]
struct Options {
    shape: Shape,
    csv: Option<String>,
    svg: Option<String>,
    line: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut csv, mut svg, mut line) = (None, None, false);
        let mut numbers = Vec::new();
        while let Some(argument) = arguments.next() {
            let mut file = || arguments.next().ok_or(format!("{argument} needs a file"));
            match argument.as_str() {
                "--csv" => csv = Some(file()?),
                "--svg" => svg = Some(file()?),
                "--line" => line = true,
                flag if flag.starts_with("--") => {
                    return Err(format!("{flag} is unknown; expected --csv, --svg or --line"));
                }
                _ => numbers.push(argument),
            }
        }
        Ok(Options { shape: Shape::parse(&numbers)?, csv, svg, line })
    }

    fn carry_out(self) -> Result<(), String> {
        // A file that cannot be written is known before the minutes, not after.
        let csv = self.csv.map(Output::create).transpose()?;
        let svg = self.svg.map(Output::create).transpose()?;
        let measured =
            measure(&self.shape).map_err(|error| format!("memory to write down in: {error}"))?;
        if let Some(csv) = csv {
            csv.write(&measured.series())?;
        }
        if let Some(svg) = svg {
            svg.write(&measured.chart())?;
        }
        let report = match (self.line, self.shape.dump) {
            (true, _) => measured.lines(),
            (false, true) => measured.series() + "\n" + &measured.summary(),
            (false, false) => measured.summary(),
        };
        io::stdout().write_all(report.as_bytes()).map_err(|error| format!("stdout: {error}"))
    }
}

/// A file that will be written.
struct Output {
    name: String,
    file: File,
}

impl Output {
    fn create(name: String) -> Result<Self, String> {
        match File::create(&name) {
            Ok(file) => Ok(Output { name, file }),
            Err(error) => Err(format!("{name}: {error}")),
        }
    }

    fn write(mut self, text: &str) -> Result<(), String> {
        self.file.write_all(text.as_bytes()).map_err(|error| format!("{}: {error}", self.name))
    }
}

// ---- The load ----

/// A block: what it takes to free it.
#[derive(Clone, Copy)]
struct Record {
    address: usize,
    size: u32,
}

impl Record {
    fn layout(size: u32) -> Layout {
        Layout::from_size_align(size as usize, 1).expect("sizes are far below the largest layout")
    }

    /// A new block, every byte of it written.
    fn allocate(size: u32) -> Self {
        let layout = Self::layout(size);
        // SAFETY: the size is not zero: Shape admits none.
        let block = unsafe { alloc(layout) };
        if block.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the block has so many bytes, and they are ours.
        unsafe { ptr::write_bytes(block, 0xb1, size as usize) };
        Record { address: block.expose_provenance(), size }
    }

    /// Frees the block. Each is freed at most once: [`Lot`] says by whom.
    fn free(self) {
        let block = ptr::with_exposed_provenance_mut(self.address);
        // SAFETY: `allocate` got it with this layout, and it was not freed since.
        unsafe { dealloc(block, Self::layout(self.size)) };
    }
}

/// The blocks that one thread allocates.
///
/// # Invariants
///
/// `kept ≤ own_end ≤ end ≤ records.len()`. Records up to `kept` are live blocks that nobody frees in
/// this cycle. Between dealing and freeing, all up to `end` are live: up to `own_end` the thread
/// frees them itself, from there on the next thread does. After that, none beyond `kept` are.
struct Lot {
    records: Mapped<Record>,
    kept: usize,
    own_end: usize,
    end: usize,
    random: Random,
}

impl Lot {
    fn new(shape: &Shape, thread: usize) -> io::Result<Self> {
        let objects = shape.objects_of(thread);
        let held_before_last =
            if shape.keep_hold { shape.kept_of(objects) * (shape.cycles - 1) } else { 0 };
        Ok(Lot {
            records: Mapped::new(objects + held_before_last, Record { address: 0, size: 0 })?,
            kept: 0,
            own_end: 0,
            end: 0,
            random: Random::new(thread as u64 + 1),
        })
    }

    fn allocate(&mut self, shape: &Shape, objects: usize) {
        if !shape.keep_hold {
            self.kept().iter().for_each(|record| record.free());
            self.kept = 0;
        }
        self.end = self.kept + objects;
        for record in &mut self.records[self.kept..self.end] {
            *record = Record::allocate(self.random.size(shape.sizes) as u32);
        }
    }

    /// Decides who frees what.
    fn deal(&mut self, shape: &Shape) {
        let new = &mut self.records[self.kept..self.end];
        for index in (1..new.len()).rev() {
            new.swap(index, self.random.below(index + 1));
        }
        self.kept += shape.kept_of(new.len());
        self.own_end = self.kept + (self.end - self.kept).div_ceil(2);
    }

    fn kept(&self) -> &[Record] {
        &self.records[..self.kept]
    }

    fn own(&self) -> &[Record] {
        &self.records[self.kept..self.own_end]
    }

    fn handed_over(&self) -> &[Record] {
        &self.records[self.own_end..self.end]
    }
}

/// Frees both, in turn.
fn free_in_turn<'a>(mut own: &'a [Record], mut handed_over: &'a [Record]) {
    while let Some((first, rest)) = own.split_first() {
        first.free();
        (own, handed_over) = (handed_over, rest);
    }
    handed_over.iter().for_each(|record| record.free());
}

/// Where the threads sleep, and where the main thread lets them do one thing at a time.
struct Gate {
    barrier: Barrier,
    opened: Instant,
    /// When the last thread was done with the last thing, in nanoseconds after `opened`.
    last_end_nanos: AtomicU64,
}

/// When one thing was begun and when the last thread was done with it.
struct Phase {
    begin: Instant,
    end: Instant,
}

impl Phase {
    fn elapsed(&self) -> Duration {
        self.end - self.begin
    }
}

impl Gate {
    fn new(threads: usize) -> Self {
        Gate {
            barrier: Barrier::new(threads + 1),
            opened: Instant::now(),
            last_end_nanos: AtomicU64::new(0),
        }
    }

    /// A thread sleeps until it is to do `work`, and then until all are done.
    fn follow(&self, work: impl FnOnce()) {
        self.barrier.wait();
        work();
        // Relaxed: the barrier orders it before the load in `lead`.
        self.last_end_nanos.fetch_max(self.opened.elapsed().as_nanos() as u64, Ordering::Relaxed);
        self.barrier.wait();
    }

    /// Lets all threads do the next thing, and waits for them.
    fn lead(&self) -> Phase {
        let begin = Instant::now();
        self.barrier.wait();
        self.barrier.wait();
        let end = Duration::from_nanos(self.last_end_nanos.load(Ordering::Relaxed));
        Phase { begin, end: self.opened + end }
    }
}

/// What each of the threads does; in every line the main thread leads with the same.
fn follow(shape: &Shape, gate: &Gate, lots: &[RwLock<Lot>], index: usize) {
    let own = &lots[index];
    let neighbour = &lots[(index + lots.len() - 1) % lots.len()];
    gate.follow(|| cores::pin(index));
    for _ in 0..shape.cycles {
        gate.follow(|| own.write().unwrap().allocate(shape, shape.objects_of(index)));
        gate.follow(|| own.write().unwrap().deal(shape));
        gate.follow(|| {
            free_in_turn(own.read().unwrap().own(), neighbour.read().unwrap().handed_over());
        });
    }
    gate.follow(|| ());
}

// ---- What is measured ----

/// What the load was doing when a sample was taken.
#[derive(Clone, Copy)]
enum Moment {
    /// Nothing yet in this cycle.
    Start,
    /// All blocks are there.
    Peak,
    /// All that are freed were freed just now.
    Freed,
    /// Every thread sleeps.
    Idle,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Moment::Start => "start",
            Moment::Peak => "peak",
            Moment::Freed => "freed",
            Moment::Idle => "idle",
        }
    }
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    cycle: usize,
    moment: Moment,
    rss_bytes: u64,
    /// Since the program's start; none if nobody knows.
    purged_pages: Option<u64>,
}

/// What one cycle showed.
#[derive(Clone, Copy, Default)]
struct Cycle {
    peak_bytes: u64,
    floor_bytes: u64,
    freed_bytes: u64,
    /// At [`Shape::PROBES_MS`]; none beyond the idle time.
    probe_bytes: [Option<u64>; Shape::PROBES_MS.len()],
    end_bytes: u64,
    /// From the peak to the end.
    purged_pages: u64,
    allocations: u64,
    allocation_time: Duration,
    frees: u64,
    free_time: Duration,
    /// In the allocations and the frees.
    page_faults: u64,
}

/// Takes samples, allocating nothing.
struct Recorder {
    rss: Rss,
    samples: Mapped<Sample>,
    taken: usize,
}

impl Recorder {
    fn new(shape: &Shape) -> io::Result<Self> {
        let rss = Rss::open()?;
        // Beside the idle ones: start, peak and freed.
        let most = shape.cycles * (shape.samples_per_idle() as usize + 3);
        let moment = Moment::Start;
        let none =
            Sample { at: Instant::now(), cycle: 0, moment, rss_bytes: 0, purged_pages: None };
        let mut recorder = Recorder { rss, samples: Mapped::new(most, none)?, taken: 0 };
        // The first reading makes pages of code resident: it is not to be counted.
        recorder.take(0, Moment::Start);
        recorder.taken = 0;
        Ok(recorder)
    }

    fn take(&mut self, cycle: usize, moment: Moment) -> Sample {
        let sample = Sample {
            at: Instant::now(),
            cycle,
            moment,
            rss_bytes: self.rss.bytes(),
            purged_pages: Release::now().map(|release| release.purged_pages),
        };
        self.samples[self.taken] = sample;
        self.taken += 1;
        sample
    }
}

/// All that a run showed.
struct Measured {
    shape: Shape,
    begin: Instant,
    base_bytes: u64,
    samples: Vec<Sample>,
    cycles: Vec<Cycle>,
    /// Before the first burst and after the last idle time.
    release: Option<[Release; 2]>,
}

fn measure(shape: &Shape) -> io::Result<Measured> {
    // Before any pinning.
    cores::allowed();
    let lots: Vec<_> = (0..shape.threads)
        .map(|thread| Lot::new(shape, thread).map(RwLock::new))
        .collect::<Result<_, _>>()?;
    let mut recorder = Recorder::new(shape)?;
    let mut cycles = Mapped::new(shape.cycles, Cycle::default())?;
    let kept_at_most =
        shape.kept_of(shape.objects) * if shape.keep_hold { shape.cycles } else { 1 };
    let mut ranges = Mapped::new(kept_at_most, PageRange::default())?;
    let gate = Gate::new(shape.threads);

    thread::scope(|scope| {
        let (gate, lots) = (&gate, &lots[..]);
        for index in 0..shape.threads {
            scope.spawn(move || follow(shape, gate, lots, index));
        }
        // From here to the end of the last cycle nothing but the threads allocates.
        gate.lead();
        let before = Release::now();
        let mut base_bytes = 0;
        for (index, cycle) in cycles.iter_mut().enumerate() {
            let start = recorder.take(index, Moment::Start);
            if index == 0 {
                base_bytes = start.rss_bytes;
            }
            *cycle = run_cycle(shape, index, gate, lots, &mut recorder, &mut ranges);
            cycle.floor_bytes += base_bytes;
        }
        let after = Release::now();
        gate.lead();
        Ok(Measured {
            shape: *shape,
            begin: recorder.samples[0].at,
            base_bytes,
            samples: recorder.samples[..recorder.taken].to_vec(),
            cycles: cycles.to_vec(),
            release: before.zip(after).map(<[Release; 2]>::from),
        })
    })
}

/// One burst with its idle time; the floor is without the base.
fn run_cycle(
    shape: &Shape,
    index: usize,
    gate: &Gate,
    lots: &[RwLock<Lot>],
    recorder: &mut Recorder,
    ranges: &mut [PageRange],
) -> Cycle {
    let faults = minor_faults();
    let allocating = gate.lead();
    let peak = recorder.take(index, Moment::Peak);
    let faults_while_allocating = minor_faults() - faults;

    gate.lead();
    let (frees, floor_bytes) = weigh(lots, ranges);

    let faults = minor_faults();
    let freeing = gate.lead();
    let freed = recorder.take(index, Moment::Freed);
    let faults_while_freeing = minor_faults() - faults;

    let mut cycle = Cycle {
        peak_bytes: peak.rss_bytes,
        floor_bytes,
        freed_bytes: freed.rss_bytes,
        allocations: shape.objects as u64,
        allocation_time: allocating.elapsed(),
        frees,
        free_time: freeing.elapsed(),
        page_faults: faults_while_allocating + faults_while_freeing,
        ..Cycle::default()
    };
    for moment_ms in shape.moments_ms() {
        let moment = freeing.end + Duration::from_millis(moment_ms);
        thread::sleep(moment.saturating_duration_since(Instant::now()));
        let sample = recorder.take(index, Moment::Idle);
        if let Some(probe) = Shape::PROBES_MS.iter().position(|probe| *probe == moment_ms) {
            cycle.probe_bytes[probe] = Some(sample.rss_bytes);
        }
        cycle.end_bytes = sample.rss_bytes;
        cycle.purged_pages =
            sample.purged_pages.unwrap_or(0).saturating_sub(peak.purged_pages.unwrap_or(0));
    }
    cycle
}

/// How many blocks are about to be freed, and the bytes of the pages under those that are not.
fn weigh(lots: &[RwLock<Lot>], ranges: &mut [PageRange]) -> (u64, u64) {
    let (mut frees, mut kept) = (0, 0);
    for lot in lots {
        let lot = lot.read().unwrap();
        frees += lot.end - lot.kept;
        for record in lot.kept() {
            ranges[kept] = PageRange::of(record.address, record.size as usize);
            kept += 1;
        }
    }
    (frees as u64, distinct_bytes(&mut ranges[..kept]))
}

// ---- How it is shown ----

impl Cycle {
    fn thousand_operations_per_second(&self) -> f64 {
        let time = self.allocation_time + self.free_time;
        (self.allocations + self.frees) as f64 / time.as_secs_f64() / 1e3
    }
}

impl Measured {
    fn seconds(&self, sample: &Sample) -> f64 {
        sample.at.duration_since(self.begin).as_secs_f64()
    }

    /// The allocator, and what stands before it.
    fn allocator(&self) -> String {
        match std::env::var("LD_PRELOAD") {
            Ok(preloaded) if !preloaded.is_empty() => {
                format!("{} (preloaded: {preloaded})", allocator::NAME)
            }
            _ => allocator::NAME.to_owned(),
        }
    }

    /// Purged bytes, and the fall of RSS, both from the peaks to the ends of the idle times.
    fn purge_and_fall_bytes(&self) -> (u64, i64) {
        let purged: u64 =
            self.cycles.iter().map(|cycle| cycle.purged_pages * OS_PAGE_BYTES as u64).sum();
        let fall = |cycle: &Cycle| cycle.peak_bytes as i64 - cycle.end_bytes as i64;
        (purged, self.cycles.iter().map(fall).sum())
    }

    /// The time series, as CSV.
    fn series(&self) -> String {
        let mut csv = "seconds,cycle,moment,rss_bytes,purged_pages\n".to_owned();
        for sample in &self.samples {
            let _ = write!(
                csv,
                "{:.3},{},{},{},",
                self.seconds(sample),
                sample.cycle + 1,
                sample.moment.name(),
                sample.rss_bytes
            );
            if let Some(pages) = sample.purged_pages {
                let _ = write!(csv, "{pages}");
            }
            csv.push('\n');
        }
        csv
    }

    fn chart(&self) -> String {
        let column = |value: &dyn Fn(&Sample) -> f64| -> Vec<f64> {
            self.samples.iter().map(value).collect()
        };
        let seconds = column(&|sample| self.seconds(sample));
        let rss = column(&|sample| sample.rss_bytes as f64 / MIB);
        let purged = column(&|sample| sample.purged_pages.unwrap_or(0) as f64);
        Chart {
            title: &format!("burst_idle {}: {}", self.shape, self.allocator()),
            seconds: &seconds,
            left: Line { name: "RSS", unit: "MiB", values: &rss },
            right: self.release.is_some().then_some(Line {
                name: "purged so far, in pages of 4 KiB",
                unit: "pages",
                values: &purged,
            }),
        }
        .svg()
    }

    fn summary(&self) -> String {
        let mut text = format!("burst_idle {}: {}\n", self.shape, self.allocator());
        let _ = writeln!(
            text,
            "base {:.1} MiB; below: MiB, and percent of the peak above it\n",
            self.base_bytes as f64 / MIB
        );
        let _ = write!(text, "{:>5} {:>9} {:>14}", "cycle", "peak", "floor");
        let probes = ["last free", "+100 ms", "+300 ms", "+1 s", "+3 s", "end"];
        for head in probes {
            let _ = write!(text, " {head:>14}");
        }
        let _ = writeln!(text, " {:>9} {:>9}", "faults", "k ops/s");
        for (index, cycle) in self.cycles.iter().enumerate() {
            let above = cycle.peak_bytes.saturating_sub(self.base_bytes).max(1) as f64;
            let share = |bytes: u64| {
                let percent = (bytes as f64 - self.base_bytes as f64) / above * 100.0;
                format!("{:.1} {percent:>5.1}%", bytes as f64 / MIB)
            };
            let _ = write!(
                text,
                "{:>5} {:>9.1} {:>14}",
                index + 1,
                cycle.peak_bytes as f64 / MIB,
                share(cycle.floor_bytes)
            );
            let probes = cycle.probe_bytes.map(|bytes| bytes.map_or("-".to_owned(), share));
            for cell in [vec![share(cycle.freed_bytes)], probes.to_vec()].concat() {
                let _ = write!(text, " {cell:>14}");
            }
            let _ = writeln!(
                text,
                " {:>14} {:>9} {:>9.1}",
                share(cycle.end_bytes),
                cycle.page_faults,
                cycle.thousand_operations_per_second()
            );
        }
        for (index, cycle) in self.cycles.iter().enumerate() {
            let _ = writeln!(
                text,
                "{}cycle {}: {} allocations in {:.3} s, {} frees in {:.3} s",
                if index == 0 { "\n" } else { "" },
                index + 1,
                cycle.allocations,
                cycle.allocation_time.as_secs_f64(),
                cycle.frees,
                cycle.free_time.as_secs_f64()
            );
        }
        if let Some(release) = &self.release {
            text.push_str(&self.release_summary(release));
        }
        text
    }

    fn release_summary(&self, [before, after]: &[Release; 2]) -> String {
        let mut text = format!("\n{:<28} {:>12} {:>12} {:>12}\n", "", "before", "after", "change");
        let mut row = |name: &str, figure: &dyn Fn(&Release) -> u64| {
            let (before, after) = (figure(before), figure(after));
            let change = after.saturating_sub(before);
            let _ = writeln!(text, "{name:<28} {before:>12} {after:>12} {change:>12}");
        };
        row("enqueued", &|release| release.enqueued);
        row("coalesced", &|release| release.coalesced);
        row("purged_pages", &|release| release.purged_pages);
        for (index, (reason, _)) in after.purged_pages_by_reason.iter().enumerate() {
            row(&format!("  {reason}"), &|release| release.purged_pages_by_reason[index].1);
        }
        row("madvise_calls", &|release| release.madvise_calls);
        row("drop", &|release| release.dropped);
        row("refault_pages", &|release| release.refault_pages);
        row("idle_ticks", &|release| release.idle_ticks);
        row("busy_ticks", &|release| release.busy_ticks);

        let pages = after.purged_pages - before.purged_pages;
        match after.madvise_calls - before.madvise_calls {
            0 => text.push_str("\npages per call: no call was made\n"),
            calls => {
                let _ = writeln!(text, "\npages per call: {:.1}", pages as f64 / calls as f64);
            }
        }
        let (purged, fall) = self.purge_and_fall_bytes();
        let _ = write!(
            text,
            "purged against the fall of RSS, from peak to end of all cycles: {:.1} MiB against \
             {:.1} MiB",
            purged as f64 / MIB,
            fall as f64 / MIB
        );
        if fall > 0 {
            let _ = write!(text, ", {:.1}%", purged as f64 / fall as f64 * 100.0);
        }
        text.push('\n');
        text
    }

    /// What `scripts/bench burst_idle` reads: names and numbers, apart by tabs. A name stands on
    /// the line only if its number is known.
    fn lines(&self) -> String {
        let mut text = String::new();
        for cycle in &self.cycles {
            let _ = write!(
                text,
                "cycle\tpeak_bytes={}\tfloor_bytes={}\tfreed_bytes={}\tend_bytes={}",
                cycle.peak_bytes, cycle.floor_bytes, cycle.freed_bytes, cycle.end_bytes
            );
            for (probe_ms, bytes) in Shape::PROBES_MS.iter().zip(cycle.probe_bytes) {
                if let Some(bytes) = bytes {
                    let _ = write!(text, "\trss_{probe_ms}ms_bytes={bytes}");
                }
            }
            text.push('\n');
        }
        let operations: u64 = self.cycles.iter().map(|cycle| cycle.allocations + cycle.frees).sum();
        let time: Duration =
            self.cycles.iter().map(|cycle| cycle.allocation_time + cycle.free_time).sum();
        let faults: u64 = self.cycles.iter().map(|cycle| cycle.page_faults).sum();
        let (purged, fall) = self.purge_and_fall_bytes();
        let _ = write!(
            text,
            "all\tbase_bytes={}\toperations={operations}\tburst_seconds={}\tpage_faults={faults}\
             \tfall_bytes={fall}",
            self.base_bytes,
            time.as_secs_f64()
        );
        if let Some([before, after]) = &self.release {
            let _ = write!(
                text,
                "\tpurged_in_fall_bytes={purged}\tpurged_pages={}\tmadvise_calls={}\tdropped={}",
                after.purged_pages - before.purged_pages,
                after.madvise_calls - before.madvise_calls,
                after.dropped
            );
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_follow_the_numbers() {
        let parsed = options("9 1 1 0 1 1 2 1 100 0 --csv a.csv --svg b.svg --line").unwrap();
        assert_eq!(parsed.csv.as_deref(), Some("a.csv"));
        assert_eq!(parsed.svg.as_deref(), Some("b.svg"));
        assert!(parsed.line);
        assert_eq!(parsed.shape.objects, 9);
    }

    #[test]
    fn a_wrong_option_is_named() {
        let error = |line| options(line).unwrap_err();
        assert_eq!(error("9 1 1 0 1 1 2 1 100 0 --csv"), "--csv needs a file");
        assert_eq!(
            error("--json 9 1 1 0 1 1 2 1 100 0"),
            "--json is unknown; expected --csv, --svg or --line"
        );
        assert!(error("9 -1 1 0 1 1 2 1 100 0").starts_with("IDLE_SECONDS is -1; expected"));
    }

    #[test]
    fn a_lot_is_kept_freed_and_handed_over_in_the_right_parts() {
        let shape = options("103 1 3 20 2 1 64 1 100 0").unwrap().shape;
        let mut lot = Lot::new(&shape, 0).unwrap();
        for cycle in 1..=3 {
            lot.allocate(&shape, 52);
            lot.deal(&shape);
            assert_eq!(lot.kept().len(), 10 * cycle);
            assert_eq!((lot.own().len(), lot.handed_over().len()), (21, 21));
            free_in_turn(lot.own(), lot.handed_over());
        }
        lot.kept().iter().for_each(|record| record.free());
    }

    #[test]
    fn a_run_shows_every_cycle() {
        let shape = options("1000 1 2 10 3 16 2000 0 500 0").unwrap().shape;
        let measured = measure(&shape).unwrap();
        assert_eq!(measured.cycles.len(), 2);
        for cycle in &measured.cycles {
            // 333 and 334 blocks a thread, of which 33 are kept.
            assert_eq!((cycle.allocations, cycle.frees), (1000, 1000 - 99));
            assert!(cycle.peak_bytes >= cycle.floor_bytes);
            assert!(cycle.floor_bytes > measured.base_bytes);
            assert_eq!(cycle.probe_bytes.map(|bytes| bytes.is_some()), [true, true, true, false]);
        }
        // Start, peak, freed, and 100, 300, 500 and 1000 ms.
        assert_eq!(measured.series().lines().count(), 1 + 2 * 7);
        assert_eq!(measured.lines().lines().count(), 2 + 1);
        assert!(measured.chart().contains("<polyline"));
        assert!(measured.summary().contains("base"));
    }
}
