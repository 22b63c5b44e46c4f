//! Cached answers in memory.

use std::{collections::BTreeMap, time::Duration};

use super::{Bounded, Expiring, bounded, live};
use crate::{
    cache::{AllEpochs, CacheKey, Entry, Epochs, Stored},
    platform::{Clock, Locked},
    store::{FlightKey, ResponseCache, StoreResult},
};

/// Cached answers in memory, bounded in bytes.
#[derive(Debug)]
pub struct MemoryAnswers<C> {
    clock: C,
    answers: Bounded<CacheKey, (Entry, Duration)>,
    purges: Purges,
}

/// The purge counters: of the whole cache, and of single models.
#[derive(Debug, Default)]
struct Purges(Locked<(u64, BTreeMap<String, u64>)>);

impl<C> MemoryAnswers<C> {
    /// Answers of at most `limit` bytes.
    pub(super) fn new(clock: C, limit: u64) -> Self {
        Self { clock, answers: bounded(limit), purges: Purges::default() }
    }
}

impl<C: Clock> ResponseCache for MemoryAnswers<C> {
    async fn epochs(&self, model: &str) -> StoreResult<Epochs> {
        let purges = self.purges.0.lock();
        Ok(Epochs { all: purges.0, model: purges.1.get(model).copied().unwrap_or_default() })
    }

    async fn all_epochs(&self) -> StoreResult<Option<AllEpochs>> {
        Ok(None)
    }

    async fn purge(&self, model: Option<&str>) -> StoreResult<()> {
        let mut purges = self.purges.0.lock();
        if let Some(model) = model {
            *purges.1.entry(model.to_owned()).or_default() += 1;
        } else {
            purges.0 += 1;
            self.answers.clear();
        }
        Ok(())
    }

    async fn answer(&self, flight: &FlightKey) -> StoreResult<Option<Stored>> {
        let now = self.clock.now();
        let places = [flight.key, flight.key.in_form(flight.form)];
        let found = places
            .into_iter()
            .filter_map(|key| live(&self.answers, &key, now))
            .max_by_key(|found| found.expires);
        Ok(found.map(|Expiring { value: (entry, ttl), expires, .. }| Stored {
            entry,
            age: ttl.saturating_sub(expires.saturating_sub(now)),
        }))
    }

    async fn put_answer(&self, key: &CacheKey, entry: &Entry, ttl: Duration) -> StoreResult<()> {
        let bytes = entry.size() as u64;
        let expiring = Expiring { value: (entry.clone(), ttl), expires: self.clock.now() + ttl, bytes };
        self.answers.insert(entry.storage_key(key), expiring);
        Ok(())
    }
}
