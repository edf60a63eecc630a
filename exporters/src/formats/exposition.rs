//! Samples as the text that Prometheus scrapes: its own format (version 0.0.4), or OpenMetrics 1.0.
//!
//! Written from the table and not through a recorder: one knows no histogram that arrives with its
//! counts, brings 28 crates, and this costs a tenth.

use std::borrow::Cow;
use std::fmt::Write;

use metrics::Unit;
use slackwater::snapshot::Histogram;

use crate::figures::families::{FAMILIES, Family, LabelValue, PREFIX, Put};
use crate::figures::observation::Observation;
use crate::formats::preference::Preference;

/// OpenMetrics' media type.
const OPEN_METRICS: &str = "application/openmetrics-text";

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// What every Prometheus understands.
    Prometheus,
    /// The standard made of it, for those who ask for it.
    OpenMetrics,
}

impl Format {
    /// The one that the header `Accept` asks for. OpenMetrics is for those who name it; whoever names
    /// neither gets what everybody understands.
    pub fn accepted(header: &str) -> Format {
        let mut open_metrics = 0;
        // What says most about the format decides: its name, `text/*`, `*/*`.
        let mut prometheus = (0, 0);
        for range in Preference::all(header) {
            let version = range.parameter("version");
            let name = range.name.to_ascii_lowercase();
            let rank = match name.as_str() {
                OPEN_METRICS if version.is_none_or(|version| version == "1.0.0") => {
                    open_metrics = open_metrics.max(range.weight);
                    continue;
                }
                "text/plain" if version.is_none_or(|version| version == "0.0.4") => 3,
                "text/*" => 2,
                "*/*" => 1,
                _ => continue,
            };
            if rank > prometheus.0 {
                prometheus = (rank, range.weight);
            }
        }
        if open_metrics > 0 && open_metrics >= prometheus.1 {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        }
    }

    /// The media type, for the header of a response.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What has a value for each series of the table: a process, or several taken together.
pub trait Figures {
    /// Calls `put` for each series of the family that is a number; histograms have none.
    fn series(&self, family: &'static Family, put: Put<'_, f64>);
    /// Calls `put` for each series of the family that is a histogram.
    fn histograms(&self, family: &'static Family, put: Put<'_, Histogram>);
}

impl Figures for Observation {
    fn series(&self, family: &'static Family, put: Put<'_, f64>) {
        family.series(self, put);
    }

    fn histograms(&self, family: &'static Family, put: Put<'_, Histogram>) {
        family.histograms(self, put);
    }
}

/// Somebody's figures, with the labels that tell them from others'.
pub struct Source<'a> {
    /// Name and value of each label; none for a process that speaks for itself.
    pub labels: &'a [(&'static str, String)],
    /// What is rendered.
    pub figures: &'a dyn Figures,
}

