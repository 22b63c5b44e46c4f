//! The native store: Redis where it is configured, else an embedded store, on disk where `DATA_DIR` is set.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use host_shim::disk_store::{DiskStore, Limits};
use paddock::{
    Config,
    cache::{AllEpochs, CacheKey, Entry, Epochs, Stored},
    fleet::{
        HostStats, Inventory,
        local::LocalFleet,
        snapshot::{Claim, FleetSnapshot, Lease, Ticket},
    },
    session::{Session, SessionHead, SessionKey, Span, Turn},
    store::{
        Audience, FleetState, FlightEnd, FlightKey, Followed, Found, Outage, ResponseCache, Sessions, Store,
        StoreResult, StoreTimeouts, TimeLimit, Within,
        memory::MemoryStore,
        redis::{Guard, RedisStore},
    },
};

use crate::{clock::SystemClock, redis_client::RedisClient};

/// The longest time that a request waits for the disk. A sync takes milliseconds, but seconds on an overloaded disk.
const DISK_LIMIT: Duration = Duration::from_secs(5);

/// One of the three stores.
#[derive(Debug)]
pub(crate) enum NativeStore {
    Memory(MemoryStore<SystemClock>),
    Disk(DiskStore<SystemClock>),
    Redis(RedisStore<Guard<RedisClient, SystemClock>>),
}

/// Calls the store in use.
macro_rules! delegate {
    ($self:expr, $store:ident => $asked:expr) => {
        match $self {
            Self::Memory($store) => $asked,
            Self::Disk($store) => $asked,
            Self::Redis($store) => $asked,
        }
    };
}

impl NativeStore {
    pub(crate) fn new(config: &Config, clock: SystemClock) -> anyhow::Result<Self> {
        if let Some(redis) = &config.store.redis {
            let guard = Guard::new(RedisClient::new(redis)?, clock);
            let store = RedisStore::new(guard, &config.store.redis_prefix, redis.limits);
            return Ok(Self::Redis(store.with_replicas(redis.wait_replicas)));
        }
        let Some(data) = &config.store.data else {
            return Ok(Self::Memory(MemoryStore::new(clock, config.store.memory_limit)));
        };
        let limits = Limits { memory: config.store.memory_limit, disk: data.limit, wait: DISK_LIMIT };
        Ok(Self::Disk(DiskStore::open(Path::new(&data.directory), limits, clock)?))
    }

    /// Writes all waiting changes. The store must not be used afterwards.
    pub(crate) async fn close(&self) {
        match self {
            Self::Disk(store) => store.close().await,
            Self::Memory(_) | Self::Redis(_) => {}
        }
    }
}

impl ResponseCache for NativeStore {
    async fn epochs(&self, model: &str) -> StoreResult<Epochs> {
        delegate!(self, store => store.epochs(model).await)
    }

    async fn all_epochs(&self) -> StoreResult<Option<AllEpochs>> {
        delegate!(self, store => store.all_epochs().await)
    }

    async fn purge(&self, model: Option<&str>) -> StoreResult<()> {
        delegate!(self, store => store.purge(model).await)
    }

    async fn answer(&self, flight: &FlightKey) -> StoreResult<Option<Stored>> {
        delegate!(self, store => store.answer(flight).await)
    }

    async fn answer_or_lead(
        &self,
        flight: &FlightKey,
        leader: &str,
        max_age: Option<Duration>,
    ) -> StoreResult<Found> {
        delegate!(self, store => store.answer_or_lead(flight, leader, max_age).await)
    }

    async fn put_answer(&self, key: &CacheKey, entry: &Entry, ttl: Duration) -> StoreResult<()> {
        delegate!(self, store => store.put_answer(key, entry, ttl).await)
    }

    async fn publish(
        &self,
        flight: &FlightKey,
        leader: &str,
        from: usize,
        forget: usize,
        events: &[Bytes],
    ) -> StoreResult<Audience> {
        delegate!(self, store => store.publish(flight, leader, from, forget, events).await)
    }

    async fn end_flight(
        &self,
        flight: &FlightKey,
        leader: &str,
        from: usize,
        events: &[Bytes],
        end: &FlightEnd,
    ) -> StoreResult<()> {
        delegate!(self, store => store.end_flight(flight, leader, from, events, end).await)
    }

