//! Shared state, as ports named by what the service needs and never by what a database offers.
//!
//! There are two implementations, both here: [`memory`] and [`redis`]. One contract-test suite runs on both.
//! A store may fail at any time; a chat goes on without it.

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

/// Why the store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The limit passed. A write may still happen later.
    #[error("no answer in time")]
    TimedOut,
    /// What was left of the request's time for the store passed, or nothing was left of it: that says nothing about the
    /// store. A write may still happen later.
    #[error("no answer in what was left of the time")]
    OutOfTime,
    /// There is no connection, or the server serves nobody.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The server answers, but not this: it is full, read-only, or does not permit it.
    #[error("refused: {0}")]
    Refused(String),
    /// The server belongs to a Redis Cluster, and what talks to it knows of none.
    #[error("the server is a node of a Redis Cluster")]
    Cluster,
    /// The server answered something else than the command's reply.
    #[error("unexpected reply to {0}")]
    UnexpectedReply(&'static str),
    /// The value does not fit.
    #[error("no room for the value")]
    Full,
    /// It was not asked: it did not answer before, and soon it is tried again.
    #[error("it did not answer before; soon it is asked again")]
    Spared,
    /// There is no store.
    #[error("no store is configured")]
    Absent,
}

/// What a store operation gives.
pub type StoreResult<T> = Result<T, StoreError>;

/// Answers by the question they belong to, and who is asking for one that is not there yet.
///
/// A store that one process has for itself need not know of flights: see [`crate::process::FlightTable`].
pub trait ResponseCache: MaybeSend + MaybeSync {
    /// How often the cache was emptied so far, by the model's name in its canonical spelling.
    fn epochs(&self, model: &str) -> impl Future<Output = StoreResult<Epochs>> + MaybeSend;

    /// [`ResponseCache::epochs`] of every model, for who does not know yet which one is asked; `None` where it costs no
    /// round trip to ask when it is known.
    fn all_epochs(&self) -> impl Future<Output = StoreResult<Option<AllEpochs>>> + MaybeSend {
        async { Ok(None) }
    }

    /// Empties the cache, or forgets the answers of one model: whoever asks for the epochs from now on finds none.
    fn purge(&self, model: Option<&str>) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// The youngest answer stored under the key of `flight` that serves its form, unless its time has passed. A value that
    /// another version wrote is none.
    fn answer(&self, flight: &FlightKey) -> impl Future<Output = StoreResult<Option<Stored>>> + MaybeSend;

    /// As [`ResponseCache::answer`]; and where there is none, the lead of the flight that will bring it, for
    /// [`FLIGHT_LEASE`], unless another has that: then the one that asked counts as a follower of that name. An answer that
    /// is older than `max_age` is none.
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

    /// Stores an answer for `ttl`. One that serves its form alone stands beside that of the other form. Doing it twice, or
    /// late, is harmless.
    fn put_answer(
        &self,
        key: &CacheKey,
        entry: &Entry,
        ttl: Duration,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Holds the lead for longer and hands events over to those who follow, if any do; events that come before anybody
    /// follows are not kept. `from` is how many were handed over before: doing it twice, or late, is harmless. The first
    /// `forget` of all need not be kept any more; whoever has not heard them fell behind.
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

    /// Ends a flight: the last events, and how it ended, for those who follow.
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

    /// What the leader handed over, but for the first `heard` events. From then on, and for a while, `follower` counts as
    /// one who listens; so does whoever was told to follow.
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

    /// Says that `follower` does not listen any more.
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

/// How long the lead of a flight holds without being renewed: after a crash another leads.
pub const FLIGHT_LEASE: Duration = Duration::from_secs(3);

/// A flight that many may wait for: what it brings, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlightKey {
    /// The key of its answer.
    pub key: CacheKey,
    /// The form in which the answer is asked for.
    pub form: Delivery,
}

/// What is there of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The answer.
    Answer(Stored),
    /// Nothing: whoever asks leads the flight.
    Lead,
    /// A flight that is led by somebody else.
    Follow {
        /// Who leads.
        leader: String,
    },
}

