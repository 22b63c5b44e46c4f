//! What a client sends to `/chat`: read within the limit, then checked field by field.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    error::Error,
    host::{Host, MaybeSend},
};

/// How much of a refused body is read and thrown away, in bytes.
const DISCARD_LIMIT: usize = 8 << 20;

/// A checked request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ChatRequest {
    /// Not empty.
    pub(super) message: String,
    /// `None` when the request names none.
    pub(super) model: Option<String>,
    /// Empty when none was given.
    pub(super) session_id: String,
}

#[derive(Deserialize)]
struct Fields {
    message: Option<Value>,
    model: Option<Value>,
    session_id: Option<Value>,
}

impl ChatRequest {
    /// Checks a body. `null` means absent, and fields that are not known are ignored, as Ollama does.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Error> {
        // serde would take an array for a struct.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Error::InvalidJson("it is no object".to_owned()));
        }
        let Fields { message, model, session_id } = serde_json::from_slice(body).map_err(|error| {
            Error::InvalidJson(format!("line {}, column {}", error.line(), error.column()))
        })?;
        let message = string("message", message)?.ok_or(Error::MissingField("message"))?;
        if message.trim().is_empty() {
            return Err(Error::EmptyField("message"));
        }
        Ok(Self {
            message,
            model: string("model", model)?.filter(|model| !model.is_empty()),
            session_id: string("session_id", session_id)?.unwrap_or_default(),
        })
    }
}

fn string(param: &'static str, value: Option<Value>) -> Result<Option<String>, Error> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(Error::WrongType { param, expected: "string" })
        }
    }
}

/// Reads a body of at most `limit` bytes; one that announces more is refused before it is read.
pub(super) async fn read_body<H, B>(host: &H, headers: &HeaderMap, mut body: B) -> Result<Bytes, Error>
where
    H: Host,
    B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
{
    // A body that parses as JSON is taken whatever it is called, as Ollama does: `curl -d` calls it a form.
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = content_type.and_then(|value| value.get(.."multipart/".len()));
    if kind.is_some_and(|kind| kind.eq_ignore_ascii_case("multipart/")) {
        discard(host, body);
        return Err(Error::UnsupportedMediaType);
    }
    let limit = host.config().body_limit;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let read = if announced.unwrap_or(0) > limit { Ok(None) } else { collect(&mut body, limit).await };
    match read {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => {
            discard(host, body);
            Err(Error::BodyTooLarge { limit })
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
fn discard<H, B>(host: &H, mut body: B)
where
    H: Host,
    B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
{
    host.spawn(async move {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DISCARD_LIMIT {
                break;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_bad_input_has_its_code() {
        for (body, code, param) in [
            ("", "invalid_json", None),
            ("{", "invalid_json", None),
            ("[]", "invalid_json", None),
            ("\"hi\"", "invalid_json", None),
            ("{} {}", "invalid_json", None),
            ("{\"message\":\"a\",\"message\":\"b\"}", "invalid_json", None),
            ("{}", "missing_field", Some("message")),
            ("{\"message\":null}", "missing_field", Some("message")),
            ("{\"message\":\"\"}", "empty_field", Some("message")),
            ("{\"message\":\" \\n\"}", "empty_field", Some("message")),
            ("{\"message\":5}", "wrong_type", Some("message")),
            ("{\"message\":\"a\",\"model\":[]}", "wrong_type", Some("model")),
            ("{\"message\":\"a\",\"session_id\":7}", "wrong_type", Some("session_id")),
        ] {
            let error = ChatRequest::parse(body.as_bytes()).unwrap_err();
            assert_eq!((error.code(), error.param()), (code, param), "{body}");
        }
        assert_eq!(ChatRequest::parse(b"{\"message\":\"\xff\"}").unwrap_err().code(), "invalid_json");
    }

    #[test]
    fn what_is_not_given_or_not_known_does_not_matter() {
        let request =
            ChatRequest::parse(b" {\"message\":\"a\",\"model\":\"\",\"session_id\":null,\"x\":{}}").unwrap();
        assert_eq!(request, ChatRequest { message: "a".into(), model: None, session_id: String::new() });
    }

    #[test]
    fn a_syntax_error_is_told_by_its_place_and_never_by_its_content() {
        let error = ChatRequest::parse(b"{\"message\": secret}").unwrap_err();
        assert!(error.to_string().contains("line 1") && !error.to_string().contains("secret"));
    }
}
