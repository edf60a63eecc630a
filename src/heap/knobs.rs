//! Knobs: what can be set, from the environment when the process starts and from Rust at any time.
//!
//! | environment | field | default |
//! |---|---|---|
//! | `SLACKWATER_RELEASE=on\|off` | [`Knobs::release`] | `on` |
//! | `SLACKWATER_TICKER=on\|off` | [`Knobs::ticker`] | `on` |
//! | `SLACKWATER_COVERAGE=small,sub4k,medium,large` | [`Knobs::coverage`] | all four |
//! | `SLACKWATER_GATE=auto\|idle\|busy` | [`Knobs::gate`] | `auto` |
//! | `SLACKWATER_PURGE_BUDGET_PAGES=N` | [`Knobs::purge_budget_pages`] | 1048576 (4 GiB) |
//! | `SLACKWATER_PURGE_MAX_CALLS=N` | [`Knobs::purge_max_calls`] | 4096 |
//! | `SLACKWATER_DELAY_EPOCHS_IDLE=N` | [`Knobs::delay_epochs_idle`] | 0 |
//! | `SLACKWATER_DELAY_EPOCHS_BUSY=N` | [`Knobs::delay_epochs_busy`] | 100 |
//! | `SLACKWATER_EPOCH_MS=N` | [`Knobs::epoch_ms`] | 50 |
//! | `SLACKWATER_CACHE_BYTES=N` | [`Knobs::cache_bytes`] | 4194304 (4 MiB) |
//! | `SLACKWATER_PROFILE_RATE_BYTES=N` | [`Knobs::profile_rate_bytes`] | 524288 (512 KiB) |
//! | `SLACKWATER_PROFILE_EPOCH_SAMPLES=N` | [`Knobs::profile_epoch_samples`] | 25 |
//! | `SLACKWATER_PROFILE_GUARDS=on\|off` | none: read once, when the heap starts | `on` |
//! | `SLACKWATER_ARENA_BYTES=N` | none: read once, when the heap starts | 4 TiB |
//! | `SLACKWATER_HUGE_PAGES=never\|system\|always` | none: read once, when the heap starts | `never` |
//! | `SLACKWATER_SUMMARY=1` | none: read once | no summary |
//!
//! Numbers of bytes take the suffixes `K`, `M`, `G` and `T` (powers of 1024). A value that a knob
//! does not take gives one line on stderr, and the default holds.

use core::ffi::CStr;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::geometry::arena::MAX_BYTES;
use crate::geometry::reason::ReleaseReason;
use crate::geometry::size_class::SizeClass;
use crate::os::report::Line;
use crate::os::{self, HugePages};

/// Which kinds of free pages ticks may give back. Meant for experiments: pages of a kind that is
/// left out stay in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Spans of small blocks (16 B to 2 KiB).
    pub small: bool,
    /// Spans of sub4k blocks (above 2 KiB, to 4 KiB).
    pub sub4k: bool,
    /// Spans of medium blocks (above 4 KiB, to 32 KiB).
    pub medium: bool,
    /// Large page runs.
    pub large: bool,
}

impl Coverage {
    /// Every kind.
    pub const ALL: Coverage = Coverage { small: true, sub4k: true, medium: true, large: true };

    /// No kind.
    pub const NONE: Coverage = Coverage { small: false, sub4k: false, medium: false, large: false };

    pub(crate) fn includes(&self, reason: ReleaseReason) -> bool {
        match reason {
            ReleaseReason::SmallPageRetire => self.small,
            ReleaseReason::Sub4kRunRetire => self.sub4k,
            ReleaseReason::MediumRunReclaim => self.medium,
            ReleaseReason::LargeFree => self.large,
        }
    }

    pub(crate) fn includes_class(&self, class: SizeClass) -> bool {
        self.includes(ReleaseReason::of_span(class))
    }

    fn to_bits(self) -> u64 {
        let bits = [self.small, self.sub4k, self.medium, self.large];
        bits.iter().enumerate().map(|(i, &on)| (on as u64) << i).sum()
    }

    fn from_bits(bits: u64) -> Coverage {
        let on = |i: u32| bits >> i & 1 == 1;
        Coverage { small: on(0), sub4k: on(1), medium: on(2), large: on(3) }
    }
}

