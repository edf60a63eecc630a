//! `slackwater top`: a process, watched.

mod bars;
mod keys;
mod panel;
mod plain;
mod screen;
mod size_classes;
mod terminal;
mod view;

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use serde_json::{Map, Value};
use slackwater_exporters::Observation;
use slackwater_exporters::attach::Target;
use slackwater_exporters::json;

use super::arguments::TopArguments;
use super::failure::Failure;
use super::figures;
use super::output;
use super::signals;
use keys::Meaning;
use terminal::Screen;
use view::View;

/// Watches a process until the user, or the process, has had enough.
pub fn top(arguments: &TopArguments) -> Result<(), Failure> {
    let needs_terminal = !arguments.once && !arguments.json;
    if needs_terminal && !io::stdout().is_terminal() {
        return Err(Failure::bad_input(
            "standard output is not a terminal; expected one, or --once or --json",
        ));
    }
    let mut target = Target::open(arguments.process).map_err(Failure::not_opened)?;
    if arguments.json {
        objects(&mut target, arguments)
    } else if arguments.once {
        one_view(&mut target, arguments)
    } else {
        full_screen(&mut target, arguments)
    }
}

fn look(target: &mut Target) -> Result<Observation, Failure> {
    target.observe().map_err(Failure::not_read)
}

/// One JSON object a line for each observation.
fn objects(target: &mut Target, arguments: &TopArguments) -> Result<(), Failure> {
    loop {
        let observation = look(target)?;
        let mut object = Map::new();
        object.insert("pid".to_string(), target.pid().into());
        object.insert("comm".to_string(), target.comm().into());
        object.insert("time".to_string(), figures::now().into());
        object.extend(json::figures(&observation));
        let is_read = output::print_on(&format!("{}\n", Value::Object(object)))?;
        if arguments.once || !is_read {
            return Ok(());
        }
        thread::sleep(arguments.interval);
    }
}

/// One view as text, with rates over one interval.
fn one_view(target: &mut Target, arguments: &TopArguments) -> Result<(), Failure> {
    let (mut view, begin) = begin(target, arguments)?;
    thread::sleep(arguments.interval);
    view.add(look(target)?, begin.elapsed());
    output::print(&plain::text(&view))
}

fn begin(target: &mut Target, arguments: &TopArguments) -> Result<(View, Instant), Failure> {
    let observation = look(target)?;
    let mut name = target.name();
    if !target.container().is_empty() {
        name += &format!(" in {}", target.container());
    }
    Ok((View::new(name, arguments.interval, observation), Instant::now()))
}

/// What can happen while a view is on the screen.
enum Input {
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    /// A signal asks for the end.
    Stop,
    /// The terminal cannot be read any more.
    Lost(io::Error),
}

fn full_screen(target: &mut Target, arguments: &TopArguments) -> Result<(), Failure> {
    let (tell, messages) = mpsc::channel();
    let tell_stop = tell.clone();
    signals::on_stop(move || {
        // Nobody listens any more when the view is already on its way out.
        let _ = tell_stop.send(Input::Stop);
    })?;
    let (view, begin) = begin(target, arguments)?;
    let screen = Screen::take().map_err(terminal_failure)?;
    // Not joined: it may wait for a key for ever, and ends with the process.
    thread::spawn(move || forward_events(&tell));
    watch(target, view, begin, screen, &messages)
}

fn terminal_failure(error: io::Error) -> Failure {
    Failure::broken(format_args!("terminal: {error}"))
}

/// The screen is dropped, and with that given back, before anybody reads what this returns.
fn watch(
    target: &mut Target,
    mut view: View,
    begin: Instant,
    mut screen: Screen,
    messages: &Receiver<Input>,
) -> Result<(), Failure> {
    let mut last = begin;
    loop {
        screen.show(&view).map_err(terminal_failure)?;
        let until_next = (last + view.interval).saturating_duration_since(Instant::now());
        match messages.recv_timeout(until_next) {
            Ok(Input::Key(key)) => match keys::meaning(key) {
                Meaning::Quit => return Ok(()),
                Meaning::Do(action) => view.apply(action),
                Meaning::Nothing => {}
            },
            Ok(Input::Resized) => {}
            Ok(Input::Stop) => return Ok(()),
            Ok(Input::Lost(error)) => return Err(terminal_failure(error)),
            Err(RecvTimeoutError::Timeout) => {
                last = Instant::now();
                if !view.is_paused {
                    view.add(look(target)?, last - begin);
                }
            }
            Err(RecvTimeoutError::Disconnected) => unreachable!("the signal handler can tell"),
        }
    }
}

fn forward_events(tell: &Sender<Input>) {
    loop {
        let message = match event::read() {
            Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => Input::Key(key),
            Ok(Event::Resize(..)) => Input::Resized,
            Ok(_) => continue,
            Err(error) => Input::Lost(error),
        };
        let is_lost = matches!(message, Input::Lost(_));
        if tell.send(message).is_err() || is_lost {
            return;
        }
    }
}
