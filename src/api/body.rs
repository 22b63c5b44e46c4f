//! The body of a request: read within its limit, and no further. The body of a reply is in `reply.rs`.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body::Body;
use http_body_util::BodyExt;

use super::error::Error;

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

/// Reads a body of at most `limit` bytes; a larger `Content-Length` is refused before anything is read. What is not read
/// is the entry's to discard.
pub(crate) async fn read<B>(headers: &HeaderMap, mut body: B, limit: BodyLimit) -> Result<Bytes, Error>
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
    let read = if announced.unwrap_or(0) > limit { Ok(None) } else { collect(&mut body, limit).await };
    match read {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(Error::BodyTooLarge { limit, setting }),
        Err(Incomplete) => Err(Error::IncompleteBody),
    }
}

struct Incomplete;

/// The whole body, or `None` when it is longer than `limit`. A body that arrives in one piece is not copied.
async fn collect<B>(body: &mut B, limit: u64) -> Result<Option<Bytes>, Incomplete>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut whole = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|_| Incomplete)?.into_data() else { continue };
        if (whole.len() + joined.len() + piece.len()) as u64 > limit {
            return Ok(None);
        }
        if whole.is_empty() && joined.is_empty() {
            whole = piece;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut whole));
            joined.extend_from_slice(&piece);
        }
    }
    Ok(Some(if joined.is_empty() { whole } else { joined.freeze() }))
}
