//! `slackwater export`: one `/metrics` for all processes of the host.

use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};

use slackwater_exporters::endpoint;
use slackwater_exporters::exposition::Source;
use slackwater_exporters::fleet::Fleet;
use slackwater_exporters::http::{self, Answer, Request, Response, StatusCode};

use super::arguments::ExportArguments;
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
    raise_descriptor_limit();
    let mut fleet = Fleet::default();
    let (_, figures) = fleet.look();
    let fleet = Mutex::new(fleet);
    let address = http::serve(&arguments.listen, move |request| answer(request, &fleet))
        .map_err(|error| Failure::not_listening(&arguments.listen, &error))?;
    let refused = match figures.refused {
        0 => String::new(),
        refused => {
            format!("; {refused} may not be read, which takes the capability CAP_SYS_PTRACE")
        }
    };
    output::print(&format!(
        "slackwater export: {}\n  {} processes have a heap of Slackwater's, this one included{refused}\n",
        output::place(&address, "/metrics"),
        figures.read
    ))?;
    // The handler lives as long as the process.
    let _ = stop.recv();
    Ok(())
}

/// Each process that is read takes a descriptor, and the clients take some: as many as may be had.
/// Where that fails, the processes beyond the limit are among those that could not be read.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for one.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
}

fn answer(request: &Request, fleet: &Mutex<Fleet>) -> Answer {
    match request.path() {
        "/metrics" => {
            // A look that panicked has left nothing half done that the next one does not put right.
            let (seen, _) = fleet.lock().unwrap_or_else(PoisonError::into_inner).look();
            let sources: Vec<Source<'_>> = seen
                .iter()
                .map(|seen| Source { labels: &seen.labels, sample: &seen.sample })
                .collect();
            endpoint::metrics(request, &sources).into()
        }
        path => {
            let line = format!("{path}: expected /metrics");
            Response::refusal(StatusCode::NOT_FOUND, line).into()
        }
    }
}
