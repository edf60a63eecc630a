//! The arguments of `burst_idle`, which its comparer needs as well.

use std::fmt;
use std::ops::RangeInclusive;

use crate::random::Sizes;

/// One burst/idle load: the ten arguments of `burst_idle`, in the order of hz3's bench.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Blocks allocated in each cycle, by all threads together.
    pub objects: usize,
    /// For how long all threads are blocked after each burst.
    pub idle_seconds: u64,
    /// Bursts, each with its idle time.
    pub cycles: usize,
    /// How much of each burst is not freed, in percent.
    pub keep_percent: usize,
    /// Threads that allocate and free.
    pub threads: usize,
    /// What sizes blocks have.
    pub sizes: Sizes,
    /// Kept blocks stay until the end; otherwise the next burst begins with freeing them.
    pub keep_hold: bool,
    /// How often RSS is read while all threads are blocked.
    pub idle_tick_ms: u64,
    /// The time series goes to stdout.
    pub dump: bool,
}

/// A number on the command line: its name and what it may be.
struct Parameter {
    name: &'static str,
    range: RangeInclusive<u64>,
}

const fn parameter(name: &'static str, from: u64, to: u64) -> Parameter {
    Parameter { name, range: from..=to }
}

const LARGEST_SIZE: u64 = 1 << 31;

const PARAMETERS: [Parameter; 10] = [
    parameter("OBJECTS", 1, 1 << 32),
    parameter("IDLE_SECONDS", 1, 86_400),
    parameter("CYCLES", 1, 1_000_000),
    parameter("KEEP_PERCENT", 0, 100),
    parameter("THREADS", 1, 4096),
    parameter("MIN_SIZE", 1, LARGEST_SIZE),
    parameter("MAX_SIZE", 1, LARGEST_SIZE),
    parameter("KEEP_HOLD", 0, 1),
    parameter("IDLE_TICK_MS", 1, 86_400_000),
    parameter("DUMP", 0, 1),
];

/// As many samples as fit comfortably beside what is measured.
const MOST_SAMPLES: u64 = 4_000_000;

impl Shape {
    /// The names of the arguments, in order.
    pub const USAGE: &str = "OBJECTS IDLE_SECONDS CYCLES KEEP_PERCENT THREADS MIN_SIZE MAX_SIZE \
                             KEEP_HOLD IDLE_TICK_MS DUMP";

    /// The times after the last free at which RSS is always read, beside the ticks.
    pub const PROBES_MS: [u64; 4] = [100, 300, 1000, 3000];

    /// The shape that ten numbers mean. The error names the first wrong one and what was expected.
    pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Result<Self, String> {
        let mut values = [0; PARAMETERS.len()];
        for (index, (parameter, value)) in PARAMETERS.iter().zip(&mut values).enumerate() {
            let Some(argument) = arguments.get(index) else {
                return Err(format!("{} is missing; expected {}", parameter.name, Self::USAGE));
            };
            *value = parameter.parse(argument.as_ref())?;
        }
        if let Some(surplus) = arguments.get(PARAMETERS.len()) {
            return Err(format!("{} is one too many; expected {}", surplus.as_ref(), Self::USAGE));
        }
        let [objects, idle_seconds, cycles, keep_percent, threads, min, max, hold, tick, dump] =
            values;
        if max < min {
            return Err(format!("MAX_SIZE is {max}; expected MIN_SIZE ({min}) or more"));
        }
        let shape = Shape {
            objects: objects as usize,
            idle_seconds,
            cycles: cycles as usize,
            keep_percent: keep_percent as usize,
            threads: threads as usize,
            sizes: Sizes { from: min as u32, to: max as u32 },
            keep_hold: hold == 1,
            idle_tick_ms: tick,
            dump: dump == 1,
        };
        let samples = shape.samples_per_idle() * cycles;
        if samples > MOST_SAMPLES {
            return Err(format!(
                "IDLE_TICK_MS is {tick}; expected more for so many seconds and cycles, which give \
                 {samples} samples"
            ));
        }
        Ok(shape)
    }

    /// At least as many samples as one idle time takes.
    pub fn samples_per_idle(&self) -> u64 {
        self.idle_seconds * 1000 / self.idle_tick_ms + Self::PROBES_MS.len() as u64
    }

