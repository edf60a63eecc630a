//! Where memory comes from, over HTTP: `/debug/pprof/` as Go's programs have it, `/debug/flame/` and
//! `/debug/leaks`.
//!
//! Everything here has a thread of its own while it is made: names are looked up in files, and a
//! window lasts as long as was asked for.

use std::fmt::{Display, Write};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header;

use crate::page;
use crate::profile::legacy;
use crate::profile::names::Names;
use crate::profile::pprof::{self, DefaultType};
use crate::profile::reading::ProfileReading;
use crate::serve::http::{Answer, Caller, HTML, PACKED, Request, Response, TEXT};

/// The longest window. A client waits for as long, and takes one of few places.
const MAX_SECONDS: u64 = 600;

/// The values of `symbolize`, in the words of `pprof`: no names, or those that are known where the process
/// runs.
const SYMBOLIZE: &str = if cfg!(feature = "profiles") {
    "none or local"
} else {
    "none (names take feature `profiles` of slackwater-exporters)"
};

/// Answers a request for a profile of this process; `None`: it is for something else.
pub fn answer(request: &Request) -> Option<Answer> {
    let answer = match request.path() {
        // Its links lead on from there.
        "/debug/pprof" => Ok(Response::moved("pprof/").into()),
        "/debug/pprof/" => {
            let page = Response::ok(HTML, page::PROFILES);
            Ok(page.with_header(header::CONTENT_SECURITY_POLICY, page::PROFILES_POLICY).into())
        }
        "/debug/pprof/heap" => profile(request, DefaultType::InuseSpace),
        "/debug/pprof/allocs" => profile(request, DefaultType::AllocSpace),
        "/debug/pprof/symbol" => Ok(symbol(request)),
        path => named::answer(request, path)?,
    };
    Some(answer.unwrap_or_else(|line| Response::refusal(StatusCode::BAD_REQUEST, line).into()))
}

/// The values that the routes take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ProfileQuery {
    /// Over how long to look.
    window: Option<Duration>,
    /// Text instead of a message.
    is_text: bool,
    /// Addresses instead of names, which are then nobody's to look up here.
    is_bare: bool,
}

impl ProfileQuery {
    /// What the addresses of a reading are called, if that is wanted.
    fn names(&self, reading: &ProfileReading) -> Names {
        if self.is_bare { Names::default() } else { reading.names() }
    }

    /// Reads the values of those names. The error is for who asked: one line.
    fn parse(request: &Request, names: &[&str]) -> Result<ProfileQuery, String> {
        ProfileQuery::read(request.parameters(), names)
    }

    fn read<'a>(
        parameters: impl Iterator<Item = (&'a str, &'a str)>,
        names: &[&str],
    ) -> Result<ProfileQuery, String> {
        let mut query = ProfileQuery::default();
        for (name, value) in parameters {
            match name {
                _ if !names.contains(&name) => {
                    let expected = if names.is_empty() { "nothing" } else { &names.join(", ") };
                    return Err(format!("{name}: expected {expected}"));
                }
                "seconds" => match value.parse() {
                    Ok(seconds @ 1..=MAX_SECONDS) => {
                        query.window = Some(Duration::from_secs(seconds));
                    }
                    _ => {
                        let expected = format!("a whole number from 1 to {MAX_SECONDS}");
                        return Err(format!("seconds={value}: expected {expected}"));
                    }
                },
                "debug" => match value {
                    "0" => query.is_text = false,
                    "1" => query.is_text = true,
                    _ => return Err(format!("debug={value}: expected 0 or 1")),
                },
                "symbolize" => match value {
                    "none" => query.is_bare = true,
                    "local" if cfg!(feature = "profiles") => query.is_bare = false,
                    _ => return Err(format!("symbolize={value}: expected {SYMBOLIZE}")),
                },
                // Go collects garbage first, if it is 1. There is none here.
                _ => {}
            }
        }
        Ok(query)
    }
}

