//! Following a flight that another process leads: the events that its publisher hands over through the shared store go to
//! the broadcast of this process.
//!
//! A follower never asks upstream.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::{CachePlan, failure, replay::replay};
use crate::{
    api::{
        endpoint::framing,
        error::{Error, Original},
        reply::{self, ClientLeft},
    },
    cache::{CacheStatus, CachedAnswer, Entry},
    fleet::{AttemptFailure, NO_EVENT, broken},
    host::{Platform, Service},
    platform::{Clock, Timer},
    process::{Head, Provenance, broadcast::Broadcast},
    store::{FLIGHT_LEASE, FlightBoard, FlightEnd, FlightKey, ResponseCache, Store},
    upstream::{Reading, UpstreamRequest},
    wire::{framer, repetition::Repetition},
};

/// The shortest pause between two looks at what the publisher has handed over.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How following ended.
pub(super) enum FollowEnd {
    /// The broadcast has ended.
    Told,
    /// The broadcast has no head, because the store fails.
    Missed,
    /// The broadcast has no head, because the store has dropped the first events. The flight goes on.
    Late,
    /// The broadcast has no head, and the flight is over: its leader is gone, or its answer does not fit this request.
    Vanished,
}

/// A follower of a flight that another process leads.
pub(super) struct Follower<'a, P: Platform> {
    pub(super) service: &'a Service<P>,
    pub(super) upstream_request: &'a UpstreamRequest,
    pub(super) broadcast: &'a Broadcast,
    pub(super) flight: FlightKey,
    /// How the answer is kept; a later flight for the same answer has another key of its own.
    pub(super) cache_plan: CachePlan,
    /// The name of the leader.
    pub(super) leader: &'a str,
    /// The name of this follower.
    pub(super) name: &'a str,
}

