//! The metric families: name, help, labels and buckets of each metric.

/// A metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricFamily {
    Requests,
    Latency,
    CacheHits,
    CacheMisses,
    CacheCoalesced,
    CacheBypasses,
    Attempts,
    Failovers,
    ColdStarts,
    FirstToken,
    Speed,
    PromptTokens,
    CompletionTokens,
    StoreErrors,
}

impl MetricFamily {
    pub(crate) const ALL: [Self; 14] = [
        Self::Requests,
        Self::Latency,
        Self::CacheHits,
        Self::CacheMisses,
        Self::CacheCoalesced,
        Self::CacheBypasses,
        Self::Attempts,
        Self::Failovers,
        Self::ColdStarts,
        Self::FirstToken,
        Self::Speed,
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
            Self::CacheCoalesced => "paddock_cache_coalesced_total",
            Self::CacheBypasses => "paddock_cache_bypasses_total",
            Self::Attempts => "paddock_upstream_attempts_total",
            Self::Failovers => "paddock_failovers_total",
            Self::ColdStarts => "paddock_cold_starts_total",
            Self::FirstToken => "paddock_time_to_first_token_seconds",
            Self::Speed => "paddock_tokens_per_second",
            Self::PromptTokens => "paddock_prompt_tokens_total",
            Self::CompletionTokens => "paddock_completion_tokens_total",
            Self::StoreErrors => "paddock_store_errors_total",
        }
    }

    pub(crate) fn help(self) -> &'static str {
        match self {
            Self::Requests => "Requests for an answer, by route, model and outcome.",
            Self::Latency => "Seconds from a request's head until its answer is complete.",
            Self::CacheHits => "Requests answered from the response cache.",
            Self::CacheMisses => "Requests looked up in the response cache and not found.",
            Self::CacheCoalesced => {
                "Requests answered together with the same one, which had been asked before."
            }
            Self::CacheBypasses => "Requests not looked up: the cache is off for them, or its store is down.",
            Self::Attempts => "Attempts at a backend host, by host and outcome.",
            Self::Failovers => {
                "Attempts that failed and made another host be asked, by the host that failed."
            }
            Self::ColdStarts => "Attempts at a host that had to load the model, by host and model.",
            Self::FirstToken => "Seconds from asking a host to the first token of its answer.",
            Self::Speed => "Tokens a second in which a host wrote an answer.",
            Self::PromptTokens => "Tokens that Ollama read, by its own count.",
            Self::CompletionTokens => "Tokens that Ollama wrote, by its own count.",
            Self::StoreErrors => "Store operations that failed, by operation.",
        }
    }

    pub(crate) fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Requests | Self::Latency => &["route", "model", "outcome"],
            Self::CacheHits | Self::CacheMisses | Self::CacheCoalesced | Self::CacheBypasses => &[],
            Self::Attempts => &["host", "outcome"],
            Self::Failovers => &["host"],
            Self::ColdStarts => &["host", "model"],
            Self::FirstToken | Self::Speed => &["model", "host"],
            Self::PromptTokens | Self::CompletionTokens => &["model"],
            Self::StoreErrors => &["operation"],
        }
    }

    /// The upper bounds of a histogram's buckets in millionths of its unit, so that no bound needs a fraction; empty
    /// for a counter.
    pub(crate) fn buckets(self) -> &'static [u64] {
        match self {
            Self::Latency => &LATENCY,
            Self::FirstToken => &FIRST_TOKEN,
            Self::Speed => &SPEED,
            Self::Requests
            | Self::CacheHits
            | Self::CacheMisses
            | Self::CacheCoalesced
            | Self::CacheBypasses
            | Self::Attempts
            | Self::Failovers
            | Self::ColdStarts
            | Self::PromptTokens
            | Self::CompletionTokens
            | Self::StoreErrors => &[],
        }
    }

    pub(crate) fn is_histogram(self) -> bool {
        !self.buckets().is_empty()
    }
}

/// 5 ms to 600 s.
const LATENCY: [u64; 17] = [
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

/// 10 ms to 300 s: the bounds of the latency within that range, so that both can be compared.
const FIRST_TOKEN: [u64; 15] = [
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
];

/// 1 to 500 tokens per second.
const SPEED: [u64; 13] = [
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    30_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    150_000_000,
    200_000_000,
    300_000_000,
    500_000_000,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise_and_only_histograms_have_them() {
        for family in MetricFamily::ALL {
            assert!(family.buckets().is_sorted_by(|one, next| one < next), "{family:?}");
            assert_eq!(family.is_histogram(), !family.name().ends_with("_total"), "{family:?}");
        }
    }
}
