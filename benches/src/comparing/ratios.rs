//! All rows and contenders in one picture, as SVG: how many times the row's best each one takes.

use std::fmt::Write as _;

use super::chart::text;
use super::measurements::{Figure, Measurements};

/// The picture: a line for each row, a point for each contender, with a stroke as long as its
/// spread.
pub struct Ratios<'a> {
    /// What was measured.
    pub measurements: &'a Measurements,
    /// The lines.
    pub rows: &'a [String],
    /// The points of a line; the first is drawn largest.
    pub contenders: &'a [&'static str],
    /// What it shows.
    pub figure: Figure,
}

const WIDTH: f64 = 960.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = WIDTH - 40.0;
const TOP: f64 = 84.0;
const LINE: f64 = 18.0;

/// Beyond the last all points are on the edge.
const MARKS: [f64; 8] = [1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0];

const COLORS: [&str; 10] = [
    "#0060a8", "#c45500", "#2a8a3c", "#8a2a8a", "#a88600", "#00868a", "#b02040", "#666666",
    "#6a4a2a", "#000000",
];

impl Ratios<'_> {
    /// The whole file.
    pub fn svg(&self) -> String {
        let bottom = TOP + LINE * self.rows.len() as f64;
        let height = bottom + 30.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\" fill=\"#333\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
        );
        let title = format!("{}, in times of the row's best", self.figure);
        text(&mut svg, 12.0, 24.0, "start", "font-size=\"16\"", &title);
        self.legend(&mut svg);
        for mark in MARKS {
            let x = place(mark);
            let _ = writeln!(svg, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>");
            text(&mut svg, x, bottom + 18.0, "middle", "", &format!("{mark}"));
        }
        for (index, row) in self.rows.iter().enumerate() {
            let y = TOP + LINE * (index as f64 + 0.5);
            text(&mut svg, LEFT - 10.0, y + 4.0, "end", "", row);
            self.points(&mut svg, row, y);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn legend(&self, svg: &mut String) {
        let step = (WIDTH - 24.0) / self.contenders.len().max(1) as f64;
        for (index, name) in self.contenders.iter().enumerate() {
            let x = 18.0 + step * index as f64;
            point(svg, x, 52.0, index);
            text(svg, x + 9.0, 56.0, "start", "", name);
        }
    }

    fn points(&self, svg: &mut String, row: &str, y: f64) {
        let summary = |name: &&str| self.measurements.summary(row, name, self.figure);
        let medians = self.contenders.iter().filter_map(summary).map(|summary| summary.median);
        let best = medians.fold(f64::INFINITY, f64::min);
        // The first comes last, over the others.
        for (index, name) in self.contenders.iter().enumerate().rev() {
            let Some(summary) = summary(name) else { continue };
            let half = summary.spread.unwrap_or(0.0) / 2.0;
            let [from, x, to] = [-half, 0.0, half].map(|off| place((summary.median + off) / best));
            let _ = writeln!(
                svg,
                "<path d=\"M{from:.1} {y:.1}H{to:.1}\" stroke=\"{}\"/>",
                COLORS[index % COLORS.len()]
            );
            point(svg, x, y, index);
        }
    }
}

fn point(svg: &mut String, x: f64, y: f64, index: usize) {
    let radius = if index == 0 { 5.0 } else { 3.5 };
    let color = COLORS[index % COLORS.len()];
    let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{color}\"/>");
}

/// Where a ratio is, in pixels: on a scale of logarithms, within the picture.
fn place(ratio: f64) -> f64 {
    let part = ratio.ln() / MARKS[MARKS.len() - 1].ln();
    LEFT + (RIGHT - LEFT) * part.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparing::measurements::Measurement;

    #[test]
    fn the_best_is_on_the_left_and_what_is_too_far_on_the_edge() {
        assert_eq!(place(0.9), LEFT);
        assert_eq!(place(1.0), LEFT);
        assert_eq!(place(8.0), RIGHT);
        assert_eq!(place(80.0), RIGHT);
    }

    #[test]
    fn every_contender_that_was_measured_has_a_point_in_each_row() {
        let mut measurements = Measurements::default();
        for (contender, value) in [("a", 1.0), ("b", 8.0)] {
            let (row, round, figure) = ("x < y".to_owned(), 1, Figure::Ns);
            measurements.add(Measurement { row, contender, round, figure, value });
        }
        let rows = ["x < y".to_owned()];
        let contenders = ["a", "b", "absent"];
        let figure = Figure::Ns;
        let svg =
            Ratios { measurements: &measurements, rows: &rows, contenders: &contenders, figure }
                .svg();
        // Three of the legend, two of the row.
        assert_eq!(svg.matches("<circle").count(), 5);
        assert!(
            svg.contains("x &lt; y")
                && svg.contains("cx=\"190.0\"")
                && svg.contains("cx=\"920.0\""),
            "{svg}"
        );
    }
}