impl<P: Platform> Follower<'_, P> {
    /// Follows until the flight ends, or every client of this process has left.
    pub(super) async fn follow(&self) -> FollowEnd {
        if let Ok(Ok(followed)) = self.broadcast.during(pin!(self.hear())).await {
            return followed;
        }
        // A leader that does not learn of this finds out by itself that nobody follows any more.
        let _ = self.service.store().flights().leave_flight(&self.flight, self.name).await;
        self.broadcast.end(Err(Error::ClientClosed));
        FollowEnd::Told
    }

    async fn hear(&self) -> Result<FollowEnd, ClientLeft> {
        let Self { service, broadcast, flight, leader, name, .. } = self;
        let (mut pause, mut heard, mut failing_since) = (SHORTEST_PAUSE, 0, None);
        let mut repetition = Repetition::default();
        loop {
            // Ask for the events that were handed over since.
            let Ok(found) = service.store().flights().follow(flight, leader, name, heard).await else {
                if !broadcast.is_open() {
                    return Ok(FollowEnd::Missed);
                }
                // While the leader may still have its lease, it hands its events over once the store is back.
                let now = service.now();
                if now.saturating_sub(*failing_since.get_or_insert(now)) >= FLIGHT_LEASE {
                    broadcast.end(Err(Error::StoreUnavailable));
                    return Ok(FollowEnd::Told);
                }
                service.sleep(LONGEST_PAUSE).await;
                continue;
            };
            failing_since = None;

            // Write them to the broadcast.
            let is_news = !found.events.is_empty();
            for event in found.events {
                heard += 1;
                match self.write(event, &mut repetition).await {
                    Ok(true) => return Ok(FollowEnd::Told),
                    Ok(false) => {}
                    Err(Error::ClientClosed) => return Err(ClientLeft),
                    Err(error) => {
                        broadcast.end(Err(error));
                        return Ok(FollowEnd::Told);
                    }
                }
            }

            // End with the flight, or look again after a pause.
            match found.end {
                Some(FlightEnd::Landed) if broadcast.is_open() && repetition.is_limit() => {
                    broadcast.stop();
                    broadcast.end(Ok(()));
                    return Ok(FollowEnd::Told);
                }
                Some(end) => return Ok(self.end(end, found.is_led).await),
                None if !found.is_led && !is_news => return Ok(vanish(broadcast)),
                None => {}
            }
            pause = if is_news { SHORTEST_PAUSE } else { (pause * 3 / 2).min(LONGEST_PAUSE) };
            service.sleep(pause).await;
        }
    }

    /// Writes one event to the broadcast; gives whether it was the terminator.
    async fn write(&self, event: Bytes, repetition: &mut Repetition) -> Result<bool, Error> {
        let broadcast = self.broadcast;
        let Some(protocol) = self.upstream_request.protocol else {
            return Err(broken(NO_EVENT).into_error());
        };
        let framing = framing(protocol);
        if !broadcast.is_open() {
            broadcast.open(Head::Stream { content_type: reply::stream_type(framing) }, coalesced());
        }
        let data = framer::data(framing, &event);
        if let Some(chunk) = data.as_deref().and_then(|data| protocol.read(data)) {
            repetition.add(&chunk);
            if chunk.end {
                broadcast.complete(event.clone());
                broadcast.end(Ok(()));
                return Ok(true);
            }
            if let Some(error) = &chunk.error {
                let failure = AttemptFailure::told(error).into_error();
                broadcast.tell(event.clone()).await?;
                return Err(failure);
            }
        }
        broadcast.write(event.clone()).await?;
        Ok(false)
    }

    /// Ends the broadcast as the flight ended, where that is of use for this request.
    async fn end(&self, end: FlightEnd, is_led: bool) -> FollowEnd {
        let broadcast = self.broadcast;
        match end {
            FlightEnd::Landed if !broadcast.is_open() => self.land().await,
            FlightEnd::Answered(value) if !broadcast.is_open() => {
                match whole_answer(self.upstream_request, &value) {
                    Some(head) => tell(broadcast, head),
                    None => FollowEnd::Vanished,
                }
            }
            FlightEnd::Failed(record) => match failure::read(&record) {
                Some(error) => {
                    broadcast.open(Head::Failed(error.clone()), coalesced());
                    broadcast.end(Err(error));
                    FollowEnd::Told
                }
                None => vanish(broadcast),
            },
            FlightEnd::Abandoned if is_led && broadcast.is_open() => {
                broadcast.end(Err(Error::FellBehind));
                FollowEnd::Told
            }
            FlightEnd::Abandoned if is_led => FollowEnd::Late,
            FlightEnd::Landed | FlightEnd::Answered(_) | FlightEnd::Abandoned => vanish(broadcast),
        }
    }

    /// Takes the answer from the cache, where the leader has stored it.
    async fn land(&self) -> FollowEnd {
        let answer = self.cache_plan.flight_key(self.upstream_request);
        let Ok(Some(stored)) = self.service.store().answers().answer(&answer).await else {
            return FollowEnd::Vanished;
        };
        // Where the leader could not store its answer, the one of before is still there.
        if !self.cache_plan.takes(&stored) {
            return FollowEnd::Vanished;
        }
        match replay(self.upstream_request, &stored.entry) {
            Some(replayed) => tell(self.broadcast, Head::Found(replayed, stored.age)),
            None => FollowEnd::Vanished,
        }
    }
}

/// A whole answer that the cache does not keep, with the head that it has in the leader's own process.
fn whole_answer(upstream_request: &UpstreamRequest, value: &Bytes) -> Option<Head> {
    let (entry, _) = Entry::from_bytes(value)?;
    let body = entry.body()?;
    if upstream_request.reading == Reading::Summed {
        let answer = CachedAnswer::from_json(&body)?.into();
        return Some(Head::Spoken { answer, is_stopped: false });
    }
    let content_type = HeaderValue::from_str(entry.content_type()).ok().filter(|kind| !kind.is_empty());
    Some(Head::Whole(Original { status: StatusCode::OK, content_type, body }))
}

/// Ends the broadcast with the whole answer.
fn tell(broadcast: &Broadcast, head: Head) -> FollowEnd {
    broadcast.open(head, coalesced());
    broadcast.end(Ok(()));
    FollowEnd::Told
}

fn coalesced() -> Provenance {
    Provenance { cache: Some(CacheStatus::Coalesced), ..Provenance::default() }
}

/// The leader hands nothing over any more. A broadcast that has a head ends with an error.
fn vanish(broadcast: &Broadcast) -> FollowEnd {
    if !broadcast.is_open() {
        return FollowEnd::Vanished;
    }
    broadcast.end(Err(broken("the replica that asked for it went away").into_error()));
    FollowEnd::Told
}