/// Renders every family that has a series, for all sources together.
pub fn render(format: Format, sources: &[Source<'_>]) -> String {
    let mut text = String::with_capacity((8 + 12 * sources.len()) * 1024);
    let sources: Vec<(String, &dyn Figures)> =
        sources.iter().map(|source| (labels_of(source), source.figures)).collect();
    for family in FAMILIES {
        let begin = text.len();
        write_head(&mut text, format, family);
        let head_end = text.len();
        for (labels, figures) in &sources {
            write_series(&mut text, family, labels, *figures);
        }
        if text.len() == head_end {
            text.truncate(begin);
        }
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

/// OpenMetrics names a family without the suffix that its counter's series have.
fn write_head(text: &mut String, format: Format, family: &Family) {
    let full_name = family.full_name();
    let name = match format {
        Format::Prometheus => full_name.as_str(),
        Format::OpenMetrics => full_name.strip_suffix("_total").unwrap_or(&full_name),
    };
    let _ = writeln!(text, "# TYPE {name} {}", family.type_name());
    if format == Format::OpenMetrics
        && let Some(unit) = unit_of(family)
    {
        let _ = writeln!(text, "# UNIT {name} {unit}");
    }
    let _ = writeln!(text, "# HELP {name} {}", family.help);
}

/// A label's value as both formats have it between quotes: a backslash, a quote and the end of a line
/// are written as two characters.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['\\', '"', '\n']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// The unit, where the name ends in it, as OpenMetrics demands.
fn unit_of(family: &Family) -> Option<&'static str> {
    let unit = match family.unit? {
        Unit::Bytes => "bytes",
        Unit::Seconds => "seconds",
        _ => return None,
    };
    family.name.strip_suffix("_total").unwrap_or(family.name).ends_with(unit).then_some(unit)
}

/// A source's own labels, escaped and separated.
fn labels_of(source: &Source<'_>) -> String {
    let labels = source.labels.iter();
    let labels = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
    labels.collect::<Vec<_>>().join(",")
}

fn write_series(text: &mut String, family: &'static Family, source: &str, figures: &dyn Figures) {
    figures.series(family, &mut |values, value| {
        let labels = Labels { source, family, values };
        labels.write_series(text, "", None, value);
    });
    figures.histograms(family, &mut |values, histogram| {
        let labels = Labels { source, family, values };
        let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
        let mut count = 0;
        for (bound, more) in bounds.zip(&histogram.counts) {
            count = more.saturating_add(count);
            labels.write_series(text, "_bucket", Some(bound), count as f64);
        }
        labels.write_series(text, "_sum", None, histogram.sum);
        labels.write_series(text, "_count", None, count as f64);
    });
}

/// What tells series of a family apart.
struct Labels<'a> {
    source: &'a str,
    family: &'a Family,
    values: &'a [LabelValue],
}

impl Labels<'_> {
    /// One line. Written piece by piece, for there are hundreds of them in each scrape.
    fn write_series(&self, text: &mut String, suffix: &str, bound: Option<f64>, value: f64) {
        for piece in [PREFIX, self.family.name, suffix] {
            text.push_str(piece);
        }
        if !self.source.is_empty() || !self.values.is_empty() || bound.is_some() {
            text.push('{');
            text.push_str(self.source);
            for (name, value) in self.family.labels.iter().zip(self.values) {
                separate(text);
                // Words of the table and numbers need no escaping.
                let _ = write!(text, "{name}=\"{value}\"");
            }
            match bound {
                Some(bound) if bound.is_finite() => {
                    separate(text);
                    let _ = write!(text, "le=\"{bound:?}\"");
                }
                Some(_) => {
                    separate(text);
                    text.push_str("le=\"+Inf\"");
                }
                None => {}
            }
            text.push('}');
        }
        text.push(' ');
        write_number(text, value);
        text.push('\n');
    }
}

/// Nearly all are whole, and a whole number is written faster than a fraction.
fn write_number(text: &mut String, value: f64) {
    let whole = value as u64;
    let _ = if whole as f64 == value && whole < 1 << 53 {
        write!(text, "{whole}")
    } else {
        write!(text, "{value}")
    };
}