/// Whether the gate decides or is told (`SLACKWATER_GATE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum GateMode {
    /// Decide at each tick from what the program does and what memory it may use.
    #[default]
    Auto = 0,
    /// Always idle: every tick releases all it can.
    Idle = 1,
    /// Always busy: ticks release little, and only what has been free for a while.
    Busy = 2,
}

/// Everything that can be set while the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// Whether ticks give pages back at all. [`release_now`](crate::release_now) always does.
    pub release: bool,
    /// Whether the allocator may have a thread of its own, which ticks while nobody allocates. Without
    /// it, pages go back only while the program goes on allocating and freeing.
    pub ticker: bool,
    /// Which kinds of pages ticks give back.
    pub coverage: Coverage,
    /// Whether the gate decides, or is told.
    pub gate: GateMode,
    /// Pages (of 4 KiB) that an idle tick may give back; a busy one may give back a 64th of it.
    /// 1 to 2³².
    pub purge_budget_pages: u64,
    /// System calls that a tick may make to give pages back. 1 to 2³².
    pub purge_max_calls: u64,
    /// Epochs for which a segment (2 MiB) must not have had pages freed before an idle tick gives
    /// its pages back. At most 2³².
    pub delay_epochs_idle: u64,
    /// The same for a busy tick.
    pub delay_epochs_busy: u64,
    /// The length of an epoch in milliseconds: ticks are at least this far apart. 1 to 3,600,000.
    pub epoch_ms: u64,
    /// How many bytes of free blocks a thread's cache may be sized for. 64 KiB to 1 GiB.
    pub cache_bytes: u64,
    /// The mean distance, in allocated bytes, of the allocations that the profiler remembers; 1 for
    /// every one, 0 for none. At most 1 GiB.
    pub profile_rate_bytes: u64,
    /// How many it may remember in an epoch: the distance doubles each time that so many have been, and
    /// comes back by halves. So what profiling costs is bounded. 1 to 2³².
    pub profile_epoch_samples: u64,
}

/// A value outside what its knob takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnobError {
    knob: &'static str,
    value: u64,
    min: u64,
    max: u64,
}

impl fmt::Display for KnobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KnobError { knob, value, min, max } = self;
        write!(f, "{knob} is {value}, expected {min} to {max}")
    }
}

impl core::error::Error for KnobError {}

/// The numbers among the knobs: their names and what they take.
struct Number {
    field: &'static str,
    variable: &'static CStr,
    min: u64,
    max: u64,
    is_bytes: bool,
}

const COUNT_MAX: u64 = 1 << 32;

const NUMBERS: [Number; 8] = [
    Number {
        field: "purge_budget_pages",
        variable: c"SLACKWATER_PURGE_BUDGET_PAGES",
        min: 1,
        max: COUNT_MAX,
        is_bytes: false,
    },
    Number {
        field: "purge_max_calls",
        variable: c"SLACKWATER_PURGE_MAX_CALLS",
        min: 1,
        max: COUNT_MAX,
        is_bytes: false,
    },
    Number {
        field: "delay_epochs_idle",
        variable: c"SLACKWATER_DELAY_EPOCHS_IDLE",
        min: 0,
        max: COUNT_MAX,
        is_bytes: false,
    },
    Number {
        field: "delay_epochs_busy",
        variable: c"SLACKWATER_DELAY_EPOCHS_BUSY",
        min: 0,
        max: COUNT_MAX,
        is_bytes: false,
    },
    Number {
        field: "epoch_ms",
        variable: c"SLACKWATER_EPOCH_MS",
        min: 1,
        max: 3_600_000,
        is_bytes: false,
    },
    Number {
        field: "cache_bytes",
        variable: c"SLACKWATER_CACHE_BYTES",
        min: 64 << 10,
        max: 1 << 30,
        is_bytes: true,
    },
    Number {
        field: "profile_rate_bytes",
        variable: c"SLACKWATER_PROFILE_RATE_BYTES",
        min: 0,
        max: 1 << 30,
        is_bytes: true,
    },
    Number {
        field: "profile_epoch_samples",
        variable: c"SLACKWATER_PROFILE_EPOCH_SAMPLES",
        min: 1,
        max: COUNT_MAX,
        is_bytes: false,
    },
];

/// The places of those that are asked for alone.
const EPOCH_MS: usize = 4;
const CACHE_BYTES: usize = 5;

const ARENA: Number = Number {
    field: "arena_bytes",
    variable: c"SLACKWATER_ARENA_BYTES",
    min: 32 << 20,
    max: MAX_BYTES as u64,
    is_bytes: true,
};