fn later(make: impl FnOnce(&Caller) -> Result<Response, String> + Send + 'static) -> Answer {
    Answer::Later(Box::new(move |caller| {
        let refuse = |line| Response::refusal(StatusCode::INTERNAL_SERVER_ERROR, line);
        make(caller).unwrap_or_else(refuse)
    }))
}

/// The process now, and before the window if there is one. A window ends with its client.
fn look(
    window: Option<Duration>,
    caller: &Caller,
) -> Result<(Option<ProfileReading>, ProfileReading), String> {
    let read = || ProfileReading::of_this_process().map_err(unreadable);
    let before = match window {
        None => None,
        Some(window) => {
            let before = read()?;
            if !caller.wait(window) {
                return Err("the client did not wait for the end of the window".to_string());
            }
            Some(before)
        }
    };
    Ok((before, read()?))
}

/// What is said where a heap cannot be read.
pub(super) fn unreadable(error: impl Display) -> String {
    format!("the heap cannot be read: {error}")
}

fn profile(request: &Request, default: DefaultType) -> Result<Answer, String> {
    let query = ProfileQuery::parse(request, &["seconds", "debug", "gc", "symbolize"])?;
    Ok(later(move |caller| {
        let (before, after) = look(query.window, caller)?;
        let names = query.names(&after);
        let (profile, seconds) = after.since(before.as_ref());
        if query.is_text {
            return Ok(Response::ok(TEXT, legacy::render(&profile, &names)));
        }
        let message = pprof::render(&profile, &names, default, seconds);
        let name = match default {
            DefaultType::InuseSpace => "attachment; filename=\"heap.pb.gz\"",
            DefaultType::AllocSpace => "attachment; filename=\"allocs.pb.gz\"",
        };
        Ok(Response::ok(PACKED, message).with_header(header::CONTENT_DISPOSITION, name))
    }))
}

/// Names of functions for addresses, as `pprof` asks for them: separated by `+`, in the query or in
/// the body of a POST request.
fn symbol(request: &Request) -> Answer {
    if request.is_post() {
        return Answer::ToBody(Box::new(|body| symbols(&String::from_utf8_lossy(body))));
    }
    let addresses = request.query().to_string();
    Answer::Later(Box::new(move |_| symbols(&addresses)))
}

fn symbols(addresses: &str) -> Response {
    // That there are any is all that is said of how many.
    let mut text = format!("num_symbols: {}\n", u8::from(cfg!(feature = "profiles")));
    let mut numbers = Vec::new();
    for address in addresses.trim().split('+').filter(|address| !address.is_empty()) {
        let digits = address.strip_prefix("0x").unwrap_or(address);
        match u64::from_str_radix(digits, 16) {
            Ok(number) => numbers.push(number),
            Err(_) => {
                let shown: String = address.chars().take(40).collect();
                let line = format!("{shown}: expected addresses like 0x4010f3+0x401123");
                return Response::refusal(StatusCode::BAD_REQUEST, line);
            }
        }
    }
    if numbers.is_empty() {
        return Response::ok(TEXT, text);
    }
    // It knows of unloaded modules, too.
    let modules = match ProfileReading::of_this_process() {
        Ok(reading) => reading.profile.modules,
        Err(error) => {
            return Response::refusal(StatusCode::INTERNAL_SERVER_ERROR, unreadable(error));
        }
    };
    // They are those of calls; names are looked up by where calls return to.
    let returns: Vec<u64> = numbers.iter().map(|number| number.wrapping_add(1)).collect();
    let names = Names::find(&modules, &returns);
    for (number, address) in numbers.iter().zip(returns) {
        // What was inlined there has no place in this format.
        let function = names.get(address).and_then(|frames| frames.last());
        if let Some(frame) = function {
            let _ = writeln!(text, "{number:#x} {}", frame.function);
        }
    }
    Response::ok(TEXT, text)
}

/// What is of no use without names: pictures and suspects.
#[cfg(feature = "profiles")]
mod named {
    use super::*;
    use crate::kernel::process;
    use crate::profile::kind::Kind;
    use crate::profile::{flamegraph, leaks};