    /// When RSS is read in an idle time: milliseconds after the last free, at every tick and at
    /// [`Self::PROBES_MS`], in order, each once.
    pub fn moments_ms(&self) -> impl Iterator<Item = u64> {
        let (tick, end) = (self.idle_tick_ms, self.idle_seconds * 1000);
        let next = move |after: u64| {
            let probe = Self::PROBES_MS.into_iter().find(|probe| *probe > after);
            let tick = (after / tick + 1) * tick;
            Some(probe.map_or(tick, |probe| probe.min(tick))).filter(|moment| *moment <= end)
        };
        std::iter::successors(next(0), move |after| next(*after))
    }

    /// How many of a cycle's blocks the thread of this index allocates.
    pub fn objects_of(&self, thread: usize) -> usize {
        self.objects / self.threads + usize::from(thread < self.objects % self.threads)
    }

    /// How many of `objects` are kept.
    pub fn kept_of(&self, objects: usize) -> usize {
        objects * self.keep_percent / 100
    }
}

/// The ten arguments, as they are parsed.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} {} {} {} {} {} {} {}",
            self.objects,
            self.idle_seconds,
            self.cycles,
            self.keep_percent,
            self.threads,
            self.sizes.from,
            self.sizes.to,
            u8::from(self.keep_hold),
            self.idle_tick_ms,
            u8::from(self.dump),
        )
    }
}

impl Parameter {
    fn parse(&self, argument: &str) -> Result<u64, String> {
        argument.parse().ok().filter(|value| self.range.contains(value)).ok_or_else(|| {
            format!(
                "{} is {argument}; expected a whole number from {} to {}",
                self.name,
                self.range.start(),
                self.range.end()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Shape, String> {
        Shape::parse(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn ten_numbers_make_a_shape_and_are_made_of_it() {
        let shape = parsed("200000 10 3 20 4 256 4096 1 100 0").unwrap();
        assert_eq!(shape.to_string(), "200000 10 3 20 4 256 4096 1 100 0");
        assert_eq!(shape.keep_percent, 20);
        assert!(shape.keep_hold && !shape.dump);
    }

    #[test]
    fn an_error_names_the_value_and_what_was_expected() {
        let cases = [
            ("", "OBJECTS is missing; expected OBJECTS IDLE_SECONDS"),
            ("0 10 3 0 4 1 2 1 100 1", "OBJECTS is 0; expected a whole number from 1 to "),
            ("9 10 3 101 4 1 2 1 100 1", "KEEP_PERCENT is 101; expected a whole number from 0 to"),
            ("9 10 3 0 four 1 2 1 100 1", "THREADS is four; expected a whole number from 1 to"),
            ("9 10 3 0 4 20 10 1 100 1", "MAX_SIZE is 10; expected MIN_SIZE (20) or more"),
            ("9 10 3 0 4 1 2 2 100 1", "KEEP_HOLD is 2; expected a whole number from 0 to 1"),
            ("9 10 3 0 4 1 2 1 100", "DUMP is missing; expected"),
            ("9 10 3 0 4 1 2 1 100 1 x", "x is one too many; expected"),
            ("9 86400 999 0 4 1 2 1 1 1", "IDLE_TICK_MS is 1; expected more for"),
        ];
        for (line, expected) in cases {
            let error = parsed(line).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn rss_is_read_at_ticks_and_probes_up_to_the_end() {
        let moments = |line| parsed(line).unwrap().moments_ms().collect::<Vec<_>>();
        assert_eq!(
            moments("9 1 1 0 1 1 1 1 250 0"),
            [100, 250, 300, 500, 750, 1000],
            "a probe at a tick is one moment, and later probes are left out"
        );
        assert_eq!(moments("9 4 1 0 1 1 1 1 5000 0"), [100, 300, 1000, 3000]);
        let shape = parsed("9 10 1 0 1 1 1 1 7 0").unwrap();
        assert!(shape.moments_ms().count() as u64 <= shape.samples_per_idle());
    }

    #[test]
    fn threads_share_all_objects() {
        let shape = parsed("10 1 1 20 4 1 1 1 100 0").unwrap();
        assert_eq!([0, 1, 2, 3].map(|thread| shape.objects_of(thread)), [3, 3, 2, 2]);
        assert_eq!(shape.kept_of(10), 2);
    }
}
