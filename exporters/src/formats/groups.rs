//! Processes taken together: the figures of all that have something in common (a name, a unit), as if
//! they were one.
//!
//! A host that runs a short worker a thousand times an hour would otherwise have a thousand sets of
//! series. What a group's value is depends on what is counted:
//!
//! - counters and histograms are summed, and what a process had counted stays in its group's sum when
//!   it has ended or has executed another program, so that sums never go back;
//! - sizes are summed over the processes that are there;
//! - what cannot be summed is the largest of the group: ages and states;
//! - the figures of a control group, which several processes share, are those of one of them: of the one
//!   that is nearest to its limit, so that use and limit belong together.
//!
//! A group without a process has no series. Its sums are kept, for the next one of its name, and of the
//! last `MAX_KEPT` such groups.

use std::collections::{BTreeMap, BTreeSet};

use slackwater::snapshot::Histogram;

use crate::figures::families::{FAMILIES, Family, LabelValue, Put, Read};
use crate::figures::observation::Observation;
use crate::formats::exposition::Figures;

/// Groups without a process whose sums are kept.
const MAX_KEPT: usize = 1024;

/// A process: its number, and when it was started.
pub type Identity = (u32, u64);

/// What is known of groups between one look and the next.
///
/// # Invariants
///
/// - What a process counted is in its member's figures or in its group's `ended`, never in both.
#[derive(Default)]
pub struct Groups {
    members: BTreeMap<Identity, Member>,
    kept: BTreeMap<String, Kept>,
    looks: u64,
}

struct Member {
    group: String,
    counted: Counted,
}

/// What a group's processes had counted when they ended.
#[derive(Default)]
struct Kept {
    ended: Counted,
    /// The last look at which it had a process.
    last_look: u64,
}

/// A series: the place of its family in the table, and its labels.
type Key = (usize, Vec<LabelValue>);

/// What only grows.
#[derive(Clone, Default)]
struct Counted {
    numbers: BTreeMap<Key, f64>,
    histograms: BTreeMap<Key, Histogram>,
}

/// One group's figures.
pub struct Group {
    /// What its processes have in common.
    pub name: String,
    numbers: BTreeMap<Key, f64>,
    histograms: BTreeMap<Key, Histogram>,
}

impl Groups {
    /// Takes a look at processes together, each with the name of its group. Groups come back in the
    /// order of their names. `is_there` says whether a process that is not among them, but was before,
    /// only could not be read this time.
    pub fn combine<'a>(
        &mut self,
        seen: impl IntoIterator<Item = (Identity, String, &'a Observation)>,
        is_there: impl Fn(Identity) -> bool,
    ) -> Vec<Group> {
        self.looks += 1;
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        let mut nearest: BTreeMap<String, &Observation> = BTreeMap::new();
        let mut read = BTreeSet::new();
        for (identity, name, observation) in seen {
            read.insert(identity);
            let group = groups.entry(name.clone()).or_insert_with(|| Group::new(name.clone()));
            group.add_levels(observation);
            let so_far = nearest.entry(name.clone()).or_insert(observation);
            if pressure(observation) > pressure(so_far) {
                *so_far = observation;
            }
            self.count(identity, name, Counted::read(observation));
        }
        for (name, observation) in nearest {
            if let Some(group) = groups.get_mut(&name) {
                group.add_of_control_group(observation);
            }
        }
        let is_gone = |one: &Identity| !read.contains(one) && !is_there(*one);
        let gone: Vec<_> = self.members.keys().copied().filter(is_gone).collect();
        for identity in gone {
            self.end(identity);
        }
        for member in self.members.values() {
            if let Some(group) = groups.get_mut(&member.group) {
                group.add_counted(&member.counted);
            }
        }
        for (name, group) in &mut groups {
            let kept = self.kept.entry(name.clone()).or_default();
            kept.last_look = self.looks;
            group.add_counted(&kept.ended);
            group.keep_largest(&mut kept.ended);
        }
        self.forget();
        groups.into_values().collect()
    }

