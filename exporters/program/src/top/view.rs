//! What `top` shows: the observations so far, and how the user wants to see them.

use std::collections::VecDeque;
use std::time::Duration;

use slackwater::snapshot::GateState;
use slackwater_exporters::Observation;
use slackwater_exporters::breakdown::Breakdown;

use super::keys::Action;
use super::panel::Panel;
use super::size_classes::{self, Order};
use crate::amounts::{bytes, count, percent, seconds, share};
use crate::arguments::{LONGEST_INTERVAL, SHORTEST_INTERVAL};
use crate::figures::{self, RATES};

/// Samples that the history keeps.
const HISTORY: usize = 600;

/// What `+` and `-` choose from, in seconds.
const INTERVALS: [f64; 10] =
    [SHORTEST_INTERVAL, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 600.0, LONGEST_INTERVAL];

/// One point of the history.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Seconds since the first observation.
    pub at: f64,
    /// Resident bytes.
    pub rss: u64,
    /// Live bytes.
    pub live: u64,
    /// Bytes given back since the point before.
    pub purged: u64,
}

/// An observation and when it was taken.
struct Look {
    observation: Observation,
    at: Duration,
}

/// Everything that is drawn.
pub struct View {
    /// The process: name, id and container.
    pub name: String,
    /// How far observations are apart.
    pub interval: Duration,
    /// No observations are taken just now.
    pub is_paused: bool,
    /// The keys are explained.
    pub shows_help: bool,
    /// The panel that is marked, and shown alone where there is no room for more.
    pub focus: Panel,
    /// The order of the table of size classes.
    pub order: Order,
    /// The first row of that table that is shown.
    pub scroll: usize,
    history: VecDeque<Point>,
    latest: Look,
    before: Option<Look>,
}

impl View {
    /// A view that begins with one observation.
    pub fn new(name: String, interval: Duration, observation: Observation) -> View {
        let mut view = View {
            name,
            interval,
            is_paused: false,
            shows_help: false,
            focus: Panel::History,
            order: Order::default(),
            scroll: 0,
            history: VecDeque::new(),
            latest: Look { observation, at: Duration::ZERO },
            before: None,
        };
        view.remember();
        view
    }

    /// Takes in an observation; `at` is the time since the first one.
    pub fn add(&mut self, observation: Observation, at: Duration) {
        self.before = Some(std::mem::replace(&mut self.latest, Look { observation, at }));
        self.remember();
    }

    fn remember(&mut self) {
        let purged_total = |look: &Look| look.observation.snapshot.release_purged_bytes_total;
        let purged_before = self.before.as_ref().map_or(purged_total(&self.latest), purged_total);
        self.history.push_back(Point {
            at: self.latest.at.as_secs_f64(),
            rss: figures::resident_bytes(self.observation()),
            live: self.observation().snapshot.memory_bytes.live,
            purged: purged_total(&self.latest).saturating_sub(purged_before),
        });
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    /// The last observation.
    pub fn observation(&self) -> &Observation {
        &self.latest.observation
    }

    /// The points of the history, oldest first.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Point> {
        self.history.iter()
    }

    /// Why RSS is what it is, if the kernel tells.
    pub fn breakdown(&self) -> Option<Breakdown> {
        self.observation().breakdown()
    }

    /// Seconds between the last two observations.
    fn seconds(&self) -> f64 {
        let before = self.before.as_ref().map_or(self.latest.at, |look| look.at);
        self.latest.at.saturating_sub(before).as_secs_f64()
    }

    /// What a counter gained per second between the last two observations.
    fn rate(&self, of: impl Fn(&Observation) -> f64) -> f64 {
        let Some(before) = &self.before else { return 0.0 };
        figures::per_second(of(&before.observation), of(self.observation()), self.seconds())
    }

    /// The line of figures that everyone wants to see, in pieces.
    pub fn headline(&self) -> Vec<String> {
        let observation = self.observation();
        let snapshot = &observation.snapshot;
        let purged_pages = snapshot.release_purged_pages_total.sum() as f64;
        let calls = snapshot.release_madvise_calls_total.max(1) as f64;
        let gate = match snapshot.gate_state {
            GateState::Idle => "idle",
            GateState::Busy => "busy",
        };
        let cgroup = observation.cgroup.unwrap_or_default();
        let of = |name: &str, need: Option<u64>, limit: Option<u64>| {
            Some(format!("{} of {name}", percent(share(need?, limit?))))
        };
        let mut pieces = vec![
            format!("RSS {}", bytes(figures::resident_bytes(observation))),
            format!("live {}", bytes(snapshot.memory_bytes.live)),
            format!("purged {}", bytes(snapshot.release_purged_bytes_total)),
            format!("{} pages a call", count(purged_pages / calls)),
            format!("gate {gate}"),
            format!("pending {}", bytes(snapshot.release_pending_bytes)),
            format!("drop {}", snapshot.release_dropped_total),
        ];
        pieces.extend(of("limit", cgroup.need_bytes, cgroup.limit_bytes));
        pieces.extend(of("memory.high", cgroup.high_need_bytes, cgroup.high_bytes));
        pieces
    }

    /// What happens per second.
    pub fn rates(&self) -> Vec<[String; 2]> {
        let rate = |family| self.rate(|observation| figures::total(observation, family));
        RATES.iter().map(|&(name, family)| [format!("{name}/s"), count(rate(family))]).collect()
    }

    /// System calls of the allocator: so far, and per second.
    pub fn system_calls(&self) -> Vec<[String; 3]> {
        let calls = figures::series(self.observation(), "os_calls_total");
        let rate = |i: usize| {
            self.rate(|observation| {
                figures::series(observation, "os_calls_total").get(i).map_or(0.0, |s| s.1)
            })
        };
        calls
            .iter()
            .enumerate()
            .map(|(i, (name, calls))| {
                [name.clone(), count(*calls), format!("{}/s", count(rate(i)))]
            })
            .collect()
    }

