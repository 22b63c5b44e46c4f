//! A stored answer in the delivery that a request wants: the bytes as they came, or a lossless conversion of them.
//!
//! Pure. An answer that cannot be converted without a loss is not replayed, and upstream is asked again.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::{
    api::{endpoint::framing, error::Original, reply},
    cache::{CachedAnswer, Delivery, Entry},
    process::Replay,
    upstream::{Reading, UpstreamRequest, answer::Accumulator},
    wire::{
        form,
        framer::{self, Framer},
        protocol::Protocol,
    },
};

/// The answer of an entry, in the delivery that `upstream_request` asks for.
pub(super) fn replay(upstream_request: &UpstreamRequest, entry: &Entry) -> Option<Replay> {
    let body = entry.body()?;
    let content_type = HeaderValue::from_str(entry.content_type()).ok();
    let is_own = upstream_request.reading != Reading::AsSent;
    if upstream_request.reading == Reading::Summed {
        return Some(Replay::Spoken(match entry.form() {
            Delivery::Whole => CachedAnswer::from_json(&body)?,
            Delivery::Stream => {
                added_up(upstream_request.protocol?, &events(upstream_request.protocol?, &body)?)?
            }
        }));
    }
    match (Delivery::of(upstream_request.streams), entry.form()) {
        (Delivery::Whole, Delivery::Whole) => {
            Some(Replay::Whole(Original { status: StatusCode::OK, content_type, body }))
        }
        (Delivery::Whole, Delivery::Stream) => {
            let body = form::whole(upstream_request.protocol?, &body)?;
            let content_type = Some(HeaderValue::from_static("application/json; charset=utf-8"));
            Some(Replay::Whole(Original { status: StatusCode::OK, content_type, body }))
        }
        (Delivery::Stream, Delivery::Stream) => Some(Replay::Events(
            content_type.unwrap_or(reply::NDJSON),
            events(upstream_request.protocol?, &body)?,
        )),
        // A client of `/chat` may get the whole answer in the last line.
        (Delivery::Stream, Delivery::Whole) if is_own => Some(Replay::Events(reply::NDJSON, vec![body])),
        (Delivery::Stream, Delivery::Whole) => {
            let protocol = upstream_request.protocol?;
            let events = form::stream(protocol, &body, &upstream_request.body)?;
            Some(Replay::Events(reply::stream_type(framing(protocol)), events))
        }
    }
}

/// Whether an answer of this delivery can be converted to the other.
pub(super) fn serves_both(upstream_request: &UpstreamRequest, form: Delivery, body: &Bytes) -> bool {
    // The replies of `/chat` are written from the accumulated answer, and a reply of no model has one delivery only.
    let Some(protocol) = upstream_request.protocol.filter(|_| upstream_request.reading == Reading::AsSent)
    else {
        return true;
    };
    match form {
        Delivery::Stream => form::whole(protocol, body).is_some(),
        Delivery::Whole => form::stream(protocol, body, &upstream_request.body).is_some(),
    }
}

/// The events of a stored stream.
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

/// The answer that the events add up to.
pub(super) fn added_up(protocol: Protocol, events: &[Bytes]) -> Option<CachedAnswer> {
    let mut heard = Accumulator::new(true);
    for event in events {
        let Some(data) = framer::data(framing(protocol), event) else { continue };
        heard.add(&protocol.read(&data)?);
    }
    (!heard.is_too_long()).then(|| heard.answer())
}
