//! Counters and histograms, and their text for Prometheus.
//!
//! A handler makes one [`Sample`] per request; an implementation of [`Metrics`] adds it up, in memory natively and in
//! Redis on Spin, where components share nothing else. Labels are bounded: a model gets a label only after it has
//! answered, and only the first 100 models do.

mod family;
mod gauges;
#[cfg(feature = "memory")]
pub mod memory;
pub mod redis;
mod sample;
mod series;
mod text;

use std::{collections::BTreeMap, future::Future, time::Duration};

use crate::{
    platform::{MaybeSend, MaybeSync},
    store::StoreResult,
};

pub(crate) use family::MetricFamily;
pub use gauges::{Gauges, HostGauge, LaneGauge};
pub use sample::{Attempt, Sample};
pub(crate) use text::CONTENT_TYPE;
pub use text::encode;

/// The most models with a label of their own; all others share `other`.
pub(crate) const MODEL_LIMIT: usize = 100;
/// The longest label of a model, in bytes; a model with a longer name is counted as `other`.
pub(crate) const MODEL_NAME_LIMIT: usize = 128;
/// The label of models without one of their own.
pub(crate) const OTHER_MODEL: &str = "other";

/// Where counters are stored.
pub trait Metrics: MaybeSend + MaybeSync {
    /// Adds one request, completely or not at all.
    fn add(&self, sample: &Sample<'_>) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Adds store failures that happened after their request's sample was added. Where they cannot be added at once,
    /// they are added with the next sample.
    fn add_store_errors(&self, store_errors: &[&'static str]);

    /// Lets the series of hosts go that have not been current for a while. Counters that a fleet of changing addresses cannot
    /// make grow need not do so.
    fn retire_hosts(&self, now: Duration, is_current: &dyn Fn(&str) -> bool) {
        let _ = (now, is_current);
    }

    /// The current values of all counters.
    fn snapshot(&self) -> impl Future<Output = StoreResult<Snapshot>> + MaybeSend;
}

/// The values of all series at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot(pub(crate) BTreeMap<String, Value>);

/// The value of one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Counter(u64),
    Histogram(Histogram),
}

/// Observations by bucket, not cumulative; the last bucket has no upper bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Histogram {
    pub(crate) counts: Vec<u64>,
    /// The sum in millionths of the unit, like the bounds.
    pub(crate) sum_micros: u64,
}

impl Value {
    /// The first value of a series of that family.
    fn zero(family: MetricFamily) -> Self {
        if family.is_histogram() {
            Self::Histogram(Histogram { counts: vec![0; family.buckets().len() + 1], sum_micros: 0 })
        } else {
            Self::Counter(0)
        }
    }
}
