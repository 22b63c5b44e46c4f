//! The ports for shared state, named by what the service needs and not by what a database offers.
//!
//! This crate has two implementations: `memory`, with the feature of that name, and [`redis`]. One suite of contract
//! tests runs on each store. A store may fail at any time; a chat then continues without it.

#[cfg(feature = "memory")]
pub mod memory;
pub mod redis;

use std::{
    collections::BTreeSet,
    future::Future,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::{
    cache::{AllEpochs, CacheKey, Delivery, Entry, Epochs, Stored},
    fleet::{
        HostStats, Inventory,
        local::LocalFleet,
        snapshot::{Claim, FleetSnapshot, Lease, Ticket},
    },
    platform::{MaybeSend, MaybeSync},
    session::{Session, SessionHead, SessionKey, Span, Turn},
};

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

/// Cached answers, and the flights that replicas share.
///
/// A store of one process needs no flights: `Service` keeps those of its process.
pub trait ResponseCache: MaybeSend + MaybeSync {
    /// How often the cache was purged, as a whole and for a model, by its canonical name.
    fn epochs(&self, model: &str) -> impl Future<Output = StoreResult<Epochs>> + MaybeSend;

    /// [`ResponseCache::epochs`] of all models, for a request whose model is not known yet; `None` for a store whose
    /// `epochs` costs no round trip.
    fn all_epochs(&self) -> impl Future<Output = StoreResult<Option<AllEpochs>>> + MaybeSend {
        async { Ok(None) }
    }

    /// Purges the whole cache, or the answers of one model, by raising an epoch: later requests use other keys.
    fn purge(&self, model: Option<&str>) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// The youngest answer under the key of `flight` that serves its delivery and has not expired. A value that another
    /// version wrote counts as absent.
    fn answer(&self, flight: &FlightKey) -> impl Future<Output = StoreResult<Option<Stored>>> + MaybeSend;

    /// As [`ResponseCache::answer`]; an answer older than `max_age` counts as absent. Without an answer the caller gets
    /// the lead of the flight for [`FLIGHT_LEASE`], or is told who leads it and counts as a follower named `leader`.
    fn answer_or_lead(
        &self,
        flight: &FlightKey,
        leader: &str,
        max_age: Option<Duration>,
    ) -> impl Future<Output = StoreResult<Found>> + MaybeSend {
        async move {
            let _ = leader;
            let found = self.answer(flight).await?;
            let young = found.filter(|stored| max_age.is_none_or(|max_age| stored.age <= max_age));
            Ok(young.map_or(Found::Lead, Found::Answer))
        }
    }

    /// Stores an answer for `ttl`. An entry that serves one delivery does not replace that of the other. Repeating it,
    /// or doing it late, is harmless.
    fn put_answer(
        &self,
        key: &CacheKey,
        entry: &Entry,
        ttl: Duration,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Renews the lead, and hands events over if the flight has followers; without followers events are dropped. `from`
    /// is the number of events before these, so repeating it, or doing it late, is harmless. The first `forget` events
    /// of the flight may be deleted; a follower that has not read them fell behind.
    fn publish(
        &self,
        flight: &FlightKey,
        leader: &str,
        from: usize,
        forget: usize,
        events: &[Bytes],
    ) -> impl Future<Output = StoreResult<Audience>> + MaybeSend {
        async move {
            let _ = (flight, leader, from, forget, events);
            Ok(Audience::None)
        }
    }

    /// Ends a flight with its last events and its outcome.
    fn end_flight(
        &self,
        flight: &FlightKey,
        leader: &str,
        from: usize,
        events: &[Bytes],
        end: &FlightEnd,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend {
        async move {
            let _ = (flight, leader, from, events, end);
            Ok(())
        }
    }

    /// The events after the first `heard`. The caller then counts as follower `follower` for a while, as does a caller
    /// that was told to follow.
    fn follow(
        &self,
        flight: &FlightKey,
        leader: &str,
        follower: &str,
        heard: usize,
    ) -> impl Future<Output = StoreResult<Followed>> + MaybeSend {
        async move {
            let _ = (flight, leader, follower, heard);
            Ok(Followed { events: Vec::new(), end: None, is_led: false })
        }
    }

    /// Removes `follower` from the flight's followers.
    fn leave_flight(
        &self,
        flight: &FlightKey,
        follower: &str,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend {
        async move {
            let _ = (flight, follower);
            Ok(())
        }
    }
}

/// How long the lead of a flight holds without being renewed; after a crash another request leads then.
pub const FLIGHT_LEASE: Duration = Duration::from_secs(3);

/// A flight: an answer in one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlightKey {
    /// The key of the answer.
    pub key: CacheKey,
    /// The delivery that is asked for.
    pub form: Delivery,
}

/// The result of [`ResponseCache::answer_or_lead`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A stored answer.
    Answer(Stored),
    /// There is no answer and no leader: the caller leads the flight.
    Lead,
    /// Another request leads the flight.
    Follow {
        /// The leader's name.
        leader: String,
    },
}

/// Whether a flight has followers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// No.
    None,
    /// Yes.
    Some,
    /// The caller no longer leads the flight.
    Lost,
}

/// The outcome of a flight, for its followers.
#[derive(Clone, PartialEq, Eq)]
pub enum FlightEnd {
    /// A complete answer: all of it was handed over, or it is in the cache.
    Landed,
    /// A whole answer that the cache does not keep, as the value of an entry.
    Answered(Bytes),
    /// A failure that concerns all followers, serialised.
    Failed(Bytes),
    /// No outcome that followers could use: a follower that has read nothing elects another leader. An outcome that
    /// another version wrote counts as this.
    Abandoned,
}

/// Its `Debug` form shows no content.
impl std::fmt::Debug for FlightEnd {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Landed => formatter.write_str("Landed"),
            Self::Answered(value) => write!(formatter, "Answered({} bytes)", value.len()),
            Self::Failed(record) => write!(formatter, "Failed({} bytes)", record.len()),
            Self::Abandoned => formatter.write_str("Abandoned"),
        }
    }
}

