//! The panels of the screen, and where they are.

use ratatui::layout::{Constraint, Layout, Rect};

/// A part of the screen with a frame around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panel {
    /// RSS, live and purged bytes over time.
    History,
    /// Why RSS is what it is.
    Parts,
    /// The table of size classes.
    SizeClasses,
    /// What happens per second.
    Rates,
    /// System calls of the allocator.
    SystemCalls,
    /// Thread caches.
    ThreadCaches,
}

/// Below this there is room for one panel only.
const MIN_WIDTH: u16 = 80;
const MIN_HEIGHT: u16 = 19;

/// From here on the lower panels are side by side; below, three of them share a place.
const WIDE: u16 = 136;

/// The twelve parts of RSS and the frame.
const PARTS_HEIGHT: u16 = 14;
const PARTS_WIDTH: u16 = 46;

/// Five columns and the frame.
const SIZE_CLASSES_WIDTH: u16 = 48;

impl Panel {
    /// Every panel, in the order in which the tab key visits them.
    pub const ALL: [Panel; 6] = [
        Panel::History,
        Panel::Parts,
        Panel::SizeClasses,
        Panel::Rates,
        Panel::SystemCalls,
        Panel::ThreadCaches,
    ];

    /// The next one.
    pub fn next(self) -> Panel {
        Panel::ALL[(self as usize + 1) % Panel::ALL.len()]
    }

    /// The one before.
    pub fn previous(self) -> Panel {
        Panel::ALL[(self as usize + Panel::ALL.len() - 1) % Panel::ALL.len()]
    }

    fn shares_a_place(self) -> bool {
        matches!(self, Panel::Rates | Panel::SystemCalls | Panel::ThreadCaches)
    }
}

/// Which panels are shown in `area`, and where.
pub fn places(area: Rect, focus: Panel) -> Vec<(Panel, Rect)> {
    if area.width < MIN_WIDTH || area.height < MIN_HEIGHT {
        return vec![(focus, area)];
    }
    // On the smallest screens a lower panel that is marked has a line from the parts.
    let given = u16::from(focus.shares_a_place() && area.height < MIN_HEIGHT + 3);
    let upper_height = PARTS_HEIGHT - given + (area.height - MIN_HEIGHT) / 3;
    let [upper, lower] =
        Layout::vertical([Constraint::Length(upper_height), Constraint::Fill(1)]).areas(area);
    let parts_width = PARTS_WIDTH.max(area.width / 2);
    let [history, parts] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(parts_width)]).areas(upper);
    let mut places = vec![(Panel::History, history), (Panel::Parts, parts)];
    if area.width < WIDE {
        let [classes, shared] =
            Layout::horizontal([Constraint::Length(SIZE_CLASSES_WIDTH), Constraint::Fill(1)])
                .areas(lower);
        let shown = if focus.shares_a_place() { focus } else { Panel::Rates };
        places.extend([(Panel::SizeClasses, classes), (shown, shared)]);
    } else {
        let four = [
            Constraint::Length(SIZE_CLASSES_WIDTH),
            Constraint::Fill(1),
            Constraint::Fill(1),
            Constraint::Fill(1),
        ];
        let four: [Rect; 4] = Layout::horizontal(four).areas(lower);
        places.extend(Panel::ALL[2..].iter().copied().zip(four));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_fill_the_area_without_overlap_and_the_marked_one_is_shown() {
        for (width, height) in [(80, 20), (200, 56), (80, 18), (300, 20), (20, 2), (0, 0), (79, 99)]
        {
            for focus in Panel::ALL {
                let area = Rect::new(0, 4, width, height);
                let places = places(area, focus);
                assert!(places.iter().any(|place| place.0 == focus), "{focus:?} in {area:?}");
                let cells: u32 = places.iter().map(|place| place.1.area()).sum();
                assert_eq!(cells, area.area(), "{places:?}");
                for (i, a) in places.iter().enumerate() {
                    for b in &places[..i] {
                        assert!(!a.1.intersects(b.1) && a.0 != b.0, "{a:?} {b:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn wide_screens_show_everything() {
        assert_eq!(places(Rect::new(0, 0, 200, 56), Panel::History).len(), Panel::ALL.len());
        assert_eq!(places(Rect::new(0, 0, 80, 20), Panel::History).len(), 4);
        assert_eq!(places(Rect::new(0, 0, 20, 3), Panel::History).len(), 1);
    }
}
