//! Counters in the memory of this process, for the native deployment, where each replica is scraped on its own.

use std::collections::{BTreeSet, HashMap};

use super::{
    Histogram, MODEL_LIMIT, MetricFamily, Metrics, OTHER_MODEL, Sample, Snapshot, Value,
    series::{Amount, Increment},
};
use crate::{platform::Locked, store::StoreResult};

/// Counters in memory.
#[derive(Debug, Default)]
pub struct MemoryMetrics(Locked<Counters>);

#[derive(Debug, Default)]
struct Counters {
    models: BTreeSet<String>,
    series: HashMap<String, Value>,
    /// A buffer for series names, so that counting does not allocate.
    key: String,
}

impl Counters {
    fn add_increment(&mut self, increment: Increment<'_>) {
        let Self { series, key, .. } = self;
        key.clear();
        increment.write_key(key);
        if !series.contains_key(key.as_str()) {
            series.insert(key.clone(), Value::zero(increment.family));
        }
        if let Some(value) = series.get_mut(key.as_str()) {
            value.add(increment.amount);
        }
    }

    fn add(&mut self, sample: &Sample<'_>) {
        let label = match sample.model_label() {
            Some(name) if self.models.contains(name) => name,
            Some(name) if sample.succeeded() && self.models.len() < MODEL_LIMIT => {
                self.models.insert(name.to_owned());
                name
            }
            Some(_) | None => OTHER_MODEL,
        };
        sample.increments(label, |increment| self.add_increment(increment));
    }
}

impl Value {
    pub(super) fn add(&mut self, amount: Amount) {
        match (self, amount) {
            (Self::Counter(count), Amount::Count(more)) => *count = count.saturating_add(more),
            (Self::Histogram(histogram), Amount::Observation { bucket, micros }) => {
                let Histogram { counts, sum_micros } = histogram;
                if let Some(count) = counts.get_mut(bucket) {
                    *count += 1;
                }
                *sum_micros = sum_micros.saturating_add(micros);
            }
            // A family has one kind only, so these cases do not occur.
            (Self::Counter(_), Amount::Observation { .. }) | (Self::Histogram(_), Amount::Count(_)) => {}
        }
    }
}

impl Metrics for MemoryMetrics {
    async fn add(&self, sample: &Sample<'_>) -> StoreResult<()> {
        self.0.lock().add(sample);
        Ok(())
    }

    fn add_store_errors(&self, store_errors: &[&'static str]) {
        let mut counters = self.0.lock();
        for operation in store_errors {
            counters.add_increment(Increment::count(MetricFamily::StoreErrors, &[operation]));
        }
    }

    async fn snapshot(&self) -> StoreResult<Snapshot> {
        let counters = self.0.lock();
        Ok(Snapshot(counters.series.iter().map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}
