//! An observation as one JSON object, for the page and for scripts.
//!
//! A family without labels is a number; one with a label is an object from label value to number.
//! Keys are the names of the table without their prefix. The nesting is as deep as a family has
//! labels. A histogram is `{"buckets":[[bound,count],…],"sum":…,"count":…}`.

use serde_json::{Map, Value, json};
use slackwater::snapshot::Histogram;

use crate::figures::families::{FAMILIES, LabelValue};
use crate::figures::observation::Observation;

/// Up to here every whole number has a `f64` of its own.
const MAX_EXACT: f64 = (1u64 << f64::MANTISSA_DIGITS) as f64;

/// Renders every family that has a series.
pub fn render(observation: &Observation) -> String {
    Value::Object(figures(observation)).to_string()
}

/// The same as an object, in the table's order.
pub fn figures(observation: &Observation) -> Map<String, Value> {
    let mut figures = Map::new();
    for family in FAMILIES {
        family.histograms(observation, &mut |_, found| {
            figures.insert(family.name.to_string(), histogram(&found));
        });
        let mut series: Vec<(Vec<LabelValue>, f64)> = Vec::new();
        family.series(observation, &mut |labels, value| series.push((labels.to_vec(), value)));
        if !series.is_empty() {
            figures.insert(family.name.to_string(), nested(&series, 0));
        }
    }
    figures
}

/// The series that agree in their first `depth` labels. Series of one family come grouped by label,
/// so each group is a run.
fn nested(series: &[(Vec<LabelValue>, f64)], depth: usize) -> Value {
    if depth == series[0].0.len() {
        return number(series[0].1);
    }
    let groups = series.chunk_by(|a, b| a.0[depth] == b.0[depth]);
    groups.map(|group| (group[0].0[depth].to_string(), nested(group, depth + 1))).collect()
}

/// Whole numbers are written as such: 7, not 7.0.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && (0.0..MAX_EXACT).contains(&value) {
        return Value::from(value as u64);
    }
    // JSON has no infinities; the table has none either, but a reader must not be the one to find
    // out.
    Value::from(if value.is_finite() { value } else { 0.0 })
}

/// Cumulative counts, as Prometheus has them; the last bound, which is infinite, is null.
fn histogram(histogram: &Histogram) -> Value {
    let mut count = 0;
    let buckets: Vec<Value> = histogram
        .counts
        .iter()
        .enumerate()
        .map(|(i, more)| {
            count = more.saturating_add(count);
            json!([histogram.bounds.get(i).copied().map(number), count])
        })
        .collect();
    json!({ "buckets": buckets, "sum": number(histogram.sum), "count": count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_labelled_families_have_their_shapes() {
        let mut observation = Observation { process: None, residency: None, ..Observation::take() };
        observation.snapshot.threads = 7;
        observation.snapshot.release_oldest_age_seconds = 0.25;
        observation.snapshot.epoch_ticks_total.idle = 3;
        observation.snapshot.epoch_ticks_total.busy = 4;
        let text = render(&observation);
        assert!(text.starts_with("{\"release_enqueued_total\":{\"small_page_retire\":"), "{text}");
        assert!(text.contains("\"threads\":7,"), "{text}");
        assert!(text.contains("\"release_oldest_age_seconds\":0.25,"), "{text}");
        assert!(text.contains("\"epoch_ticks_total\":{\"idle\":3,\"busy\":4}"), "{text}");
        observation.snapshot.purge_batch_pages.counts[0] = 2;
        observation.snapshot.purge_batch_pages.counts[10] = 1;
        observation.snapshot.purge_batch_pages.sum = 300_002.0;
        let text = render(&observation);
        let start = "\"purge_batch_pages\":{\"buckets\":[[1,2],[4,2],";
        let end = "[262144,2],[null,3]],\"sum\":300002,\"count\":3}";
        assert!(text.contains(start) && text.contains(end), "{text}");
        assert!(!text.contains("rss_peak_bytes"), "absent, not 0: {text}");
    }
}