    fn count(&mut self, identity: Identity, group: String, counted: Counted) {
        let is_another =
            |member: &Member| member.group != group || !counted.follows(&member.counted);
        if self.members.get(&identity).is_some_and(is_another) {
            self.end(identity);
        }
        self.members.insert(identity, Member { group, counted });
    }

    /// A process is no more, or is another program: what it counted is its group's.
    fn end(&mut self, identity: Identity) {
        if let Some(member) = self.members.remove(&identity) {
            self.kept.entry(member.group).or_default().ended.add(&member.counted);
        }
    }

    /// Lets go of the groups that have been without a process for longest.
    fn forget(&mut self) {
        let is_empty = |kept: &Kept| kept.last_look != self.looks;
        let mut empty: Vec<_> = self.kept.iter().filter(|(_, kept)| is_empty(kept)).collect();
        if empty.len() <= MAX_KEPT {
            return;
        }
        empty.sort_by_key(|(_, kept)| kept.last_look);
        let oldest = empty.iter().take(empty.len() - MAX_KEPT);
        for name in oldest.map(|(name, _)| name.to_string()).collect::<Vec<_>>() {
            self.kept.remove(&name);
        }
    }
}

impl Counted {
    fn read(observation: &Observation) -> Counted {
        let mut counted = Counted::default();
        for (place, family) in FAMILIES.iter().enumerate() {
            if is_counter(family) && sums(family) {
                family.series(observation, &mut |labels, value| {
                    counted.numbers.insert((place, labels.to_vec()), value);
                });
            }
            family.histograms(observation, &mut |labels, histogram| {
                counted.histograms.insert((place, labels.to_vec()), histogram);
            });
        }
        counted
    }

    /// Whether it may be what became of `earlier`: nothing has gone back.
    fn follows(&self, earlier: &Counted) -> bool {
        let mut series = earlier.numbers.iter();
        series.all(|(key, before)| self.numbers.get(key).is_none_or(|now| now >= before))
    }

    fn add(&mut self, more: &Counted) {
        for (key, value) in &more.numbers {
            *self.numbers.entry(key.clone()).or_default() += value;
        }
        for (key, histogram) in &more.histograms {
            add_histogram(&mut self.histograms, key, histogram);
        }
    }
}

impl Group {
    fn new(name: String) -> Group {
        Group { name, numbers: BTreeMap::new(), histograms: BTreeMap::new() }
    }

    /// What is there now, and what cannot be summed.
    fn add_levels(&mut self, observation: &Observation) {
        for (place, family) in FAMILIES.iter().enumerate() {
            if is_counter(family) && sums(family) || is_of_control_group(family) {
                continue;
            }
            family.series(observation, &mut |labels, value| {
                let entry = self.numbers.entry((place, labels.to_vec()));
                let together = if sums(family) { |a: f64, b| a + b } else { f64::max };
                entry.and_modify(|so_far| *so_far = together(*so_far, value)).or_insert(value);
            });
        }
    }

    fn add_of_control_group(&mut self, observation: &Observation) {
        for (place, family) in FAMILIES.iter().enumerate() {
            if is_of_control_group(family) {
                family.series(observation, &mut |labels, value| {
                    self.numbers.insert((place, labels.to_vec()), value);
                });
            }
        }
    }

    fn add_counted(&mut self, counted: &Counted) {
        for (key, value) in &counted.numbers {
            let entry = self.numbers.entry(key.clone());
            let together = if sums(&FAMILIES[key.0]) { |a: f64, b| a + b } else { f64::max };
            entry.and_modify(|so_far| *so_far = together(*so_far, *value)).or_insert(*value);
        }
        for (key, histogram) in &counted.histograms {
            add_histogram(&mut self.histograms, key, histogram);
        }
    }

    /// A counter that is no sum would go back when the process with the largest ends: what it was is
    /// kept.
    fn keep_largest(&self, ended: &mut Counted) {
        for (key, value) in &self.numbers {
            let family = &FAMILIES[key.0];
            if is_counter(family) && !sums(family) {
                ended.numbers.insert(key.clone(), *value);
            }
        }
    }
}

impl Figures for Group {
    fn series(&self, family: &'static Family, put: Put<'_, f64>) {
        each(&self.numbers, family, |labels, value| put(labels, *value));
    }

