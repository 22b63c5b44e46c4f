//! The store of the native form: Redis where one is configured, else the embedded one.

use std::time::Duration;

use paddock::{
    Config,
    cache::{CacheKey, CachedAnswer},
    session::{SessionKey, Turn},
    store::{Outage, ResponseCache, Sessions, Store, StoreResult, memory::MemoryStore, redis::RedisStore},
};

use crate::{host::SystemClock, redis_client::RedisClient};

/// One of the two stores.
#[derive(Debug)]
pub(crate) enum NativeStore {
    Embedded(MemoryStore<SystemClock>),
    Redis(RedisStore<RedisClient>),
}

impl NativeStore {
    pub(crate) fn new(config: &Config, clock: SystemClock) -> anyhow::Result<Self> {
        Ok(match &config.redis {
            Some(redis) => {
                let client = RedisClient::new(redis)?;
                Self::Redis(RedisStore::new(client, &config.redis_prefix, redis.timeout))
            }
            None => Self::Embedded(MemoryStore::new(clock, config.memory_limit)),
        })
    }
}

impl ResponseCache for NativeStore {
    async fn answer(&self, key: &CacheKey) -> StoreResult<Option<CachedAnswer>> {
        match self {
            Self::Embedded(store) => store.answer(key).await,
            Self::Redis(store) => store.answer(key).await,
        }
    }

    async fn put_answer(&self, key: &CacheKey, answer: &CachedAnswer, ttl: Duration) -> StoreResult<()> {
        match self {
            Self::Embedded(store) => store.put_answer(key, answer, ttl).await,
            Self::Redis(store) => store.put_answer(key, answer, ttl).await,
        }
    }
}

impl Sessions for NativeStore {
    async fn turns(&self, key: &SessionKey, ttl: Duration) -> StoreResult<Vec<Turn>> {
        match self {
            Self::Embedded(store) => store.turns(key, ttl).await,
            Self::Redis(store) => store.turns(key, ttl).await,
        }
    }

    async fn append_turn(
        &self,
        key: &SessionKey,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> StoreResult<()> {
        match self {
            Self::Embedded(store) => store.append_turn(key, turn, ttl, keep).await,
            Self::Redis(store) => store.append_turn(key, turn, ttl, keep).await,
        }
    }
}

impl Store for NativeStore {
    async fn next_turn(&self) -> StoreResult<u64> {
        match self {
            Self::Embedded(store) => store.next_turn().await,
            Self::Redis(store) => store.next_turn().await,
        }
    }

    async fn ping(&self) -> StoreResult<()> {
        match self {
            Self::Embedded(store) => store.ping().await,
            Self::Redis(store) => store.ping().await,
        }
    }

    fn outage(&self) -> &Outage {
        match self {
            Self::Embedded(store) => store.outage(),
            Self::Redis(store) => store.outage(),
        }
    }
}
