//! The body of a request to `/chat`, checked field by field. Values that are passed to Ollama must keep their bytes.

use std::borrow::Cow;

use http::{HeaderMap, header};
use serde_json::value::RawValue;

use crate::{
    api::error::Error,
    wire::{
        framer::Framing,
        members::{self, Members},
        pace::Pace,
        request::{VALUES_LIMIT, has_more_values_than},
    },
};

/// A checked request.
#[derive(Debug)]
pub(crate) struct ChatRequest<'a> {
    /// The user's message, never empty.
    pub(crate) message: String,
    /// The system message.
    pub(crate) system: Option<String>,
    /// `None` if the request names no model.
    pub(crate) model: Option<String>,
    /// As the client wrote it; empty if the request names no session.
    pub(crate) session_id: Cow<'a, str>,
    /// Images in base64, without the prefix of a data URL.
    pub(crate) images: Vec<Cow<'a, str>>,
    /// Whether the reply streams; `None` leaves the choice to `Accept`.
    pub(crate) stream: Option<bool>,
    pub(crate) format: Option<&'a RawValue>,
    pub(crate) options: Option<&'a RawValue>,
    pub(crate) think: Option<&'a RawValue>,
    pub(crate) tools: Option<&'a RawValue>,
    pub(crate) keep_alive: Option<&'a RawValue>,
}

impl<'a> ChatRequest<'a> {
    /// The members of a body.
    ///
    /// # Errors
    /// [`Error::InvalidJson`] for a body that is not a JSON object, or has more values than any question.
    pub(crate) async fn members(body: &'a [u8], pace: &mut Pace) -> Result<Members<'a>, Error> {
        if has_more_values_than(VALUES_LIMIT, body, pace).await {
            return Err(Error::InvalidJson(format!("it has more than {VALUES_LIMIT} values")));
        }
        Members::parse_in_steps(body, pace).await.ok_or_else(|| Error::InvalidJson(fault(body)))
    }

    /// Checks the members of a body. As in Ollama, `null` means absent and unknown fields are ignored.
    ///
    /// # Errors
    /// [`Error::InvalidJson`], [`Error::MissingField`], [`Error::EmptyField`], [`Error::WrongType`]
    pub(crate) fn read(members: &Members<'a>) -> Result<Self, Error> {
        let field = |name| only(members, name);
        let text = |name| read(name, field(name)?, members::string, "a string");
        let message = text("message")?.ok_or(Error::MissingField("message"))?;
        if message.trim().is_empty() {
            return Err(Error::EmptyField("message"));
        }
        let images = read("images", field("images")?, strings, "a list of strings in base64")?;
        Ok(Self {
            message: message.into_owned(),
            system: text("system")?.filter(|system| !system.is_empty()).map(Cow::into_owned),
            model: text("model")?.filter(|model| !model.is_empty()).map(Cow::into_owned),
            session_id: text("session_id")?.unwrap_or_default(),
            images: images.unwrap_or_default().into_iter().map(without_prefix).collect(),
            stream: read("stream", field("stream")?, |value| value.get().parse().ok(), "true or false")?,
            format: kind("format", field("format")?, b"\"{", "\"json\" or a JSON schema")?,
            options: kind("options", field("options")?, b"{", "an object")?,
            think: kind("think", field("think")?, b"tf\"", "true, false or a level such as \"low\"")?,
            tools: kind("tools", field("tools")?, b"[", "a list")?,
            keep_alive: kind("keep_alive", field("keep_alive")?, b"\"-0123456789", "a number or a duration")?,
        })
    }

    /// The framing of a streamed reply; `None` for a whole reply.
    pub(crate) fn framing(&self, headers: &HeaderMap) -> Option<Framing> {
        let accepts = |kind: &str| {
            let mut values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
            values.any(|value| value.to_ascii_lowercase().contains(kind))
        };
        let asked = if accepts("application/x-ndjson") {
            Some(Framing::Lines)
        } else if accepts("text/event-stream") {
            Some(Framing::Events)
        } else {
            None
        };
        match self.stream {
            Some(false) => None,
            Some(true) => Some(asked.unwrap_or(Framing::Events)),
            None => asked,
        }
    }
}

/// Describes what is wrong with a body and where. The description must not quote the body.
fn fault(body: &[u8]) -> String {
    match serde_json::from_slice::<&RawValue>(body) {
        Err(error) if body.trim_ascii_start().starts_with(b"{") => {
            format!("line {}, column {}", error.line(), error.column())
        }
        _ => "it is no object".to_owned(),
    }
}

/// The value of a field, which must not occur twice. `null` counts as absent.
fn only<'a>(members: &Members<'a>, name: &str) -> Result<Option<&'a RawValue>, Error> {
    let mut values = members.iter().filter(|(key, _)| key == name).map(|(_, value)| *value);
    let value = values.next();
    if values.next().is_some() {
        return Err(Error::InvalidJson(format!("{name} comes twice")));
    }
    Ok(value.filter(|value| value.get() != "null"))
}

