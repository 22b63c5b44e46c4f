//! The store of the native form: Redis where one is configured, else the embedded one.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use paddock::{
    Config,
    cache::{CacheKey, Entry, Epochs, Stored},
    fleet::{
        Facts, Inventory,
        book::FleetBook,
        ledger::{Claim, Lease, Ledger, Ticket},
    },
    session::{SessionKey, Turn},
    store::{
        Audience, FleetState, FlightEnd, FlightKey, Followed, Found, Outage, ResponseCache, Sessions, Store,
        StoreResult, memory::MemoryStore, redis::RedisStore,
    },
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

    /// What this process knows of the fleet.
    pub(crate) fn fleet(&self) -> Arc<FleetBook> {
        match self {
            Self::Embedded(store) => Arc::clone(store.fleet()),
            Self::Redis(_) => Arc::default(),
        }
    }
}

impl ResponseCache for NativeStore {
    async fn epochs(&self, model: &str) -> StoreResult<Epochs> {
        match self {
            Self::Embedded(store) => store.epochs(model).await,
            Self::Redis(store) => store.epochs(model).await,
        }
    }

    async fn purge(&self, model: Option<&str>) -> StoreResult<()> {
        match self {
            Self::Embedded(store) => store.purge(model).await,
            Self::Redis(store) => store.purge(model).await,
        }
    }

    async fn answer(&self, key: &CacheKey) -> StoreResult<Option<Stored>> {
        match self {
            Self::Embedded(store) => store.answer(key).await,
            Self::Redis(store) => store.answer(key).await,
        }
    }

    async fn answer_or_lead(&self, flight: &FlightKey, leader: &str) -> StoreResult<Found> {
        match self {
            Self::Embedded(store) => store.answer_or_lead(flight, leader).await,
            Self::Redis(store) => store.answer_or_lead(flight, leader).await,
        }
    }

    async fn put_answer(&self, key: &CacheKey, entry: &Entry, ttl: Duration) -> StoreResult<()> {
        match self {
            Self::Embedded(store) => store.put_answer(key, entry, ttl).await,
            Self::Redis(store) => store.put_answer(key, entry, ttl).await,
        }
    }

    async fn publish(
        &self,
        flight: &FlightKey,
        leader: &str,
        from: usize,
        forget: usize,
        events: &[Bytes],
    ) -> StoreResult<Audience> {
        match self {
            Self::Embedded(store) => store.publish(flight, leader, from, forget, events).await,
            Self::Redis(store) => store.publish(flight, leader, from, forget, events).await,
        }
    }

    async fn end_flight(
        &self,
        flight: &FlightKey,
        leader: &str,
        from: usize,
        events: &[Bytes],
        end: FlightEnd,
    ) -> StoreResult<()> {
        match self {
            Self::Embedded(store) => store.end_flight(flight, leader, from, events, end).await,
            Self::Redis(store) => store.end_flight(flight, leader, from, events, end).await,
        }
    }

    async fn follow(&self, flight: &FlightKey, leader: &str, heard: usize) -> StoreResult<Followed> {
        match self {
            Self::Embedded(store) => store.follow(flight, leader, heard).await,
            Self::Redis(store) => store.follow(flight, leader, heard).await,
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

impl FleetState for NativeStore {
    async fn ledger(&self) -> StoreResult<Ledger> {
        match self {
            Self::Embedded(store) => store.ledger().await,
            Self::Redis(store) => store.ledger().await,
        }
    }

    async fn claim(&self, claim: &Claim<'_>) -> StoreResult<Option<Lease>> {
        match self {
            Self::Embedded(store) => store.claim(claim).await,
            Self::Redis(store) => store.claim(claim).await,
        }
    }

    async fn renew(&self, lease: &Lease) -> StoreResult<()> {
        match self {
            Self::Embedded(store) => store.renew(lease).await,
            Self::Redis(store) => store.renew(lease).await,
        }
    }

    async fn enter(&self, ticket: &Ticket, displaced: Option<&str>) -> StoreResult<()> {
        match self {
            Self::Embedded(store) => store.enter(ticket, displaced).await,
            Self::Redis(store) => store.enter(ticket, displaced).await,
        }
    }

    async fn leave(&self, id: &str) -> StoreResult<()> {
        match self {
            Self::Embedded(store) => store.leave(id).await,
            Self::Redis(store) => store.leave(id).await,
        }
    }

    async fn update(
        &self,
        host: &str,
        known: (&Facts, Duration),
        released: Option<&Lease>,
        change: impl Fn(&mut Facts, Duration) + Send + Sync,
    ) -> StoreResult<()> {
        match self {
            Self::Embedded(store) => store.update(host, known, released, change).await,
            Self::Redis(store) => store.update(host, known, released, change).await,
        }
    }

    async fn inventories(&self) -> StoreResult<Vec<(String, Inventory)>> {
        match self {
            Self::Embedded(store) => store.inventories().await,
            Self::Redis(store) => store.inventories().await,
        }
    }

    async fn put_inventory(&self, host: &str, inventory: &Inventory) -> StoreResult<()> {
        match self {
            Self::Embedded(store) => store.put_inventory(host, inventory).await,
            Self::Redis(store) => store.put_inventory(host, inventory).await,
        }
    }

    async fn lead_refresh(&self, time: Duration) -> StoreResult<bool> {
        match self {
            Self::Embedded(store) => store.lead_refresh(time).await,
            Self::Redis(store) => store.lead_refresh(time).await,
        }
    }

    async fn decisions(&self) -> StoreResult<Vec<String>> {
        match self {
            Self::Embedded(store) => store.decisions().await,
            Self::Redis(store) => store.decisions().await,
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
