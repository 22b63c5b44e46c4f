//! The name of a series in a store, and an increment of it.

use super::MetricFamily;

/// The separator within a series name; no label contains it.
pub(crate) const SEPARATOR: char = '\u{1f}';

/// The label of a host.
#[cfg(feature = "memory")]
const HOST: &str = "host";

/// The host that a series of this name is of, where it is of one.
#[cfg(feature = "memory")]
pub(crate) fn host_of(key: &str) -> Option<&str> {
    let (name, labels) = key.split_once(SEPARATOR)?;
    let family = MetricFamily::ALL.into_iter().find(|family| family.name() == name)?;
    let place = family.labels().iter().position(|label| *label == HOST)?;
    labels.split(SEPARATOR).nth(place)
}

/// An increment of one series.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Increment<'a> {
    pub(crate) family: MetricFamily,
    labels: &'a [&'a str],
    pub(crate) amount: Amount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amount {
    Count(u64),
    /// An observed value in millionths of the family's unit, and its bucket.
    Observation {
        bucket: usize,
        micros: u64,
    },
}

impl<'a> Increment<'a> {
    pub(crate) fn count(family: MetricFamily, labels: &'a [&'a str]) -> Self {
        Self::sum(family, labels, 1)
    }

    pub(crate) fn sum(family: MetricFamily, labels: &'a [&'a str], amount: u64) -> Self {
        Self { family, labels, amount: Amount::Count(amount) }
    }

    pub(crate) fn observation(family: MetricFamily, labels: &'a [&'a str], micros: u64) -> Self {
        let bucket = family.buckets().partition_point(|bound| *bound < micros);
        Self { family, labels, amount: Amount::Observation { bucket, micros } }
    }

    /// The host that the series is of, where it is of one.
    #[cfg(feature = "memory")]
    pub(crate) fn host(&self) -> Option<&'a str> {
        let place = self.family.labels().iter().position(|label| *label == HOST)?;
        self.labels.get(place).copied()
    }

    /// Writes the series name for a store: the family's name, then each label, separated by [`SEPARATOR`].
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
        for (family, micros, bucket) in [
            (MetricFamily::Latency, 0, 0),
            (MetricFamily::Latency, 5_000, 0),
            (MetricFamily::Latency, 5_001, 1),
            (MetricFamily::Latency, 600_000_000, 16),
            (MetricFamily::Latency, 601_000_000, 17),
            (MetricFamily::Latency, u64::MAX, 17),
            (MetricFamily::FirstToken, 5_001, 0),
            (MetricFamily::FirstToken, 300_000_000, 14),
            (MetricFamily::FirstToken, 300_000_001, 15),
            (MetricFamily::Speed, 999_999, 0),
            (MetricFamily::Speed, 75_000_000, 7),
            (MetricFamily::Speed, 500_000_001, 13),
        ] {
            let found = Increment::observation(family, &[], micros).amount;
            assert_eq!(found, Amount::Observation { bucket, micros }, "{family:?}");
        }
    }
}
