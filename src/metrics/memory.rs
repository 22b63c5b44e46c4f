//! Counters in the memory of this process, for the native deployment, where each replica is scraped on its own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use super::{
    Histogram, MODEL_LIMIT, MetricFamily, Metrics, OTHER_MODEL, Sample, Snapshot, Value,
    series::{Amount, Increment, host_of},
};
use crate::{platform::Locked, store::StoreResult};

/// Counters in memory.
#[derive(Debug, Default)]
pub struct MemoryMetrics(Locked<Counters>);

/// How long the series of a host stay that is no longer one of the fleet.
const GONE: Duration = Duration::from_mins(10);

#[derive(Debug, Default)]
struct Counters {
    models: BTreeSet<String>,
    /// The hosts that have series, each with the time since when it is not in the fleet, if it is not.
    hosts: BTreeMap<String, Option<Duration>>,
    series: HashMap<String, Value>,
    /// A buffer for series names, so that counting does not allocate.
    key: String,
}

impl Counters {
    fn add_increment(&mut self, increment: Increment<'_>) {
        let Self { series, key, hosts, .. } = self;
        key.clear();
        increment.write_key(key);
        if !series.contains_key(key.as_str()) {
            if let Some(host) = increment.host().filter(|host| !hosts.contains_key(*host)) {
                hosts.insert(host.to_owned(), None);
            }
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

    fn retire_hosts(&self, now: Duration, is_current: &dyn Fn(&str) -> bool) {
        let mut counters = self.0.lock();
        let mut gone = BTreeSet::new();
        counters.hosts.retain(|host, since| {
            if is_current(host) {
                *since = None;
                return true;
            }
            let stays = now.saturating_sub(*since.get_or_insert(now)) < GONE;
            if !stays {
                gone.insert(host.clone());
            }
            stays
        });
        if !gone.is_empty() {
            counters.series.retain(|key, _| host_of(key).is_none_or(|host| !gone.contains(host)));
        }
    }

    async fn snapshot(&self) -> StoreResult<Snapshot> {
        let counters = self.0.lock();
        Ok(Snapshot(counters.series.iter().map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Attempt;

    #[tokio::test]
    async fn the_series_of_hosts_that_left_the_fleet_leave_after_a_while() {
        let metrics = MemoryMetrics::default();
        let count = async |host: &str| {
            let attempts = [Attempt { host: host.to_owned(), outcome: "ok", cold: true }];
            let sample = Sample {
                route: "/chat",
                model: Some("m:1"),
                outcome: "ok",
                latency: Duration::ZERO,
                cache: None,
                attempts: &attempts,
                first_token: Some(Duration::ZERO),
                speed: Some(1),
                tokens: None,
                store_errors: &[],
            };
            metrics.add(&sample).await.unwrap();
        };
        let hosts = async || {
            let Snapshot(series) = metrics.snapshot().await.unwrap();
            series.keys().filter_map(|key| host_of(key)).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        for number in 0..300 {
            count(&number.to_string()).await;
        }
        let is_current = |host: &str| host == "7";
        metrics.retire_hosts(Duration::ZERO, &is_current);
        metrics.retire_hosts(GONE / 2, &is_current);
        assert_eq!(hosts().await.len(), 300);
        metrics.retire_hosts(GONE * 2 / 3, &|host| host == "8" || is_current(host));
        metrics.retire_hosts(GONE, &is_current);
        assert_eq!(hosts().await, ["7".to_owned(), "8".to_owned()].into());
        metrics.retire_hosts(GONE * 3, &is_current);
        assert_eq!(hosts().await, ["7".to_owned()].into());
        let Snapshot(series) = metrics.snapshot().await.unwrap();
        assert!(series.keys().any(|key| host_of(key).is_none()), "what is of no host stays");
    }
}
