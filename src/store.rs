//! The ports for shared state, named by what the service needs and not by what a database offers.
//!
//! This crate has two implementations: `memory`, with the feature of that name, and [`redis`]. One suite of contract
//! tests runs on each store. A store may fail at any time; a chat then continues without it.

mod flight_board;
#[cfg(feature = "memory")]
pub mod memory;
mod outage;
pub mod redis;

use std::{future::Future, ops::Deref, sync::Arc, time::Duration};

use crate::{
    cache::{AllEpochs, CacheKey, Entry, Epochs, Stored},
    fleet::{
        HostStats, Inventory,
        local::LocalFleet,
        snapshot::{Claim, FleetSnapshot, Lease, Ticket},
    },
    platform::{MaybeSend, MaybeSync},
    session::{Session, SessionHead, SessionKey, Span, Turn},
};
pub use flight_board::{
    Audience, FLIGHT_LEASE, FlightBoard, FlightEnd, FlightKey, Followed, Found, NoFlights,
};
pub use outage::Outage;
pub(crate) use outage::Transition;

/// Why a store operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The time limit passed. A write may still take effect later.
    #[error("no answer in time")]
    TimedOut,
    /// The request's store deadline passed, or no time was left of it. That says nothing about the store. A write may
    /// still take effect later.
    #[error("no answer in what was left of the time")]
    OutOfTime,
    /// There is no connection, or the server serves no one (it loads its data, for example).
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The server answers, but refuses the operation: it is full, read-only, or does not permit it.
    #[error("refused: {0}")]
    Refused(String),
    /// The server belongs to a Redis Cluster, and the client cannot talk to one.
    #[error("the server is a node of a Redis Cluster")]
    Cluster,
    /// The server's reply does not have the command's type.
    #[error("unexpected reply to {0}")]
    UnexpectedReply(&'static str),
    /// The value is too large for the store.
    #[error("no room for the value")]
    Full,
    /// The command was not sent: earlier ones got no answer, and the breaker is open.
    #[error("it did not answer before; soon it is asked again")]
    Spared,
    /// No store is configured.
    #[error("no store is configured")]
    Absent,
}

/// The result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// Cached answers, and how often the cache was purged.
pub trait ResponseCache: MaybeSend + MaybeSync {
    /// How often the cache was purged, as a whole and for a model, by its canonical name.
    fn epochs(&self, model: &str) -> impl Future<Output = StoreResult<Epochs>> + MaybeSend;

    /// [`ResponseCache::epochs`] of all models, for a request whose model is not known yet; `None` for a store whose
    /// `epochs` costs no round trip.
    fn all_epochs(&self) -> impl Future<Output = StoreResult<Option<AllEpochs>>> + MaybeSend;

    /// Purges the whole cache, or the answers of one model, by raising an epoch: later requests use other keys.
    fn purge(&self, model: Option<&str>) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// The youngest answer under the key of `flight` that serves its delivery and has not expired. A value that another
    /// version wrote counts as absent.
    fn answer(&self, flight: &FlightKey) -> impl Future<Output = StoreResult<Option<Stored>>> + MaybeSend;

    /// Stores an answer for `ttl`. An entry that serves one delivery does not replace that of the other. Repeating it,
    /// or doing it late, is harmless.
    fn put_answer(
        &self,
        key: &CacheKey,
        entry: &Entry,
        ttl: Duration,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;
}

/// Sessions.
///
/// A session expires after its own time to live if its head has one, else after the `ttl` of its last use; each use
/// starts that time anew. A session expires as a whole.
pub trait Sessions: MaybeSend + MaybeSync {
    /// The session with the turns of `span`, the oldest first; `None` when there is none. Turns that another version
    /// wrote are left out.
    fn session(
        &self,
        key: &SessionKey,
        span: Span<'_>,
        ttl: Duration,
    ) -> impl Future<Output = StoreResult<Option<Session>>> + MaybeSend;

