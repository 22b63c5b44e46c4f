//! The families of series, how a series is named in a store, and what a request adds to it.

use std::time::Duration;

/// Upper bounds of the latency buckets, in microseconds: 5 ms to 600 s.
pub(crate) const BUCKETS: [u64; 17] = [
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    20_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
    600_000_000,
];

/// What parts a series name; no label holds it.
pub(crate) const SEPARATOR: char = '\u{1f}';

/// A metric's name with everything that is fixed about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Requests,
    Latency,
    CacheHits,
    CacheMisses,
    CacheBypasses,
    Attempts,
    PromptTokens,
    CompletionTokens,
    StoreErrors,
}

impl Family {
    pub(crate) const ALL: [Self; 9] = [
        Self::Requests,
        Self::Latency,
        Self::CacheHits,
        Self::CacheMisses,
        Self::CacheBypasses,
        Self::Attempts,
        Self::PromptTokens,
        Self::CompletionTokens,
        Self::StoreErrors,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Requests => "ollama_requests_total",
            Self::Latency => "ollama_request_latency_seconds",
            Self::CacheHits => "paddock_cache_hits_total",
            Self::CacheMisses => "paddock_cache_misses_total",
            Self::CacheBypasses => "paddock_cache_bypasses_total",
            Self::Attempts => "paddock_upstream_attempts_total",
            Self::PromptTokens => "paddock_prompt_tokens_total",
            Self::CompletionTokens => "paddock_completion_tokens_total",
            Self::StoreErrors => "paddock_store_errors_total",
        }
    }

    pub(crate) fn help(self) -> &'static str {
        match self {
            Self::Requests => "Requests for an answer, by route, model and outcome.",
            Self::Latency => "Seconds from a request's head to the last byte of its reply.",
            Self::CacheHits => "Requests answered from the response cache.",
            Self::CacheMisses => "Requests looked up in the response cache and not found.",
            Self::CacheBypasses => "Requests not looked up: the cache is off for them, or its store is down.",
            Self::Attempts => "Attempts at a backend host, by host and outcome.",
            Self::PromptTokens => "Tokens that Ollama read, by its own count.",
            Self::CompletionTokens => "Tokens that Ollama wrote, by its own count.",
            Self::StoreErrors => "Store operations that failed, by operation.",
        }
    }

    pub(crate) fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Requests | Self::Latency => &["route", "model", "outcome"],
            Self::CacheHits | Self::CacheMisses | Self::CacheBypasses => &[],
            Self::Attempts => &["host", "outcome"],
            Self::PromptTokens | Self::CompletionTokens => &["model"],
            Self::StoreErrors => &["operation"],
        }
    }

    pub(crate) fn is_histogram(self) -> bool {
        self == Self::Latency
    }
}

/// What is added to one series.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Increment<'a> {
    family: Family,
    labels: &'a [&'a str],
    pub(crate) amount: Amount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amount {
    Count(u64),
    Observation { bucket: usize, micros: u64 },
}

impl<'a> Increment<'a> {
    pub(crate) fn count(family: Family, labels: &'a [&'a str]) -> Self {
        Self::sum(family, labels, 1)
    }

    pub(crate) fn sum(family: Family, labels: &'a [&'a str], amount: u64) -> Self {
        Self { family, labels, amount: Amount::Count(amount) }
    }

    pub(crate) fn observation(family: Family, labels: &'a [&'a str], value: Duration) -> Self {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound < micros);
        Self { family, labels, amount: Amount::Observation { bucket, micros } }
    }

    /// Writes the series' name in a store: the family's name, then each label, parted by [`SEPARATOR`].
    pub(crate) fn write_key(&self, key: &mut String) {
        key.push_str(self.family.name());
        for label in self.labels {
            key.push(SEPARATOR);
            key.push_str(label);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        for (value, bucket) in [
            (Duration::ZERO, 0),
            (Duration::from_millis(5), 0),
            (Duration::from_micros(5_001), 1),
            (Duration::from_mins(10), 16),
            (Duration::from_secs(601), 17),
            (Duration::MAX, 17),
        ] {
            let Amount::Observation { bucket: found, .. } =
                Increment::observation(Family::Latency, &[], value).amount
            else {
                panic!("no observation")
            };
            assert_eq!(found, bucket, "{value:?}");
        }
    }
}
