//! `slackwater report`: why a process's RSS is what it is, what would be released, what looks wrong.

mod delays;
mod events;
mod evidence;
mod suspects;

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use slackwater_exporters::Observation;
use slackwater_exporters::attach::Target;
use slackwater_exporters::breakdown::Breakdown;
use slackwater_exporters::profile::lacks::lacks;
use slackwater_exporters::profile::names::Names;

use super::amounts::{bytes, percent, seconds, share};
use super::arguments::ReportArguments;
use super::failure::Failure;
use super::output;
use evidence::{Earlier, Evidence, Heard, heard};

/// How many of the largest mappings are named.
const MAX_MAPPINGS: usize = 5;

/// Prints the report on a process.
pub fn report(arguments: &ReportArguments) -> Result<(), Failure> {
    let mut target = Target::open(arguments.process).map_err(Failure::not_opened)?;
    let mut watched = None;
    let earlier = match arguments.seconds.or(arguments.perf) {
        None => None,
        Some(seconds) => {
            let (observation, breakdown) = look(&mut target)?;
            let begin = Instant::now();
            match arguments.perf {
                Some(_) => watched = Some(events::watch(target.pid(), seconds)),
                None => thread::sleep(Duration::from_secs(seconds)),
            }
            Some(Earlier { observation, breakdown, seconds: begin.elapsed().as_secs_f64() })
        }
    };
    let (observation, breakdown) = look(&mut target)?;
    let knobs = target.knobs().map_err(Failure::not_read)?;
    // A report without them is a report, too.
    let mappings = target.largest_mappings(MAX_MAPPINGS).unwrap_or_default();
    let profile = target.reading().map_err(Failure::not_read)?.profile;
    let lacks = lacks(&profile, &Names::default());
    let evidence = Evidence { observation, breakdown, mappings, knobs, earlier, watched, lacks };
    output::print(&text(&target.name(), &evidence))
}

fn look(target: &mut Target) -> Result<(Observation, Breakdown), Failure> {
    let observation = target.observe().map_err(Failure::not_read)?;
    let breakdown = observation.breakdown().ok_or_else(|| {
        Failure::broken(format_args!("process {}: the kernel does not tell its RSS", target.pid()))
    })?;
    Ok((observation, breakdown))
}

fn text(name: &str, evidence: &Evidence) -> String {
    let delays = heard(delays::RULES, evidence);
    let suspects = heard(suspects::RULES, evidence);
    let mut text = verdict(name, evidence, &delays, &suspects);
    write_parts(&mut text, evidence);
    write_due(&mut text, evidence, &delays);
    write_suspects(&mut text, evidence, &suspects);
    write_lacks(&mut text, &evidence.lacks);
    if evidence.observation.sections.is_counted() {
        events::write_sections(&mut text, &evidence.observation.sections);
    }
    if let Some(watched) = &evidence.watched {
        events::write_threads(&mut text, watched);
    }
    text
}

/// The first line, for those who read no other.
fn verdict(name: &str, evidence: &Evidence, delays: &[Heard], suspects: &[Heard]) -> String {
    let rss = evidence.rss();
    let live = percent(share(evidence.breakdown.live, rss));
    let names =
        |found: &[Heard]| found.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let dirty = evidence.breakdown.dirty;
    let due = match delays {
        _ if !evidence.matters(dirty) => "nothing much is due to be given back".to_string(),
        [] => format!("{} is about to be given back", bytes(dirty)),
        _ => format!("{} is due to be given back ({})", bytes(dirty), names(delays)),
    };
    let suspects = match suspects {
        [] => "no suspects".to_string(),
        _ => format!("suspects: {}", names(suspects)),
    };
    format!("{name}: RSS {}, {live} of it live; {due}; {suspects}\n", bytes(rss))
}

fn write_parts(text: &mut String, evidence: &Evidence) {
    text.push_str("\nWhy RSS is what it is\n");
    let rss = evidence.rss();
    let mut line = |name: &str, amount: u64, meaning: &str| {
        let share = percent(share(amount, rss));
        let line = format!("  {name:<12} {:>11} {share:>7}  {meaning}", bytes(amount));
        let _ = writeln!(text, "{}", line.trim_end());
    };
    for part in evidence.breakdown.parts() {
        line(part.name, part.bytes, part.meaning);
    }
    line("RSS", rss, "");
    if evidence.breakdown.untouched > 0 {
        let untouched = bytes(evidence.breakdown.untouched);
        let _ = writeln!(text, "  and {untouched} live but not in RSS: never written to");
    }
    let swapped =
        evidence.observation.process.and_then(|process| process.swapped_bytes).unwrap_or(0);
    if swapped > 0 {
        let heap = bytes(evidence.breakdown.swapped);
        let _ = writeln!(text, "  and {} swapped out, {heap} of it of the heap", bytes(swapped));
    }
    if let Some(process) = &evidence.observation.process {
        let _ = writeln!(text, "  at its highest RSS was {}", bytes(process.peak_bytes));
    }
    write_group(text, evidence);
    write_mappings(text, evidence);
}

/// The largest mappings by name: what `other_anon`, `file` and `shmem` are.
fn write_mappings(text: &mut String, evidence: &Evidence) {
    if evidence.mappings.is_empty() {
        return;
    }
    text.push_str("  the largest mappings beside the heap and the stacks\n");
    for mapping in &evidence.mappings {
        let _ = writeln!(text, "  {:>24}  {}", bytes(mapping.resident_bytes), mapping.name);
    }
}