    fn histograms(&self, family: &'static Family, put: Put<'_, Histogram>) {
        each(&self.histograms, family, |labels, value| put(labels, *value));
    }
}

fn each<T>(series: &BTreeMap<Key, T>, family: &Family, mut put: impl FnMut(&[LabelValue], &T)) {
    let place = FAMILIES.iter().position(|one| one.name == family.name);
    let Some(place) = place else { return };
    for ((_, labels), value) in series.range((place, Vec::new())..(place + 1, Vec::new())) {
        put(labels, value);
    }
}

fn add_histogram(to: &mut BTreeMap<Key, Histogram>, key: &Key, more: &Histogram) {
    let Some(sum) = to.get_mut(key) else {
        to.insert(key.clone(), *more);
        return;
    };
    for (count, more) in sum.counts.iter_mut().zip(more.counts) {
        *count = count.saturating_add(more);
    }
    sum.sum += more.sum;
}

fn is_counter(family: &Family) -> bool {
    matches!(family.read, Read::Counter(_) | Read::Seconds(_))
}

fn is_of_control_group(family: &Family) -> bool {
    family.name.starts_with("cgroup_")
}

/// How near a process is to the limit of its control group: what is needed of it, as a share. Without a
/// limit it is not near at all.
fn pressure(observation: &Observation) -> f64 {
    let share = |need: Option<u64>, limit: Option<u64>| match (need, limit) {
        (Some(need), Some(limit)) => need as f64 / limit.max(1) as f64,
        _ => -1.0,
    };
    let Some(cgroup) = &observation.cgroup else { return -2.0 };
    let hard = share(cgroup.need_bytes, cgroup.limit_bytes);
    hard.max(share(cgroup.high_need_bytes, cgroup.high_bytes))
}

