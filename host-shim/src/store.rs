//! The native store: Redis where it is configured, else an embedded store, on disk where `DATA_DIR` is set.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use host_shim::disk_store::{DiskLimits, DiskStore};
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
        Audience, FleetState, FlightBoard, FlightEnd, FlightKey, Followed, Found, InventoryStore, Outage,
        ResponseCache, Sessions, Store, StoreResult, StoreTimeouts, TimeLimit, Within,
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
    Memory(Box<MemoryStore<SystemClock>>),
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

/// Implements a port by giving each of its operations to the same port of the store in use.
macro_rules! forward {
    ($port:ident by $part:ident {
        $(fn $operation:ident($($argument:ident: $type:ty),*) -> $output:ty;)*
    }) => {
        impl $port for NativeStore {
            $(async fn $operation(&self, $($argument: $type),*) -> StoreResult<$output> {
                delegate!(self, store => store.$part().$operation($($argument),*).await)
            })*
        }
    };
}

impl NativeStore {
    pub(crate) fn new(config: &Config, clock: SystemClock) -> anyhow::Result<Self> {
        if let Some(redis) = &config.store.redis {
            let guard = Guard::new(RedisClient::new(redis)?, clock);
            let store = RedisStore::new(guard, &config.store.redis_prefix, redis.limits);
            let store = store.with_replicas(redis.wait_replicas).with_cache_limit(redis.cache_limit);
            return Ok(Self::Redis(store.with_reply_limit(redis.reply_limit)));
        }
        let Some(data) = &config.store.data else {
            let store = MemoryStore::new(clock, config.store.memory_limit);
            return Ok(Self::Memory(Box::new(store)));
        };
        let limits = DiskLimits { memory: config.store.memory_limit, disk: data.limit, wait: DISK_LIMIT };
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

forward! { ResponseCache by answers {
    fn epochs(model: &str) -> Epochs;
    fn all_epochs() -> Option<AllEpochs>;
    fn purge(model: Option<&str>) -> ();
    fn answer(flight: &FlightKey) -> Option<Stored>;
    fn put_answer(key: &CacheKey, entry: &Entry, ttl: Duration) -> ();
} }

forward! { FlightBoard by flights {
    fn answer_or_lead(flight: &FlightKey, leader: &str, max_age: Option<Duration>) -> Found;
    fn publish(flight: &FlightKey, leader: &str, from: usize, forget: usize, events: &[Bytes]) -> Audience;
    fn end_flight(flight: &FlightKey, leader: &str, from: usize, events: &[Bytes], end: &FlightEnd) -> ();
    fn follow(flight: &FlightKey, leader: &str, follower: &str, heard: usize) -> Followed;
    fn leave_flight(flight: &FlightKey, follower: &str) -> ();
} }

forward! { Sessions by sessions {
    fn session(key: &SessionKey, span: Span<'_>, ttl: Duration) -> Option<Session>;
    fn create_session(key: &SessionKey, head: &SessionHead, ttl: Duration) -> ();
    fn delete_session(key: &SessionKey) -> bool;
    fn append_turn_to(
        key: &SessionKey, generation: Option<u64>, turn: &Turn, ttl: Duration, keep: usize
    ) -> bool;
    fn share(key: &SessionKey) -> ();
} }

forward! { FleetState by fleet {
    fn snapshot() -> FleetSnapshot;
    fn claim(claim: &Claim<'_>) -> Option<Lease>;
    fn renew(lease: &Lease) -> ();
    fn enter(ticket: &Ticket, displaced: Option<&str>) -> ();
    fn leave(id: &str) -> ();
    fn update(
        host: &str,
        known: (&HostStats, Duration),
        released: Option<&Lease>,
        change: impl Fn(&mut HostStats, Duration) + Send + Sync
    ) -> ();
    fn next_sequence() -> u64;
    fn decisions() -> Vec<String>;
} }

forward! { InventoryStore by inventories {
    fn load_inventories() -> Vec<(String, Inventory)>;
    fn put_inventory(host: &str, inventory: &Inventory) -> ();
    fn lead_refresh(time: Duration) -> bool;
} }

impl Store for NativeStore {
    type Answers = Self;
    type Flights = Self;
    type Sessions = Self;
    type Fleet = Self;
    type Inventories = Self;

    fn answers(&self) -> &Self {
        self
    }

    fn flights(&self) -> &Self {
        self
    }

    fn sessions(&self) -> &Self {
        self
    }

    fn fleet(&self) -> &Self {
        self
    }

    fn inventories(&self) -> &Self {
        self
    }

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

    async fn ping(&self) -> StoreResult<()> {
        delegate!(self, store => store.ping().await)
    }

    fn warning(&self) -> Option<String> {
        delegate!(self, store => store.warning())
    }

    fn outage(&self) -> &Outage {
        delegate!(self, store => store.outage())
    }
}
