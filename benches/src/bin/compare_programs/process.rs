//! A process from its start to its end, and what it took.

use std::ops::AddAssign;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use slackwater_benches::comparing::measurements::Figure;

/// What a program took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Taken {
    /// By the clock on the wall.
    pub wall: Duration,
    /// On processors, the children that it waited for included.
    pub processors: Duration,
    /// The largest RSS of any of its processes.
    pub peak_kib: u64,
}

impl Taken {
    pub fn figures(&self) -> Vec<(Figure, f64)> {
        vec![
            (Figure::Seconds, self.wall.as_secs_f64()),
            (Figure::ProcessorSeconds, self.processors.as_secs_f64()),
            (Figure::PeakMib, self.peak_kib as f64 / 1024.0),
        ]
    }
}

/// One after the other: times add up, and the larger peak stays.
impl AddAssign for Taken {
    fn add_assign(&mut self, other: Taken) {
        self.wall += other.wall;
        self.processors += other.processors;
        self.peak_kib = self.peak_kib.max(other.peak_kib);
    }
}

/// Runs a command, which has to go well, and throws away what it says.
pub fn run(command: &mut Command) -> Result<Taken, String> {
    let started = Instant::now();
    let child = start(command)?;
    end(child, started)
}

/// Starts a command, and throws away what it says.
pub fn start(command: &mut Command) -> Result<Child, String> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))
}

/// Waits for the end of what was `started`.
///
/// The kernel counts in what the forking process had when the program began: three MiB or so of
/// this one. `VmHWM` tells of less.
pub fn end(child: Child, started: Instant) -> Result<Taken, String> {
    let mut status = 0;
    // SAFETY: an rusage is made of integers; all zeroes is one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are what the call writes and live through it; the child is ours and was not
    // waited for.
    let waited = unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, &mut usage) };
    let wall = started.elapsed();
    if waited < 0 {
        return Err(format!("wait4: {}", std::io::Error::last_os_error()));
    }
    let status = ExitStatus::from_raw(status);
    if !status.success() {
        return Err(status.to_string());
    }
    let processors = duration(usage.ru_utime) + duration(usage.ru_stime);
    Ok(Taken { wall, processors, peak_kib: usage.ru_maxrss as u64 })
}

fn duration(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}

/// The peak RSS in the text of a `/proc/PID/status`.
pub fn peak_kib(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    value.trim().trim_end_matches("kB").trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_time_and_memory_and_has_to_go_well() {
        let taken =
            run(Command::new("sh").args(["-c", "i=0; while [ $i -lt 9999 ]; do i=$((i+1)); done"]));
        let taken = taken.unwrap();
        assert!(taken.wall > Duration::ZERO && taken.processors > Duration::ZERO, "{taken:?}");
        assert!(taken.peak_kib > 100, "{taken:?}");
        assert_eq!(run(&mut Command::new("false")).unwrap_err(), "exit status: 1");
        assert!(run(&mut Command::new("/no/such")).unwrap_err().starts_with("/no/such: "));
    }

    #[test]
    fn times_add_up_and_the_larger_peak_stays() {
        let mut all = Taken { peak_kib: 5, ..Taken::default() };
        let second = Duration::from_secs(1);
        for peak_kib in [7, 3] {
            all += Taken { wall: second, processors: second, peak_kib };
        }
        assert_eq!(all, Taken { wall: 2 * second, processors: 2 * second, peak_kib: 7 });
    }

    #[test]
    fn the_peak_is_a_line_of_status() {
        assert_eq!(peak_kib("Name:\tcat\nVmHWM:\t    1536 kB\nVmRSS:\t 1 kB\n"), Some(1536));
        assert_eq!(peak_kib("Name:\tcat\n"), None);
    }
}
