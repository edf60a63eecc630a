//! Draws the view. Nothing here knows of time, keys or processes.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Block, Cell, Chart, Clear, Dataset, GraphType, Paragraph, Row, Table, Wrap,
};

use super::bars;
use super::keys::{HELP, SHORT_HELP};
use super::panel::{self, Panel};
use super::size_classes::{self, Column};
use super::view::View;
use crate::amounts::{bytes, percent, seconds, share};

const RSS: Color = Color::Yellow;
const LIVE: Color = Color::Green;
const PURGED: Color = Color::Blue;

/// The colour of a part of RSS.
fn part_color(name: &str) -> Color {
    match name {
        "live" => LIVE,
        "rounding" => Color::LightGreen,
        "free_blocks" => Color::Magenta,
        "thread_cache" => Color::LightMagenta,
        "dirty" => PURGED,
        "metadata" => Color::Cyan,
        "sampled" => Color::LightBlue,
        "stacks" => Color::LightRed,
        "other_anon" => Color::Yellow,
        "file" => Color::LightYellow,
        "shmem" => Color::LightCyan,
        _ => Color::Red,
    }
}

/// A size class that is emptier than this is marked.
const LOW_OCCUPANCY: f64 = 0.5;

/// Lines above the panels: the title and at most this many of figures.
const MAX_HEADLINES: usize = 3;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    // On a small screen the figures give way to the panel.
    let most = MAX_HEADLINES.min(area.height as usize / 4);
    let mut headlines = flow(&view.headline(), area.width as usize);
    headlines.truncate(most);
    let [title, head, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(headlines.len() as u16),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    let name = Span::styled(format!("slackwater top: {}", view.name), Modifier::BOLD);
    frame.render_widget(Line::from(vec![name, format!("  {}", view.pace()).into()]), title);
    frame.render_widget(Paragraph::new(headlines.join("\n")), head);
    for (panel, place) in panel::places(body, view.focus) {
        draw_panel(frame, panel, place, view);
    }
    frame.render_widget(Line::styled(SHORT_HELP, Modifier::REVERSED), foot);
    if view.shows_help {
        draw_help(frame, body);
    }
}

/// The pieces, two spaces apart, on as few lines as they fit on.
fn flow(pieces: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if line.len() + 2 + piece.len() <= width => {
                line.push_str("  ");
                line.push_str(piece);
            }
            _ => lines.push(piece.clone()),
        }
    }
    lines
}

fn draw_panel(frame: &mut Frame<'_>, panel: Panel, area: Rect, view: &View) {
    let is_marked = panel == view.focus;
    let style = if is_marked { Style::new().fg(Color::White).bold() } else { Style::new().dim() };
    let block = Block::bordered().border_style(style).title(title(panel));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    match panel {
        Panel::History => draw_history(frame, inner, view),
        Panel::Parts => draw_parts(frame, inner, view),
        Panel::SizeClasses => draw_size_classes(frame, inner, view),
        Panel::Rates => draw_rows(frame, inner, view.rates()),
        Panel::SystemCalls => draw_rows(frame, inner, view.system_calls()),
        Panel::ThreadCaches => draw_rows(frame, inner, view.thread_caches()),
    }
}

fn title(panel: Panel) -> Line<'static> {
    match panel {
        Panel::History => Line::from(vec![
            Span::styled("RSS", RSS),
            ", ".into(),
            Span::styled("live", LIVE),
            ", ".into(),
            Span::styled("purged each time", PURGED),
        ]),
        Panel::Parts => "why RSS is what it is".into(),
        Panel::SizeClasses => "size classes".into(),
        Panel::Rates => "rates".into(),
        Panel::SystemCalls => "system calls".into(),
        Panel::ThreadCaches => "thread caches".into(),
    }
}

fn draw_history(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let now = view.history().next_back().map_or(0.0, |point| point.at);
    let line = |of: fn(&super::view::Point) -> u64| -> Vec<(f64, f64)> {
        view.history().map(|point| (point.at - now, of(point) as f64)).collect()
    };
    let (rss, live, purged) =
        (line(|point| point.rss), line(|point| point.live), line(|point| point.purged));
    let all = rss.iter().chain(&live).chain(&purged);
    let most = all.map(|point| point.1).fold(1.0, f64::max);
    let span = rss.first().map_or(0.0, |first| -first.0).max(view.interval.as_secs_f64());
    let dataset = |data, graph, color| {
        Dataset::default().data(data).graph_type(graph).marker(Marker::Braille).style(color)
    };
    let datasets = vec![
        dataset(&purged, GraphType::Bar, PURGED),
        dataset(&live, GraphType::Line, LIVE),
        dataset(&rss, GraphType::Line, RSS),
    ];
    let labels = [0.0, most / 2.0, most].map(|amount| bytes(amount as u64));
    let chart = Chart::new(datasets)
        .x_axis(
            Axis::default()
                .bounds([-span, 0.0])
                .labels([format!("-{}", seconds(span)), "now".to_string()]),
        )
        .y_axis(Axis::default().bounds([0.0, most]).labels(labels));
    frame.render_widget(chart, area);
}

