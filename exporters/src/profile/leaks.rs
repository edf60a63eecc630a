//! Call sites that look as if they leak.
//!
//! One reading is enough, because blocks that are live say when they were allocated. A call site is a
//! suspect if all of this holds, of what was sampled there and is live:
//!
//! 1. *Enough is known*: it is [`MIN_SAMPLES`] samples or more.
//! 2. *For long enough*: the oldest is at least an eighth of the observed time old, but no less than
//!    [`MIN_SPAN`] and no more than [`MAX_SPAN`] are asked for. So neither a start nor a burst is a
//!    leak.
//! 3. *Growing*: from the birth of the oldest to now, each quarter of the time has left at least a
//!    sixteenth of the bytes behind (at a constant rate it would be a quarter). So a cache that was
//!    filled and stays is none.
//! 4. *Old*: half of the bytes or more are older than what is freed there usually gets: than 95% of
//!    the objects freed (by the bound of [`Stack::lifetimes`] under which these were). So a steady
//!    churn is none, however large, nor is a cache that evicts. Where less than a tenth of the
//!    objects were ever freed, what is freed says nothing of the others: all are old.
//!
//! What the observer holds ([`slackwater::observer`]) is no suspect: it comes and goes with whoever looks.
//!
//! What this cannot tell: a cache that is still being filled, at an even rate and for longer than
//! was observed, looks the same from outside.

use std::fmt::Write;
use std::time::Duration;

use slackwater::observer;

use super::folded::{UNKNOWN, call_sites};
use super::lacks::{WHY_UNKNOWN, lacks};
use super::names::Names;
use super::{LIFETIME_BOUNDS, LiveSample, Profile, Stack};

/// Fewer live samples than this are no evidence.
pub const MIN_SAMPLES: usize = 16;

/// No leak is told from a start or a burst in less time.
pub const MIN_SPAN: Duration = Duration::from_secs(10);

/// A leak that is as old as this is told however long the process has been running.
pub const MAX_SPAN: Duration = Duration::from_secs(600);

/// Parts of the time, each of which must have left something behind.
const QUARTERS: usize = 4;

/// What that is, of the bytes.
const LEAST_SHARE: f64 = 1.0 / 16.0;

/// A call site that looks as if it leaks.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspect {
    /// Its place in [`Profile::stacks`].
    pub stack: usize,
    /// What is live there, in bytes.
    pub live_bytes: f64,
    /// How fast that has become so, since the oldest of it was allocated.
    pub bytes_per_second: f64,
    /// How long ago that was.
    pub span: Duration,
    /// Objects freed, of those allocated there.
    pub freed_share: f64,
    /// Live samples.
    pub samples: usize,
}

/// The suspects, the fastest first.
pub fn suspects(profile: &Profile) -> Vec<Suspect> {
    let mut live: Vec<Vec<&LiveSample>> = vec![Vec::new(); profile.stacks.len()];
    for sample in &profile.live {
        live[sample.stack].push(sample);
    }
    let observed = profile.observed.unwrap_or_default();
    let sites = profile.stacks.iter().zip(&live).enumerate();
    let mut suspects: Vec<Suspect> =
        sites.filter_map(|(place, (stack, live))| suspect(place, stack, live, observed)).collect();
    suspects.sort_by(|a, b| b.bytes_per_second.total_cmp(&a.bytes_per_second));
    suspects
}

