//! A chart of one or two lines over time, as SVG.

use std::fmt::Write as _;

/// One line: what it shows and its value at each time of the chart.
pub struct Line<'a> {
    /// The name in the legend.
    pub name: &'a str,
    /// The unit, at the axis.
    pub unit: &'a str,
    /// Not negative; one for each time.
    pub values: &'a [f64],
}

/// A chart: both lines start from zero, each has an axis of its own, the first on the left.
pub struct Chart<'a> {
    /// Above the chart; plain text.
    pub title: &'a str,
    /// In seconds, not descending.
    pub seconds: &'a [f64],
    /// The line of the left axis.
    pub left: Line<'a>,
    /// The line of the right axis.
    pub right: Option<Line<'a>>,
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 440.0;

/// Where the lines are drawn, in pixels.
const LEFT: f64 = 84.0;
const RIGHT: f64 = WIDTH - 96.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = HEIGHT - 60.0;

/// Told apart by those who see few colours, and in print.
const COLORS: [&str; 2] = ["#0060a8", "#c45500"];

/// At most so many steps on the axes.
const UPRIGHT_STEPS: f64 = 5.0;
const TIME_STEPS: f64 = 10.0;

impl Chart<'_> {
    /// The whole file.
    pub fn svg(&self) -> String {
        let time = Scale::until(largest(self.seconds), TIME_STEPS);
        let left = Scale::covering(largest(self.left.values), UPRIGHT_STEPS);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\" fill=\"#333\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        text(&mut svg, LEFT, 28.0, "start", "font-size=\"16\"", self.title);

        for value in left.marks() {
            let y = left.place(value, BOTTOM, TOP);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"{}\"/>",
                if value == 0.0 { "#333" } else { "#ddd" }
            );
        }
        for value in time.marks() {
            let x = time.place(value, LEFT, RIGHT);
            let _ = writeln!(svg, "<path d=\"M{x:.1} {BOTTOM}v6\" stroke=\"#333\"/>");
            text(&mut svg, x, BOTTOM + 22.0, "middle", "", &time.label(value));
        }
        text(&mut svg, (LEFT + RIGHT) / 2.0, BOTTOM + 46.0, "middle", "", "time, seconds");

        self.upright(&mut svg, &self.left, &time, &left, COLORS[0], false);
        if let Some(line) = &self.right {
            // The same number of steps, so that the grid belongs to both axes.
            let right = Scale::with_steps(largest(line.values), left.steps());
            self.upright(&mut svg, line, &time, &right, COLORS[1], true);
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// One line with its axis and its place in the legend.
    fn upright(
        &self,
        svg: &mut String,
        line: &Line,
        time: &Scale,
        scale: &Scale,
        color: &str,
        on_the_right: bool,
    ) {
        let (x, anchor) = if on_the_right { (RIGHT + 8.0, "start") } else { (LEFT - 8.0, "end") };
        let fill = format!("fill=\"{color}\"");
        for value in scale.marks() {
            let y = scale.place(value, BOTTOM, TOP) + 4.5;
            text(svg, x, y, anchor, &fill, &scale.label(value));
        }
        text(svg, x, TOP - 14.0, anchor, &fill, line.unit);

        // The legend: a piece of the line and its name.
        let (legend_x, legend_y) = (LEFT + if on_the_right { 200.0 } else { 20.0 }, 50.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{legend_x} {legend_y}h28\" stroke=\"{color}\" stroke-width=\"2.5\"/>"
        );
        text(svg, legend_x + 36.0, legend_y + 4.5, "start", "", line.name);

        let _ = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" \
             stroke-linejoin=\"round\" points=\""
        );
        let mut last = String::new();
        for (seconds, value) in self.seconds.iter().zip(line.values) {
            let point = format!(
                "{:.1},{:.1}",
                time.place(*seconds, LEFT, RIGHT),
                scale.place(*value, BOTTOM, TOP)
            );
            // Points closer than a tenth of a pixel are one.
            if point != last {
                let _ = write!(svg, "{point} ");
                last = point;
            }
        }
        svg.push_str("\"/>\n");
    }
}

/// Words at a place.
pub(super) fn text(svg: &mut String, x: f64, y: f64, anchor: &str, more: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{words}</text>"
    );
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// An axis from zero, with marks at round numbers.
#[derive(Debug)]
struct Scale {
    end: f64,
    step: f64,
}

impl Scale {
    /// Ends exactly at `end`, in at most `steps` and a piece.
    fn until(end: f64, steps: f64) -> Self {
        let end = if end > 0.0 { end } else { 1.0 };
        Scale { end, step: round_step(end / steps) }
    }

    /// Ends at a mark, at `largest` or beyond, in at most `steps`.
    fn covering(largest: f64, steps: f64) -> Self {
        let step = Self::until(largest, steps).step;
        Scale { end: step * (largest / step).ceil().max(1.0), step }
    }

