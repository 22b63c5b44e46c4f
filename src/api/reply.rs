//! The reply: its body type, which every platform can send, and the constructors for complete and streamed replies. The
//! body of a request is in `body.rs`.
//!
//! A complete reply always has a content-length: without one Spin sends it in two segments, and the second waits 40 ms
//! for the client's acknowledgement. One that is long counts in the memory budget until it is read. A streamed reply buffers [`PIECES`] pieces at most, so a slow client slows its
//! writer down.

mod held;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{
    SinkExt, Stream,
    channel::{mpsc, oneshot},
};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use serde::Serialize;

use super::{
    error::Error,
    memory_budget::{HeldBytes, UNCOUNTED},
};
use crate::{
    platform::{Clock, race},
    wire::framer::Framing,
};
use held::HeldReply;

/// How many pieces are buffered beside the one that is being written.
const PIECES: usize = 1;
/// The content type of a stream of lines.
pub(crate) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// The content type of a stream of server-sent events.
pub(crate) const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// The packing of a body that is not packed.
pub(crate) const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// The content type of a stream that is framed like this.
pub(crate) fn stream_type(framing: Framing) -> HeaderValue {
    match framing {
        Framing::Lines => NDJSON,
        Framing::Events => EVENT_STREAM,
    }
}

/// The body of a reply.
#[derive(Debug, Default)]
pub struct ReplyBody(Content);

#[derive(Debug)]
enum Content {
    Whole(Full<Bytes>),
    /// A whole reply that counts in the memory budget.
    Held(Box<HeldReply>),
    Streamed(Inlet),
    /// A whole reply in pieces.
    Passing(Inlet),
}

/// A reply broke off: its client must not take what came for the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reply broke off")]
pub struct BrokenOff;

impl Default for Content {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

/// The receiving end of a streamed reply, held by the client's connection. Dropping it means that the client left.
#[derive(Debug)]
pub(crate) struct Inlet {
    pieces: mpsc::Receiver<Bytes>,
    /// Dropping this end tells [`Presence`] at once; the channel of pieces would show it only at its next use. A message
    /// says that the reply is complete.
    present: oneshot::Receiver<Complete>,
}

/// The sending end of a streamed reply. Dropping it ends the body.
#[derive(Debug, Clone)]
pub(crate) struct Outlet(mpsc::Sender<Bytes>);

/// Tells whether the client is still connected.
#[derive(Debug)]
pub(crate) struct Presence(oneshot::Sender<Complete>);

/// Every piece of a reply was handed over.
#[derive(Debug)]
struct Complete;

/// The client left before the reply was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientLeft;

/// Both ends of a streamed reply. The inlet lives in the future that waits for the reply and then in the reply's body,
/// so that dropping either shows that the client left.
pub(crate) fn channel() -> (Outlet, Presence, Inlet) {
    let (sender, pieces) = mpsc::channel(PIECES);
    let (present, watched) = oneshot::channel();
    (Outlet(sender), Presence(present), Inlet { pieces, present: watched })
}

impl Outlet {
    /// Sends one piece; waits while the buffer is full.
    pub(crate) async fn send(&mut self, piece: Bytes) -> Result<(), ClientLeft> {
        self.0.send(piece).await.map_err(|_| ClientLeft)
    }

    /// Sends one piece unless the buffer is full.
    pub(crate) fn offer(&mut self, piece: Bytes) {
        // A client with a full buffer does not need this piece.
        let _ = self.0.try_send(piece);
    }
}

impl Presence {
    /// Runs `future` to its end; gives [`ClientLeft`] when the client leaves first.
    pub(crate) async fn during<F: Future>(&mut self, future: Pin<&mut F>) -> Result<F::Output, ClientLeft> {
        race! {
            output = future => Ok(output),
            () = self.left() => Err(ClientLeft),
        }
    }

    /// Says that every piece was handed over, before the outlet is dropped. Without it a whole reply in pieces has broken
    /// off; a stream of events tells that by its last event.
    pub(crate) fn complete(self) {
        // A client that left needs no end.
        let _ = self.0.send(Complete);
    }