const GATE_MODES: [(&str, GateMode); 3] =
    [("auto", GateMode::Auto), ("idle", GateMode::Idle), ("busy", GateMode::Busy)];

impl Knobs {
    /// What holds where nothing is set.
    pub const DEFAULT: Knobs = Knobs {
        release: true,
        ticker: true,
        coverage: Coverage::ALL,
        gate: GateMode::Auto,
        purge_budget_pages: 1 << 20,
        purge_max_calls: 4096,
        delay_epochs_idle: 0,
        delay_epochs_busy: 100,
        epoch_ms: 50,
        cache_bytes: 4 << 20,
        profile_rate_bytes: 512 << 10,
        profile_epoch_samples: 25,
    };

    const fn numbers(&self) -> [u64; NUMBERS.len()] {
        [
            self.purge_budget_pages,
            self.purge_max_calls,
            self.delay_epochs_idle,
            self.delay_epochs_busy,
            self.epoch_ms,
            self.cache_bytes,
            self.profile_rate_bytes,
            self.profile_epoch_samples,
        ]
    }

    fn set_numbers(&mut self, numbers: [u64; NUMBERS.len()]) {
        [
            self.purge_budget_pages,
            self.purge_max_calls,
            self.delay_epochs_idle,
            self.delay_epochs_busy,
            self.epoch_ms,
            self.cache_bytes,
            self.profile_rate_bytes,
            self.profile_epoch_samples,
        ] = numbers;
    }

    /// Checks every number against what its knob takes.
    pub fn validate(&self) -> Result<(), KnobError> {
        for (number, value) in NUMBERS.iter().zip(self.numbers()) {
            let &Number { field, min, max, .. } = number;
            if value < min || value > max {
                return Err(KnobError { knob: field, value, min, max });
            }
        }
        Ok(())
    }

    /// The defaults, changed by what `environment` says; complaints go to stderr.
    fn from_environment(environment: impl Fn(&CStr) -> Option<&'static [u8]>) -> Knobs {
        let mut knobs = Knobs::DEFAULT;
        for (variable, knob) in
            [(c"SLACKWATER_RELEASE", &mut knobs.release), (c"SLACKWATER_TICKER", &mut knobs.ticker)]
        {
            read_switch(variable, knob, &environment);
        }
        if let Some(value) = environment(c"SLACKWATER_COVERAGE") {
            match parse_coverage(value) {
                Some(coverage) => knobs.coverage = coverage,
                None => complain(
                    c"SLACKWATER_COVERAGE",
                    value,
                    "some of small,sub4k,medium,large, or none",
                ),
            }
        }
        if let Some(value) = environment(c"SLACKWATER_GATE") {
            match GATE_MODES.iter().find(|(name, _)| name.as_bytes() == value) {
                Some(&(_, mode)) => knobs.gate = mode,
                None => complain(c"SLACKWATER_GATE", value, "auto, idle or busy"),
            }
        }
        let mut numbers = knobs.numbers();
        for (number, value) in NUMBERS.iter().zip(&mut numbers) {
            if let Some(set) = number.read(&environment) {
                *value = set;
            }
        }
        knobs.set_numbers(numbers);
        knobs
    }
}

impl Number {
    fn read(&self, environment: impl Fn(&CStr) -> Option<&'static [u8]>) -> Option<u64> {
        let text = environment(self.variable)?;
        match parse_number(text, self.is_bytes) {
            Some(value) if (self.min..=self.max).contains(&value) => Some(value),
            _ => {
                let mut line = start_complaint(self.variable, text);
                line.text("a number from ").number(self.min).text(" to ").number(self.max);
                line.text(if self.is_bytes { " (K, M, G and T are understood)" } else { "" });
                line.text("; using the default").send();
                None
            }
        }
    }
}

fn read_switch(
    variable: &CStr,
    switch: &mut bool,
    environment: impl Fn(&CStr) -> Option<&'static [u8]>,
) {
    match environment(variable) {
        None => {}
        Some(b"on") => *switch = true,
        Some(b"off") => *switch = false,
        Some(value) => complain(variable, value, "on or off"),
    }
}

