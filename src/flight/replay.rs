//! A stored answer, in the form in which it is asked for: its own bytes, or what is built of them without a loss.
//!
//! Pure. What cannot be built is none, and is asked for anew.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::{
    api::{endpoint::framing, error::Original, reply},
    cache::{CachedAnswer, Delivery, Entry},
    process::Replay,
    upstream::{Reading, UpstreamRequest, answer::Accumulator as Added},
    wire::{
        form,
        framer::{self, Framer},
        protocol::Protocol,
    },
};

/// The answer that an entry holds, as `order` asks for it.
pub(super) fn replay(order: &UpstreamRequest, entry: &Entry) -> Option<Replay> {
    let body = entry.body()?;
    let content_type = HeaderValue::from_str(entry.content_type()).ok();
    let is_own = order.reading != Reading::AsSent;
    if order.reading == Reading::Summed {
        return Some(Replay::Spoken(match entry.form() {
            Delivery::Whole => CachedAnswer::from_json(&body)?,
            Delivery::Stream => added_up(order.protocol?, &events(order.protocol?, &body)?)?,
        }));
    }
    match (Delivery::of(order.streams), entry.form()) {
        (Delivery::Whole, Delivery::Whole) => {
            Some(Replay::Whole(Original { status: StatusCode::OK, content_type, body }))
        }
        (Delivery::Whole, Delivery::Stream) => {
            let body = form::whole(order.protocol?, &body)?;
            let content_type = Some(HeaderValue::from_static("application/json; charset=utf-8"));
            Some(Replay::Whole(Original { status: StatusCode::OK, content_type, body }))
        }
        (Delivery::Stream, Delivery::Stream) => {
            Some(Replay::Events(content_type.unwrap_or(reply::NDJSON), events(order.protocol?, &body)?))
        }
        // Of our own the last line may say all.
        (Delivery::Stream, Delivery::Whole) if is_own => Some(Replay::Events(reply::NDJSON, vec![body])),
        (Delivery::Stream, Delivery::Whole) => {
            let protocol = order.protocol?;
            let events = form::stream(protocol, &body, &order.body)?;
            Some(Replay::Events(reply::stream_type(framing(protocol)), events))
        }
    }
}

/// Whether an answer of this form serves the other as well.
pub(super) fn serves_both(order: &UpstreamRequest, form: Delivery, body: &Bytes) -> bool {
    // Our own words are written from what was said, and what no model says has one form.
    let Some(protocol) = order.protocol.filter(|_| !(order.reading != Reading::AsSent)) else { return true };
    match form {
        Delivery::Stream => form::whole(protocol, body).is_some(),
        Delivery::Whole => form::stream(protocol, body, &order.body).is_some(),
    }
}

/// The events of a stream that was stored.
fn events(protocol: Protocol, body: &Bytes) -> Option<Vec<Bytes>> {
    let mut framer = Framer::new(framing(protocol), body.len());
    framer.push(body.clone());
    let mut events = Vec::new();
    while let Some(event) = framer.next_event().ok()? {
        events.push(event);
    }
    events.extend(framer.finish());
    Some(events)
}

/// What the events of an answer say.
pub(super) fn added_up(protocol: Protocol, events: &[Bytes]) -> Option<CachedAnswer> {
    let mut added = Added::new(true);
    for event in events {
        let Some(data) = framer::data(framing(protocol), event) else { continue };
        added.add(&protocol.read(&data)?).ok()?;
    }
    Some(added.answer())
}