    /// Resolves when the client leaves.
    pub(crate) async fn left(&mut self) {
        self.0.cancellation().await;
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.0 {
            Content::Whole(body) => {
                Pin::new(body).poll_frame(context).map_err(|never: Infallible| match never {})
            }
            Content::Held(reply) => reply.next(),
            Content::Streamed(inlet) => {
                let piece = Pin::new(&mut inlet.pieces).poll_next(context);
                piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
            }
            Content::Passing(inlet) => {
                let piece = Pin::new(&mut inlet.pieces).poll_next(context);
                piece.map(|piece| match piece {
                    Some(bytes) => Some(Ok(Frame::data(bytes))),
                    None if matches!(inlet.present.try_recv(), Ok(Some(Complete))) => None,
                    None => Some(Err(BrokenOff)),
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Whole(body) => body.is_end_stream(),
            Content::Held(reply) => reply.is_over(),
            Content::Streamed(_) | Content::Passing(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(body) => body.size_hint(),
            Content::Held(reply) => reply.size_hint(),
            Content::Streamed(_) | Content::Passing(_) => SizeHint::default(),
        }
    }
}

/// A complete reply with the given content type.
pub(crate) fn complete(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<ReplyBody> {
    typed(status, Some(HeaderValue::from_static(content_type)), body.into())
}

/// A complete reply whose content type, if any, is upstream's.
pub(crate) fn typed(
    status: StatusCode,
    content_type: Option<HeaderValue>,
    body: Bytes,
) -> Response<ReplyBody> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(ReplyBody(Content::Whole(Full::new(body))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    headers.insert(header::CONTENT_LENGTH, length);
    response
}

/// A complete JSON reply. Serialising `value` must not be able to fail.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<ReplyBody> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    complete(status, "application/json", body)
}

/// A streamed reply, which proxies must neither store nor buffer.
pub(crate) fn streamed(content_type: HeaderValue, inlet: Inlet) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody(Content::Streamed(inlet)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would hold pieces back until its buffer is full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// A whole reply that passes as it comes; its length is upstream's, where upstream tells it.
pub(crate) fn passed(
    status: StatusCode,
    content_type: Option<HeaderValue>,
    length: Option<u64>,
    inlet: Inlet,
) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody(Content::Passing(inlet)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.extend(content_type.map(|content_type| (header::CONTENT_TYPE, content_type)));
    headers.extend(length.map(|length| (header::CONTENT_LENGTH, HeaderValue::from(length))));
    response
}

/// The same reply, which counts in `held` until it is read, if it is a long one in one piece.
///
/// # Errors
/// [`Error::Overloaded`] when there is no room for it, and [`Error::AnswerTooLong`] when there never will be.
pub(crate) fn held(
    mut response: Response<ReplyBody>,
    held: impl FnOnce() -> HeldBytes,
    clock: &(impl Clock + Clone + 'static),
) -> Result<Response<ReplyBody>, Error> {
    let Content::Whole(body) = &mut response.body_mut().0 else { return Ok(response) };
    if body.size_hint().lower() <= UNCOUNTED as u64 {
        return Ok(response);
    }
    let whole = std::mem::take(body).into_inner();
    let reply = HeldReply::new(whole.unwrap_or_default(), held(), Box::new(clock.clone()));
    let reply = reply.map_err(|error| {
        if let Error::BodyTooLarge { limit, .. } = error {
            Error::AnswerTooLong { limit: usize::try_from(limit).unwrap_or(usize::MAX) }
        } else {
            error
        }
    })?;
    response.body_mut().0 = Content::Held(Box::new(reply));
    Ok(response)
}

/// The same reply without its body, for HEAD; the content-length stays.
pub(crate) fn without_body(response: Response<ReplyBody>) -> Response<ReplyBody> {
    let (parts, _) = response.into_parts();
    Response::from_parts(parts, ReplyBody::default())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn a_whole_reply_in_pieces_has_broken_off_unless_it_is_complete() {
        for is_complete in [true, false] {
            let (mut outlet, presence, inlet) = channel();
            let response = passed(StatusCode::OK, None, Some(3), inlet);
            assert_eq!(response.headers()[header::CONTENT_LENGTH], "3");
            outlet.offer(Bytes::from_static(b"abc"));
            if is_complete {
                presence.complete();
            }
            drop(outlet);
            let read = response.into_body().collect().now_or_never().unwrap();
            assert_eq!(
                read.map(http_body_util::Collected::to_bytes),
                if is_complete { Ok("abc".into()) } else { Err(BrokenOff) }
            );
        }
    }
}
