//! What a profile lacks, and why: a line for each, for whoever reads it.

use slackwater::remote::{self, UNRECORDED_MODULE};
use slackwater::stack::MAX_FRAMES;

use super::Profile;
use super::modules::UNRECORDED;
use super::names::Names;
use crate::figures::amounts::bytes;

/// Of what was allocated, from this share on it is told that stacks are unknown, or cut.
const MIN_SHARE: f64 = 0.01;

/// Unloaded libraries that are told by name.
const MAX_LISTED: usize = 4;

/// Why a stack may be unknown, for whoever meets one.
pub const WHY_UNKNOWN: &str =
    "no unwind tables, no frame pointers, or a stack that may not be read";

/// What is missing, of a line that says why, too.
pub fn brief(line: &str) -> &str {
    line.split_once(": ").map_or(line, |(what, _)| what)
}

/// A line for each thing that is missing; none for a profile that lacks nothing. What is missing stands before its
/// first colon, and why behind it ([`brief`]).
pub fn lacks(profile: &Profile, names: &Names) -> Vec<String> {
    let lacks = [
        samples(profile),
        stacks(profile),
        records_of_modules(profile),
        unloaded_modules(profile),
        outermost_functions(profile),
        dropped_samples(profile),
        density(profile),
        names
            .lack()
            .map(|why| format!("functions have no names, but for those that were known: {why}")),
    ];
    lacks.into_iter().flatten().collect()
}

fn samples(profile: &Profile) -> Option<String> {
    profile.stacks.is_empty().then(|| match profile.asked_rate_bytes {
        0 => "no samples: none are taken (SLACKWATER_PROFILE_RATE_BYTES=0)".to_string(),
        asked => format!(
            "no samples: one is taken for each {} that is allocated, on average, and that \
             much has not been allocated, or was so in a run that has just begun",
            bytes(asked as f64)
        ),
    })
}

fn stacks(profile: &Profile) -> Option<String> {
    let unknown = share(profile, &|frames| frames.is_empty());
    (unknown >= MIN_SHARE).then(|| {
        let full = if profile.dropped > 0 { ", or the allocator's tables were full" } else { "" };
        format!(
            "{:.0}% of what was allocated has no call stack: there were neither unwind tables (feature \
             `unwind` of the allocator, and glibc 2.35 or later) nor frame pointers \
             (-fno-omit-frame-pointer), or the stack may not be read (a filter of system calls){full}",
            100.0 * unknown
        )
    })
}

/// The sampler had no room to say which module some addresses are in.
fn records_of_modules(profile: &Profile) -> Option<String> {
    let is_unrecorded = |&frame: &u64| remote::split_frame(frame).1 == UNRECORDED_MODULE;
    let unrecorded = share(profile, &|frames| frames.iter().any(is_unrecorded));
    (unrecorded > 0.0).then(|| {
        format!(
            "{:.0}% of what was allocated has functions of libraries beyond those that the allocator has \
             room to remember (1,024 in all, also unloaded ones), as addresses: {UNRECORDED}",
            100.0 * unrecorded
        )
    })
}

fn unloaded_modules(profile: &Profile) -> Option<String> {
    let mut unloaded: Vec<&str> = Vec::new();
    for mapping in profile.modules.mappings().iter().filter(|mapping| mapping.is_unloaded) {
        if !unloaded.contains(&mapping.name()) {
            unloaded.push(mapping.name());
        }
    }
    let more = match unloaded.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    unloaded.truncate(MAX_LISTED);
    (!unloaded.is_empty()).then(|| {
        format!(
            "{}{more} on these stacks: unloaded since; functions there are named from the file of then, if \
             it is still the same build",
            unloaded.join(", ")
        )
    })
}

fn outermost_functions(profile: &Profile) -> Option<String> {
    let cut = share(profile, &|frames| frames.len() >= MAX_FRAMES);
    (cut >= MIN_SHARE).then(|| {
        format!(
            "{:.0}% of what was allocated has stacks of {MAX_FRAMES} functions, and no more are kept: outermost \
             functions may be missing",
            100.0 * cut
        )
    })
}

fn dropped_samples(profile: &Profile) -> Option<String> {
    let dropped = profile.dropped;
    (dropped > 0).then(|| format!("{dropped} samples found no place in the allocator's tables"))
}

/// Samples are taken less often than was asked for.
fn density(profile: &Profile) -> Option<String> {
    let (rate, asked) = (profile.rate_bytes, profile.asked_rate_bytes);
    (rate > asked && asked > 0).then(|| {
        format!(
            "samples are further apart than was asked for ({} instead of {}), as there would be more \
             than SLACKWATER_PROFILE_EPOCH_SAMPLES: sums are right, and less certain",
            bytes(rate as f64),
            bytes(asked as f64)
        )
    })
}

/// How much of what was allocated has such a stack.
fn share(profile: &Profile, is_meant: &dyn Fn(&[u64]) -> bool) -> f64 {
    let (mut all, mut meant) = (0.0, 0.0);
    for stack in &profile.stacks {
        all += stack.allocated.bytes;
        meant += if is_meant(&stack.frames) { stack.allocated.bytes } else { 0.0 };
    }
    if all > 0.0 { meant / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::tests::made_up;
    use super::*;

    #[test]
    fn each_thing_that_is_missing_is_told_with_its_reason() {
        let mut profile = made_up();
        profile.asked_rate_bytes = 512 << 10;
        profile.rate_bytes = 512 << 10;
        profile.dropped = 0;
        profile.stacks.retain(|stack| !stack.frames.is_empty());
        let names = Names::default();
        assert_eq!(lacks(&profile, &names), [""; 0], "nothing is missing");
        let whole = profile.clone();
        let assert_says = |change: fn(&mut Profile), says: &str| {
            let mut profile = whole.clone();
            change(&mut profile);
            let lines = lacks(&profile, &names);
            assert!(lines.len() == 1 && lines[0].contains(says), "{says}: {lines:?}");
        };
        assert_says(|p| p.stacks.clear(), "no samples: one is taken for each 512.0 KiB");
        let none = |p: &mut Profile| {
            p.stacks.clear();
            (p.asked_rate_bytes, p.rate_bytes) = (0, 0);
        };
        assert_says(none, "no samples: none are taken");
        assert_says(|p| p.stacks[0].frames.clear(), "has no call stack");
        let line = "7% has no call stack: there were no tables: none";
        assert_eq!([brief(line), brief("7 samples")], ["7% has no call stack", "7 samples"]);
        assert_says(|p| p.stacks[0].frames = vec![7; MAX_FRAMES], "and no more are kept");
        assert_says(
            |p| p.stacks[0].frames = vec![u64::from(UNRECORDED_MODULE) << 48],
            "beyond those",
        );
        assert_says(|p| p.dropped = 7, "7 samples found no place");
        assert_says(|p| p.rate_bytes = 1 << 20, "(1.0 MiB instead of 512.0 KiB)");
    }
}
