//! The embedded store in memory: everything in this process, bounded in bytes, with expiry.
//!
//! It is the default without Redis, and the fake of the tests. `quick_cache` (S3-FIFO) chooses which entry to evict; an
//! expired entry is never returned.
//!
//! Expiry is written by hand because `moka`, which has it, reads its own clock, so that no test could set the time.

mod cache;
mod fleet;
mod sessions;

use std::{sync::Arc, time::Duration};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use super::{NoFlights, Outage, Store, StoreResult};
use crate::{fleet::local::LocalFleet, platform::Clock};
pub use cache::MemoryAnswers;
pub use fleet::MemoryFleet;
pub use sessions::MemorySessions;

/// The bytes of an entry beside its value: key, counters, hash table.
const ENTRY_OVERHEAD: u64 = 160;
/// The size of an entry for which tables are dimensioned, in bytes.
const USUAL_ENTRY: u64 = 4096;
/// The least size of a shard of a table, in bytes: an entry must fit into its shard.
const SHARD: u64 = 8 << 20;

#[derive(Debug, Clone)]
struct Expiring<T> {
    value: T,
    expires: Duration,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct ByBytes;

impl<K, T> Weighter<K, Expiring<T>> for ByBytes {
    fn weight(&self, _: &K, entry: &Expiring<T>) -> u64 {
        entry.bytes + ENTRY_OVERHEAD
    }
}

type Bounded<K, T> = Cache<K, Expiring<T>, ByBytes>;

/// How many shards a table of `bytes` has.
fn shards(bytes: u64) -> u64 {
    (bytes / SHARD).clamp(1, 64)
}

/// A table of at most `bytes`. Shards let cores work in parallel but limit the largest entry, so their number follows
/// the size and not the number of cores.
fn bounded<K: Eq + std::hash::Hash + Clone, T: Clone>(bytes: u64) -> Bounded<K, T> {
    let count = |number: u64, least: usize| usize::try_from(number).unwrap_or(usize::MAX).max(least);
    let options = OptionsBuilder::new()
        .estimated_items_capacity(count(bytes / USUAL_ENTRY, 16))
        .weight_capacity(bytes)
        .shards(count(shards(bytes), 1))
        .build();
    match options {
        Ok(options) => {
            Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
        }
        // The two figures that it must have are given above.
        Err(_) => Cache::with_weighter(count(bytes / USUAL_ENTRY, 16), bytes, ByBytes),
    }
}

/// An entry that has not expired at `now`; an expired one is removed.
fn live<K: std::hash::Hash + Eq + Clone, T: Clone>(
    entries: &Bounded<K, T>,
    key: &K,
    now: Duration,
) -> Option<Expiring<T>> {
    let entry = entries.get(key)?;
    if entry.expires <= now {
        entries.remove(key);
        return None;
    }
    Some(entry)
}

/// The embedded store.
#[derive(Debug)]
pub struct MemoryStore<C> {
    flights: NoFlights<MemoryAnswers<C>>,
    sessions: MemorySessions<C>,
    fleet: MemoryFleet<C>,
    outage: Outage,
}

impl<C: Clock + Clone> MemoryStore<C> {
    /// A store of at most `limit` bytes, half for answers and half for sessions.
    pub fn new(clock: C, limit: u64) -> Self {
        Self {
            flights: NoFlights::new(MemoryAnswers::new(clock.clone(), limit / 2)),
            sessions: MemorySessions::new(clock.clone(), limit / 2),
            fleet: MemoryFleet::new(clock),
            outage: Outage::default(),
        }
    }
}

impl<C: Clock> Store for MemoryStore<C> {
    type Answers = MemoryAnswers<C>;
    type Flights = NoFlights<MemoryAnswers<C>>;
    type Sessions = MemorySessions<C>;
    type Fleet = MemoryFleet<C>;
    type Inventories = MemoryFleet<C>;

    fn answers(&self) -> &Self::Answers {
        self.flights.answers()
    }

    fn flights(&self) -> &Self::Flights {
        &self.flights
    }

    fn sessions(&self) -> &Self::Sessions {
        &self.sessions
    }

    fn fleet(&self) -> &Self::Fleet {
        &self.fleet
    }

    fn inventories(&self) -> &Self::Inventories {
        &self.fleet
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn local_fleet(&self) -> Option<Arc<LocalFleet>> {
        Some(self.fleet.local())
    }

    async fn ping(&self) -> StoreResult<()> {
        Ok(())
    }

    fn outage(&self) -> &Outage {
        &self.outage
    }
}