    /// Creates a session without turns, unless it exists. Repeating it, or doing it late, is harmless.
    fn create_session(
        &self,
        key: &SessionKey,
        head: &SessionHead,
        ttl: Duration,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Deletes a session with all its turns; returns whether it existed.
    fn delete_session(&self, key: &SessionKey) -> impl Future<Output = StoreResult<bool>> + MaybeSend;

    /// As [`Sessions::append_turn_to`], for a session of any generation; creates it when there is none.
    fn append_turn(
        &self,
        key: &SessionKey,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend {
        async move { self.append_turn_to(key, None, turn, ttl, keep).await.map(|_| ()) }
    }

    /// Appends a turn, sets the system message that it brings, and drops the oldest turns beyond
    /// [`kept`](crate::session::kept) with at most `keep` turns, in one step: of turns appended at the same time all
    /// survive. Appending a kept turn again has no effect: its id is looked for among all turns. With a generation,
    /// nothing happens unless the session has that generation, and the result says whether it has: a turn that read a
    /// session must not create it anew after its deletion.
    fn append_turn_to(
        &self,
        key: &SessionKey,
        generation: Option<u64>,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> impl Future<Output = StoreResult<bool>> + MaybeSend;

    /// Counts a session that was stored to its owner's share, where the store does not do so when it stores, and deletes the
    /// sessions that make room for it.
    fn share(&self, key: &SessionKey) -> impl Future<Output = StoreResult<()>> + MaybeSend {
        let _ = key;
        async { Ok(()) }
    }
}

/// The fleet state that replicas share. Times are by the store's clock.
pub trait FleetState: MaybeSend + MaybeSync {
    /// The whole state.
    fn snapshot(&self) -> impl Future<Output = StoreResult<FleetSnapshot>> + MaybeSend;

    /// Takes the first requested slot whose host has room, for [`crate::fleet::snapshot::LEASE`], and deletes the
    /// ticket with the same id. `None` when no host has room.
    fn claim(&self, claim: &Claim<'_>) -> impl Future<Output = StoreResult<Option<Lease>>> + MaybeSend;

    /// Renews the lease of a slot.
    fn renew(&self, lease: &Lease) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Puts a ticket into the queue or renews it; `displaced` is removed for it.
    fn enter(
        &self,
        ticket: &Ticket,
        displaced: Option<&str>,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Removes a ticket from the queue, and releases a slot that was claimed under the same id: a request that was
    /// cancelled during the claim does not know whether it got the slot.
    fn leave(&self, id: &str) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Changes the stats of a host and releases a slot. `known` is the probable state of the stats and the current
    /// time; `change` may run several times, each time on newer stats.
    fn update(
        &self,
        host: &str,
        known: (&HostStats, Duration),
        released: Option<&Lease>,
        change: impl Fn(&mut HostStats, Duration) + MaybeSend + MaybeSync,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Counts one more routed request; returns how many came before.
    fn next_sequence(&self) -> impl Future<Output = StoreResult<u64>> + MaybeSend;

    /// The latest decisions with their reasons, the oldest first.
    fn decisions(&self) -> impl Future<Output = StoreResult<Vec<String>>> + MaybeSend;
}

/// What the hosts have, as far as anybody who uses the store has found out.
pub trait InventoryStore: MaybeSend + MaybeSync {
    /// The inventories of the hosts, by base URL. A store whose fleet state is in this process has none: they are known.
    fn load_inventories(&self) -> impl Future<Output = StoreResult<Vec<(String, Inventory)>>> + MaybeSend;

    /// Stores a host's inventory.
    fn put_inventory(
        &self,
        host: &str,
        inventory: &Inventory,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Whether the caller is to refresh the inventories; no other caller gets `true` within `time`.
    fn lead_refresh(&self, time: Duration) -> impl Future<Output = StoreResult<bool>> + MaybeSend;
}

/// A time limit for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimit {
    /// The time.
    pub time: Duration,
    /// Whether a server that works answers within this time. If not (it is the rest of a deadline), passing the limit
    /// says nothing about the server.
    pub is_whole: bool,
}

impl TimeLimit {
    /// A time within which a server that works answers.
    pub fn whole(time: Duration) -> Self {
        Self { time, is_whole: true }
    }

    /// The error when the limit passes.
    pub fn passed(self) -> StoreError {
        if self.is_whole { StoreError::TimedOut } else { StoreError::OutOfTime }
    }
}

/// The time limits of a store, connecting included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreTimeouts {
    /// For all commands together that a request sends before it asks upstream; for each command that belongs to no
    /// request.
    pub ask: Duration,
    /// For each command that stores something after the answer.
    pub keep: Duration,
}

/// A store with a time limit for its answers.
#[derive(Debug)]
pub enum Within<'a, S> {
    /// The store itself, because it never waits.
    Same(&'a S),
    /// The store with that limit.
    Limited(S),
}

impl<S> Deref for Within<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        match self {
            Self::Same(store) => store,
            Self::Limited(store) => store,
        }
    }
}

/// The store: everything that requests, instances and replicas share, one port for each kind of state.
pub trait Store: MaybeSend + MaybeSync + Sized {
    /// The cached answers.
    type Answers: ResponseCache;
    /// The flights of all replicas; [`NoFlights`] for a store that one process uses.
    type Flights: FlightBoard;
    /// The sessions.
    type Sessions: Sessions;
    /// The state of the fleet; one in memory for a store that one process uses.
    type Fleet: FleetState;
    /// What the hosts have.
    type Inventories: InventoryStore;

    /// The cached answers.
    fn answers(&self) -> &Self::Answers;

    /// The flights of all replicas.
    fn flights(&self) -> &Self::Flights;

    /// The sessions.
    fn sessions(&self) -> &Self::Sessions;

    /// The state of the fleet.
    fn fleet(&self) -> &Self::Fleet;

    /// What the hosts have.
    fn inventories(&self) -> &Self::Inventories;

    /// The store with `limit` for commands that run before upstream is asked. Commands that store something keep their
    /// own limit.
    fn within(&self, limit: TimeLimit) -> Within<'_, Self> {
        let _ = limit;
        Within::Same(self)
    }

    /// Whether other processes use the store as well. Then leases are renewed, and the changes of other processes are
    /// read.
    fn is_shared(&self) -> bool;

    /// The fleet state of the store, if the store serves only this process.
    fn local_fleet(&self) -> Option<Arc<LocalFleet>>;

    /// The time limits; zero for a store that never waits.
    fn timeouts(&self) -> StoreTimeouts {
        StoreTimeouts::default()
    }

    /// Whether the store answers.
    fn ping(&self) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// What an operator should know of how the store is set up, once the store was asked.
    fn warning(&self) -> Option<String> {
        None
    }

    /// The record of the store's outage.
    fn outage(&self) -> &Outage;
}
