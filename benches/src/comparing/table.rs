//! A figure of all rows and contenders as a Markdown table, which says who is first in a row only
//! where the measurements prove it.

use std::fmt::Write as _;

use super::measurements::{Figure, Measurements};
use super::statistics::{Outcome, Summary, geometric_mean, three_digits};

/// The product, set against all the others.
pub const OURS: &str = "slackwater";

/// One table: a line for each row, a column for each contender, who is first, and ours over the
/// best peer: below 1 is better. At its end are the geometric means: of each contender over the best
/// of each row, and of ours over the best peers.
pub struct Table<'a> {
    /// What was measured.
    pub measurements: &'a Measurements,
    /// The lines.
    pub rows: &'a [String],
    /// The columns.
    pub contenders: &'a [&'static str],
    /// Who is set against all the others, in whatever setting.
    pub ours: &'static str,
    /// What it shows.
    pub figure: Figure,
    /// What it shows beside that, if it was measured.
    pub beside: &'a [Figure],
}

/// The head of a Markdown table: a column of names, and columns of numbers.
pub fn head(heads: &[String]) -> String {
    format!("| {} |\n|---|{}\n", heads.join(" | "), "--:|".repeat(heads.len() - 1))
}

/// Adds a line to a Markdown table.
pub fn add_line(table: &mut String, cells: &[String]) {
    let _ = writeln!(table, "| {} |", cells.join(" | "));
}

