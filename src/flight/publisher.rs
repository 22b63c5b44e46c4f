//! The publisher: hands a flight over to those who follow it in other processes, through the shared store.
//!
//! While nobody follows it hands nothing over and asks five times a second whether anybody does. It keeps the lead, and
//! keeps the flight going when its own clients left while others follow. Each event goes through the store once, and the
//! store keeps of them `CACHE_MAX_ENTRY`, and one more hand-over, which is no larger. A whole answer that the cache does not
//! keep goes with the end of the flight, where it is no larger than these two.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures::future::{Either, select};

use super::failure;
use crate::{
    api::error::Error,
    host::{Platform, Service},
    platform::{Clock, Timer},
    process::broadcast::{Broadcast, Item, Receiver},
    store::{Audience, FLIGHT_LEASE, FlightBoard, FlightEnd, FlightKey, Store},
};

/// How often it is asked whether anybody follows, and the lead renewed.
const CALL: Duration = Duration::from_millis(200);
/// How long events are gathered for those who follow.
const GATHER: Duration = Duration::from_millis(50);

/// The publisher of one flight.
pub(super) struct Publisher<'a, P: Platform> {
    service: &'a Service<P>,
    broadcast: Broadcast,
    /// It hears the flight as everybody does, so that the flight goes on while it is needed.
    reader: Option<Receiver>,
    flight: FlightKey,
    leader: String,
    /// How many events were handed over.
    handed: usize,
    /// How many of them need not be kept any more, and how long the others are.
    forgotten: usize,
    kept: VecDeque<usize>,
}

impl<'a, P: Platform> Publisher<'a, P> {
    /// `None` where there are no other processes.
    pub(super) fn new(
        service: &'a Service<P>,
        broadcast: &Broadcast,
        flight: FlightKey,
        leader: String,
    ) -> Option<Self> {
        if !service.store().is_shared() {
            return None;
        }
        Some(Self {
            service,
            broadcast: broadcast.clone(),
            reader: broadcast.join(),
            flight,
            leader,
            handed: 0,
            forgotten: 0,
            kept: VecDeque::new(),
        })
    }

    /// Runs until the flight is over, and tells those who follow how it ended.
    pub(super) async fn publish(mut self) {
        let mut pending = Vec::new();
        let end = match self.wait().await {
            Some(end) => end,
            None => self.hand_over(&mut pending).await,
        };
        let store = self.service.store();
        // A leader that cannot say so is found out by its lead's end.
        let _ = store.flights().end_flight(&self.flight, &self.leader, self.handed, &pending, &end).await;
    }

    /// Waits until somebody follows; gives how the flight ended before.
    async fn wait(&mut self) -> Option<FlightEnd> {
        loop {
            {
                let alone = Box::pin(self.broadcast.alone());
                let pause = select(alone, Box::pin(self.service.sleep(CALL)));
                if let Either::Left(_) = select(Box::pin(self.broadcast.over()), pause).await {
                    return Some(self.end());
                }
            }
            match self
                .service
                .store()
                .flights()
                .publish(&self.flight, &self.leader, self.handed, 0, &[])
                .await
            {
                Ok(Audience::Some) => return None,
                Ok(Audience::None | Audience::Lost) | Err(_) => {
                    if self.broadcast.is_alone() {
                        return Some(self.abandon().await);
                    }
                }
            }
        }
    }

    /// Lets the flight go: nobody anywhere waits for it any more.
    async fn abandon(&mut self) -> FlightEnd {
        self.reader = None;
        self.broadcast.over().await;
        FlightEnd::Abandoned
    }

    /// Hands over what comes until the flight ends or nobody follows any more; what is left is `pending`.
    async fn hand_over(&mut self, pending: &mut Vec<Bytes>) -> FlightEnd {
        let mut failing_since = None;
        loop {
            if let Some(end) = self.gather(pending).await {
                return end;
            }
            let store = self.service.store();
            let told = store
                .flights()
                .publish(&self.flight, &self.leader, self.handed, self.forgotten, pending)
                .await;
            let now = self.service.now();
            failing_since = if told.is_err() { failing_since.or(Some(now)) } else { None };
            // By then whoever followed has given up.
            let has_lost_store = failing_since.is_some_and(|since| now.saturating_sub(since) >= FLIGHT_LEASE);
            match told {
                Ok(Audience::Some) => {
                    self.note(pending);
                    pending.clear();
                }
                Ok(Audience::None | Audience::Lost) if self.broadcast.is_alone() => {
                    return self.abandon().await;
                }
                Err(_) if has_lost_store && self.broadcast.is_alone() => return self.abandon().await,
                // Whoever listens next hears it all, and what could not be handed over goes with what follows.
                Ok(Audience::None | Audience::Lost) | Err(_) => {
                    let waiting: usize = pending.iter().map(Bytes::len).sum();
                    if waiting as u64 > self.service.config().cache.max_entry {
                        pending.clear();
                        return FlightEnd::Abandoned;
                    }
                }
            }
        }
    }

    /// Takes note of what was handed over: of what is too much the oldest is forgotten.
    fn note(&mut self, events: &[Bytes]) {
        self.handed += events.len();
        self.kept.extend(events.iter().map(Bytes::len));
        let mut bytes: usize = self.kept.iter().sum();
        // The last one stays, for it tells how many there were.
        while bytes as u64 > self.service.config().cache.max_entry
            && self.kept.len() > 1
            && let Some(length) = self.kept.pop_front()
        {
            bytes -= length;
            self.forgotten += 1;
        }
    }

    /// Gathers what comes within [`GATHER`], if anything does within [`CALL`]; gives how the flight ended.
    async fn gather(&mut self, pending: &mut Vec<Bytes>) -> Option<FlightEnd> {
        let reader = self.reader.as_ref()?;
        let mut pause = Box::pin(self.service.sleep(if pending.is_empty() { CALL } else { GATHER }));
        loop {
            let next = select(Box::pin(reader.next()), Box::pin(self.broadcast.over_whole()));
            match select(next, pause.as_mut()).await {
                Either::Left((Either::Left((Item::Event(event), _)), _)) => {
                    if pending.is_empty() {
                        pause = Box::pin(self.service.sleep(GATHER));
                    }
                    pending.push(event);
                }
                Either::Left((Either::Left((Item::Last(event), _)), _)) => {
                    pending.push(event);
                    return Some(FlightEnd::Landed);
                }
                Either::Left((Either::Left((Item::Broken(error, _), _)), _)) => {
                    return Some(self.failed(&error));
                }
                Either::Left((Either::Left((Item::Behind, _)), _)) => return Some(FlightEnd::Abandoned),
                Either::Left((Either::Right(((), _)), _)) => return Some(self.end()),
                Either::Right(_) => return None,
            }
        }
    }

    fn end(&self) -> FlightEnd {
        if let Some(error) = self.broadcast.failure() {
            return self.failed(&error);
        }
        let Some(entry) = self.broadcast.take_unkept() else { return FlightEnd::Landed };
        if entry.size() as u64 > self.service.config().cache.max_entry.saturating_mul(2) {
            return FlightEnd::Abandoned;
        }
        FlightEnd::Answered(entry.to_bytes(Duration::ZERO).into())
    }

    fn failed(&self, error: &Error) -> FlightEnd {
        failure::record(error, self.broadcast.has_lost_store())
            .map_or(FlightEnd::Abandoned, FlightEnd::Failed)
    }
}