    /// Ends at a mark, at `largest` or beyond, in exactly `steps`.
    fn with_steps(largest: f64, steps: f64) -> Self {
        let step = Self::until(largest, steps).step;
        Scale { end: step * steps, step }
    }

    fn steps(&self) -> f64 {
        (self.end / self.step).round()
    }

    /// The values that are marked.
    fn marks(&self) -> impl Iterator<Item = f64> {
        // A little more than the quotient, which may fall just short of a whole number.
        let last = (self.end / self.step + 1e-9).floor() as u32;
        (0..=last).map(|index| f64::from(index) * self.step)
    }

    /// Where `value` is on an axis that goes from `zero` to `end`, in pixels.
    fn place(&self, value: f64, zero: f64, end: f64) -> f64 {
        zero + (end - zero) * value / self.end
    }

    /// A mark in words: as many decimals as the steps have, thousands apart.
    fn label(&self, value: f64) -> String {
        let decimals = (0..9)
            .find(|decimals| {
                let shifted = self.step * 10_f64.powi(*decimals);
                (shifted - shifted.round()).abs() < 1e-6
            })
            .unwrap_or(9) as usize;
        let digits = format!("{value:.decimals$}");
        let whole = digits.find('.').unwrap_or(digits.len());
        let mut label = String::new();
        for (index, digit) in digits.char_indices() {
            if index > 0 && index < whole && (whole - index).is_multiple_of(3) {
                label.push(',');
            }
            label.push(digit);
        }
        label
    }
}

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that is `at_least` or more.
fn round_step(at_least: f64) -> f64 {
    let power = 10_f64.powf(at_least.log10().floor());
    [1.0, 2.0, 2.5, 5.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= at_least * (1.0 - 1e-9))
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_large_enough() {
        let cases = [
            (0.03, 0.05),
            (1.0, 1.0),
            (1.1, 2.0),
            (2.2, 2.5),
            (86.9, 100.0),
            (20_000.0, 20_000.0),
            (5.01, 10.0),
        ];
        for (at_least, step) in cases {
            assert!((round_step(at_least) / step - 1.0).abs() < 1e-9, "{at_least}");
        }
    }

    #[test]
    fn scales_cover_what_they_show() {
        for largest in [0.0, 0.004, 1.0, 3.7, 434.5, 999.9, 1e6, 123_456_789.0] {
            let scale = Scale::covering(largest, 5.0);
            assert!(scale.end >= largest && scale.steps() <= 5.0, "{scale:?}");
            assert_eq!(scale.marks().count() as f64, scale.steps() + 1.0);
            let scale = Scale::with_steps(largest, 4.0);
            assert!(scale.end >= largest && scale.steps() == 4.0, "{scale:?}");
        }
        let time = Scale::until(33.4, 10.0);
        assert_eq!(time.marks().collect::<Vec<_>>(), [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]);
    }

    #[test]
    fn values_are_placed_in_proportion() {
        let scale = Scale::covering(434.0, 5.0);
        assert_eq!(scale.end, 500.0);
        assert_eq!(scale.place(0.0, 400.0, 100.0), 400.0);
        assert_eq!(scale.place(250.0, 400.0, 100.0), 250.0);
        assert_eq!(scale.place(500.0, 400.0, 100.0), 100.0);
    }

    #[test]
    fn labels_have_the_decimals_of_the_step() {
        let label = |step, value| Scale { end: 1.0, step }.label(value);
        assert_eq!(label(0.25, 0.5), "0.50");
        assert_eq!(label(2.5, 10.0), "10.0");
        assert_eq!(label(50.0, 100.0), "100");
        assert_eq!(label(25_000.0, 1_125_000.0), "1,125,000");
        assert_eq!(label(500.0, 1500.0), "1,500");
    }

    #[test]
    fn a_chart_has_a_line_an_axis_and_a_legend_for_each() {
        let line = |name, unit, values| Line { name, unit, values };
        let chart = Chart {
            title: "a < b",
            seconds: &[0.0, 1.0, 1.00001, 2.0],
            left: line("RSS", "MiB", &[1.0, 9.0, 9.0, 2.0]),
            right: Some(line("purged", "pages", &[0.0, 0.0, 0.0, 1800.0])),
        };
        let svg = chart.svg();
        assert_eq!(svg.matches("<polyline").count(), 2);
        for part in
            ["a &lt; b", ">RSS<", ">MiB<", ">purged<", ">pages<", ">2,000<", ">time, seconds<"]
        {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        // The two points at about one second are one.
        assert!(svg.contains("points=\"84.0,350.4 474.0,113.6 864.0,320.8 \""), "{svg}");
        let alone = Chart { right: None, ..chart }.svg();
        assert_eq!(alone.matches("<polyline").count(), 1);
        assert!(!alone.contains("purged"));
    }
}