impl Table<'_> {
    /// The table.
    pub fn markdown(&self) -> String {
        let mut heads = vec![self.title()];
        heads.extend(self.contenders.iter().map(|name| (*name).to_owned()));
        if self.is_judged() {
            heads.push("first".to_owned());
        }
        if self.has_peers() {
            heads.push(format!("{} / best peer", self.ours));
        }
        let mut table = head(&heads);
        for row in self.rows {
            add_line(&mut table, &self.line(row));
        }
        add_line(&mut table, &self.means());
        table
    }

    fn title(&self) -> String {
        let mut title = self.figure.to_string();
        let shown = self.beside.iter().filter(|figure| self.measurements.have(**figure));
        for (index, figure) in shown.enumerate() {
            let _ = write!(title, "{} {figure}", if index == 0 { ";" } else { "," });
        }
        title
    }

    /// Counts have no spread that would say who is first.
    fn is_judged(&self) -> bool {
        self.figure != Figure::Instructions
    }

    fn has_peers(&self) -> bool {
        self.contenders.contains(&self.ours) && self.contenders.len() > 1
    }

    fn line(&self, row: &str) -> Vec<String> {
        let mut cells = vec![row.to_owned()];
        cells.extend(self.contenders.iter().map(|name| self.cell(row, name)));
        if self.is_judged() {
            cells.push(self.first(row));
        }
        if self.has_peers() {
            cells.push(self.standing(row));
        }
        cells
    }

    fn cell(&self, row: &str, name: &str) -> String {
        let figure = |figure| self.measurements.summary(row, name, figure);
        let mut cell = figure(self.figure).map_or("–".to_owned(), |summary| summary.to_string());
        let beside = self.beside.iter().filter_map(|beside| figure(*beside));
        for (index, summary) in beside.enumerate() {
            let _ = write!(
                cell,
                "{} {}",
                if index == 0 { ";" } else { "," },
                three_digits(summary.median)
            );
        }
        cell
    }

    /// What was measured in a row, the best first.
    fn ranking(&self, row: &str) -> Vec<(&'static str, Summary)> {
        let summary = |name: &&'static str| {
            self.measurements.summary(row, name, self.figure).map(|summary| (*name, summary))
        };
        let mut ranking: Vec<_> = self.contenders.iter().filter_map(summary).collect();
        ranking.sort_by(|(_, a), (_, b)| a.median.total_cmp(&b.median));
        ranking
    }

    /// The first of a row, or all who may be.
    fn first(&self, row: &str) -> String {
        let ranking = self.ranking(row);
        let Some((_, best)) = ranking.first() else { return String::new() };
        let equals = ranking.iter().enumerate();
        let equals = equals.filter(|(place, (_, one))| *place == 0 || !one.differs_from(best));
        let names: Vec<_> = equals.map(|(_, (name, _))| *name).collect();
        match names[..] {
            [alone] => alone.to_owned(),
            [one, other] => format!("tie: {one}, {other}"),
            _ => format!("tie of {}", names.len()),
        }
    }

    /// Ours and the best peer of a row.
    fn pair(&self, row: &str) -> Option<(Summary, &'static str, Summary)> {
        let ours = self.measurements.summary(row, self.ours, self.figure)?;
        let (peer, best) =
            self.ranking(row).into_iter().find(|(name, _)| !name.starts_with(self.ours))?;
        Some((ours, peer, best))
    }

    fn standing(&self, row: &str) -> String {
        let Some((ours, peer, best)) = self.pair(row) else { return "–".to_owned() };
        let ratio = format!("{:.2}", ours.median / best.median);
        if !self.is_judged() {
            return format!("{ratio} ({peer})");
        }
        match ours.against(&best) {
            Outcome::Tie => format!("{ratio} (tie with {peer})"),
            outcome => format!("{ratio} ({outcome} of {peer})").replace("behind of", "behind"),
        }
    }

    fn means(&self) -> Vec<String> {
        // Rows that one has and another lacks would make the means of different things.
        let of_all = |row: &&String| self.ranking(row).len() == self.contenders.len();
        let complete: Vec<_> = self.rows.iter().filter(of_all).collect();
        let shown = |values: &[f64]| {
            geometric_mean(values).map_or("–".to_owned(), |mean| format!("{mean:.2}"))
        };
        let mut cells = vec!["**geometric mean, of the best**".to_owned()];
        cells.extend(self.contenders.iter().map(|name| {
            let ratios = complete.iter().filter_map(|row| {
                let own = self.measurements.summary(row, name, self.figure)?;
                Some(own.median / self.ranking(row).first()?.1.median)
            });
            shown(&ratios.collect::<Vec<_>>())
        }));
        if self.is_judged() {
            cells.push(String::new());
        }
        if self.has_peers() {
            let ratios = self
                .rows
                .iter()
                .filter_map(|row| self.pair(row).map(|(ours, _, best)| ours.median / best.median));
            cells.push(format!("**{}**", shown(&ratios.collect::<Vec<_>>())));
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparing::measurements::Measurement;

    fn measured(cells: &[(&str, &'static str, Figure, &[f64])]) -> Measurements {
        let mut measurements = Measurements::default();
        for (row, contender, figure, values) in cells {
            for (round, value) in values.iter().enumerate() {
                let (row, round) = ((*row).to_owned(), round + 1);
                let (contender, figure, value) = (*contender, *figure, *value);
                measurements.add(Measurement { row, contender, round, figure, value });
            }
        }
        measurements
    }

    fn lines(measurements: &Measurements, figure: Figure, rows: &[&str]) -> Vec<String> {
        let rows: Vec<_> = rows.iter().map(|row| (*row).to_owned()).collect();
        let table = Table {
            measurements,
            rows: &rows,
            contenders: &[OURS, "a", "b"],
            ours: OURS,
            figure,
            beside: if figure == Figure::Ns { &[Figure::Instructions] } else { &[] },
        };
        table.markdown().lines().map(str::to_owned).collect()
    }

    #[test]
    fn who_is_first_is_said_only_where_it_is_proved() {
        let measurements = measured(&[
            ("clear", OURS, Figure::Ns, &[10.0, 10.2]),
            ("clear", "a", Figure::Ns, &[5.0, 5.2]),
            ("clear", "b", Figure::Ns, &[8.0, 8.0]),
            ("close", OURS, Figure::Ns, &[5.0, 5.4]),
            ("close", "a", Figure::Ns, &[5.3, 5.3]),
            ("close", "b", Figure::Ns, &[20.0, 21.0]),
            ("ours", OURS, Figure::Ns, &[1.0, 1.0]),
            ("ours", "a", Figure::Ns, &[2.0, 2.0]),
            ("ours", "b", Figure::Ns, &[3.0, 3.0]),
        ]);
        let lines = lines(&measurements, Figure::Ns, &["clear", "close", "ours"]);
        assert_eq!(
            lines[0],
            "| ns per operation | slackwater | a | b | first | slackwater / best peer |"
        );
        assert!(lines[2].ends_with("| a | 1.98 (behind a) |"), "{}", lines[2]);
        assert!(lines[3].ends_with("| tie: slackwater, a | 0.98 (tie with a) |"), "{}", lines[3]);
        assert!(lines[4].ends_with("| slackwater | 0.50 (ahead of a) |"), "{}", lines[4]);
        // Of 1.98, 0.98 and 0.5 the mean is 0.99; of the best of each row, ours 1.98, 1 and 1.
        assert!(lines[5].ends_with("| 1.26 | 1.27 | 2.65 |  | **0.99** |"), "{}", lines[5]);
    }

    #[test]
    fn counts_stand_beside_times_and_alone_are_not_judged() {
        let measurements = measured(&[
            ("row", OURS, Figure::Ns, &[10.0]),
            ("row", "a", Figure::Ns, &[5.0]),
            ("row", OURS, Figure::Instructions, &[84.0]),
            ("row", "a", Figure::Instructions, &[42.0]),
        ]);
        let timed = lines(&measurements, Figure::Ns, &["row"]);
        assert!(timed[0].starts_with("| ns per operation; instructions per operation |"));
        assert!(timed[2].starts_with("| row | 10.0; 84.0 | 5.00; 42.0 | – |"), "{}", timed[2]);
        // A single measurement proves nothing.
        assert!(timed[2].ends_with("| tie: a, slackwater | 2.00 (tie with a) |"), "{}", timed[2]);
        let counted = lines(&measurements, Figure::Instructions, &["row"]);
        assert_eq!(counted[2], "| row | 84.0 | 42.0 | – | 2.00 (a) |");
    }
}
