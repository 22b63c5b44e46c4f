//! Writes the text format of Prometheus, version 0.0.4.
//!
//! No crate serves: `prometheus-client` is built around a registry, while a snapshot may come from Redis, and it writes
//! `OpenMetrics`.

use std::fmt::Write;

use super::{Gauges, Histogram, MetricFamily, Snapshot, Value, series::SEPARATOR};

/// The content type of the text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text of all counters and gauges: families in a fixed order, series sorted.
pub fn encode(snapshot: &Snapshot, gauges: &Gauges) -> String {
    let mut text = String::with_capacity(4096);
    for family in MetricFamily::ALL {
        let kind = if family.is_histogram() { "histogram" } else { "counter" };
        header(&mut text, family.name(), family.help(), kind);
        if family.labels().is_empty() && !snapshot.0.contains_key(family.name()) {
            // A counter without labels is written as 0 before its first increment, so that rates include that
            // increment.
            line(&mut text, family.name(), "", 0);
        }
        for (key, value) in &snapshot.0 {
            let mut parts = key.split(SEPARATOR);
            if parts.next() == Some(family.name()) {
                series(&mut text, family, &labels(family, parts), value);
            }
        }
    }
    gauges.write(&mut text);
    text
}

pub(super) fn header(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn labels<'a>(family: MetricFamily, values: impl Iterator<Item = &'a str>) -> String {
    let pairs = family.labels().iter().zip(values);
    pairs.map(|(name, value)| label(name, value)).collect::<Vec<_>>().join(",")
}

pub(super) fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", escape(value))
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

pub(super) fn line(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = if labels.is_empty() {
        writeln!(text, "{name} {value}")
    } else {
        writeln!(text, "{name}{{{labels}}} {value}")
    };
}

fn series(text: &mut String, family: MetricFamily, labels: &str, value: &Value) {
    match value {
        Value::Counter(count) => line(text, family.name(), labels, count),
        Value::Histogram(histogram) => buckets(text, family, labels, histogram),
    }
}

fn buckets(text: &mut String, family: MetricFamily, labels: &str, histogram: &Histogram) {
    let name = family.name();
    let bounds = family.buckets().iter().map(|micros| decimal(*micros)).chain(["+Inf".to_owned()]);
    let bucket = format!("{name}_bucket");
    let mut cumulated = 0_u64;
    for (count, bound) in histogram.counts.iter().zip(bounds) {
        cumulated = cumulated.saturating_add(*count);
        line(text, &bucket, &format!("{labels},le=\"{bound}\""), cumulated);
    }
    line(text, &format!("{name}_sum"), labels, decimal(histogram.sum_micros));
    line(text, &format!("{name}_count"), labels, cumulated);
}

/// Millionths as an exact decimal number.
fn decimal(micros: u64) -> String {
    let (whole, rest) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{whole}.{rest:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::settings::Deployment;

    /// The lines of a family whose one series has these labels, with one observation in its first bucket, two in its
    /// third and one beyond its last.
    fn lines(family: MetricFamily, labels: &[&str], sum_micros: u64) -> Vec<String> {
        let mut counts = vec![0; family.buckets().len() + 1];
        counts[0] = 1;
        counts[2] = 2;
        *counts.last_mut().unwrap() = 1;
        let key = [&[family.name()], labels].concat().join(&SEPARATOR.to_string());
        let series = BTreeMap::from([(key, Value::Histogram(Histogram { counts, sum_micros }))]);
        let gauges = Gauges {
            store_up: true,
            held_bytes: 0,
            memory_budget: 0,
            form: Deployment::Native,
            hosts: Vec::new(),
        };
        let text = encode(&Snapshot(series), &gauges);
        text.lines().filter(|line| line.contains(family.name())).map(ToOwned::to_owned).collect()
    }

    #[test]
    fn latency_is_a_histogram_from_5_ms_to_600_s() {
        assert_eq!(
            lines(MetricFamily::Latency, &["/chat", "quote\"d", "ok"], 1_234_560_000),
            [
                "# HELP ollama_request_latency_seconds Seconds from a request's head until its answer is complete.",
                "# TYPE ollama_request_latency_seconds histogram",
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="0.005"} 1"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="0.01"} 1"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="0.025"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="0.05"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="0.1"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="0.25"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="0.5"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="1"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="2.5"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="5"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="10"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="20"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="30"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="60"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="120"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="300"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="600"} 3"#,
                r#"ollama_request_latency_seconds_bucket{route="/chat",model="quote\"d",outcome="ok",le="+Inf"} 4"#,
                r#"ollama_request_latency_seconds_sum{route="/chat",model="quote\"d",outcome="ok"} 1234.56"#,
                r#"ollama_request_latency_seconds_count{route="/chat",model="quote\"d",outcome="ok"} 4"#,
            ]
        );
    }

    #[test]
    fn the_time_to_the_first_token_is_a_histogram_from_10_ms_to_300_s() {
        assert_eq!(
            lines(MetricFamily::FirstToken, &["m", "http://a:1"], 400_000_001),
            [
                "# HELP paddock_time_to_first_token_seconds Seconds from asking a host to the first token of its answer.",
                "# TYPE paddock_time_to_first_token_seconds histogram",
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="0.01"} 1"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="0.025"} 1"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="0.05"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="0.1"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="0.25"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="0.5"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="1"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="2.5"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="5"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="10"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="20"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="30"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="60"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="120"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="300"} 3"#,
                r#"paddock_time_to_first_token_seconds_bucket{model="m",host="http://a:1",le="+Inf"} 4"#,
                r#"paddock_time_to_first_token_seconds_sum{model="m",host="http://a:1"} 400.000001"#,
                r#"paddock_time_to_first_token_seconds_count{model="m",host="http://a:1"} 4"#,
            ]
        );
    }

    #[test]
    fn speed_is_a_histogram_from_1_to_500_tokens_a_second() {
        assert_eq!(
            lines(MetricFamily::Speed, &["m", "http://a:1"], 608_500_000),
            [
                "# HELP paddock_tokens_per_second Tokens a second in which a host wrote an answer.",
                "# TYPE paddock_tokens_per_second histogram",
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="1"} 1"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="2"} 1"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="5"} 3"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="10"} 3"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="20"} 3"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="30"} 3"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="50"} 3"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="75"} 3"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="100"} 3"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="150"} 3"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="200"} 3"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="300"} 3"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="500"} 3"#,
                r#"paddock_tokens_per_second_bucket{model="m",host="http://a:1",le="+Inf"} 4"#,
                r#"paddock_tokens_per_second_sum{model="m",host="http://a:1"} 608.5"#,
                r#"paddock_tokens_per_second_count{model="m",host="http://a:1"} 4"#,
            ]
        );
    }
}
