//! Following a flight that another process leads: what it hands over through the shared store goes to this process's own
//! broadcast.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::{failure, replay::replay};
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
    wire::framer,
};

/// The shortest and the longest pause between two looks at what was handed over.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// What became of following.
pub(super) enum FollowEnd {
    /// The broadcast says how it ended.
    Told,
    /// Nothing was heard, for the store fails.
    Missed,
    /// Nothing was heard, and the beginning is not kept any more, while the flight goes on.
    Late,
    /// Nothing was heard, and the flight is over: the leader is gone, or what it brought is of no use here.
    Vanished,
}

/// Follows until the flight ends, or everybody here left; its answer is kept under a key that may be another.
pub(super) async fn follow<P: Platform>(
    service: &Service<P>,
    order: &UpstreamRequest,
    broadcast: &Broadcast,
    (flight, answer): (&FlightKey, &FlightKey),
    (leader, follower): (&str, &str),
) -> FollowEnd {
    let hearing = Box::pin(hear(service, order, broadcast, (flight, answer), (leader, follower)));
    if let Ok(Ok(followed)) = broadcast.during(hearing).await {
        return followed;
    }
    // A leader that does not hear so finds out that nobody asks any more.
    let _ = service.store().flights().leave_flight(flight, follower).await;
    broadcast.end(Err(Error::ClientClosed));
    FollowEnd::Told
}

async fn hear<P: Platform>(
    service: &Service<P>,
    order: &UpstreamRequest,
    broadcast: &Broadcast,
    (flight, answer): (&FlightKey, &FlightKey),
    (leader, follower): (&str, &str),
) -> Result<FollowEnd, ClientLeft> {
    let (mut pause, mut heard, mut failing_since) = (POLL.0, 0, None);
    loop {
        let Ok(found) = service.store().flights().follow(flight, leader, follower, heard).await else {
            if !broadcast.is_open() {
                return Ok(FollowEnd::Missed);
            }
            // As long as the leader may still have the lead, what it says is handed over when the store is back.
            let now = service.now();
            if now.saturating_sub(*failing_since.get_or_insert(now)) >= FLIGHT_LEASE {
                broadcast.end(Err(Error::StoreUnavailable));
                return Ok(FollowEnd::Told);
            }
            service.sleep(POLL.1).await;
            continue;
        };
        failing_since = None;
        let is_news = !found.events.is_empty();
        for event in found.events {
            heard += 1;
            match write(order, broadcast, event).await {
                Ok(true) => return Ok(FollowEnd::Told),
                Ok(false) => {}
                Err(Error::ClientClosed) => return Err(ClientLeft),
                Err(error) => {
                    broadcast.end(Err(error));
                    return Ok(FollowEnd::Told);
                }
            }
        }
        match found.end {
            Some(end) => return Ok(ended(service, order, broadcast, answer, (end, found.is_led)).await),
            None if !found.is_led && !is_news => return Ok(gone(broadcast, FollowEnd::Vanished)),
            None => {}
        }
        pause = if is_news { POLL.0 } else { (pause * 3 / 2).min(POLL.1) };
        service.sleep(pause).await;
    }
}

/// Tells how the flight ended, as far as that is of use here.
async fn ended<P: Platform>(
    service: &Service<P>,
    order: &UpstreamRequest,
    broadcast: &Broadcast,
    answer: &FlightKey,
    (end, is_led): (FlightEnd, bool),
) -> FollowEnd {
    match end {
        FlightEnd::Landed if !broadcast.is_open() => landed(service, order, broadcast, answer).await,
        FlightEnd::Answered(value) if !broadcast.is_open() => match handed_over(order, &value) {
            Some(opening) => tell(broadcast, opening),
            None => FollowEnd::Vanished,
        },
        FlightEnd::Failed(record) => match failure::read(&record) {
            Some(error) => {
                broadcast.open(Head::Failed(error.clone()), coalesced());
                broadcast.end(Err(error));
                FollowEnd::Told
            }
            None => gone(broadcast, FollowEnd::Vanished),
        },
        FlightEnd::Abandoned if is_led && broadcast.is_open() => {
            broadcast.end(Err(Error::FellBehind));
            FollowEnd::Told
        }
        FlightEnd::Abandoned if is_led => FollowEnd::Late,
        FlightEnd::Landed | FlightEnd::Answered(_) | FlightEnd::Abandoned => {
            gone(broadcast, FollowEnd::Vanished)
        }
    }
}

/// Writes what was handed over; tells whether it was the terminator.
async fn write(order: &UpstreamRequest, broadcast: &Broadcast, event: Bytes) -> Result<bool, Error> {
    let Some(protocol) = order.protocol else { return Err(broken(NO_EVENT).into_error()) };
    let framing = framing(protocol);
    if !broadcast.is_open() {
        broadcast.open(Head::Stream { content_type: reply::stream_type(framing) }, coalesced());
    }
    let data = framer::data(framing, &event);
    if let Some(chunk) = data.as_deref().and_then(|data| protocol.read(data)) {
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

/// The answer went to the cache.
async fn landed<P: Platform>(
    service: &Service<P>,
    order: &UpstreamRequest,
    broadcast: &Broadcast,
    answer: &FlightKey,
) -> FollowEnd {
    let Ok(Some(stored)) = service.store().answers().answer(answer).await else { return FollowEnd::Vanished };
    match replay(order, &stored.entry) {
        Some(replayed) => tell(broadcast, Head::Found(replayed, stored.age)),
        None => FollowEnd::Vanished,
    }
}

/// A whole answer that is kept nowhere, as those hear it who follow in the leader's own process.
fn handed_over(order: &UpstreamRequest, value: &Bytes) -> Option<Head> {
    let (entry, _) = Entry::from_bytes(value)?;
    let body = entry.body()?;
    if order.reading == Reading::Summed {
        return Some(Head::Spoken(CachedAnswer::from_json(&body)?.into()));
    }
    let content_type = HeaderValue::from_str(entry.content_type()).ok().filter(|kind| !kind.is_empty());
    Some(Head::Whole(Original { status: StatusCode::OK, content_type, body }))
}

/// Tells the whole answer.
fn tell(broadcast: &Broadcast, opening: Head) -> FollowEnd {
    broadcast.open(opening, coalesced());
    broadcast.end(Ok(()));
    FollowEnd::Told
}

fn coalesced() -> Provenance {
    Provenance { cache: Some(CacheStatus::Coalesced), ..Provenance::default() }
}

/// Nothing more comes: whoever has heard nothing goes another way, the others hear an error.
fn gone(broadcast: &Broadcast, otherwise: FollowEnd) -> FollowEnd {
    if !broadcast.is_open() {
        return otherwise;
    }
    broadcast.end(Err(broken("the replica that asked for it went away").into_error()));
    FollowEnd::Told
}
