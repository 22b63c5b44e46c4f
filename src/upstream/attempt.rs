//! One attempt at one host: it sends the request, and reads the response until the client can be told something.
//!
//! Only the protocol's terminator makes a streamed answer complete; a clean end of the body proves nothing. Dropping an
//! attempt closes the upstream connection, except while a model loads.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Limited};

use super::{
    Reading, UpstreamRequest,
    admission::Admission,
    answer::{ANSWER_LIMIT, Accumulator, Events, NO_OBJECT, Opened, WholeAnswer, is_text},
    answer_head::AnswerHead,
    orphan,
    slot::Slot,
};
use crate::{
    api::{endpoint::framing, error::Original, hops::X_PADDOCK_HOPS, reply},
    fleet::{AskedHost, AttemptFailure, BackendHost, NO_EVENT, broken, media_type},
    host::{Platform, Service},
    platform::{Upstream, UpstreamFailure, race},
    process::{WholeHead, broadcast::Broadcast},
    wire::{
        framer::{self, Framing},
        protocol::Protocol,
    },
};

/// How much of a whole answer is held back, in bytes: up to there another host can still be asked.
const HELD: usize = 64 << 10;
/// The same for the answer of a model that speaks, which is read for its end, its tokens and its turn.
const HELD_ANSWER: usize = 1 << 20;
/// The longest `Retry-After` of a host that is believed.
const RETRY_AFTER_LIMIT: Duration = Duration::from_hours(24);
/// The content type of a whole answer that has none.
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// How many blank bytes may come before an answer.
const BLANK_LIMIT: usize = 64 << 10;
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
    let request = match request(&slot.backend, upstream_request, admission.hops()) {
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
        // The looks find out whether a host is silent. What asks no model proves nothing about its models.
        Signal::Hung if upstream_request.routing_key.lane().is_none() => {
            return (Err(AttemptFailure::Quiet), Some(slot));
        }
        Signal::Hung => return (Err(AttemptFailure::Hung), Some(slot)),
    };

    // Read its body until the client can be told something.
    let backend = slot.backend.clone();
    let head = AnswerHead::of(backend.name(), upstream_request, &response);
    if response.status().is_success() {
        if let Err(failure) = head.check(response.headers()) {
            return (Err(failure), Some(slot));
        }
        slot.note_first_byte(service);
    }
    let opened =
        match broadcast.during(pin!(open(service, upstream_request, (&backend, &head), response))).await {
            Ok(opened) => opened.map_err(|failure| head.explain(failure)),
            Err(left) => Err(left.into()),
        };
    (opened, Some(slot))
}

fn request(
    backend: &BackendHost,
    upstream_request: &UpstreamRequest,
    hops: HeaderValue,
) -> Result<Request<Bytes>, AttemptFailure> {
    let fault = |error: http::Error| AttemptFailure::Protocol(error.to_string());
    let uri = backend.endpoint(&upstream_request.path).map_err(AttemptFailure::Protocol)?;
    let mut request =
        Request::builder().method(upstream_request.method.clone()).uri(uri).header(X_PADDOCK_HOPS, hops);
    // An answer is read, so it must not be packed.
    request = request.header(header::ACCEPT_ENCODING, reply::IDENTITY);
    if upstream_request.method != Method::GET {
        let content_type = upstream_request.content_type.clone();
        request = request
            .header(header::CONTENT_TYPE, content_type.unwrap_or(JSON))
            .header(header::CONTENT_LENGTH, HeaderValue::from(upstream_request.body.len()));
    }
    request.body(upstream_request.body.clone()).map_err(fault)
}

