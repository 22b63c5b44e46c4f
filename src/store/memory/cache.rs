//! Answers, in this process.

use std::{sync::Arc, time::Duration};

use super::{Expiring, MemoryStore};
use crate::{
    cache::{CacheKey, CachedAnswer},
    host::Clock,
    store::{ResponseCache, StoreResult},
};

impl<C: Clock> ResponseCache for MemoryStore<C> {
    async fn answer(&self, key: &CacheKey) -> StoreResult<Option<CachedAnswer>> {
        Ok(self.live(&self.answers, key).map(|answer| CachedAnswer::clone(&answer)))
    }

    async fn put_answer(&self, key: &CacheKey, answer: &CachedAnswer, ttl: Duration) -> StoreResult<()> {
        let entry = Expiring {
            value: Arc::new(answer.clone()),
            expires: self.clock.now() + ttl,
            bytes: answer.spoken.bytes() as u64,
        };
        self.answers.insert(*key, entry);
        Ok(())
    }
}