fn draw_parts(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let Some(breakdown) = view.breakdown() else {
        let text = "the kernel does not tell what it backs of this process";
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    };
    let parts: Vec<_> = breakdown.parts().collect();
    // The name, the amount and the percentage; what is left is the bar's.
    let width = (area.width as usize).saturating_sub(12 + 1 + 11 + 7 + 1);
    let bars = bars::of(&parts, width);
    let lines = parts.iter().zip(bars).map(|(part, bar)| {
        let share = percent(share(part.bytes, breakdown.sum()));
        // What is there and too small for a cell still has its place.
        let drawn =
            if bar.is_empty() && part.bytes > 0 { "▏".into() } else { "█".repeat(bar.len()) };
        let drawn = format!("{}{drawn}", " ".repeat(bar.start.min(width.saturating_sub(1))));
        Line::from(vec![
            Span::raw(format!("{:<12} ", part.name)),
            Span::styled(format!("{drawn:<width$}"), part_color(part.name)),
            Span::raw(format!("{:>11}{share:>7}", bytes(part.bytes))),
        ])
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
}

fn draw_size_classes(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let right = |text: String| Cell::from(Line::from(text).right_aligned());
    let head = Column::ALL.map(|column| {
        if column != view.order.column {
            return right(column.name().to_string());
        }
        let arrow = if view.order.is_reversed { '▲' } else { '▼' };
        right(format!("{}{arrow}", column.name())).style(Modifier::BOLD)
    });
    let rows = size_classes::rows(&view.observation().snapshot, view.order);
    let rows = rows.iter().skip(view.scroll).map(|class| {
        let is_low = size_classes::occupancy(class) < LOW_OCCUPANCY;
        let style = if is_low { Style::new().fg(Color::Yellow) } else { Style::new() };
        Row::new(size_classes::cells(class).map(right)).style(style)
    });
    let widths = [6, 10, 10, 10, 6].map(Constraint::Length);
    frame.render_widget(Table::new(rows, widths).header(Row::new(head)), area);
}

/// A column of names, and one or two of amounts.
fn draw_rows<const N: usize>(frame: &mut Frame<'_>, area: Rect, rows: Vec<[String; N]>) {
    let rows = rows.into_iter().map(|row| {
        let cells = row.into_iter().enumerate();
        Row::new(cells.map(|(i, text)| match i {
            0 => Cell::from(text),
            _ => Cell::from(Line::from(text).right_aligned()),
        }))
    });
    let mut widths = [Constraint::Length(9); N];
    widths[0] = Constraint::Fill(1);
    frame.render_widget(Table::new(rows, widths), area);
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let height = (HELP.len() as u16 + 2).min(area.height);
    let width = 56.min(area.width);
    let [place] = Layout::vertical([Constraint::Length(height)])
        .flex(ratatui::layout::Flex::Center)
        .areas(area);
    let [place] = Layout::horizontal([Constraint::Length(width)])
        .flex(ratatui::layout::Flex::Center)
        .areas(place);
    let lines: Vec<Line<'_>> =
        HELP.iter().map(|[key, what]| Line::from(format!(" {key:<16} {what}"))).collect();
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("keys")), place);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::keys::Action;
    use super::super::view::tests::made_up;
    use super::*;

    fn terminal(view: &View, width: u16, height: u16) -> Terminal<TestBackend> {
        let mut terminal =
            Terminal::new(TestBackend::new(width, height)).expect("it has no errors");
        terminal.draw(|frame| draw(frame, view)).expect("it has no errors");
        terminal
    }

    fn drawn(view: &View, width: u16, height: u16) -> String {
        terminal(view, width, height).backend().to_string()
    }

    #[test]
    fn an_ordinary_screen_has_the_figures_the_parts_and_the_keys() {
        let text = drawn(&made_up(), 80, 24);
        for mention in [
            "slackwater top: made-up (7)  every 1.0 s",
            "RSS 100.0 MiB  live 40.0 MiB  purged 16.0 MiB",
            "RSS, live, purged each time",
            "why RSS is what it is",
            "unattributed",
            "size classes",
            "span▼",
            "25.0%",
            "frees/s",
            "1.0k",
            "h help",
        ] {
            assert!(text.contains(mention), "{mention} is not in\n{text}");
        }
        assert!(!text.contains("membarrier"), "no room for it here\n{text}");
    }

    #[test]
    fn a_wide_screen_has_every_panel() {
        let text = drawn(&made_up(), 200, 60);
        for mention in
            ["why RSS", "size classes", "rates", "system calls", "membarrier", "take-overs taken"]
        {
            assert!(text.contains(mention), "{mention} is not in\n{text}");
        }
    }

    #[test]
    fn the_marked_panel_is_shown_on_any_screen() {
        let mut view = made_up();
        while view.focus != Panel::SystemCalls {
            view.apply(Action::NextPanel);
        }
        for (width, height) in [(80, 24), (40, 12), (200, 60)] {
            let text = drawn(&view, width, height);
            assert!(text.contains("madvise"), "{text}");
        }
    }

    #[test]
    fn no_screen_is_too_small() {
        let mut view = made_up();
        for shows_help in [false, true] {
            view.shows_help = shows_help;
            for _ in Panel::ALL {
                view.apply(Action::NextPanel);
                for (width, height) in [(20, 5), (1, 1), (0, 0), (79, 3), (3, 79), (78, 22)] {
                    terminal(&view, width, height);
                }
            }
        }
        view.shows_help = false;
        assert!(drawn(&view, 20, 5).contains("slackwater top"));
    }

    #[test]
    fn the_help_and_the_order_are_on_the_screen() {
        let mut view = made_up();
        view.apply(Action::Help);
        assert!(drawn(&view, 80, 24).contains("sort the other way round"));
        view.apply(Action::CloseHelp);
        view.apply(Action::NextColumn);
        view.apply(Action::Reverse);
        let text = drawn(&view, 80, 24);
        assert!(text.contains("free▲") && !text.contains("sort the other way"), "{text}");
    }

    #[test]
    fn unknown_parts_are_said_to_be_unknown() {
        let mut observation = made_up().observation().clone();
        observation.residency = None;
        let view = View::new("x (1)".to_string(), std::time::Duration::from_secs(1), observation);
        assert!(drawn(&view, 80, 24).contains("the kernel does not tell"));
    }
}