/// Whether what several processes have of it may be added up. What a control group has is not each
/// process's own; an age, a rate or a state is none of many. Of the build's version there are as many as
/// there are processes.
fn sums(family: &Family) -> bool {
    let is_state = family.unit.is_none() && family.name != "build_info";
    let is_of_one = is_of_control_group(family)
        || family.name.ends_with("_age_seconds")
        || family.name == "profile_rate_bytes";
    !is_state && !is_of_one
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::exposition::{Format, Source, render};
    use crate::kernel::cgroup::CgroupMemory;

    fn observation(frees: u64, threads: u64) -> Observation {
        let mut observation = Observation::take();
        observation.snapshot.frees_total = frees;
        observation.snapshot.threads = threads;
        observation
    }

    /// Who is not read has ended.
    fn gone(_: Identity) -> bool {
        false
    }

    fn value(groups: &[Group], name: &str, series: &str) -> Option<f64> {
        let group = groups.iter().find(|group| group.name == name)?;
        let text = render(Format::Prometheus, &[Source { labels: &[], figures: group }]);
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    #[test]
    fn what_was_counted_stays_when_processes_end_and_sizes_do_not() {
        let mut groups = Groups::default();
        let (a, b) = (observation(5, 2), observation(7, 3));
        let name = || "worker".to_string();
        let found = groups.combine([((1, 10), name(), &a), ((2, 10), name(), &b)], gone);
        assert_eq!(found.len(), 1);
        assert_eq!(value(&found, "worker", "slackwater_frees_total"), Some(12.0));
        assert_eq!(value(&found, "worker", "slackwater_threads"), Some(5.0));

        let b = observation(9, 3);
        let found = groups.combine([((2, 10), name(), &b)], gone);
        assert_eq!(value(&found, "worker", "slackwater_frees_total"), Some(14.0));
        assert_eq!(value(&found, "worker", "slackwater_threads"), Some(3.0));

        // Another process of the same number, and one that executed another program.
        let (new, again) = (observation(1, 1), observation(2, 1));
        let found = groups.combine([((2, 11), name(), &new)], gone);
        assert_eq!(value(&found, "worker", "slackwater_frees_total"), Some(15.0));
        let found = groups.combine([((2, 11), "other".into(), &again)], gone);
        assert_eq!(value(&found, "other", "slackwater_frees_total"), Some(2.0));
        assert_eq!(value(&found, "worker", "slackwater_frees_total"), None);
        let zero = observation(0, 1);
        let found = groups.combine([((2, 11), "other".into(), &zero)], gone);
        assert_eq!(value(&found, "other", "slackwater_frees_total"), Some(2.0));

        let found = groups.combine([((3, 12), name(), &zero)], gone);
        assert_eq!(value(&found, "worker", "slackwater_frees_total"), Some(15.0));

        // One that could not be read this time is not counted twice.
        let found = groups.combine([((3, 12), name(), &a), ((4, 13), name(), &a)], gone);
        assert_eq!(value(&found, "worker", "slackwater_frees_total"), Some(25.0));
        let found = groups.combine([((4, 13), name(), &a)], |one| one == (3, 12));
        assert_eq!(value(&found, "worker", "slackwater_frees_total"), Some(25.0));
        assert_eq!(value(&found, "worker", "slackwater_threads"), Some(2.0));
        let found = groups.combine([((3, 12), name(), &a), ((4, 13), name(), &a)], gone);
        assert_eq!(value(&found, "worker", "slackwater_frees_total"), Some(25.0));
    }

    #[test]
    fn what_is_shared_or_a_state_is_not_added_up() {
        let limited = |seconds| {
            let mut observation = observation(1, 1);
            observation.cgroup = Some(CgroupMemory {
                limit_bytes: Some(1000),
                pressure_seconds: Some(seconds),
                ..CgroupMemory::default()
            });
            observation.snapshot.release_oldest_age_seconds = seconds;
            observation
        };
        let (a, b) = (limited(4.0), limited(3.0));
        let mut groups = Groups::default();
        let name = || "worker".to_string();
        let found = groups.combine([((1, 1), name(), &a), ((2, 1), name(), &b)], gone);
        for (series, expected) in [
            ("slackwater_cgroup_limit_bytes", 1000.0),
            ("slackwater_cgroup_pressure_seconds_total", 4.0),
            ("slackwater_release_oldest_age_seconds", 4.0),
        ] {
            assert_eq!(value(&found, "worker", series), Some(expected), "{series}");
        }
        let found = groups.combine([((2, 1), name(), &b)], gone);
        let series = "slackwater_cgroup_pressure_seconds_total";
        assert_eq!(value(&found, "worker", series), Some(4.0), "a counter does not go back");
        assert_eq!(value(&found, "worker", "slackwater_release_oldest_age_seconds"), Some(3.0));
        let build = concat!("slackwater_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
        assert_eq!(value(&found, "worker", build), Some(1.0));
    }

    /// Use and limit are of one control group, and of the one that is nearest to its limit.
    #[test]
    fn figures_of_control_groups_belong_together() {
        let within = |need, limit| {
            let mut observation = observation(1, 1);
            observation.cgroup = Some(CgroupMemory {
                need_bytes: Some(need),
                limit_bytes: limit,
                ..CgroupMemory::default()
            });
            observation
        };
        let (free, near, far) =
            (within(10_000, None), within(900, Some(1000)), within(100, Some(4000)));
        for order in [[&free, &near, &far], [&far, &free, &near], [&near, &far, &free]] {
            let seen = order
                .into_iter()
                .zip(0..)
                .map(|(observation, n)| ((n, 1), "a".into(), observation));
            let found = Groups::default().combine(seen, gone);
            assert_eq!(value(&found, "a", "slackwater_cgroup_need_bytes"), Some(900.0));
            assert_eq!(value(&found, "a", "slackwater_cgroup_limit_bytes"), Some(1000.0));
        }
    }

    #[test]
    fn groups_that_are_gone_are_kept_up_to_a_bound() {
        let mut groups = Groups::default();
        let observation = observation(1, 1);
        for number in 0..2 * MAX_KEPT as u32 {
            groups.combine([((number, 1), number.to_string(), &observation)], gone);
        }
        assert_eq!(groups.kept.len(), MAX_KEPT + 1);
        assert_eq!(groups.members.len(), 1);
        assert!(!groups.kept.contains_key("0"));
    }
}