    /// What a picture may do: run the script that is in it, to be searched and zoomed.
    const PICTURE_POLICY: &str =
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'";

    pub fn answer(request: &Request, path: &str) -> Option<Result<Answer, String>> {
        if path == "/debug/leaks" {
            let query = ProfileQuery::parse(request, &["symbolize"]);
            return Some(query.map(|query| later(move |caller| suspects(query, caller))));
        }
        let kind = path.strip_prefix("/debug/flame/")?.strip_suffix(".svg")?;
        kind.parse().ok().map(|kind| flame(request, kind))
    }

    fn flame(request: &Request, kind: Kind) -> Result<Answer, String> {
        let query = ProfileQuery::parse(request, &["seconds", "symbolize"])?;
        Ok(later(move |caller| {
            let (before, after) = look(query.window, caller)?;
            let has_names = kind.has_stacks();
            let names = if has_names { query.names(&after) } else { Names::default() };
            let own = std::process::id();
            let whose = process::name_of(&process::comm(own), own);
            let picture = flamegraph::draw(kind, &whose, before.as_ref(), &after, &names);
            let picture = picture.map_err(|error| format!("it cannot be drawn: {error}"))?;
            Ok(Response::ok("image/svg+xml", picture)
                .with_header(header::CONTENT_SECURITY_POLICY, PICTURE_POLICY))
        }))
    }

    fn suspects(query: ProfileQuery, caller: &Caller) -> Result<Response, String> {
        let (_, reading) = look(None, caller)?;
        let names = query.names(&reading);
        Ok(Response::ok(TEXT, leaks::render(&reading.profile, &names)))
    }
}

/// Without the feature that looks names up: says so.
#[cfg(not(feature = "profiles"))]
mod named {
    use super::*;

    pub fn answer(_: &Request, path: &str) -> Option<Result<Answer, String>> {
        let is_named = path == "/debug/leaks" || path.starts_with("/debug/flame/");
        is_named.then(|| {
            let line = format!("{path}: expected feature `profiles` of slackwater-exporters");
            Ok(Response::refusal(StatusCode::NOT_IMPLEMENTED, line).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str, names: &[&str]) -> Result<ProfileQuery, String> {
        let parameters = query.split('&').filter(|one| !one.is_empty());
        ProfileQuery::read(parameters.map(|one| one.split_once('=').unwrap_or((one, ""))), names)
    }

    #[test]
    fn queries_are_read_strictly() {
        let names = ["seconds", "debug", "gc", "symbolize"];
        assert_eq!(read("", &names), Ok(ProfileQuery::default()));
        let window = Some(Duration::from_secs(5));
        let query = read("gc=1&seconds=5&debug=1", &names);
        assert_eq!(query, Ok(ProfileQuery { window, is_text: true, is_bare: false }));
        assert!(read("symbolize=none", &names).is_ok_and(|query| query.is_bare));
        let local = read("symbolize=local", &names);
        if cfg!(feature = "profiles") {
            assert_eq!(local, Ok(ProfileQuery::default()));
        } else {
            assert!(local.is_err_and(|line| line.contains("feature `profiles`")));
        }
        for (query, line) in [
            ("seconds=0", "seconds=0: expected a whole number from 1 to 600"),
            ("seconds=601", "seconds=601: expected a whole number from 1 to 600"),
            ("seconds=1.5", "seconds=1.5: expected a whole number from 1 to 600"),
            ("seconds", "seconds=: expected a whole number from 1 to 600"),
            ("debug=2", "debug=2: expected 0 or 1"),
            ("second=5", "second: expected seconds, debug, gc, symbolize"),
        ] {
            assert_eq!(read(query, &names), Err(line.to_string()));
        }
        for value in ["", "remote", "NONE"] {
            let line = read(&format!("symbolize={value}"), &names).expect_err("no such value");
            assert!(line.starts_with(&format!("symbolize={value}: expected none")), "{line}");
        }
        assert_eq!(read("x=1", &[]), Err("x: expected nothing".to_string()));
    }
}
