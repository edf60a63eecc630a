//! What each key does.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sort by the next column.
    NextColumn,
    /// Sort the other way round.
    Reverse,
    /// Stop taking observations, or go on.
    Pause,
    /// Samples farther apart.
    Slower,
    /// Samples closer together.
    Faster,
    /// Mark the next panel.
    NextPanel,
    /// Mark the one before.
    PreviousPanel,
    /// Move in the table of size classes.
    Scroll(isize),
    /// Explain the keys, or stop.
    Help,
    /// Stop explaining.
    CloseHelp,
}

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// End.
    Quit,
    /// Change the view.
    Do(Action),
    /// Nothing.
    Nothing,
}

/// What is said at the bottom of the screen.
pub const SHORT_HELP: &str =
    "q quit  s sort  r reverse  p pause  +/- interval  tab/arrows panel, rows  h help";

/// What `h` shows.
pub const HELP: [[&str; 2]; 9] = [
    ["q, Ctrl-C", "quit"],
    ["s", "sort size classes by the next column"],
    ["r", "sort the other way round"],
    ["p, space", "pause and go on"],
    ["+ -", "observations farther apart, closer together"],
    ["tab, right", "next panel"],
    ["shift-tab, left", "panel before"],
    ["up, down, page", "rows of the size classes"],
    ["h, ?", "this help"],
];

/// How far a page key moves.
const PAGE: isize = 10;

/// What `key` means.
pub fn meaning(key: KeyEvent) -> Meaning {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    let action = match key.code {
        KeyCode::Char('c') if is_control => return Meaning::Quit,
        _ if is_control => return Meaning::Nothing,
        KeyCode::Char('q' | 'Q') => return Meaning::Quit,
        KeyCode::Char('s') => Action::NextColumn,
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Char('p' | ' ') => Action::Pause,
        KeyCode::Char('+' | '=') => Action::Slower,
        KeyCode::Char('-') => Action::Faster,
        KeyCode::Tab | KeyCode::Right => Action::NextPanel,
        KeyCode::BackTab | KeyCode::Left => Action::PreviousPanel,
        KeyCode::Up => Action::Scroll(-1),
        KeyCode::Down => Action::Scroll(1),
        KeyCode::PageUp => Action::Scroll(-PAGE),
        KeyCode::PageDown => Action::Scroll(PAGE),
        KeyCode::Home => Action::Scroll(isize::MIN),
        KeyCode::End => Action::Scroll(isize::MAX),
        KeyCode::Char('h' | '?') => Action::Help,
        KeyCode::Esc => Action::CloseHelp,
        _ => return Meaning::Nothing,
    };
    Meaning::Do(action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_a_letter_is_not_the_letter() {
        let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
        assert_eq!(meaning(control('c')), Meaning::Quit);
        assert_eq!(meaning(control('s')), Meaning::Nothing);
        assert_eq!(meaning(KeyCode::Char('s').into()), Meaning::Do(Action::NextColumn));
        assert_eq!(meaning(KeyCode::F(1).into()), Meaning::Nothing);
    }
}