/// What a follower reads of a flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// The events that it has not read yet.
    pub events: Vec<Bytes>,
    /// The outcome, once there is one. [`FlightEnd::Abandoned`] while the flight is still led means that the follower
    /// fell behind.
    pub end: Option<FlightEnd>,
    /// Whether a request still leads the flight.
    pub is_led: bool,
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

    /// The inventories of the hosts, by base URL.
    fn inventories(&self) -> impl Future<Output = StoreResult<Vec<(String, Inventory)>>> + MaybeSend;

    /// Stores a host's inventory.
    fn put_inventory(
        &self,
        host: &str,
        inventory: &Inventory,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Whether the caller is to refresh the inventories; no other caller gets `true` within `time`.
    fn lead_refresh(&self, time: Duration) -> impl Future<Output = StoreResult<bool>> + MaybeSend;

    /// The latest decisions with their reasons, the oldest first.
    fn decisions(&self) -> impl Future<Output = StoreResult<Vec<String>>> + MaybeSend;
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

/// The store: everything that requests, instances and replicas share.
pub trait Store: ResponseCache + Sessions + FleetState + Sized {
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
    fn local_fleet(&self) -> Option<Arc<LocalFleet>> {
        None
    }

    /// The time limits; zero for a store that never waits.
    fn timeouts(&self) -> StoreTimeouts {
        StoreTimeouts::default()
    }

    /// Counts one more routed request; returns how many came before.
    fn next_sequence(&self) -> impl Future<Output = StoreResult<u64>> + MaybeSend;

    /// Whether the store answers.
    fn ping(&self) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// The record of the store's outage.
    fn outage(&self) -> &Outage;
}

/// Records whether the last operation failed, and which operations are refused, so that each change is logged once.
#[derive(Debug, Default)]
pub struct Outage {
    is_down: AtomicBool,
    /// Whether `refused` holds anything.
    refuses: AtomicBool,
    refused: Mutex<BTreeSet<&'static str>>,
}

/// A change that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    /// The first failure after a success.
    Began,
    /// The first success after a failure.
    Ended,
}

impl Outage {
    /// Records the result of an operation.
    pub(crate) fn note(&self, succeeded: bool) -> Option<Transition> {
        // A plain load first: results agree nearly always, and a swap would make every core wait for the line.
        if self.is_down.load(Ordering::Relaxed) != succeeded {
            return None;
        }
        match (self.is_down.swap(!succeeded, Ordering::Relaxed), succeeded) {
            (true, true) => Some(Transition::Ended),
            (false, false) => Some(Transition::Began),
            (true, false) | (false, true) => None,
        }
    }

    /// Records that a store that answers refused an operation; returns whether that is new.
    pub(crate) fn refuses(&self, operation: &'static str) -> bool {
        self.refuses.store(true, Ordering::Relaxed);
        self.refused().insert(operation)
    }

    /// Records that an operation succeeded.
    pub(crate) fn accepts(&self, operation: &'static str) {
        if self.refuses.load(Ordering::Relaxed) {
            let mut refused = self.refused();
            refused.remove(operation);
            self.refuses.store(!refused.is_empty(), Ordering::Relaxed);
        }
    }

    fn refused(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_at_each_end() {
        let outage = Outage::default();
        let system: Vec<_> =
            [true, false, false, true, true].into_iter().map(|succeeded| outage.note(succeeded)).collect();
        assert_eq!(system, [None, Some(Transition::Began), None, Some(Transition::Ended), None]);
    }

    #[test]
    fn a_refusal_is_told_once_until_the_operation_succeeds() {
        let outage = Outage::default();
        assert!(outage.refuses("put") && !outage.refuses("put") && outage.refuses("append"));
        outage.accepts("put");
        assert!(outage.refuses("put") && !outage.refuses("append"));
    }
}
