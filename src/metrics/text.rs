//! Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use crate::{
    metrics::{BUCKETS, Family, Histogram, Snapshot, Value, series::SEPARATOR},
    settings::Form,
};

/// The content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is not counted but known when asked.
#[derive(Debug, Clone, Copy)]
pub struct Gauges {
    /// Whether the store answers.
    pub store_up: bool,
    /// The form of the host.
    pub form: Form,
}

/// The text of all counters and gauges, families in a fixed order and series sorted.
pub fn encode(snapshot: &Snapshot, gauges: Gauges) -> String {
    let mut text = String::with_capacity(4096);
    for family in Family::ALL {
        let kind = if family.is_histogram() { "histogram" } else { "counter" };
        header(&mut text, family.name(), family.help(), kind);
        if family.labels().is_empty() && !snapshot.0.contains_key(family.name()) {
            // A counter that can be named before it counted is 0, so that rates begin at its first step.
            line(&mut text, family.name(), "", 0);
        }
        for (key, value) in &snapshot.0 {
            let mut parts = key.split(SEPARATOR);
            if parts.next() == Some(family.name()) {
                series(&mut text, family, &labels(family, parts), value);
            }
        }
    }
    header(&mut text, "paddock_store_up", "Whether the store answers: 1 or 0.", "gauge");
    line(&mut text, "paddock_store_up", "", u64::from(gauges.store_up));
    header(&mut text, "paddock_build_info", "The version that runs and the form it runs in.", "gauge");
    let build = format!("version=\"{}\",form=\"{}\"", env!("CARGO_PKG_VERSION"), gauges.form.as_str());
    line(&mut text, "paddock_build_info", &build, 1);
    text
}

fn header(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn labels<'a>(family: Family, values: impl Iterator<Item = &'a str>) -> String {
    let pairs = family.labels().iter().zip(values);
    pairs.map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect::<Vec<_>>().join(",")
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn line(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = if labels.is_empty() {
        writeln!(text, "{name} {value}")
    } else {
        writeln!(text, "{name}{{{labels}}} {value}")
    };
}

fn series(text: &mut String, family: Family, labels: &str, value: &Value) {
    match value {
        Value::Counter(count) => line(text, family.name(), labels, count),
        Value::Histogram(histogram) => buckets(text, family.name(), labels, histogram),
    }
}

fn buckets(text: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let bounds = BUCKETS.iter().map(|micros| seconds(*micros)).chain(["+Inf".to_owned()]);
    let bucket = format!("{name}_bucket");
    let mut cumulated = 0;
    for (count, bound) in histogram.counts.iter().zip(bounds) {
        cumulated += count;
        line(text, &bucket, &format!("{labels},le=\"{bound}\""), cumulated);
    }
    line(text, &format!("{name}_sum"), labels, seconds(histogram.sum_micros));
    line(text, &format!("{name}_count"), labels, cumulated);
}

/// Microseconds as seconds, exactly.
fn seconds(micros: u64) -> String {
    let (whole, rest) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{whole}.{rest:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