fn parse_coverage(text: &[u8]) -> Option<Coverage> {
    let mut coverage = Coverage::NONE;
    if text == b"none" {
        return Some(coverage);
    }
    for word in text.split(|&byte| byte == b',') {
        match word {
            b"small" => coverage.small = true,
            b"sub4k" => coverage.sub4k = true,
            b"medium" => coverage.medium = true,
            b"large" => coverage.large = true,
            _ => return None,
        }
    }
    Some(coverage)
}

fn parse_number(text: &[u8], is_bytes: bool) -> Option<u64> {
    let (digits, shift) = match text.split_last()? {
        (b'K' | b'k', rest) if is_bytes => (rest, 10),
        (b'M' | b'm', rest) if is_bytes => (rest, 20),
        (b'G' | b'g', rest) if is_bytes => (rest, 30),
        (b'T' | b't', rest) if is_bytes => (rest, 40),
        _ => (text, 0),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add((digit - b'0') as u64)?;
    }
    value.checked_mul(1 << shift)
}

fn start_complaint(variable: &CStr, value: &[u8]) -> Line {
    let mut line = Line::new();
    line.raw(variable.to_bytes()).text("='").raw(&value[..value.len().min(60)]);
    line.text("': expected ");
    line
}

fn complain(variable: &CStr, value: &[u8], expected: &str) {
    start_complaint(variable, value).text(expected).text("; using the default").send();
}

/// What says a variable's value.
pub(crate) type Environment = fn(&CStr) -> Option<&'static [u8]>;

/// What is known of the environment: see [`are_set`].
#[unsafe(link_section = ".data.slackwater_start")]
static VARIABLES: AtomicU8 = AtomicU8::new(UNKNOWN);

const UNKNOWN: u8 = 0;
const NONE: u8 = 1;
const SOME: u8 = 2;

/// Is any variable of the environment about the allocator? Mostly none is, which is found by looking at each of them
/// once, and when the process starts: later the program may have changed its environment.
#[unsafe(link_section = "slackwater_start")]
pub(crate) fn are_set() -> bool {
    match VARIABLES.load(Ordering::Relaxed) {
        UNKNOWN => {
            let are_set = os::has_variables(b"SLACKWATER_");
            VARIABLES.store(if are_set { SOME } else { NONE }, Ordering::Relaxed);
            are_set
        }
        known => known == SOME,
    }
}

/// The process's environment, as far as it is about the allocator. Where no variable is, none is asked for by its name.
pub(crate) fn environment() -> Environment {
    if are_set() { os::environment } else { |_| None }
}

/// The most bytes of addresses that the heap may have.
pub(crate) fn arena_bytes(environment: Environment) -> usize {
    ARENA.read(environment).map_or(MAX_BYTES, |bytes| bytes as usize)
}

/// Whether the kernel may back the heap with huge pages (of 2 MiB). Where the system gives them to
/// every mapping it also fills purged holes with them, and what was given back is resident again; so
/// the default is never. A dense heap that is never purged gains by them.
pub(crate) fn huge_pages(environment: Environment) -> HugePages {
    let Some(value) = environment(c"SLACKWATER_HUGE_PAGES") else { return HugePages::Never };
    match HUGE_PAGES.iter().find(|(name, _)| name.as_bytes() == value) {
        Some(&(_, huge_pages)) => huge_pages,
        None => {
            complain(c"SLACKWATER_HUGE_PAGES", value, "never, system or always");
            HugePages::Never
        }
    }
}

const HUGE_PAGES: [(&str, HugePages); 3] =
    [("never", HugePages::Never), ("system", HugePages::System), ("always", HugePages::Always)];

/// Whether sampled blocks are guarded.
pub(crate) fn profile_guards(environment: Environment) -> bool {
    let mut guards = true;
    read_switch(c"SLACKWATER_PROFILE_GUARDS", &mut guards, environment);
    guards
}

/// Whether a summary was asked for.
pub(crate) fn summary_wanted() -> bool {
    let value = environment()(c"SLACKWATER_SUMMARY");
    match value {
        None | Some(b"" | b"0") => false,
        Some(b"1") => true,
        Some(other) => {
            complain(c"SLACKWATER_SUMMARY", other, "0 or 1");
            false
        }
    }
}

/// The knobs in force, readable from any thread.
///
/// Each is a number of its own: a reader beside a writer may see some of the old values and some of
/// the new, which is harmless, for each is valid by itself.
///
/// A cell holds in which bits its knob differs from the default. So all are 0 before one is set, and the heap, of which
/// they are a part, takes no room in a program's file.
#[repr(C)]
pub(crate) struct KnobCells {
    release: AtomicU64,
    ticker: AtomicU64,
    coverage: AtomicU64,
    gate: AtomicU64,
    numbers: [AtomicU64; NUMBERS.len()],
}

