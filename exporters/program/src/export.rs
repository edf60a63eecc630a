//! `slackwater export`: one `/metrics` for all processes of the host.

use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};

use glob::Pattern;
use slackwater_exporters::attach;
use slackwater_exporters::endpoint;
use slackwater_exporters::exposition::Source;
use slackwater_exporters::fleet::{Fleet, Seen};
use slackwater_exporters::groups::Groups;
use slackwater_exporters::http::{self, Answer, Request, Response, StatusCode};
use slackwater_exporters::process::ProcessMemory;

use super::arguments::{By, ExportArguments};
use super::descriptors;
use super::failure::Failure;
use super::output;
use super::signals;

/// Serves until a signal.
pub fn export(arguments: &ExportArguments) -> Result<(), Failure> {
    let (tell, stop) = mpsc::channel();
    signals::on_stop(move || {
        // Nobody listens any more when the program is already on its way out.
        let _ = tell.send(());
    })?;
    descriptors::raise_limit();
    let mut host = Host::new(arguments);
    let (_, figures) = host.fleet.look();
    let host = Mutex::new(host);
    let server = http::serve(&arguments.listen, move |request| answer(request, &host))
        .map_err(|error| Failure::not_listening(&arguments.listen, &error))?;
    let refused = match figures.refused {
        0 => String::new(),
        refused => {
            format!("; {refused} may not be read, which takes the capability CAP_SYS_PTRACE")
        }
    };
    output::print(&format!(
        "slackwater export: {}\n  {} processes have a heap of Slackwater's, this one included{refused}\n",
        output::place(server.address(), "/metrics"),
        figures.read
    ))?;
    // The handler lives as long as the process.
    let _ = stop.recv();
    Ok(())
}

/// The processes, and what is known of them between scrapes.
struct Host {
    fleet: Fleet,
    by: By,
    groups: Groups,
}

impl Host {
    fn new(arguments: &ExportArguments) -> Host {
        let (matching, except) = (arguments.matching.clone(), arguments.except.clone());
        let min_rss = arguments.min_rss;
        let fleet = Fleet::only(move |process, comm| {
            let is_named = |patterns: &[Pattern]| patterns.iter().any(|one| one.matches(comm));
            let is_large =
                |size| ProcessMemory::of(process).is_some_and(|memory| memory.peak_bytes >= size);
            (matching.is_empty() || is_named(&matching))
                && !is_named(&except)
                && min_rss.is_none_or(is_large)
        });
        Host { fleet, by: arguments.by, groups: Groups::default() }
    }

    /// All processes that are wanted, each for itself or together.
    fn metrics(&mut self, request: &Request) -> Response {
        let (seen, _) = self.fleet.look();
        let (label, name): (_, fn(&Seen) -> &str) = match self.by {
            By::Pid => {
                let sources: Vec<Source<'_>> = seen
                    .iter()
                    .map(|seen| Source { labels: &seen.labels, figures: &seen.observation })
                    .collect();
                return endpoint::metrics(request, &sources);
            }
            By::Comm => ("comm", |seen| seen.comm()),
            By::Cgroup => ("cgroup", |seen| &seen.cgroup),
            By::Unit => ("unit", |seen| unit_of(&seen.cgroup)),
        };
        let named =
            seen.iter().map(|seen| (seen.identity, name(seen).to_string(), &seen.observation));
        let is_there = |(process, started)| attach::start_time(process) == Some(started);
        let groups = self.groups.combine(named, is_there);
        let labels: Vec<_> = groups.iter().map(|group| [(label, group.name.clone())]).collect();
        let sources: Vec<Source<'_>> = groups
            .iter()
            .zip(&labels)
            .map(|(group, labels)| Source { labels, figures: group })
            .collect();
        endpoint::metrics(request, &sources)
    }
}

/// The innermost unit of systemd that a control group's path names, or nothing.
fn unit_of(cgroup: &str) -> &str {
    let is_unit = |name: &&str| [".service", ".scope"].iter().any(|kind| name.ends_with(kind));
    cgroup.rsplit('/').find(is_unit).unwrap_or_default()
}

fn answer(request: &Request, host: &Mutex<Host>) -> Answer {
    match request.path() {
        "/metrics" => {
            // A look that panicked has left nothing half done that the next one does not put right.
            host.lock().unwrap_or_else(PoisonError::into_inner).metrics(request).into()
        }
        path => {
            let line = format!("{path}: expected /metrics");
            Response::refusal(StatusCode::NOT_FOUND, line).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_named_by_paths() {
        for (cgroup, unit) in [
            ("/system.slice/redis.service", "redis.service"),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/a.scope/x", "a.scope"),
            ("/kubepods/pod1/0123", ""),
            ("/", ""),
            ("", ""),
        ] {
            assert_eq!(unit_of(cgroup), unit, "{cgroup}");
        }
    }
}
