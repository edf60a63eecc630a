//! The terminal while it belongs to us, and its return on every way out.

use std::io::{self, Stdout, Write, stdout};
use std::mem::{self, ManuallyDrop};
use std::panic;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

use super::screen;
use super::view::View;

/// A full screen of our own. Dropped, it gives the terminal back as it was.
///
/// What is inside is not: it would only show the cursor, and panic where the terminal is gone.
pub struct Screen(ManuallyDrop<ratatui::Terminal<CrosstermBackend<Stdout>>>);

/// Gives the terminal back when dropped, whatever has been taken of it by then.
struct Taken;

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// What fails here has no terminal any more to be told about.
fn give_back() {
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
    let _ = stdout().flush();
}

impl Screen {
    /// Takes the terminal.
    pub fn take() -> io::Result<Screen> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // Before the message, so that it can be read; and nothing is dropped after an abort.
            give_back();
            before(info);
        }));
        enable_raw_mode()?;
        let taken = Taken;
        execute!(stdout(), EnterAlternateScreen, Hide)?;
        let terminal = ratatui::Terminal::new(CrosstermBackend::new(stdout()))?;
        mem::forget(taken);
        Ok(Screen(ManuallyDrop::new(terminal)))
    }

    /// Shows the view.
    pub fn show(&mut self, view: &View) -> io::Result<()> {
        self.0.draw(|frame| screen::draw(frame, view))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}