/// Reads until the client can be told something: to the first event of a stream, else to the end or as far as is held.
async fn open<P: Platform>(
    service: &Service<P>,
    upstream_request: &UpstreamRequest,
    (backend, answer_head): (&BackendHost, &AnswerHead<'_>),
    response: Response<P::Body>,
) -> Result<Opened<P::Body>, AttemptFailure> {
    if !response.status().is_success() {
        let known = service.fleet().inventories();
        let asked = AskedHost {
            name: backend.name(),
            version: known.get(backend.url()).map(|known| &*known.version).unwrap_or_default(),
            path: match upstream_request.endpoint() {
                Some(endpoint) => endpoint.label(),
                None => &upstream_request.path,
            },
        };
        return Err(refusal(asked, response).await);
    }
    let (parts, mut body) = response.into_parts();
    let content_type = parts.headers.get(header::CONTENT_TYPE).cloned();
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let whole_head = WholeHead { status: parts.status, content_type, length };
    let UpstreamRequest { protocol, reading, streams, .. } = *upstream_request;
    let is_called_stream = is_stream(whole_head.content_type.as_ref());
    let may_stream = is_called_stream || streams || reading != Reading::AsSent;
    let Some(protocol) = protocol.filter(|_| may_stream) else {
        return whole(protocol, answer_head, whole_head, Bytes::new(), Some(body)).await;
    };
    let framing = framing(protocol);

    // What comes first tells a stream from a whole answer, whatever it is called.
    let start = begin(&mut body).await?;
    answer_head.check_start(&start)?;
    if framing == Framing::Events {
        match start.trim_ascii_start().first() {
            Some(b'{') => return whole(Some(protocol), answer_head, whole_head, start, Some(body)).await,
            // The fields of an event are `data`, `event`, `id` and `retry`, and a comment begins with a colon.
            Some(b'd' | b'e' | b'i' | b'r' | b':') | None => {}
            Some(_) => return Err(broken(NO_EVENT)),
        }
    }
    let mut events = Events::new(framing, start, body);
    if reading == Reading::Summed {
        let heard = add_up(protocol, &mut events).await?;
        events.drain(service);
        return Ok(Opened::Spoken(heard));
    }
    let first = first_event(protocol, &mut events).await?;
    // A whole answer in one line says that it is JSON; of one in several lines the first is no object.
    let is_whole = match &first {
        First::Event(_) => false,
        First::Last(_) => media_type(whole_head.content_type.as_ref()).eq_ignore_ascii_case(JSON.as_bytes()),
        First::Other(line) => line.trim_ascii_start().starts_with(b"{"),
    };
    let first = match first {
        First::Last(line) | First::Other(line) if is_whole && reading == Reading::AsSent => {
            let (rest, body) = events.into_rest();
            return whole(Some(protocol), answer_head, whole_head, [line, rest].concat().into(), body).await;
        }
        First::Event(event) | First::Last(event) => event,
        First::Other(_) => return Err(broken(NO_EVENT)),
    };
    // Clients tell a stream by its content type, so it gets the one of its surface.
    let surfaces = reply::stream_type(framing);
    let content_type = whole_head
        .content_type
        .filter(|content_type| content_type.as_bytes().starts_with(surfaces.as_bytes()))
        .unwrap_or(surfaces);
    Ok(Opened::Stream { content_type, first, events })
}

/// The whole answer that begins with `start`; there is no more of it without a body. One that is too long to wait for
/// passes as it comes.
async fn whole<B>(
    protocol: Option<Protocol>,
    answer_head: &AnswerHead<'_>,
    head: WholeHead,
    start: Bytes,
    mut rest: Option<B>,
) -> Result<Opened<B>, AttemptFailure>
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    let content_type = head.content_type.filter(|content_type| !is_stream(Some(content_type)));
    let head = WholeHead { content_type: Some(content_type.unwrap_or(JSON)), ..head };
    let limit = if protocol.is_some() { HELD_ANSWER } else { HELD };
    let (mut bytes, mut pieces) = (start.len(), Vec::new());
    pieces.extend(Some(start).filter(|start| !start.is_empty()));
    while let Some(mut body) = rest.take() {
        let Some(frame) = body.frame().await else { break };
        if let Ok(piece) = frame?.into_data() {
            bytes += piece.len();
            pieces.push(piece);
        }
        if bytes <= limit {
            rest = Some(body);
        } else {
            let start = joined(pieces);
            answer_head.check_whole(&start)?;
            let is_object = start.trim_ascii_start().starts_with(b"{") || is_text(head.content_type.as_ref());
            return if is_object {
                Ok(Opened::Passing { head, start, body })
            } else {
                Err(broken(NO_OBJECT))
            };
        }
    }
    let WholeHead { status, content_type, .. } = head;
    let body = joined(pieces);
    answer_head.check_whole(&body)?;
    WholeAnswer::read(protocol, Original { status, content_type, body }).map(Opened::Whole)
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        0 | 1 => pieces.pop().unwrap_or_default(),
        _ => pieces.concat().into(),
    }
}

/// The first piece of a body that is not blank, with what came before it.
///
/// # Errors
/// [`AttemptFailure::Unfinished`] where there is none.
async fn begin<B>(body: &mut B) -> Result<Bytes, AttemptFailure>
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    let mut start = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        start = if start.is_empty() { piece } else { [start, piece].concat().into() };
        if !start.trim_ascii().is_empty() || start.len() > BLANK_LIMIT {
            return Ok(start);
        }
    }
    Err(AttemptFailure::Unfinished)
}

