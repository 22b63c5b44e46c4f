//! Following a flight that another process leads: what it hands over through the shared store goes to this process's own
//! feed.

use std::time::Duration;

use bytes::Bytes;

use super::{
    NO_EVENT, Order, broken,
    feed::{Feed, Opening, Source},
    replay::replay,
};
use crate::{
    cache::CacheStatus,
    error::Error,
    fleet::AttemptFailure,
    host::Host,
    reply,
    store::{FlightEnd, FlightKey, ResponseCache},
    surface::framing,
    wire::framer::{self, Framing},
};

/// The shortest and the longest pause between two looks at what was handed over.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// As often the store may fail to answer until the leader counts as gone.
const FAILURES: u32 = 5;

/// What became of following.
pub(super) enum Followed {
    /// The feed says how it ended.
    Told,
    /// The flight failed, and nothing was heard of it.
    Failed,
    /// The leader is gone, or its answer went to the cache, and nothing was heard of it.
    Vanished,
}

/// Follows until the flight ends.
pub(super) async fn follow<H: Host>(
    host: &H,
    order: &Order,
    feed: &Feed,
    flight: &FlightKey,
    leader: &str,
) -> Followed {
    let (mut pause, mut heard, mut failures) = (POLL.0, 0, 0);
    loop {
        let looking = host.store().follow(flight, leader, heard);
        let Ok(found) = feed.during(Box::pin(looking)).await else {
            feed.end(Err(Error::ClientClosed));
            return Followed::Told;
        };
        let Ok(found) = found else {
            failures += 1;
            if failures < FAILURES && feed.is_open() {
                continue;
            }
            return gone(feed, Followed::Failed);
        };
        let is_news = !found.events.is_empty();
        for event in found.events {
            heard += 1;
            match write(order, feed, event).await {
                Ok(true) => return Followed::Told,
                Ok(false) => {}
                Err(error) => {
                    feed.end(Err(error));
                    return Followed::Told;
                }
            }
        }
        match found.end {
            Some(FlightEnd::Landed) if !feed.is_open() => return landed(host, order, feed, flight).await,
            Some(FlightEnd::Landed | FlightEnd::Failed) => return gone(feed, Followed::Failed),
            None if !found.is_led && !is_news => return gone(feed, Followed::Vanished),
            None => {}
        }
        pause = if is_news { POLL.0 } else { (pause * 3 / 2).min(POLL.1) };
        if feed.during(host.sleep(pause)).await.is_err() {
            feed.end(Err(Error::ClientClosed));
            return Followed::Told;
        }
    }
}

/// Writes what was handed over; tells whether it was the terminator.
async fn write(order: &Order, feed: &Feed, event: Bytes) -> Result<bool, Error> {
    let Some(protocol) = order.protocol else { return Err(broken(NO_EVENT).into_error()) };
    let framing = framing(protocol);
    if !feed.is_open() {
        let content_type = match framing {
            Framing::Lines => reply::NDJSON,
            Framing::Events => reply::EVENT_STREAM,
        };
        let source = Source { cache: Some(CacheStatus::Coalesced), ..Source::default() };
        feed.open(Opening::Stream { content_type }, source);
    }
    let data = framer::data(framing, &event);
    if let Some(chunk) = data.as_deref().and_then(|data| protocol.read(data)) {
        if chunk.end {
            feed.complete(event.clone());
            feed.end(Ok(()));
            return Ok(true);
        }
        if let Some(error) = &chunk.error {
            let failure = AttemptFailure::told(error).into_error();
            feed.tell(event.clone()).await?;
            return Err(failure);
        }
    }
    feed.write(event.clone()).await?;
    Ok(false)
}

/// The answer went to the cache, unless it is one that is not kept.
async fn landed<H: Host>(host: &H, order: &Order, feed: &Feed, flight: &FlightKey) -> Followed {
    match host.store().answer(&flight.key).await {
        Ok(Some(stored)) => {
            let Some(replayed) = replay(order, &stored.entry) else { return Followed::Failed };
            let source = Source { cache: Some(CacheStatus::Coalesced), ..Source::default() };
            feed.open(Opening::Found(replayed, stored.age), source);
            feed.end(Ok(()));
            Followed::Told
        }
        Ok(None) | Err(_) => Followed::Failed,
    }
}

/// Nothing more comes: whoever has heard nothing goes another way, the others hear an error.
fn gone(feed: &Feed, otherwise: Followed) -> Followed {
    if !feed.is_open() {
        return otherwise;
    }
    feed.end(Err(broken("the replica that asked for it went away").into_error()));
    Followed::Told
}