/// Who listens to what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Nobody.
    None,
    /// Somebody.
    Some,
    /// The lead is lost.
    Lost,
}

/// How a flight ended, for those who follow it.
#[derive(Clone, PartialEq, Eq)]
pub enum FlightEnd {
    /// With a complete answer: all of it was handed over, or it went to the cache.
    Landed,
    /// With a whole answer that is kept nowhere, as the value of an entry.
    Answered(Bytes),
    /// With a failure that is everybody's, as a record of it.
    Failed(Bytes),
    /// With nothing that they could use: whoever has heard nothing chooses another leader. What another version says is
    /// the same.
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

/// What followers hear of a flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// The events since.
    pub events: Vec<Bytes>,
    /// How it ended, once it did. While somebody holds the lead, [`FlightEnd::Abandoned`] says that what comes next is not
    /// kept any more: the one that asks fell behind.
    pub end: Option<FlightEnd>,
    /// Whether somebody still holds the lead.
    pub is_led: bool,
}

/// Conversations.
///
/// A session lives for its own time to live where its head has one, else for the `ttl` of whoever uses it; every use
/// begins that time anew. All that is kept of one session goes at once.
pub trait Sessions: MaybeSend + MaybeSync {
    /// The session with those of its turns that are wanted, oldest first; `None` when there is none. What another version
    /// wrote of it is left out.
    fn session(
        &self,
        key: &SessionKey,
        span: Span<'_>,
        ttl: Duration,
    ) -> impl Future<Output = StoreResult<Option<Session>>> + MaybeSend;

