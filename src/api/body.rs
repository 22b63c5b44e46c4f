//! The body of a request: read within its limit, and never further.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body::Body;
use http_body_util::BodyExt;

use super::error::Error;
use crate::platform::{Background, MaybeSend};

/// The largest body of a request, and the setting that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimit {
    /// The setting.
    pub setting: &'static str,
    /// In bytes.
    pub bytes: u64,
}

/// The largest body by surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// `/chat`.
    pub chat: BodyLimit,
    /// Asking a model on `/api`.
    pub ollama: BodyLimit,
    /// Asking a model on `/v1`.
    pub openai: BodyLimit,
    /// `/v1/messages`.
    pub anthropic: BodyLimit,
    /// Everything else.
    pub other: BodyLimit,
}

/// How much of a refused body is read and thrown away, in bytes.
const DISCARD_LIMIT: usize = 64 << 20;

/// Reads a body of at most `limit` bytes; one that announces more is refused before it is read.
pub(crate) async fn read<B>(
    background: &impl Background,
    headers: &HeaderMap,
    mut body: B,
    limit: BodyLimit,
) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
{
    // A body that parses as JSON is taken whatever it is called, as Ollama does: `curl -d` calls it a form.
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = content_type.and_then(|value| value.get(.."multipart/".len()));
    if kind.is_some_and(|kind| kind.eq_ignore_ascii_case("multipart/")) {
        discard(background, body);
        return Err(Error::UnsupportedMediaType);
    }
    let is_encoded = |value: &HeaderValue| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().any(is_encoded) {
        discard(background, body);
        return Err(Error::UnsupportedEncoding);
    }
    let BodyLimit { setting, bytes: limit } = limit;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let read = if announced.unwrap_or(0) > limit { Ok(None) } else { collect(&mut body, limit).await };
    match read {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => {
            discard(background, body);
            Err(Error::BodyTooLarge { limit, setting })
        }
        Err(Incomplete) => Err(Error::IncompleteBody),
    }
}

struct Incomplete;

/// The whole body, or `None` when it is longer than `limit`. A body in one piece is not copied.
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

/// Reads on while the refusal is on its way: a connection closed over unread bytes is reset, and the client might
/// never see why.
fn discard<B>(background: &impl Background, mut body: B)
where
    B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
{
    background.spawn(async move {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DISCARD_LIMIT {
                break;
            }
        }
    });
}