/// Whether an answer is called a stream: media types have no case, and may have parameters.
fn is_stream(content_type: Option<&HeaderValue>) -> bool {
    let media_type = media_type(content_type);
    [reply::NDJSON, reply::EVENT_STREAM]
        .iter()
        .any(|stream| media_type.eq_ignore_ascii_case(stream.as_bytes()))
}

async fn collect<B>(body: B, limit: usize) -> Result<Bytes, AttemptFailure>
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(match error.downcast::<UpstreamFailure>() {
            Ok(failure) => AttemptFailure::from(*failure),
            Err(_) => AttemptFailure::Protocol("the answer is too long".to_owned()),
        }),
    }
}

/// What a stream begins with.
enum First {
    /// An event that has data.
    Event(Bytes),
    /// The terminator.
    Last(Bytes),
    /// Data that are no event.
    Other(Bytes),
}

/// The first event that has data.
async fn first_event<B>(protocol: Protocol, events: &mut Events<B>) -> Result<First, AttemptFailure>
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    loop {
        let event = events.next().await?.ok_or(AttemptFailure::Unfinished)?;
        let Some(data) = framer::data(events.framing(), &event) else { continue };
        let Some(chunk) = protocol.read(&data) else { return Ok(First::Other(event)) };
        if let Some(error) = &chunk.error {
            return Err(AttemptFailure::told(error));
        }
        return match chunk.end {
            true => Ok(First::Last(event)),
            false if events.has_ended() => Err(AttemptFailure::Unfinished),
            false => Ok(First::Event(event)),
        };
    }
}

/// The whole answer, up to the terminator.
async fn add_up<B>(protocol: Protocol, events: &mut Events<B>) -> Result<Accumulator, AttemptFailure>
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    let mut heard = Accumulator::new(true);
    loop {
        let Some(event) = events.next().await? else {
            return if heard.stop() { Ok(heard) } else { Err(AttemptFailure::Unfinished) };
        };
        let Some(data) = framer::data(events.framing(), &event) else { continue };
        let chunk = protocol.read(&data).ok_or_else(|| broken(NO_EVENT))?;
        if let Some(error) = &chunk.error {
            return Err(AttemptFailure::told(error));
        }
        heard.add(&chunk);
        if heard.is_too_long() {
            return Err(AttemptFailure::TooLong(ANSWER_LIMIT));
        }
        if chunk.end {
            return Ok(heard);
        }
        if events.has_ended() {
            return Err(AttemptFailure::Unfinished);
        }
    }
}

/// How long a host wants to be left alone: seconds, or a date, which is held against the host's own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok();
    let asked = text(header::RETRY_AFTER)?.trim();
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(asked).ok()?;
    let now = httpdate::parse_http_date(text(header::DATE)?).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

/// The failure that a response without success means, with Ollama's own message where it gives one.
async fn refusal<B>(asked: AskedHost<'_>, response: Response<B>) -> AttemptFailure
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    let status = response.status();
    let retry_after = retry_after(response.headers()).map(|wait| wait.min(RETRY_AFTER_LIMIT));
    let content_type = response.headers().get(header::CONTENT_TYPE).cloned();
    let body = collect(response.into_body(), ERROR_LIMIT).await.unwrap_or_default();
    AttemptFailure::of_refusal(asked, Original { status, content_type, body }, retry_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_says_in_seconds_or_by_its_own_clock_how_long_it_wants_to_be_left_alone() {
        let date = "Mon, 30 Nov 2026 12:00:00 GMT";
        for (asked, now, expected) in [
            ("7", None, Some(7)),
            (" 7 ", None, Some(7)),
            ("Mon, 30 Nov 2026 12:01:30 GMT", Some(date), Some(90)),
            ("Monday, 30-Nov-26 12:01:30 GMT", Some(date), Some(90)),
            ("Mon, 30 Nov 2026 11:00:00 GMT", Some(date), Some(0)),
            ("Mon, 30 Nov 2026 12:01:30 GMT", None, None),
            ("soon", Some(date), None),
            ("-1", Some(date), None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(asked));
            headers.extend(now.map(|now| (header::DATE, HeaderValue::from_static(now))));
            assert_eq!(retry_after(&headers), expected.map(Duration::from_secs), "{asked}");
        }
    }
}
