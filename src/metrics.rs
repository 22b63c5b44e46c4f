//! What is counted, and its Prometheus text.
//!
//! A handler makes one [`Sample`] a request; a sink adds it up, in memory natively and in Redis on Spin, where the
//! components share nothing else. Labels are bounded: a model gets one only after it answered, and only the first
//! [`MODEL_LIMIT`] do.

mod family;
mod gauges;
#[cfg(feature = "memory")]
pub mod memory;
pub mod redis;
mod sample;
mod series;
mod text;

use std::{collections::BTreeMap, future::Future};

use crate::{
    platform::{MaybeSend, MaybeSync},
    store::StoreResult,
};

pub(crate) use family::MetricFamily;
pub use gauges::{Gauges, HostGauge};
pub use sample::{Attempt, Sample};
pub use text::{CONTENT_TYPE, encode};

/// Models with a label of their own; the rest share `other`.
pub const MODEL_LIMIT: usize = 100;
/// The longest label of a model, in bytes; a longer name is `other`.
pub(crate) const MODEL_NAME_LIMIT: usize = 128;
/// The label of a model that has none of its own.
pub(crate) const OTHER_MODEL: &str = "other";

/// Where counters live.
pub trait Metrics: MaybeSend + MaybeSync {
    /// Adds one request, all of it or nothing.
    fn add(&self, sample: &Sample<'_>) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Adds failures of the store that came too late for their request's sample. Where they cannot be added at once they
    /// wait for the next sample.
    fn add_store_errors(&self, store_errors: &[&'static str]);

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
    Histogram(Histogram),
}

/// Observations by bucket, not cumulated; the last bucket has no upper bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Histogram {
    pub(crate) counts: Vec<u64>,
    /// In millionths of the family's unit, as its bounds are.
    pub(crate) sum_micros: u64,
}

impl Value {
    /// What a series of that family begins with.
    fn zero(family: MetricFamily) -> Self {
        if family.is_histogram() {
            Self::Histogram(Histogram { counts: vec![0; family.buckets().len() + 1], sum_micros: 0 })
        } else {
            Self::Counter(0)
        }
    }
}