    /// Begins a session without turns, unless there is one: doing it twice, or late, is harmless.
    fn create_session(
        &self,
        key: &SessionKey,
        head: &SessionHead,
        ttl: Duration,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Deletes a session with all its turns; gives whether there was one.
    fn delete_session(&self, key: &SessionKey) -> impl Future<Output = StoreResult<bool>> + MaybeSend;

    /// As [`Sessions::append_turn_to`], to whatever session there is; begins it when there is none.
    fn append_turn(
        &self,
        key: &SessionKey,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend {
        async move { self.append_turn_to(key, None, turn, ttl, keep).await.map(|_| ()) }
    }

    /// Appends a turn and keeps the newest that [`kept`](crate::session::kept) names, `keep` at most, and the system message
    /// that it brings, all at once: turns appended at the same time all survive. Appending a turn again is harmless while it
    /// is kept: its id is looked for among all. Where a generation is given, it does nothing unless the session is of that
    /// generation, and gives whether it is: a session that was deleted is not begun anew by a turn that read it.
    fn append_turn_to(
        &self,
        key: &SessionKey,
        generation: Option<u64>,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> impl Future<Output = StoreResult<bool>> + MaybeSend;
}

/// What instances and replicas know of the fleet. Times are by the store's clock.
pub trait FleetState: MaybeSend + MaybeSync {
    /// Everything as it stands.
    fn snapshot(&self) -> impl Future<Output = StoreResult<FleetSnapshot>> + MaybeSend;

    /// Takes the first of the places that has room, for [`crate::fleet::snapshot::LEASE`]; a ticket of the same id is
    /// used up. `None` when none has.
    fn claim(&self, claim: &Claim<'_>) -> impl Future<Output = StoreResult<Option<Lease>>> + MaybeSend;

    /// Holds a place for longer.
    fn renew(&self, lease: &Lease) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Puts a ticket into the queue, in the place of the one that is named, or renews it.
    fn enter(
        &self,
        ticket: &Ticket,
        displaced: Option<&str>,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Takes a ticket out of the queue, and gives a place back that was taken under the same id: whoever left while it
    /// was taken does not know of it.
    fn leave(&self, id: &str) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Changes the stats of a host and gives a place back. `known` is what the stats probably are and the time about
    /// now; the change may be tried several times, each time on newer ones.
    fn update(
        &self,
        host: &str,
        known: (&HostStats, Duration),
        released: Option<&Lease>,
        change: impl Fn(&mut HostStats, Duration) + MaybeSend + MaybeSync,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// What the hosts said they have, by base URL.
    fn inventories(&self) -> impl Future<Output = StoreResult<Vec<(String, Inventory)>>> + MaybeSend;

    /// Keeps what a host said it has.
    fn put_inventory(
        &self,
        host: &str,
        inventory: &Inventory,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Whether the caller is the one that refreshes the inventories now, for at most `time`.
    fn lead_refresh(&self, time: Duration) -> impl Future<Output = StoreResult<bool>> + MaybeSend;

    /// The reasons of the latest decisions, oldest first.
    fn decisions(&self) -> impl Future<Output = StoreResult<Vec<String>>> + MaybeSend;
}

/// How long an answer may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimit {
    /// The time.
    pub time: Duration,
    /// Whether a server that lives answers in so much time; else it is what something before has left, and that it passes
    /// says nothing.
    pub is_whole: bool,
}

impl TimeLimit {
    /// A time in which a server that lives answers.
    pub fn whole(time: Duration) -> Self {
        Self { time, is_whole: true }
    }

    /// What it means that the time passed.
    pub fn passed(self) -> StoreError {
        if self.is_whole { StoreError::TimedOut } else { StoreError::OutOfTime }
    }
}

/// How long a store may take, connections included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreTimeouts {
    /// Everything together that a request asks before an upstream is asked; each command of whoever keeps no deadline.
    pub ask: Duration,
    /// Each command that keeps something when there is an answer.
    pub keep: Duration,
}

/// A store whose answers are waited for so long and no longer.
#[derive(Debug)]
pub enum Within<'a, S> {
    /// One that has nothing to wait for.
    Same(&'a S),
    /// One with that limit.
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

/// Everything that is shared between requests, instances and replicas.
pub trait Store: ResponseCache + Sessions + FleetState + Sized {
    /// The same store, which gives what is asked before upstream is within `limit`. What is kept has its own limit.
    fn within(&self, limit: TimeLimit) -> Within<'_, Self> {
        let _ = limit;
        Within::Same(self)
    }

    /// Whether other processes use it, too: then leases are renewed, and what others change is looked up.
    fn is_shared(&self) -> bool;

    /// What this process alone knows of the fleet, where that is all there is; `None` for a store that is shared.
    fn local_fleet(&self) -> Option<Arc<LocalFleet>> {
        None
    }

    /// How long it may take; nothing where it never keeps anybody waiting.
    fn timeouts(&self) -> StoreTimeouts {
        StoreTimeouts::default()
    }

    /// Counts one more routed request; gives how many went before.
    fn next_sequence(&self) -> impl Future<Output = StoreResult<u64>> + MaybeSend;

    /// Whether the store answers.
    fn ping(&self) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// Whether the store is known to be down.
    fn outage(&self) -> &Outage;
}

/// Remembers whether the store failed last and what it refuses, so that each is logged once.
#[derive(Debug, Default)]
pub struct Outage {
    is_down: AtomicBool,
    /// Whether `refused` holds anything.
    refuses: AtomicBool,
    refused: Mutex<BTreeSet<&'static str>>,
}

/// A change that the operator should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The first failure after a success.
    Began,
    /// The first success after a failure.
    Ended,
}

impl Outage {
    /// Takes note of one result.
    pub fn note(&self, succeeded: bool) -> Option<Transition> {
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

    /// Takes note that a living store refused an operation; whether that is new.
    pub fn refuses(&self, operation: &'static str) -> bool {
        self.refuses.store(true, Ordering::Relaxed);
        self.refused().insert(operation)
    }

    /// Takes note that an operation succeeded.
    pub fn accepts(&self, operation: &'static str) {
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
