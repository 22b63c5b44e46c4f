//! Answers, in this process.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{Expiring, MemoryStore};
use crate::{
    cache::{CacheKey, Entry, Epochs, Stored},
    host::Clock,
    store::{ResponseCache, StoreResult},
};

/// How often the cache was emptied.
#[derive(Debug, Default)]
pub(super) struct Purges(Mutex<(u64, BTreeMap<String, u64>)>);

impl<C: Clock> ResponseCache for MemoryStore<C> {
    async fn epochs(&self, model: &str) -> StoreResult<Epochs> {
        let purges = self.purges.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Epochs { all: purges.0, model: purges.1.get(model).copied().unwrap_or_default() })
    }

    async fn purge(&self, model: Option<&str>) -> StoreResult<()> {
        let mut purges = self.purges.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = model {
            *purges.1.entry(model.to_owned()).or_default() += 1;
        } else {
            purges.0 += 1;
            self.answers.clear();
        }
        Ok(())
    }

    async fn answer(&self, key: &CacheKey) -> StoreResult<Option<Stored>> {
        let now = self.clock.now();
        let found = self.answers.get(key).filter(|found| found.expires > now);
        let Some(Expiring { value: (entry, ttl), expires, .. }) = found else {
            self.answers.remove(key);
            return Ok(None);
        };
        Ok(Some(Stored { entry, age: ttl.saturating_sub(expires.saturating_sub(now)) }))
    }

    async fn put_answer(&self, key: &CacheKey, entry: &Entry, ttl: Duration) -> StoreResult<()> {
        let bytes = entry.size() as u64;
        let expiring = Expiring { value: (entry.clone(), ttl), expires: self.clock.now() + ttl, bytes };
        self.answers.insert(*key, expiring);
        Ok(())
    }
}