/// The suspects as text, each with its stack.
pub fn render(profile: &Profile, names: &Names) -> String {
    let suspects = suspects(profile);
    let observed = profile.observed.unwrap_or_default().as_secs_f64();
    let live = profile.live.len();
    let mut text = match suspects.len() {
        0 => "No call site looks as if it leaks".to_string(),
        1 => "One call site looks as if it leaks".to_string(),
        more => format!("{more} call sites look as if they leak"),
    };
    let _ = writeln!(
        text,
        ": what is live there is old and grows. Seen in {live} live samples, after {observed:.0} s."
    );
    for suspect in &suspects {
        let _ = writeln!(
            text,
            "\n{:.1} KiB/s for {:.0} s: {:.1} KiB live, in {} samples; {:.1}% of the objects were \
             freed",
            suspect.bytes_per_second / 1024.0,
            suspect.span.as_secs_f64(),
            suspect.live_bytes / 1024.0,
            suspect.samples,
            100.0 * suspect.freed_share,
        );
        let frames = &profile.stacks[suspect.stack].frames;
        if frames.is_empty() {
            let _ = writeln!(text, "  {UNKNOWN}: {WHY_UNKNOWN}");
        }
        for site in call_sites(profile, names, frames) {
            let _ = writeln!(text, "  {site}");
        }
    }
    let lacks = lacks(profile, names);
    if !lacks.is_empty() {
        text.push('\n');
    }
    for line in lacks {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn suspect(
    place: usize,
    stack: &Stack,
    live: &[&LiveSample],
    observed: Duration,
) -> Option<Suspect> {
    if stack.frames == [observer::FRAME] {
        return None;
    }
    let bytes = |sample: &LiveSample| sample.weight * sample.bytes as f64;
    let live_bytes: f64 = live.iter().map(|sample| bytes(sample)).sum();
    let span = live.iter().map(|sample| sample.age).max()?;
    if live.len() < MIN_SAMPLES || span < (observed / 8).clamp(MIN_SPAN, MAX_SPAN) {
        return None;
    }
    let mut quarters = [0.0; QUARTERS];
    let mut old_bytes = 0.0;
    let usual = usual_age(stack);
    for sample in live {
        let quarter = sample.age.as_secs_f64() / span.as_secs_f64() * QUARTERS as f64;
        quarters[(quarter as usize).min(QUARTERS - 1)] += bytes(sample);
        if usual.is_some_and(|usual| sample.age > usual) {
            old_bytes += bytes(sample);
        }
    }
    let is_growing = quarters.iter().all(|quarter| *quarter >= LEAST_SHARE * live_bytes);
    let is_old = old_bytes >= live_bytes / 2.0;
    (is_growing && is_old).then_some(Suspect {
        stack: place,
        live_bytes,
        bytes_per_second: live_bytes / span.as_secs_f64(),
        span,
        freed_share: freed_share(stack),
        samples: live.len(),
    })
}

fn freed_share(stack: &Stack) -> f64 {
    let share = stack.freed.objects / stack.allocated.objects;
    if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
}

/// How old the objects that are freed at a call site get, 95 of 100 of them; `None`: older than can be
/// told.
fn usual_age(stack: &Stack) -> Option<Duration> {
    let freed: f64 = stack.lifetimes.iter().sum();
    if freed <= 0.0 || freed_share(stack) < 0.1 {
        return Some(Duration::ZERO);
    }
    let mut so_far = 0.0;
    let bound = stack.lifetimes.iter().position(|count| {
        so_far += count;
        so_far >= 0.95 * freed
    });
    LIFETIME_BOUNDS.get(bound?).copied()
}

#[cfg(test)]
mod tests {
    use super::super::{Weighted, modules::Modules};
    use super::*;
    use std::time::SystemTime;

    /// A program whose one call site allocates 1 KiB at each of these times (in seconds), and frees it
    /// at that age, if ever; every object is a sample.
    fn history(now: f64, objects: impl IntoIterator<Item = (f64, Option<f64>)>) -> Profile {
        let mut profile = Profile::empty(Modules::default(), SystemTime::UNIX_EPOCH);
        profile.observed = Some(Duration::from_secs_f64(now));
        let mut stack = Stack::default();
        let one = Weighted { objects: 1.0, bytes: 1024.0 };
        for (born, freed_at_age) in objects.into_iter().filter(|(born, _)| *born <= now) {
            stack.allocated += one;
            match freed_at_age.filter(|age| born + age <= now) {
                Some(age) => {
                    let bound = LIFETIME_BOUNDS.iter().position(|b| age < b.as_secs_f64());
                    stack.lifetimes[bound.unwrap_or(LIFETIME_BOUNDS.len())] += 1.0;
                    stack.freed += one;
                }
                None => profile.live.push(LiveSample {
                    stack: 0,
                    bytes: 1024,
                    weight: 1.0,
                    age: Duration::from_secs_f64(now - born),
                }),
            }
        }
        profile.stacks = vec![stack];
        profile
    }

    /// So many each second, from one time on to another.
    fn steady(per_second: f64, from: f64, to: f64) -> impl Iterator<Item = f64> + Clone {
        let count = ((to - from) * per_second) as u32;
        (0..count).map(move |i| from + f64::from(i) / per_second)
    }

    fn is_suspected(profile: &Profile) -> bool {
        !suspects(profile).is_empty()
    }

    #[test]
    fn a_leak_is_seen_with_its_rate() {
        let leak = || steady(1.0, 0.0, 1e4).map(|born| (born, None));
        assert!(!is_suspected(&history(9.0, leak())), "too early to tell");
        assert!(is_suspected(&history(20.0, leak())));
        let found = suspects(&history(400.0, leak()));
        let [suspect] = &found[..] else { panic!("{found:?}") };
        assert!((suspect.bytes_per_second - 1024.0).abs() < 10.0, "{suspect:?}");
        assert_eq!((suspect.freed_share, suspect.samples), (0.0, 401));
        let text = render(&history(400.0, leak()), &Names::default());
        let expected = "One call site looks as if it leaks: what is live there is old and grows. \
             Seen in 401 live samples, after 400 s.\n\n1.0 KiB/s for 400 s: 401.0 KiB live, in 401 \
             samples; 0.0% of the objects were freed\n  [stack unknown]: ";
        assert!(text.starts_with(expected), "{text}");
        let lack = "\n100% of what was allocated has no call stack: ";
        assert!(text.contains(WHY_UNKNOWN) && text.contains(lack), "{text}");
    }

    #[test]
    fn what_the_observer_holds_is_none() {
        let leak = steady(1.0, 0.0, 1e4).map(|born| (born, None));
        let mut profile = history(400.0, leak);
        assert!(is_suspected(&profile));
        profile.stacks[0].frames = vec![observer::FRAME];
        assert!(!is_suspected(&profile));
    }

    #[test]
    fn a_leak_among_much_that_is_freed_is_seen() {
        // One of a hundred is forgotten, the others live for 20 ms.
        let mixed = steady(100.0, 0.0, 400.0).enumerate();
        let mixed = mixed.map(|(i, born)| (born, (i % 100 != 0).then_some(0.02)));
        let found = suspects(&history(400.0, mixed));
        let [suspect] = &found[..] else { panic!("{found:?}") };
        assert!((suspect.freed_share - 0.99).abs() < 0.001, "{suspect:?}");
    }

    #[test]
    fn a_leak_that_began_late_is_seen_when_it_has_lasted() {
        let late = || steady(1.0, 1000.0, 1e6).map(|born| (born, None));
        assert!(!is_suspected(&history(1100.0, late())), "less than an eighth of the time");
        assert!(is_suspected(&history(1150.0, late())));
        let day = 86_400.0;
        let late = steady(1.0, day, day + 700.0).map(|born| (born, None));
        assert!(is_suspected(&history(day + 650.0, late)), "ten minutes are enough on any day");
    }

    #[test]
    fn a_leak_whose_few_frees_came_late_is_seen() {
        // One of twenty was freed, after half an hour.
        let leak = steady(1.0, 0.0, 4000.0).enumerate();
        let leak = leak.map(|(i, born)| (born, (i % 20 == 0).then_some(1800.0)));
        assert!(is_suspected(&history(4000.0, leak)));
    }

    #[test]
    fn a_cache_that_fills_and_stays_is_none() {
        let cache = || steady(10.0, 0.0, 30.0).map(|born| (born, None));
        assert!(!is_suspected(&history(60.0, cache())));
        assert!(!is_suspected(&history(1e4, cache())));
        // Nor is one that is replaced piece by piece: what leaves it is as old as what stays gets.
        let evicting = steady(10.0, 0.0, 400.0).map(|born| (born, Some(50.0)));
        assert!(!is_suspected(&history(400.0, evicting)));
    }

    #[test]
    fn a_steady_churn_is_none() {
        let ages = [0.005, 0.5, 5.0, 20.0, 90.0];
        let churn = steady(20.0, 0.0, 1000.0).enumerate();
        let churn = churn.map(|(i, born)| (born, Some(ages[i * 7 % ages.len()])));
        for now in [120.0, 500.0, 1000.0] {
            assert!(!is_suspected(&history(now, churn.clone())), "{now}");
        }
    }

    #[test]
    fn a_burst_is_none_neither_while_it_lasts_nor_after() {
        let burst = |now| {
            let objects = steady(100.0, 300.0, 315.0).map(|born| (born, Some(330.0 - born)));
            history(now, objects)
        };
        for now in [305.0, 314.0, 320.0, 329.0, 340.0] {
            assert!(!is_suspected(&burst(now)), "{now}");
        }
        // One every minute, each freed as a whole.
        let bursts = (0..10).flat_map(|minute| {
            let begin = 60.0 * f64::from(minute);
            steady(10.0, begin, begin + 5.0).map(move |born| (born, Some(begin + 20.0 - born)))
        });
        for now in [310.0, 419.0, 599.0] {
            assert!(!is_suspected(&history(now, bursts.clone())), "{now}");
        }
    }

    #[test]
    fn a_few_samples_are_no_evidence() {
        let few = steady(0.03, 0.0, 500.0).map(|born| (born, None));
        let profile = history(500.0, few);
        assert_eq!(profile.live.len(), MIN_SAMPLES - 1);
        assert!(!is_suspected(&profile));
    }
}