/// What the control group uses, and of what; nothing where it is not known.
fn write_group(text: &mut String, evidence: &Evidence) {
    let Some(cgroup) = &evidence.observation.cgroup else { return };
    if let (Some(current), Some(need)) = (cgroup.current_bytes, cgroup.need_bytes) {
        let cached = bytes(current.saturating_sub(need));
        let limit = match cgroup.limit_bytes {
            Some(limit) => format!("of its limit of {} ", bytes(limit)),
            None => String::new(),
        };
        let _ = writeln!(
            text,
            "  its control group uses {} {limit}(needs {}, and {cached} are cached files)",
            bytes(current),
            bytes(need)
        );
    }
    if let Some(high) = cgroup.high_bytes {
        let _ = writeln!(text, "  and is slowed down above its memory.high of {}", bytes(high));
    }
}

fn write_due(text: &mut String, evidence: &Evidence, delays: &[Heard]) {
    text.push_str("\nWhat would be released\n");
    let breakdown = &evidence.breakdown;
    let age = seconds(evidence.observation.snapshot.release_oldest_age_seconds);
    let dirty_for = match breakdown.dirty {
        0 => "free pages that wait".to_string(),
        _ => format!("free pages that wait, the oldest for {age}"),
    };
    for (limit, amount, what) in [
        ("now", breakdown.dirty, dirty_for.as_str()),
        ("up to", breakdown.free_blocks, "free blocks: the pages without a live block among them"),
        ("up to", breakdown.thread_cache, "blocks in the caches of threads that rest for an epoch"),
    ] {
        let _ = writeln!(text, "  {limit:<5} {:>11}  {what}", bytes(amount));
    }
    if delays.is_empty() {
        text.push_str(
            "  nothing stands in its way; what stays shares its pages with live blocks\n",
        );
        return;
    }
    text.push_str("  why it has not been yet\n");
    for (name, why) in delays {
        let _ = writeln!(text, "  - {name}: {why}");
    }
}

fn write_suspects(text: &mut String, evidence: &Evidence, suspects: &[Heard]) {
    text.push_str("\nSuspects\n");
    if suspects.is_empty() {
        text.push_str("  none\n");
    }
    for (name, what) in suspects {
        let _ = writeln!(text, "  - {name}: {what}");
    }
    match &evidence.earlier {
        None => text.push_str("  (growth is looked for with --seconds N)\n"),
        Some(earlier) => {
            let (before, after) = (earlier.breakdown.sum(), evidence.rss());
            let _ = writeln!(
                text,
                "  (watched for {}: RSS {} -> {})",
                seconds(earlier.seconds),
                bytes(before),
                bytes(after)
            );
        }
    }
}

/// The longest line of what is written here; a longer word stays whole.
const WIDTH: usize = 96;

/// What a profile of the process would lack, and why; nothing where it lacks nothing.
fn write_lacks(text: &mut String, lacks: &[String]) {
    if !lacks.is_empty() {
        text.push_str("\nWhat its profile lacks\n");
    }
    for lack in lacks {
        let mut line = String::from("  -");
        for word in lack.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                let _ = writeln!(text, "{line}");
                line = String::from("   ");
            }
            line.push(' ');
            line.push_str(word);
        }
        let _ = writeln!(text, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use slackwater_exporters::mappings::MappingUse;

    use super::*;

    #[test]
    fn the_first_line_is_the_verdict() {
        let first = |evidence: &Evidence| {
            text("redis (7)", evidence).lines().next().map(str::to_string).expect("a line")
        };
        let mut evidence = Evidence::made_up();
        let start = "redis (7): RSS 100.0 MiB, 90.0% of it live; ";
        assert_eq!(
            first(&evidence),
            format!("{start}nothing much is due to be given back; no suspects")
        );
        evidence.breakdown.dirty = 25 << 20;
        evidence.breakdown.live = 65 << 20;
        evidence.observation.snapshot.release_oldest_age_seconds = 3.0;
        let start = "redis (7): RSS 100.0 MiB, 65.0% of it live; ";
        assert_eq!(
            first(&evidence),
            format!("{start}25.0 MiB is about to be given back; no suspects")
        );
        evidence.knobs.release = false;
        evidence.knobs.ticker = false;
        evidence.breakdown.unattributed = 4 << 20;
        evidence.breakdown.live -= 4 << 20;
        assert_eq!(
            first(&evidence),
            "redis (7): RSS 100.0 MiB, 61.0% of it live; 25.0 MiB is due to be given back \
             (release off, ticker off); suspects: unattributed"
        );
    }

    #[test]
    fn what_the_profile_lacks_is_told_in_lines_that_can_be_read() {
        let mut evidence = Evidence::made_up();
        assert!(!text("redis (7)", &evidence).contains("lacks"));
        evidence.lacks = vec!["40% has no call stack: ".to_string() + &"because ".repeat(30)];
        let text = text("redis (7)", &evidence);
        assert!(
            text.contains("\n\nWhat its profile lacks\n  - 40% has no call stack: because"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }

    #[test]
    fn every_section_is_there_and_the_parts_sum_to_rss() {
        let mut evidence = Evidence::made_up();
        evidence.breakdown.untouched = 2 << 20;
        evidence.mappings = vec![MappingUse {
            name: "/memfd:cache (deleted)".to_string(),
            resident_bytes: 64 << 20,
        }];
        let text = text("redis (7)", &evidence);
        let sections = ["Why RSS is what it is", "What would be released", "Suspects"];
        for section in sections {
            assert!(text.contains(&format!("\n\n{section}\n")), "{text}");
        }
        assert!(text.contains("  live            90.0 MiB   90.0%  asked for"), "{text}");
        assert!(text.contains("  RSS            100.0 MiB  100.0%\n"), "{text}");
        assert!(text.contains("    64.0 MiB  /memfd:cache (deleted)\n"), "{text}");
        assert!(text.contains("and 2.0 MiB live but not in RSS"), "{text}");
        assert!(text.contains("nothing stands in its way"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }
}