fn separate(labels: &mut String) {
    if !labels.ends_with('{') {
        labels.push(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<'a>(text: &'a str, family: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.contains(family)).collect()
    }

    #[test]
    fn openmetrics_is_for_those_who_prefer_it() {
        // What Prometheus 2.42 and 3 send, with and without `scrape_protocols`.
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
             version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
             escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let text_only = "text/plain;version=0.0.4;q=0.6,*/*;q=0.5";
        for (header, format) in [
            (prometheus_2, Format::OpenMetrics),
            (prometheus_3, Format::OpenMetrics),
            (text_only, Format::Prometheus),
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("Application/OpenMetrics-Text; charset=utf-8", Format::OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Format::Prometheus),
            ("application/openmetrics-text;version=1.0.0;q=0", Format::Prometheus),
            ("application/openmetrics-text;q=0.5,text/plain", Format::Prometheus),
            ("application/openmetrics-text;q=0.5,text/*;q=0.1,*/*", Format::OpenMetrics),
            ("application/openmetrics-text;q=0.1,text/plain;q=0", Format::OpenMetrics),
            ("image/png", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(header), format, "{header}");
        }
    }

    #[test]
    fn what_would_end_a_label_is_written_as_two_characters() {
        assert_eq!(escaped("plain, {braces} and = é"), "plain, {braces} and = é");
        assert_eq!(escaped("a\\b\"c\nd\\\\n"), "a\\\\b\\\"c\\nd\\\\\\\\n");
    }

    #[test]
    fn a_counter_keeps_its_suffix_in_series_and_loses_it_in_openmetrics_heads() {
        let mut observation = Observation::take();
        observation.snapshot.frees_total = 5;
        let sources = [Source { labels: &[], figures: &observation }];
        let text = render(Format::Prometheus, &sources);
        assert_eq!(
            lines(&text, "slackwater_frees_total"),
            [
                "# TYPE slackwater_frees_total counter",
                "# HELP slackwater_frees_total Blocks given back by the program.",
                "slackwater_frees_total 5",
            ]
        );
        assert!(!text.contains("EOF"));
        let text = render(Format::OpenMetrics, &sources);
        assert_eq!(
            lines(&text, "slackwater_frees"),
            [
                "# TYPE slackwater_frees counter",
                "# HELP slackwater_frees Blocks given back by the program.",
                "slackwater_frees_total 5",
            ]
        );
        assert!(lines(&text, "# UNIT").contains(&"# UNIT slackwater_rss_peak_bytes bytes"));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn numbers_are_written_in_full() {
        let written = |value| {
            let mut text = String::new();
            write_number(&mut text, value);
            text
        };
        for value in [0.0, 1.0, 0.25, 1e-9, 4_294_967_296.0, 9.1e15, 1e16, 1e300, -1.0, -0.5] {
            assert_eq!(written(value), format!("{value}"));
        }
        assert_eq!(written(f64::NAN), "NaN");
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_in_its_sum_and_count() {
        let mut observation = Observation::take();
        let histogram = &mut observation.snapshot.purge_duration_seconds;
        histogram.counts = [1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4];
        histogram.sum = 1.5;
        let labels = [("pid", "7".to_string())];
        let text = render(Format::Prometheus, &[Source { labels: &labels, figures: &observation }]);
        let series = lines(&text, "purge_duration_seconds_");
        assert_eq!(series.len(), 13);
        let start = "slackwater_purge_duration_seconds";
        assert_eq!(series[0], format!("{start}_bucket{{pid=\"7\",le=\"1e-6\"}} 1"));
        assert_eq!(series[2], format!("{start}_bucket{{pid=\"7\",le=\"1.6e-5\"}} 3"));
        assert_eq!(series[10], format!("{start}_bucket{{pid=\"7\",le=\"+Inf\"}} 7"));
        assert_eq!(series[11], format!("{start}_sum{{pid=\"7\"}} 1.5"));
        assert_eq!(series[12], format!("{start}_count{{pid=\"7\"}} 7"));
    }

    #[test]
    fn sources_share_heads_and_keep_their_labels() {
        let observation = Observation::take();
        let labels = [1, 2].map(|pid| [("pid", pid.to_string()), ("comm", "a\"b\\c\n".into())]);
        let sources = [
            Source { labels: &labels[0], figures: &observation },
            Source { labels: &labels[1], figures: &observation },
        ];
        let text = render(Format::Prometheus, &sources);
        assert_eq!(lines(&text, "# TYPE slackwater_threads ").len(), 1);
        let start = "slackwater_gate_state{pid=\"1\",comm=\"a\\\"b\\\\c\\n\"} ";
        assert_eq!(lines(&text, start).len(), 1, "{text}");
        assert_eq!(lines(&text, "slackwater_gate_state{pid=\"2\"").len(), 1);
    }

    #[test]
    fn a_family_without_series_has_no_head() {
        let observation =
            Observation { process: None, residency: None, cgroup: None, ..Observation::take() };
        let text = render(Format::Prometheus, &[Source { labels: &[], figures: &observation }]);
        assert!(!text.contains("rss_") && !text.contains("cgroup_"), "{text}");
    }
}
