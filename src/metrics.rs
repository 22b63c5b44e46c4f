//! What is counted, and its Prometheus text.
//!
//! A handler makes one [`Sample`] a request; a sink adds it up, in memory natively and in Redis on Spin, where the
//! components share nothing else. Labels are bounded: a model gets one only after it answered, and only the first
//! [`MODEL_LIMIT`] do.

#[cfg(feature = "memory")]
pub mod memory;
pub mod redis;
mod series;
mod text;

use std::{collections::BTreeMap, future::Future, time::Duration};

use crate::{
    cache::CacheStatus,
    host::{MaybeSend, MaybeSync},
    store::StoreResult,
};

pub(crate) use series::{BUCKETS, Family, Increment};
pub use text::{CONTENT_TYPE, Gauges, encode};

/// Models with a label of their own; the rest share `other`.
pub const MODEL_LIMIT: usize = 100;
/// The longest label of a model, in bytes; a longer name is `other`.
pub(crate) const MODEL_NAME_LIMIT: usize = 128;
/// The label of a model that has none of its own.
pub(crate) const OTHER_MODEL: &str = "other";

/// What one request adds to the counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample<'a> {
    /// The route, never the raw path.
    pub route: &'static str,
    /// The model that was asked for.
    pub model: Option<&'a str>,
    /// `ok` or the error's code.
    pub outcome: &'static str,
    /// From the request's head until the last byte of the reply was handed over.
    pub latency: Duration,
    /// What the cache did.
    pub cache: Option<CacheStatus>,
    /// The hosts that were asked, by URL, and how it went.
    pub attempts: &'a [Attempt],
    /// Tokens of prompt and answer, by Ollama's count.
    pub tokens: Option<Tokens>,
    /// Store operations that failed.
    pub store_errors: &'a [&'static str],
}

/// One attempt at one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The host's URL.
    pub host: String,
    /// `ok`, `cancelled` or the failure's word.
    pub outcome: &'static str,
}

/// Tokens, by Ollama's count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompt.
    pub prompt: u64,
    /// Of the answer.
    pub completion: u64,
}

/// Where counters live.
pub trait Metrics: MaybeSend + MaybeSync {
    /// Adds one request, all of it or nothing.
    fn add(&self, sample: &Sample<'_>) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// All counters as they stand.
    fn snapshot(&self) -> impl Future<Output = StoreResult<Snapshot>> + MaybeSend;
}

/// All counters at one time, by series.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot(pub(crate) BTreeMap<String, Value>);

/// The value of one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Counter(u64),
    Histogram(Box<Histogram>),
}

/// Observations by bucket, not cumulated; the last bucket has no upper bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Histogram {
    pub(crate) counts: [u64; BUCKETS.len() + 1],
    pub(crate) sum_micros: u64,
}

impl Sample<'_> {
    /// The model's own label, if its name can be one.
    fn model_label(&self) -> Option<&str> {
        self.model.filter(|name| {
            !name.is_empty() && name.len() <= MODEL_NAME_LIMIT && !name.chars().any(char::is_control)
        })
    }

    fn succeeded(&self) -> bool {
        self.outcome == "ok"
    }

    /// Everything this request adds, with `model` as the model's label.
    fn increments(&self, model: &str, mut add: impl FnMut(Increment<'_>)) {
        let Self { route, model: _, outcome, latency, cache, attempts, tokens, store_errors } = self;
        add(Increment::count(Family::Requests, &[route, model, outcome]));
        add(Increment::observation(Family::Latency, &[route, model, outcome], *latency));
        match cache {
            Some(CacheStatus::Hit) => add(Increment::count(Family::CacheHits, &[])),
            Some(CacheStatus::Miss) => add(Increment::count(Family::CacheMisses, &[])),
            Some(CacheStatus::Bypass) => add(Increment::count(Family::CacheBypasses, &[])),
            None => {}
        }
        for Attempt { host, outcome } in *attempts {
            add(Increment::count(Family::Attempts, &[host, outcome]));
        }
        if let Some(Tokens { prompt, completion }) = tokens {
            add(Increment::sum(Family::PromptTokens, &[model], *prompt));
            add(Increment::sum(Family::CompletionTokens, &[model], *completion));
        }
        for operation in *store_errors {
            add(Increment::count(Family::StoreErrors, &[operation]));
        }
    }
}