fn read<'a, T>(
    param: &'static str,
    value: Option<&'a RawValue>,
    parse: impl Fn(&'a RawValue) -> Option<T>,
    expected: &'static str,
) -> Result<Option<T>, Error> {
    value.map(|value| parse(value).ok_or(Error::WrongType { param, expected })).transpose()
}

fn strings(value: &RawValue) -> Option<Vec<Cow<'_, str>>> {
    members::elements(value)?.into_iter().map(members::string).collect()
}

/// A value that is passed to Ollama with its bytes, if its first byte is that of an expected kind.
fn kind<'a>(
    param: &'static str,
    value: Option<&'a RawValue>,
    beginnings: &[u8],
    expected: &'static str,
) -> Result<Option<&'a RawValue>, Error> {
    let fits =
        |value: &&RawValue| value.get().bytes().next().is_some_and(|first| beginnings.contains(&first));
    match value {
        Some(value) if !fits(&value) => Err(Error::WrongType { param, expected }),
        _ => Ok(value),
    }
}

/// The base64 part of an image: browsers send data URLs, and Ollama takes only the base64 text.
fn without_prefix(image: Cow<'_, str>) -> Cow<'_, str> {
    match image.split_once(";base64,") {
        Some((prefix, data)) if prefix.starts_with("data:") => Cow::Owned(data.to_owned()),
        _ => image,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::wire::pace::at_once;

    fn parse(body: &[u8]) -> Result<ChatRequest<'_>, Error> {
        ChatRequest::read(&at_once(ChatRequest::members(body, &mut Pace::unbroken()))?)
    }

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
            ("{\"message\":\"a\",\"system\":{}}", "wrong_type", Some("system")),
            ("{\"message\":\"a\",\"images\":\"x\"}", "wrong_type", Some("images")),
            ("{\"message\":\"a\",\"images\":[1]}", "wrong_type", Some("images")),
            ("{\"message\":\"a\",\"stream\":\"yes\"}", "wrong_type", Some("stream")),
            ("{\"message\":\"a\",\"format\":1}", "wrong_type", Some("format")),
            ("{\"message\":\"a\",\"options\":[]}", "wrong_type", Some("options")),
            ("{\"message\":\"a\",\"think\":1}", "wrong_type", Some("think")),
            ("{\"message\":\"a\",\"tools\":{}}", "wrong_type", Some("tools")),
            ("{\"message\":\"a\",\"keep_alive\":true}", "wrong_type", Some("keep_alive")),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert_eq!((error.code(), error.param()), (code, param), "{body}");
        }
        assert_eq!(parse(b"{\"message\":\"\xff\"}").unwrap_err().code(), "invalid_json");
    }

    #[test]
    fn what_is_not_given_or_not_known_does_not_matter() {
        let body = b" {\"message\":\"a\",\"model\":\"\",\"session_id\":null,\"x\":{}}";
        let request = parse(body).unwrap();
        assert_eq!((request.message.as_str(), request.model, &*request.session_id), ("a", None, ""));
        assert!(request.images.is_empty() && request.options.is_none());
    }

    #[test]
    fn a_syntax_error_is_told_by_its_place_and_never_by_its_content() {
        let error = parse(b"{\"message\": secret}").unwrap_err();
        assert!(error.to_string().contains("line 1") && !error.to_string().contains("secret"));
    }

    #[test]
    fn images_may_be_data_urls_and_values_for_ollama_stay_as_they_came() {
        let body = br#"{"message":"a","images":["aGk=","data:image/png;base64,aGk="],"options":{"seed": 1}}"#;
        let request = parse(body).unwrap();
        assert_eq!(request.images, ["aGk=", "aGk="]);
        assert_eq!(request.options.unwrap().get(), r#"{"seed": 1}"#);
    }

    #[test]
    fn the_reply_comes_in_pieces_when_the_body_or_the_header_says_so() {
        for (stream, accept, expected) in [
            ("", "", None),
            ("", "*/*", None),
            ("", "text/event-stream", Some(Framing::Events)),
            ("", "application/json, application/x-ndjson", Some(Framing::Lines)),
            (",\"stream\":true", "", Some(Framing::Events)),
            (",\"stream\":true", "Application/X-NDJSON", Some(Framing::Lines)),
            (",\"stream\":false", "text/event-stream", None),
        ] {
            let body = format!("{{\"message\":\"a\"{stream}}}");
            let request = parse(body.as_bytes()).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(request.framing(&headers), expected, "{stream} {accept}");
        }
    }
}
