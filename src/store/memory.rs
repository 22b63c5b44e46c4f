//! The embedded store: everything in this process, bounded in bytes, with expiry.
//!
//! The default without Redis, and the fake of the tests. Which entry goes when memory runs short is the cache
//! library's policy (S3-FIFO); an entry whose time has passed is never given out.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use crate::{
    cache::{CacheKey, CachedAnswer},
    fleet::{
        Facts, Inventory,
        book::FleetBook,
        ledger::{Claim, Lease, Ledger, Ticket},
    },
    host::{Clock, MaybeSend, MaybeSync},
    session::{SessionKey, Turn},
    store::{FleetState, Outage, ResponseCache, Sessions, Store, StoreError, StoreResult},
};

/// What an entry costs beside its text, in bytes: key, counters, hash table.
const ENTRY_OVERHEAD: u64 = 160;
/// The size of an entry that tables are laid out for, in bytes.
const USUAL_ENTRY: u64 = 4096;
/// The least that one shard of a table holds, in bytes: an entry must fit into its shard.
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
    answers: Bounded<CacheKey, Arc<CachedAnswer>>,
    sessions: Bounded<SessionKey, Arc<[Arc<Turn>]>>,
    /// Held while a session is replaced, so that turns appended at the same time all survive.
    appending: Mutex<()>,
    turn: AtomicU64,
    fleet: Arc<FleetBook>,
    outage: Outage,
}

/// A table that holds `bytes` at most. Shards let cores work side by side, and limit the largest entry; so there are
/// as many as the size allows, and not as many as the machine has cores.
fn bounded<K: Eq + std::hash::Hash + Clone, T: Clone>(bytes: u64) -> Bounded<K, T> {
    let count = |number: u64, least: usize| usize::try_from(number).unwrap_or(usize::MAX).max(least);
    let options = OptionsBuilder::new()
        .estimated_items_capacity(count(bytes / USUAL_ENTRY, 16))
        .weight_capacity(bytes)
        .shards(count(bytes / SHARD, 1).min(64))
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
    /// A store that takes `limit` bytes at most, half for answers and half for sessions.
    pub fn new(clock: C, limit: u64) -> Self {
        Self {
            clock,
            answers: bounded(limit / 2),
            sessions: bounded(limit / 2),
            appending: Mutex::new(()),
            turn: AtomicU64::new(0),
            fleet: Arc::default(),
            outage: Outage::default(),
        }
    }

    /// What it knows of the fleet.
    pub fn fleet(&self) -> &Arc<FleetBook> {
        &self.fleet
    }

    fn live<K: std::hash::Hash + Eq + Clone, T: Clone>(&self, entries: &Bounded<K, T>, key: &K) -> Option<T> {
        let entry = entries.get(key)?;
        if entry.expires <= self.clock.now() {
            entries.remove(key);
            return None;
        }
        Some(entry.value)
    }

    fn put_session(&self, key: &SessionKey, turns: Arc<[Arc<Turn>]>, ttl: Duration) {
        let bytes = turns.iter().map(|turn| {
            let system = turn.system.as_ref().map_or(0, String::len);
            (turn.bytes() + system) as u64 + ENTRY_OVERHEAD * (1 + turn.messages.len() as u64)
        });
        let bytes = bytes.sum();
        let expires = self.clock.now() + ttl;
        self.sessions.insert(key.clone(), Expiring { value: turns, expires, bytes });
    }
}

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

impl<C: Clock> Sessions for MemoryStore<C> {
    async fn turns(&self, key: &SessionKey, ttl: Duration) -> StoreResult<Vec<Turn>> {
        let _guard = self.appending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(turns) = self.live(&self.sessions, key) else { return Ok(Vec::new()) };
        self.put_session(key, turns.clone(), ttl);
        Ok(turns.iter().map(|turn| Turn::clone(turn)).collect())
    }

    async fn append_turn(
        &self,
        key: &SessionKey,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> StoreResult<()> {
        let _guard = self.appending.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = self.live(&self.sessions, key).unwrap_or_default();
        let kept = if turns.iter().any(|known| known.id == turn.id) {
            turns
        } else {
            let dropped = (turns.len() + 1).saturating_sub(keep.max(1));
            turns.iter().skip(dropped).cloned().chain([Arc::new(turn.clone())]).collect()
        };
        self.put_session(key, kept, ttl);
        // A session larger than the cache admits is refused silently; what is acknowledged must be there.
        if self.sessions.peek(key).is_some() { Ok(()) } else { Err(StoreError::Full) }
    }
}

impl<C: Clock> FleetState for MemoryStore<C> {
    async fn ledger(&self) -> StoreResult<Ledger> {
        Ok(self.fleet.ledger(self.clock.now()))
    }

    async fn claim(&self, claim: &Claim<'_>) -> StoreResult<Option<Lease>> {
        Ok(self.fleet.claim(self.clock.now(), claim))
    }

    async fn renew(&self, _: &Lease) -> StoreResult<()> {
        Ok(())
    }

    async fn enter(&self, ticket: &Ticket, displaced: Option<&str>) -> StoreResult<()> {
        self.fleet.enter(self.clock.now(), ticket, displaced);
        Ok(())
    }

    async fn leave(&self, id: &str) -> StoreResult<()> {
        self.fleet.leave(id);
        Ok(())
    }

    async fn update(
        &self,
        host: &str,
        _: (&Facts, Duration),
        released: Option<&Lease>,
        change: impl Fn(&mut Facts, Duration) + MaybeSend + MaybeSync,
    ) -> StoreResult<()> {
        self.fleet.update(self.clock.now(), host, released.map(|lease| &*lease.id), change);
        Ok(())
    }

    async fn inventories(&self) -> StoreResult<Vec<(String, Inventory)>> {
        // They are in the book already.
        Ok(Vec::new())
    }

    async fn put_inventory(&self, _: &str, _: &Inventory) -> StoreResult<()> {
        Ok(())
    }

    async fn lead_refresh(&self, _: Duration) -> StoreResult<bool> {
        Ok(true)
    }

    async fn decisions(&self) -> StoreResult<Vec<String>> {
        Ok(self.fleet.decisions())
    }
}

impl<C: Clock> Store for MemoryStore<C> {
    async fn next_turn(&self) -> StoreResult<u64> {
        Ok(self.turn.fetch_add(1, Ordering::Relaxed))
    }

    async fn ping(&self) -> StoreResult<()> {
        Ok(())
    }

    fn outage(&self) -> &Outage {
        &self.outage
    }
}