impl KnobCells {
    pub const fn new() -> KnobCells {
        KnobCells {
            release: AtomicU64::new(0),
            ticker: AtomicU64::new(0),
            coverage: AtomicU64::new(0),
            gate: AtomicU64::new(0),
            numbers: [const { AtomicU64::new(0) }; NUMBERS.len()],
        }
    }

    /// What a number is where its cell holds 0.
    const DEFAULTS: [u64; NUMBERS.len()] = Knobs::DEFAULT.numbers();

    fn number(&self, at: usize) -> u64 {
        self.numbers[at].load(Ordering::Relaxed) ^ KnobCells::DEFAULTS[at]
    }

    pub fn load(&self, environment: Environment) {
        self.set(&Knobs::from_environment(environment));
    }

    /// [`Knobs::cache_bytes`], for the slow paths that ask only for that.
    pub fn cache_bytes(&self) -> u64 {
        self.number(CACHE_BYTES)
    }

    /// [`Knobs::epoch_ms`], likewise.
    pub fn epoch_ms(&self) -> u64 {
        self.number(EPOCH_MS)
    }

    /// Sets all; the caller has validated them.
    pub fn set(&self, knobs: &Knobs) {
        let default = Knobs::DEFAULT;
        self.release.store((knobs.release ^ default.release) as u64, Ordering::Relaxed);
        self.ticker.store((knobs.ticker ^ default.ticker) as u64, Ordering::Relaxed);
        let coverage = knobs.coverage.to_bits() ^ default.coverage.to_bits();
        self.coverage.store(coverage, Ordering::Relaxed);
        self.gate.store(knobs.gate as u64 ^ default.gate as u64, Ordering::Relaxed);
        let values = knobs.numbers().into_iter().zip(KnobCells::DEFAULTS);
        for (cell, (value, default)) in self.numbers.iter().zip(values) {
            cell.store(value ^ default, Ordering::Relaxed);
        }
    }

    pub fn get(&self) -> Knobs {
        let default = Knobs::DEFAULT;
        let gate = self.gate.load(Ordering::Relaxed) ^ default.gate as u64;
        let coverage = self.coverage.load(Ordering::Relaxed) ^ default.coverage.to_bits();
        let mut knobs = Knobs {
            release: default.release ^ (self.release.load(Ordering::Relaxed) != 0),
            ticker: default.ticker ^ (self.ticker.load(Ordering::Relaxed) != 0),
            coverage: Coverage::from_bits(coverage),
            // Out of range only in another process's memory.
            gate: GATE_MODES.get(gate as usize).map_or(GateMode::Auto, |&(_, mode)| mode),
            ..Knobs::DEFAULT
        };
        knobs.set_numbers(core::array::from_fn(|at| self.number(at)));
        knobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of the README's table of knobs: default, what it takes, when it is set. The table above has
    /// one, too.
    fn row(variable: &CStr) -> [&'static str; 3] {
        let name = variable.to_str().expect("text");
        let start = format!("| `{name}=");
        let has_row = include_str!("knobs.rs").contains(&format!("\n//! {start}"));
        // That one is the program's: the allocator does not read it.
        let is_read = name != "SLACKWATER_PRELOAD_LIB";
        assert_eq!(has_row, is_read, "this file's own table and {name}");
        let line = include_str!("../../README.md").lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("the README has no row for {name}"));
        let cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
        [cells[1], cells[2], cells[3]]
    }

