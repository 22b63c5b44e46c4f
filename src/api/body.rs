//! The body of a request: read within its limit, and no further. The body of a reply is in `reply.rs`.

use std::{future::poll_fn, pin::Pin, task::Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body, Frame};

use super::{error::Error, memory_budget::HeldBytes};
use crate::platform::Clock;

/// The largest allowed body of a request, and the setting that limits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimit {
    /// The name of the setting.
    pub setting: &'static str,
    /// The limit in bytes.
    pub bytes: u64,
}

/// The largest allowed bodies, by endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// `/chat`.
    pub chat: BodyLimit,
    /// Endpoints under `/api` that ask a model.
    pub ollama: BodyLimit,
    /// Endpoints under `/v1` that ask a model.
    pub openai: BodyLimit,
    /// `/v1/messages`.
    pub anthropic: BodyLimit,
    /// All other routes.
    pub other: BodyLimit,
}

/// Reads a body of at most `limit` bytes; a larger `Content-Length` is refused before anything is read. What arrives is
/// counted in `held`. What is not read is the entry's to discard.
///
/// # Errors
/// [`Error::UnsupportedMediaType`], [`Error::UnsupportedEncoding`], [`Error::BodyTooLarge`], [`Error::IncompleteBody`], and
/// [`Error::Overloaded`] where `held` has no room.
pub(crate) async fn read<B>(
    headers: &HeaderMap,
    mut body: B,
    limit: BodyLimit,
    held: &mut HeldBytes,
    clock: &impl Clock,
) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    // The content type is ignored unless it is multipart, as in Ollama: `curl -d` labels JSON as a form.
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = content_type.and_then(|value| value.get(.."multipart/".len()));
    if kind.is_some_and(|kind| kind.eq_ignore_ascii_case("multipart/")) {
        return Err(Error::UnsupportedMediaType);
    }
    let is_encoded = |value: &HeaderValue| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().any(is_encoded) {
        return Err(Error::UnsupportedEncoding);
    }
    let BodyLimit { setting, bytes: limit } = limit;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let too_large = Error::BodyTooLarge { limit, setting };
    match announced {
        Some(announced) if announced > limit => Err(too_large),
        _ => {
            let whole = collect(&mut body, announced.unwrap_or(0), limit, too_large, held, clock).await;
            held.arrive();
            whole
        }
    }
}

/// The whole body. One that arrives in one piece is not copied.
async fn collect<B>(
    body: &mut B,
    announced: u64,
    limit: u64,
    too_large: Error,
    held: &mut HeldBytes,
    clock: &impl Clock,
) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let announced = usize::try_from(announced).unwrap_or(0);
    let mut whole = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = next_frame(body, held).await? {
        let Ok(piece) = frame.into_data() else { continue };
        let length = whole.len() + joined.len() + piece.len();
        if length as u64 > limit {
            return Err(too_large);
        }
        held.receive(length, announced, clock.now())?;
        if whole.is_empty() && joined.is_empty() {
            whole = piece;
            continue;
        }
        if joined.is_empty() {
            // What was announced is within the limit, and only what is written takes memory.
            joined.reserve(announced.max(length));
        }
        joined.extend_from_slice(&std::mem::take(&mut whole));
        joined.extend_from_slice(&piece);
    }
    Ok(if joined.is_empty() { whole } else { joined.freeze() })
}

/// The next frame. An upload that has stalled may be given up while it is waited for.
async fn next_frame<B>(body: &mut B, held: &HeldBytes) -> Result<Option<Frame<Bytes>>, Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    poll_fn(|context| match Pin::new(&mut *body).poll_frame(context) {
        Poll::Ready(frame) => Poll::Ready(frame.transpose().map_err(|_| Error::IncompleteBody)),
        Poll::Pending => held.poll_given_up(context).map(Err),
    })
    .await
}
