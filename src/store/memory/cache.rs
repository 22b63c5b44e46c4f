//! Cached answers in memory.

use std::{sync::MutexGuard, time::Duration};

use super::{
    ENTRY_OVERHEAD, parts,
    pool::{Held, Pool},
};
use crate::{
    cache::{AllEpochs, CacheKey, Entry, Epochs, Stored},
    platform::{Clock, Locked},
    store::{FlightKey, ResponseCache, StoreResult},
};

/// Cached answers in memory, bounded in bytes, with a share for each owner.
#[derive(Debug)]
pub struct MemoryAnswers<C> {
    clock: C,
    /// The answers by a part of their key, so that cores work in parallel.
    parts: Box<[Locked<Answers>]>,
    /// They begin with the process, as the answers do, so that no answer is older.
    epochs: Locked<AllEpochs>,
}

/// Answers, each with its time to live.
type Answers = Pool<CacheKey, (Entry, Duration)>;

impl<C> MemoryAnswers<C> {
    /// Answers of at most `limit` bytes.
    pub(super) fn new(clock: C, limit: u64) -> Self {
        let count = parts(limit);
        let parts = (0..count).map(|_| Locked::new(Pool::new(limit / count))).collect();
        Self { clock, parts, epochs: Locked::new(AllEpochs { all: 1, ..AllEpochs::default() }) }
    }

    /// The part that holds a key.
    fn part(&self, key: &CacheKey) -> Option<MutexGuard<'_, Answers>> {
        let number = usize::from(key.as_bytes().first().copied().unwrap_or_default());
        self.parts.get(number % self.parts.len()).map(Locked::lock)
    }
}

impl<C: Clock> ResponseCache for MemoryAnswers<C> {
    async fn epochs(&self, model: &str) -> StoreResult<Epochs> {
        Ok(self.epochs.lock().of(model))
    }

    async fn all_epochs(&self) -> StoreResult<Option<AllEpochs>> {
        Ok(None)
    }

    async fn purge(&self, model: Option<&str>) -> StoreResult<()> {
        let mut epochs = self.epochs.lock();
        let before = epochs.all;
        epochs.begin(model);
        if epochs.all != before {
            self.parts.iter().for_each(|part| part.lock().clear());
        }
        Ok(())
    }

    async fn answer(&self, flight: &FlightKey) -> StoreResult<Option<Stored>> {
        let now = self.clock.now();
        let stored = |Held { value: (entry, ttl), expires, .. }: &Held<(Entry, Duration)>| Stored {
            entry: entry.clone(),
            age: ttl.saturating_sub(expires.saturating_sub(now)),
        };
        let places = [flight.key, flight.key.in_form(flight.form)];
        let found = places.into_iter().filter_map(|key| {
            let mut part = self.part(&key)?;
            let held = part.get(&key, now)?;
            Some((held.expires, stored(held)))
        });
        Ok(found.max_by_key(|(expires, _)| *expires).map(|(_, stored)| stored))
    }

    async fn put_answer(&self, key: &CacheKey, entry: &Entry, ttl: Duration) -> StoreResult<()> {
        let (key, now) = (entry.storage_key(key), self.clock.now());
        let bytes = entry.size() as u64 + ENTRY_OVERHEAD;
        if let Some(mut part) = self.part(&key) {
            part.put((key, entry.owner()), (entry.clone(), ttl), bytes, (now, now + ttl));
        }
        Ok(())
    }
}