    #[test]
    fn the_readme_has_every_knob_as_it_is() {
        let amount = |value: u64, is_bytes: bool| {
            let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
            let unit = units
                .iter()
                .find(|(shift, _)| is_bytes && value > 0 && value.trailing_zeros() >= *shift);
            match unit {
                Some((shift, unit)) => format!("{}{unit}", value >> shift),
                None => value.to_string(),
            }
        };
        for (number, default) in NUMBERS.iter().zip(Knobs::DEFAULT.numbers()) {
            let Number { min, max, is_bytes, .. } = *number;
            let takes = format!("{} to {}", amount(min, is_bytes), amount(max, is_bytes));
            let default = amount(default, is_bytes);
            assert_eq!(row(number.variable), [&default, &takes, "any time"]);
        }
        let takes = format!("{} to {}", amount(ARENA.min, true), amount(ARENA.max, true));
        assert_eq!(row(ARENA.variable)[1..], [&takes, "start"]);
        assert_eq!(row(c"SLACKWATER_RELEASE"), ["on", "", "any time"]);
        assert_eq!(row(c"SLACKWATER_TICKER"), ["on", "", "any time"]);
        assert_eq!(row(c"SLACKWATER_COVERAGE"), ["all", "", "any time"]);
        assert_eq!(row(c"SLACKWATER_GATE"), ["auto", "", "any time"]);
        assert_eq!(row(c"SLACKWATER_PROFILE_GUARDS"), ["on", "", "start"]);
        assert_eq!(row(c"SLACKWATER_HUGE_PAGES"), ["never", "", "start"]);
        row(c"SLACKWATER_SUMMARY");
        row(c"SLACKWATER_PRELOAD_LIB");
        let rows = include_str!("../../README.md").matches("\n| `SLACKWATER_").count();
        assert_eq!(rows, NUMBERS.len() + 9, "the README has a row for what is no knob");
    }

    fn with(name: &'static CStr, value: &'static [u8]) -> Knobs {
        Knobs::from_environment(|asked| (asked == name).then_some(value))
    }

    #[test]
    fn what_is_not_set_is_the_default() {
        assert_eq!(Knobs::from_environment(|_| None), Knobs::DEFAULT);
        assert_eq!(KnobCells::new().get(), Knobs::DEFAULT);
        assert_eq!(Knobs::DEFAULT.validate(), Ok(()));
    }

    #[test]
    fn each_variable_sets_its_knob() {
        let default = Knobs::DEFAULT;
        assert_eq!(with(c"SLACKWATER_RELEASE", b"off"), Knobs { release: false, ..default });
        let coverage = Coverage { small: true, large: true, ..Coverage::NONE };
        assert_eq!(with(c"SLACKWATER_COVERAGE", b"small,large"), Knobs { coverage, ..default });
        let gate = GateMode::Busy;
        assert_eq!(with(c"SLACKWATER_GATE", b"busy"), Knobs { gate, ..default });
        assert_eq!(with(c"SLACKWATER_EPOCH_MS", b"7"), Knobs { epoch_ms: 7, ..default });
        let cache_bytes = 3 << 20;
        assert_eq!(with(c"SLACKWATER_CACHE_BYTES", b"3M"), Knobs { cache_bytes, ..default });
        for (number, i) in NUMBERS.iter().zip(0..) {
            let mut expected = default.numbers();
            expected[i] = number.max - 1;
            let value = expected[i].to_string().leak();
            let knobs = Knobs::from_environment(|asked| {
                (asked == number.variable).then_some(value.as_bytes())
            });
            assert_eq!(knobs.numbers(), expected, "{}", number.field);
        }
    }

    #[test]
    fn a_bad_value_leaves_the_default() {
        for bad in [b"".as_slice(), b"-1", b"1x", b"0x10", b"99999999999999999999", b"0"] {
            let knobs =
                Knobs::from_environment(|asked| (asked == c"SLACKWATER_EPOCH_MS").then_some(bad));
            assert_eq!(knobs, Knobs::DEFAULT, "{bad:?}");
        }
        assert_eq!(with(c"SLACKWATER_COVERAGE", b"small,huge"), Knobs::DEFAULT);
        assert_eq!(with(c"SLACKWATER_GATE", b"on"), Knobs::DEFAULT);
        assert_eq!(with(c"SLACKWATER_RELEASE", b"OFF"), Knobs::DEFAULT);
    }

    #[test]
    fn an_error_names_knob_value_and_range() {
        let error = Knobs { epoch_ms: 0, ..Knobs::DEFAULT }.validate().unwrap_err();
        assert_eq!(error.to_string(), "epoch_ms is 0, expected 1 to 3600000");
    }

    #[test]
    fn cells_hold_what_was_set() {
        let cells = KnobCells::new();
        let knobs = Knobs {
            release: false,
            coverage: Coverage { medium: true, ..Coverage::NONE },
            gate: GateMode::Idle,
            epoch_ms: 11,
            ..Knobs::DEFAULT
        };
        cells.set(&knobs);
        assert_eq!(cells.get(), knobs);
    }
}
