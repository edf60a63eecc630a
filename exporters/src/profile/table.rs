//! A profile as a table of call sites, for terminals.
//!
//! A call site is the innermost function that is neither the allocator's nor Rust's standard
//! library's.

use std::collections::HashMap;
use std::fmt::Write;

use super::folded::{UNKNOWN, call_sites};
use super::frame::Frame;
use super::lacks::lacks;
use super::leaks;
use super::names::Names;
use super::prune::is_standard_library;
use super::{Profile, Weighted};
use crate::figures::amounts::bytes;

/// Call sites that are shown.
const MAX_ROWS: usize = 40;

/// What one call site has.
#[derive(Clone, Copy, Default)]
struct Row {
    live: Weighted,
    allocated: Weighted,
    at_peak: Weighted,
    is_suspect: bool,
}

/// The call sites with the most live bytes (in a window: with the most that was allocated) first.
pub fn render(profile: &Profile, names: &Names, window: Option<f64>) -> String {
    let mut rows: HashMap<Frame, Row> = HashMap::new();
    let mut all = Row::default();
    let suspects = leaks::suspects(profile);
    for (place, stack) in profile.stacks.iter().enumerate() {
        let sites = call_sites(profile, names, &stack.frames);
        let site = sites.iter().find(|site| !is_standard_library(site)).or(sites.first());
        let site = site.cloned();
        let unknown = || Frame { function: UNKNOWN.to_string(), ..Frame::default() };
        let row = rows.entry(site.unwrap_or_else(unknown)).or_default();
        for row in [row, &mut all] {
            row.live += stack.live();
            row.allocated += stack.allocated;
            row.at_peak += stack.at_peak;
            row.is_suspect |= suspects.iter().any(|suspect| suspect.stack == place);
        }
    }
    let mut rows: Vec<(Frame, Row)> = rows.into_iter().collect();
    let weight = |row: &Row| match window {
        None => row.live.bytes,
        Some(_) => row.allocated.bytes,
    };
    rows.sort_by(|(a_site, a), (b_site, b)| {
        let order = weight(b).total_cmp(&weight(a));
        let order = order.then_with(|| b.allocated.bytes.total_cmp(&a.allocated.bytes));
        order.then_with(|| a_site.function.cmp(&b_site.function))
    });
    let mut text = head(profile, names, &all, window);
    let (live, allocated) = match window {
        None => ("live", "allocated"),
        Some(_) => ("live +/-", "alloc/s"),
    };
    let _ = writeln!(
        text,
        "{live:>11} {:>6} {:>9} {allocated:>11} {:>11}  call site",
        "share", "objects", "at peak"
    );
    // In a window, those where nothing happened have nothing to say.
    rows.retain(|(_, row)| window.is_none() || weight(row) != 0.0 || row.live.bytes != 0.0);
    for (site, row) in rows.iter().take(MAX_ROWS) {
        let seconds = window.unwrap_or(1.0).max(f64::MIN_POSITIVE);
        let share = weight(row) / weight(&all);
        let _ = writeln!(
            text,
            "{:>11} {:>6} {:>9} {:>11} {:>11}  {}{}",
            bytes(row.live.bytes),
            if share.is_finite() { format!("{:.1}%", 100.0 * share) } else { "-".to_string() },
            format!("{:.0}", row.live.objects.round() + 0.0),
            bytes(row.allocated.bytes / seconds),
            bytes(row.at_peak.bytes),
            site,
            if row.is_suspect { "  (leak?)" } else { "" },
        );
    }
    if let Some(more) = rows.len().checked_sub(MAX_ROWS).filter(|more| *more > 0) {
        let _ = writeln!(text, "and {more} more");
    }
    text
}

fn head(profile: &Profile, names: &Names, all: &Row, window: Option<f64>) -> String {
    let mut text = match window {
        None => format!(
            "live {}, allocated {} in all",
            bytes(all.live.bytes),
            bytes(all.allocated.bytes)
        ),
        Some(seconds) => format!(
            "in {seconds:.1} s: allocated {}, live {}{}",
            bytes(all.allocated.bytes),
            if all.live.bytes > 0.0 { "+" } else { "" },
            bytes(all.live.bytes)
        ),
    };
    let _ = write!(text, "; {}", profile.basis());
    text.push('\n');
    for line in lacks(profile, names) {
        let _ = writeln!(text, "{line}");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::folded::tests::made_up_names;
    use super::super::tests::made_up;
    use super::*;

    #[test]
    fn call_sites_are_listed_by_what_they_hold() {
        let expected = "\
live 162.6 KiB, allocated 412.6 KiB in all; estimated from 14 samples; now there is one for each 512.0 KiB

       live  share   objects   allocated     at peak  call site
  100.0 KiB  61.5%       100   100.0 KiB    90.0 KiB  <[u8; 16] as app::Keep>::keep /src/keep.rs:7
   62.5 KiB  38.4%      1000   312.5 KiB   125.0 KiB  libx.so.1+0x21
       90 B   0.1%         2       100 B         0 B  [stack unknown]
";
        assert_eq!(render(&made_up(), &made_up_names(), None), expected);
    }

    #[test]
    fn a_window_is_listed_by_what_was_allocated_in_it() {
        let before = made_up();
        let mut after = before.clone();
        after.stacks[1].allocated.bytes += 20_480.0;
        after.stacks[1].freed.bytes += 40_960.0;
        after.dropped = 3;
        let text = render(&after.since(&before), &made_up_names(), Some(2.0));
        let expected = "in 2.0 s: allocated 20.0 KiB, live -20.0 KiB; estimated from 0 samples; \
             now there is one for each 512.0 KiB\n3 samples found no place in the allocator's tables\n\n   \
             live +/-  share";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\n  -20.0 KiB 100.0%         0    10.0 KiB"), "{text}");
    }

    #[test]
    fn a_long_list_ends() {
        let mut profile = made_up();
        let stack = profile.stacks[2].clone();
        profile.stacks =
            (0..50).map(|i| super::super::Stack { frames: vec![8 * i], ..stack.clone() }).collect();
        profile.live.clear();
        let text = render(&profile, &Names::default(), None);
        assert_eq!(text.lines().count(), 3 + MAX_ROWS + 1);
        assert!(text.ends_with("and 10 more\n"), "{text}");
    }
}
