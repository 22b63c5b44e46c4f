//! The embedded store in memory: everything in this process, bounded in bytes, with expiry.
//!
//! It is the default without Redis, and the fake of the tests. `quick_cache` (S3-FIFO) chooses which entry to evict; an
//! expired entry is never returned.
//!
//! Expiry is written by hand because `moka`, which has it, reads its own clock, so that no test could set the time.

mod cache;
mod fleet;
mod sessions;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use super::{Outage, Store, StoreResult};
use crate::{
    cache::{CacheKey, Entry},
    fleet::local::LocalFleet,
    platform::{Clock, Locked},
    session::SessionKey,
};

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

/// The embedded store.
#[derive(Debug)]
pub struct MemoryStore<C> {
    clock: C,
    answers: Bounded<CacheKey, (Entry, Duration)>,
    purges: cache::Purges,
    sessions: Bounded<SessionKey, Arc<sessions::Kept>>,
    /// The most bytes that the turns of one session may take.
    largest: u64,
    /// Held while a session is replaced, so that of turns appended at the same time all survive.
    appending: Locked<()>,
    turn: AtomicU64,
    fleet: Arc<LocalFleet>,
    outage: Outage,
}

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

impl<C: Clock> MemoryStore<C> {
    /// A store of at most `limit` bytes, half for answers and half for sessions.
    pub fn new(clock: C, limit: u64) -> Self {
        Self {
            clock,
            answers: bounded(limit / 2),
            purges: cache::Purges::default(),
            sessions: bounded(limit / 2),
            // The rest of a shard is for its system messages, and for others.
            largest: limit / 2 / shards(limit / 2) * 3 / 4,
            appending: Locked::new(()),
            turn: AtomicU64::new(0),
            fleet: Arc::default(),
            outage: Outage::default(),
        }
    }

    fn live<K: std::hash::Hash + Eq + Clone, T: Clone>(&self, entries: &Bounded<K, T>, key: &K) -> Option<T> {
        let entry = entries.get(key)?;
        if entry.expires <= self.clock.now() {
            entries.remove(key);
            return None;
        }
        Some(entry.value)
    }
}

impl<C: Clock> Store for MemoryStore<C> {
    fn is_shared(&self) -> bool {
        false
    }

    fn local_fleet(&self) -> Option<Arc<LocalFleet>> {
        Some(Arc::clone(&self.fleet))
    }

    async fn next_sequence(&self) -> StoreResult<u64> {
        Ok(self.turn.fetch_add(1, Ordering::Relaxed))
    }

    async fn ping(&self) -> StoreResult<()> {
        Ok(())
    }

    fn outage(&self) -> &Outage {
        &self.outage
    }
}
