//! The flights that replicas share: who brings an answer, who follows, and what is handed over between them.
//!
//! Nothing here follows or leads: `flight` does. The flights of one process are in `process`.

use std::{future::Future, time::Duration};

use bytes::Bytes;

use super::{ResponseCache, StoreResult};
use crate::{
    cache::{CacheKey, Delivery, Stored},
    platform::{MaybeSend, MaybeSync},
};

/// How long the lead of a flight holds without being renewed; after a crash another request leads then.
pub const FLIGHT_LEASE: Duration = Duration::from_secs(3);

/// The flights of all replicas.
pub trait FlightBoard: MaybeSend + MaybeSync {
    /// As [`ResponseCache::answer`]; an answer older than `max_age` counts as absent. Without an answer the caller gets
    /// the lead of the flight for [`FLIGHT_LEASE`], or is told who leads it and counts as a follower named `leader`.
    fn answer_or_lead(
        &self,
        flight: &FlightKey,
        leader: &str,
        max_age: Option<Duration>,
    ) -> impl Future<Output = StoreResult<Found>> + MaybeSend;

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
    ) -> impl Future<Output = StoreResult<Audience>> + MaybeSend;

    /// Ends a flight with its last events and its outcome.
    fn end_flight(
        &self,
        flight: &FlightKey,
        leader: &str,
        from: usize,
        events: &[Bytes],
        end: &FlightEnd,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;

    /// The events after the first `heard`. The caller then counts as follower `follower` for a while, as does a caller
    /// that was told to follow.
    fn follow(
        &self,
        flight: &FlightKey,
        leader: &str,
        follower: &str,
        heard: usize,
    ) -> impl Future<Output = StoreResult<Followed>> + MaybeSend;

    /// Removes `follower` from the flight's followers.
    fn leave_flight(
        &self,
        flight: &FlightKey,
        follower: &str,
    ) -> impl Future<Output = StoreResult<()>> + MaybeSend;
}

/// A flight: an answer in one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlightKey {
    /// The key of the answer.
    pub key: CacheKey,
    /// The delivery that is asked for.
    pub form: Delivery,
}

/// The result of [`FlightBoard::answer_or_lead`].
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

/// The flights of a store that one process uses, which `Service` keeps: there are no other leaders and no followers, so
/// that whoever finds no answer leads.
#[derive(Debug)]
pub struct NoFlights<A> {
    answers: A,
}

impl<A> NoFlights<A> {
    /// No flights beside these answers.
    pub fn new(answers: A) -> Self {
        Self { answers }
    }

    /// The answers.
    pub fn answers(&self) -> &A {
        &self.answers
    }
}

impl<A: ResponseCache> FlightBoard for NoFlights<A> {
    async fn answer_or_lead(
        &self,
        flight: &FlightKey,
        _: &str,
        max_age: Option<Duration>,
    ) -> StoreResult<Found> {
        let found = self.answers.answer(flight).await?;
        let young = found.filter(|stored| max_age.is_none_or(|max_age| stored.age <= max_age));
        Ok(young.map_or(Found::Lead, Found::Answer))
    }

    async fn publish(
        &self,
        _: &FlightKey,
        _: &str,
        _: usize,
        _: usize,
        _: &[Bytes],
    ) -> StoreResult<Audience> {
        Ok(Audience::None)
    }

    async fn end_flight(
        &self,
        _: &FlightKey,
        _: &str,
        _: usize,
        _: &[Bytes],
        _: &FlightEnd,
    ) -> StoreResult<()> {
        Ok(())
    }

    async fn follow(&self, _: &FlightKey, _: &str, _: &str, _: usize) -> StoreResult<Followed> {
        Ok(Followed { events: Vec::new(), end: None, is_led: false })
    }

    async fn leave_flight(&self, _: &FlightKey, _: &str) -> StoreResult<()> {
        Ok(())
    }
}
