//! One attempt at one host: it sends the request, and reads the response until the client can be told something.
//!
//! Only the protocol's terminator makes a streamed answer complete; a clean end of the body proves nothing. Dropping an
//! attempt closes the upstream connection, except while a model loads.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Limited};

use super::{
    Reading, UpstreamRequest,
    admission::Admission,
    answer::{Accumulator, Events, Opened},
    orphan,
    slot::Slot,
};
use crate::{
    api::{endpoint::framing, error::Original, reply},
    fleet::{AttemptFailure, BackendHost, NO_EVENT, UNFINISHED, broken},
    host::{Platform, Service},
    platform::{Upstream, UpstreamFailure, race},
    process::broadcast::Broadcast,
    wire::{
        framer,
        protocol::{Chunk, Protocol},
    },
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The longest reply that comes in one piece, in bytes.
const WHOLE_LIMIT: usize = 64 << 20;
/// The longest `Retry-After` of a host that is believed.
const RETRY_AFTER_LIMIT: Duration = Duration::from_hours(24);
/// How much of an error's body is read, in bytes.
const ERROR_LIMIT: usize = 64 << 10;

/// What happens before the response has a head.
enum Signal<B> {
    Response(Result<Response<B>, UpstreamFailure>),
    ClientsLeft,
    /// The host counts as hung, and another could be asked.
    Hung,
}

/// Asks one host. Returns the slot, unless the call continues to load a model although its clients left: see [`orphan`].
pub(crate) async fn attempt<P: Platform>(
    service: &Service<P>,
    admission: &Admission<'_, P>,
    upstream_request: &UpstreamRequest,
    broadcast: &Broadcast,
    mut slot: Box<Slot>,
) -> (Result<Opened<P::Body>, AttemptFailure>, Option<Box<Slot>>) {
    let request = match request(&slot.backend, upstream_request) {
        Ok(request) => request,
        Err(failure) => return (Err(failure), Some(slot)),
    };

    // Send it, and wait for the head of the response.
    let (sender, limits) = (service.clone(), upstream_request.limits(service));
    // The call is on the heap because it goes to a task of its own when it must outlive the attempt.
    let mut sending = Box::pin(async move { sender.send(request, limits).await });
    let signal = race! {
        response = sending.as_mut() => Signal::Response(response),
        () = broadcast.left() => Signal::ClientsLeft,
        () = admission.hung(&slot) => Signal::Hung,
    };
    let response = match signal {
        Signal::Response(Ok(response)) => response,
        Signal::Response(Err(failure)) => return (Err(failure.into()), Some(slot)),
        Signal::ClientsLeft => {
            let slot = orphan::adopt_load(service, slot, upstream_request.model.as_deref(), sending);
            return (Err(AttemptFailure::ClientLeft), slot);
        }
        Signal::Hung => return (Err(AttemptFailure::Hung), Some(slot)),
    };

    // Read its body until the client can be told something.
    if response.status().is_success() {
        slot.note_first_byte(service);
    }
    let opened = match broadcast.during(pin!(open(service, upstream_request, response))).await {
        Ok(opened) => opened,
        Err(left) => Err(left.into()),
    };
    (opened, Some(slot))
}

fn request(
    backend: &BackendHost,
    upstream_request: &UpstreamRequest,
) -> Result<Request<Bytes>, AttemptFailure> {
    let fault = |error: http::Error| AttemptFailure::Protocol(error.to_string());
    let uri = backend.endpoint(&upstream_request.path).map_err(AttemptFailure::Protocol)?;
    let mut request = Request::builder().method(upstream_request.method.clone()).uri(uri);
    if upstream_request.method != Method::GET {
        let content_type = upstream_request.content_type.clone();
        request = request
            .header(header::CONTENT_TYPE, content_type.unwrap_or(JSON))
            .header(header::CONTENT_LENGTH, HeaderValue::from(upstream_request.body.len()));
    }
    request.body(upstream_request.body.clone()).map_err(fault)
}

/// Reads until the client can be told something: to the first event of a stream, else to the end.
async fn open<P: Platform>(
    service: &Service<P>,
    upstream_request: &UpstreamRequest,
    response: Response<P::Body>,
) -> Result<Opened<P::Body>, AttemptFailure> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let content_type = response.headers().get(header::CONTENT_TYPE).cloned();
    let is_stream =
        content_type.as_ref().is_some_and(is_stream) || upstream_request.reading != Reading::AsSent;
    let Some(protocol) = upstream_request.protocol.filter(|_| is_stream) else {
        let status = response.status();
        let body = collect(response, WHOLE_LIMIT).await?;
        return Ok(Opened::Whole(Original { status, content_type, body }));
    };
    let mut events = Events::new(framing(protocol), response.into_body());
    if upstream_request.reading == Reading::Summed {
        let heard = add_up(protocol, &mut events).await?;
        events.drain(service);
        return Ok(Opened::Spoken(heard));
    }
    let first = first_event(protocol, &mut events).await?;
    Ok(Opened::Stream { content_type: content_type.unwrap_or(reply::NDJSON), first, events })
}

fn is_stream(content_type: &HeaderValue) -> bool {
    let kind = content_type.as_bytes();
    [&b"application/x-ndjson"[..], b"text/event-stream"].iter().any(|stream| kind.starts_with(stream))
}

async fn collect<B>(response: Response<B>, limit: usize) -> Result<Bytes, AttemptFailure>
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    match Limited::new(response.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(match error.downcast::<UpstreamFailure>() {
            Ok(failure) => AttemptFailure::from(*failure),
            Err(_) => AttemptFailure::Protocol("the answer is too long".to_owned()),
        }),
    }
}

fn read(protocol: Protocol, data: &[u8]) -> Result<Chunk<'_>, AttemptFailure> {
    let chunk = protocol.read(data).ok_or_else(|| broken(NO_EVENT))?;
    match &chunk.error {
        Some(error) => Err(AttemptFailure::told(error)),
        None => Ok(chunk),
    }
}

/// The first event that has data.
async fn first_event<B>(protocol: Protocol, events: &mut Events<B>) -> Result<Bytes, AttemptFailure>
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    loop {
        let event = events.next().await?.ok_or_else(|| broken(UNFINISHED))?;
        if let Some(data) = framer::data(events.framing(), &event) {
            let chunk = read(protocol, &data)?;
            return if chunk.end || !events.has_ended() { Ok(event) } else { Err(broken(UNFINISHED)) };
        }
    }
}

/// The whole answer, up to the terminator.
async fn add_up<B>(protocol: Protocol, events: &mut Events<B>) -> Result<Accumulator, AttemptFailure>
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    let mut heard = Accumulator::new(true);
    loop {
        let event = events.next().await?.ok_or_else(|| broken(UNFINISHED))?;
        let Some(data) = framer::data(events.framing(), &event) else { continue };
        let chunk = read(protocol, &data)?;
        heard.add(&chunk).map_err(broken)?;
        if chunk.end {
            return Ok(heard);
        }
    }
}

/// The failure that a response without success means, with Ollama's own message where it gives one.
async fn refusal<B>(response: Response<B>) -> AttemptFailure
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_LIMIT));
    let content_type = response.headers().get(header::CONTENT_TYPE).cloned();
    let body = collect(response, ERROR_LIMIT).await.unwrap_or_default();
    AttemptFailure::of_refusal(Original { status, content_type, body }, retry_after)
}
