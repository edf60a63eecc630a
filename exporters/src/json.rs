//! A sample as one JSON object, for the page and for scripts.
//!
//! A family without labels is a number; one with a label is an object from label value to number.
//! Keys are the names of the table without their prefix. The nesting is as deep as a family has
//! labels. A histogram is `{"buckets":[[bound,count],…],"sum":…,"count":…}`.

use std::fmt::Write;

use slackwater::snapshot::Histogram;

use crate::families::{FAMILIES, LabelValue, Sample};

/// Renders every family that has a series.
pub fn render(sample: &Sample) -> String {
    let mut text = String::with_capacity(8 * 1024);
    text.push('{');
    for family in FAMILIES {
        family.histograms(sample, &mut |_, histogram| {
            separate(&mut text);
            let _ = write!(text, "\"{}\":", family.name);
            write_histogram(&mut text, &histogram);
        });
        let mut series: Vec<(Vec<LabelValue>, f64)> = Vec::new();
        family.series(sample, &mut |labels, value| series.push((labels.to_vec(), value)));
        if series.is_empty() {
            continue;
        }
        separate(&mut text);
        let _ = write!(text, "\"{}\":", family.name);
        write_series(&mut text, &series, 0);
    }
    text.push('}');
    text
}

/// Writes the series that agree in their first `depth` labels. Series of one family come grouped
/// by label, so each group is a run.
fn write_series(text: &mut String, series: &[(Vec<LabelValue>, f64)], depth: usize) {
    if depth == series[0].0.len() {
        // JSON has no infinities; the table has none either, but a reader must not be the one to
        // find out.
        let value = series[0].1;
        let _ = write!(text, "{}", if value.is_finite() { value } else { 0.0 });
        return;
    }
    text.push('{');
    for group in series.chunk_by(|a, b| a.0[depth] == b.0[depth]) {
        separate(text);
        // Words of the table and numbers need no escaping.
        let _ = write!(text, "\"{}\":", group[0].0[depth]);
        write_series(text, group, depth + 1);
    }
    text.push('}');
}

/// Cumulative counts, as Prometheus has them; the last bound, which is infinite, is null.
fn write_histogram(text: &mut String, histogram: &Histogram) {
    text.push_str("{\"buckets\":[");
    let mut count = 0;
    for (i, more) in histogram.counts.iter().enumerate() {
        count += more;
        let _ = match histogram.bounds.get(i) {
            Some(bound) => write!(text, "[{bound},{count}],"),
            None => write!(text, "[null,{count}]"),
        };
    }
    let _ = write!(text, "],\"sum\":{},\"count\":{count}}}", histogram.sum);
}

fn separate(text: &mut String) {
    if !text.ends_with('{') {
        text.push(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_labelled_families_have_their_shapes() {
        let mut sample = Sample { process: None, residency: None, ..Sample::take() };
        sample.snapshot.threads = 7;
        sample.snapshot.release_oldest_age_seconds = 0.25;
        sample.snapshot.epoch_ticks_total.idle = 3;
        sample.snapshot.epoch_ticks_total.busy = 4;
        let text = render(&sample);
        assert!(text.starts_with("{\"release_enqueued_total\":{\"small_page_retire\":"), "{text}");
        assert!(text.contains("\"threads\":7,"), "{text}");
        assert!(text.contains("\"release_oldest_age_seconds\":0.25,"), "{text}");
        assert!(text.contains("\"epoch_ticks_total\":{\"idle\":3,\"busy\":4}"), "{text}");
        sample.snapshot.purge_batch_pages.counts[0] = 2;
        sample.snapshot.purge_batch_pages.counts[10] = 1;
        sample.snapshot.purge_batch_pages.sum = 300_002.0;
        let text = render(&sample);
        let start = "\"purge_batch_pages\":{\"buckets\":[[1,2],[4,2],";
        let end = "[262144,2],[null,3]],\"sum\":300002,\"count\":3}";
        assert!(text.contains(start) && text.contains(end), "{text}");
        assert!(!text.contains("rss_peak_bytes"), "absent, not 0: {text}");
        assert!(text.ends_with('}') && !text.contains(",}") && !text.contains("{,"), "{text}");
    }
}