    async fn follow(
        &self,
        flight: &FlightKey,
        leader: &str,
        follower: &str,
        heard: usize,
    ) -> StoreResult<Followed> {
        delegate!(self, store => store.follow(flight, leader, follower, heard).await)
    }

    async fn leave_flight(&self, flight: &FlightKey, follower: &str) -> StoreResult<()> {
        delegate!(self, store => store.leave_flight(flight, follower).await)
    }
}

impl Sessions for NativeStore {
    async fn session(&self, key: &SessionKey, span: Span<'_>, ttl: Duration) -> StoreResult<Option<Session>> {
        delegate!(self, store => store.session(key, span, ttl).await)
    }

    async fn create_session(&self, key: &SessionKey, head: &SessionHead, ttl: Duration) -> StoreResult<()> {
        delegate!(self, store => store.create_session(key, head, ttl).await)
    }

    async fn delete_session(&self, key: &SessionKey) -> StoreResult<bool> {
        delegate!(self, store => store.delete_session(key).await)
    }

    async fn append_turn_to(
        &self,
        key: &SessionKey,
        generation: Option<u64>,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> StoreResult<bool> {
        delegate!(self, store => store.append_turn_to(key, generation, turn, ttl, keep).await)
    }
}

impl FleetState for NativeStore {
    async fn snapshot(&self) -> StoreResult<FleetSnapshot> {
        delegate!(self, store => store.snapshot().await)
    }

    async fn claim(&self, claim: &Claim<'_>) -> StoreResult<Option<Lease>> {
        delegate!(self, store => store.claim(claim).await)
    }

    async fn renew(&self, lease: &Lease) -> StoreResult<()> {
        delegate!(self, store => store.renew(lease).await)
    }

    async fn enter(&self, ticket: &Ticket, displaced: Option<&str>) -> StoreResult<()> {
        delegate!(self, store => store.enter(ticket, displaced).await)
    }

    async fn leave(&self, id: &str) -> StoreResult<()> {
        delegate!(self, store => store.leave(id).await)
    }

    async fn update(
        &self,
        host: &str,
        known: (&HostStats, Duration),
        released: Option<&Lease>,
        change: impl Fn(&mut HostStats, Duration) + Send + Sync,
    ) -> StoreResult<()> {
        delegate!(self, store => store.update(host, known, released, change).await)
    }

    async fn inventories(&self) -> StoreResult<Vec<(String, Inventory)>> {
        delegate!(self, store => store.inventories().await)
    }

    async fn put_inventory(&self, host: &str, inventory: &Inventory) -> StoreResult<()> {
        delegate!(self, store => store.put_inventory(host, inventory).await)
    }

    async fn lead_refresh(&self, time: Duration) -> StoreResult<bool> {
        delegate!(self, store => store.lead_refresh(time).await)
    }

    async fn decisions(&self) -> StoreResult<Vec<String>> {
        delegate!(self, store => store.decisions().await)
    }
}

impl Store for NativeStore {
    fn is_shared(&self) -> bool {
        delegate!(self, store => store.is_shared())
    }

    fn local_fleet(&self) -> Option<Arc<LocalFleet>> {
        delegate!(self, store => store.local_fleet())
    }

    fn timeouts(&self) -> StoreTimeouts {
        delegate!(self, store => store.timeouts())
    }

    fn within(&self, limit: TimeLimit) -> Within<'_, Self> {
        match self {
            Self::Redis(store) => match store.within(limit) {
                Within::Limited(store) => Within::Limited(Self::Redis(store)),
                Within::Same(_) => Within::Same(self),
            },
            Self::Memory(_) | Self::Disk(_) => Within::Same(self),
        }
    }

    async fn next_sequence(&self) -> StoreResult<u64> {
        delegate!(self, store => store.next_sequence().await)
    }

    async fn ping(&self) -> StoreResult<()> {
        delegate!(self, store => store.ping().await)
    }

    fn outage(&self) -> &Outage {
        delegate!(self, store => store.outage())
    }
}