    /// What the caches of threads hold, and how often they were taken over.
    pub fn thread_caches(&self) -> Vec<[String; 2]> {
        let snapshot = &self.observation().snapshot;
        let cached = snapshot.memory_bytes.thread_cache;
        let mut rows = vec![
            ["threads".to_string(), snapshot.threads.to_string()],
            ["cached".to_string(), bytes(cached)],
            ["each".to_string(), bytes(cached / snapshot.threads.max(1))],
            [
                "of RSS".to_string(),
                percent(share(cached, figures::resident_bytes(self.observation()))),
            ],
        ];
        let takeovers = figures::series(self.observation(), "takeovers_total");
        rows.extend(
            takeovers.iter().map(|(result, n)| [format!("take-overs {result}"), count(*n)]),
        );
        rows
    }

    /// How far observations are apart, and whether they are.
    pub fn pace(&self) -> String {
        let paused = if self.is_paused { ", paused" } else { "" };
        format!("every {}{paused}", seconds(self.interval.as_secs_f64()))
    }

    /// Does what a key asks for.
    pub fn apply(&mut self, action: Action) {
        match action {
            Action::NextColumn => self.order.column = self.order.column.next(),
            Action::Reverse => self.order.is_reversed = !self.order.is_reversed,
            Action::Pause => self.is_paused = !self.is_paused,
            Action::Slower => {
                let now = self.interval.as_secs_f64();
                let next = INTERVALS.into_iter().find(|&interval| interval > now + 1e-9);
                self.interval = Duration::from_secs_f64(next.unwrap_or(now));
            }
            Action::Faster => {
                let now = self.interval.as_secs_f64();
                let next = INTERVALS.into_iter().rev().find(|&interval| interval < now - 1e-9);
                self.interval = Duration::from_secs_f64(next.unwrap_or(now));
            }
            Action::NextPanel => self.focus = self.focus.next(),
            Action::PreviousPanel => self.focus = self.focus.previous(),
            Action::Scroll(rows) => {
                let last = size_classes::rows(&self.observation().snapshot, self.order).len();
                let scroll = self.scroll.saturating_add_signed(rows);
                self.scroll = scroll.min(last.saturating_sub(1));
            }
            Action::Help => self.shows_help = !self.shows_help,
            Action::CloseHelp => self.shows_help = false,
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A process that allocates and gives back, looked at three times.
    pub fn made_up() -> View {
        let mut observation = Observation::take();
        let process = observation.process.as_mut().expect("Linux tells");
        process.anon_bytes = 90 << 20;
        process.file_bytes = 10 << 20;
        process.shmem_bytes = 0;
        let snapshot = &mut observation.snapshot;
        snapshot.memory_bytes.live = 40 << 20;
        snapshot.release_purged_bytes_total = 0;
        snapshot.frees_total = 100;
        snapshot.os_calls_total.madvise = 5;
        snapshot.size_classes[3].block_bytes = 64;
        snapshot.size_classes[3].live_bytes = 1 << 20;
        snapshot.size_classes[3].span_bytes = 4 << 20;
        let mut view =
            View::new("made-up (7)".to_string(), Duration::from_secs(1), observation.clone());
        for second in 1..=2 {
            observation.snapshot.release_purged_bytes_total += 8 << 20;
            observation.snapshot.frees_total += 2000;
            observation.snapshot.os_calls_total.madvise += 3;
            view.add(observation.clone(), Duration::from_secs(2 * second));
        }
        view
    }

    #[test]
    fn rates_are_over_the_last_two_samples() {
        let view = made_up();
        assert!(view.rates().contains(&["frees/s".to_string(), "1.0k".to_string()]));
        let madvise = ["madvise", "11", "1.5/s"].map(String::from);
        assert!(view.system_calls().contains(&madvise), "{:?}", view.system_calls());
    }

    #[test]
    fn the_history_knows_what_was_purged_in_between_and_is_bounded() {
        let mut view = made_up();
        let purged: Vec<u64> = view.history().map(|point| point.purged).collect();
        assert_eq!(purged, [0, 8 << 20, 8 << 20]);
        for i in 0..2 * HISTORY {
            view.add(view.observation().clone(), Duration::from_secs(10 + i as u64));
        }
        assert_eq!(view.history().count(), HISTORY);
    }

    #[test]
    fn keys_change_the_view_and_nothing_goes_out_of_bounds() {
        let mut view = made_up();
        for _ in 0..20 {
            view.apply(Action::Slower);
        }
        assert_eq!(view.interval.as_secs_f64(), LONGEST_INTERVAL);
        for _ in 0..20 {
            view.apply(Action::Faster);
        }
        assert_eq!(view.interval.as_secs_f64(), SHORTEST_INTERVAL);
        view.apply(Action::Slower);
        assert_eq!(view.pace(), "every 250 ms");
        view.apply(Action::Pause);
        assert_eq!(view.pace(), "every 250 ms, paused");
        view.apply(Action::Scroll(-5));
        assert_eq!(view.scroll, 0);
        view.apply(Action::Scroll(isize::MAX));
        let rows = size_classes::rows(&view.observation().snapshot, view.order).len();
        assert_eq!(view.scroll, rows - 1);
        let first = view.focus;
        for _ in 0..Panel::ALL.len() {
            view.apply(Action::NextPanel);
        }
        assert_eq!(view.focus, first);
        view.apply(Action::PreviousPanel);
        view.apply(Action::NextPanel);
        assert_eq!(view.focus, first);
    }
}
