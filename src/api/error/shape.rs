//! Writes errors: each error format has its own body, and its own event inside a stream that has begun.
//!
//! On endpoints that relay Ollama, Ollama's own error reply is passed on unchanged.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::{Error, Original};
use crate::{
    api::reply::{self, ReplyBody},
    wire::{members::Members, protocol::Protocol},
};

/// The conventions by which an endpoint writes errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorFormat {
    /// Paddock's own routes.
    Own,
    /// `/api/...`.
    Ollama,
    /// `/v1/...`.
    OpenAi,
    /// `/v1/messages`.
    Anthropic,
}

impl ErrorFormat {
    /// The error format of a path.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/v1/messages" => Self::Anthropic,
            _ if path.starts_with("/v1/messages/") => Self::Anthropic,
            _ if path.starts_with("/v1/") => Self::OpenAi,
            _ if path.starts_with("/api/") => Self::Ollama,
            _ => Self::Own,
        }
    }

    /// Whether the body of a host's reply passes as it came. Ollama writes its errors as a string now and then on every
    /// surface, and clients read that. What `denies` a request is not always Ollama, and must be of this format.
    fn passes(self, body: &[u8], denies: bool) -> bool {
        let members = Members::parse(body);
        let error = members.as_ref().and_then(|members| members.raw("error"));
        error.is_some_and(|error| match self {
            Self::Own => false,
            Self::Ollama => !denies || error.get().starts_with('"'),
            Self::OpenAi | Self::Anthropic => !denies || error.get().starts_with('{'),
        })
    }
}

/// `{"error":{"code","message","type","param"}}`: Paddock's own format, which OpenAI's clients read as well.
#[derive(Serialize)]
pub(crate) struct Detailed<'a> {
    error: Details<'a>,
}

#[derive(Serialize)]
struct Details<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
}

/// Ollama's format: the message only.
#[derive(Serialize)]
struct Plain<'a> {
    error: &'a str,
}

/// Anthropic's format.
#[derive(Serialize)]
struct Messages<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: MessagesDetails<'a>,
    request_id: &'a str,
}

#[derive(Serialize)]
struct MessagesDetails<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

/// The event `error` of OpenAI's Responses API.
#[derive(Serialize)]
struct ResponsesEvent<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    code: &'a str,
    message: &'a str,
    param: Option<&'a str>,
}

/// Anthropic's error type for a status (Anthropic's documentation, "Errors").
fn messages_kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

impl Error {
    /// The error as JSON in the format `family`.
    pub(crate) fn body(&self, family: ErrorFormat, request_id: &str) -> Vec<u8> {
        let message = self.to_string();
        let body = match family {
            ErrorFormat::Own | ErrorFormat::OpenAi => serde_json::to_vec(&self.detailed(&message)),
            ErrorFormat::Ollama => serde_json::to_vec(&Plain { error: &message }),
            ErrorFormat::Anthropic => serde_json::to_vec(&Messages {
                kind: "error",
                error: MessagesDetails { kind: messages_kind(self.status()), message: &message },
                request_id,
            }),
        };
        body.unwrap_or_default()
    }

    /// The error with all fields that a client may see, in the format of Paddock's own routes.
    pub(crate) fn detailed<'a>(&self, message: &'a str) -> Detailed<'a> {
        let details = Details { code: self.code(), message, kind: self.kind(), param: self.param() };
        Detailed { error: details }
    }

    /// Ollama's reply, if the error carries one.
    pub(crate) fn original(&self) -> Option<&Original> {
        if let Self::UpstreamRejected { original, .. }
        | Self::UpstreamDenied { original, .. }
        | Self::UpstreamFailed { original, .. } = self
        {
            original.as_deref()
        } else {
            None
        }
    }

    /// The error as a reply in the format `family`. Unless that is Paddock's own, a reply of Ollama is passed on
    /// unchanged; of one in another format, such as a page of a proxy, the status stays.
    pub(crate) fn into_response(self, family: ErrorFormat, request_id: &str) -> Response<ReplyBody> {
        let denies = matches!(self, Self::UpstreamDenied { .. });
        let mut response = match self.original() {
            Some(Original { status, content_type, body }) if family.passes(body, denies) => {
                reply::typed(*status, content_type.clone(), body.clone())
            }
            Some(Original { status, .. }) if family != ErrorFormat::Own => {
                reply::complete(*status, "application/json", self.body(family, request_id))
            }
            _ => reply::complete(self.status(), "application/json", self.body(family, request_id)),
        };
        let headers = response.headers_mut();
        if let Self::MethodNotAllowed { allow } = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        } else if let Self::Moved { location, .. } = self {
            headers.extend(HeaderValue::try_from(location).ok().map(|location| (header::LOCATION, location)));
        } else if self == Self::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        } else if self.retryable()
            && matches!(self.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
        {
            let seconds = if let Self::UpstreamBusy { retry_after: Some(wait), .. }
            | Self::Overloaded { retry_after: wait, .. } = self
            {
                wait.as_secs()
            } else {
                0
            };
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }

    /// The error as the last event of a stream in `protocol`, which then ends without its terminator.
    pub(crate) fn event(&self, protocol: Protocol, request_id: &str) -> Bytes {
        let (before, body, after) = match protocol {
            Protocol::OllamaChat | Protocol::OllamaGenerate => {
                ("", self.body(ErrorFormat::Ollama, request_id), "\n")
            }
            Protocol::OpenAiChat | Protocol::OpenAiCompletion => {
                ("data: ", self.body(ErrorFormat::OpenAi, request_id), "\n\n")
            }
            Protocol::OpenAiResponse => ("event: error\ndata: ", self.responses_event(), "\n\n"),
            Protocol::AnthropicMessage => {
                ("event: error\ndata: ", self.body(ErrorFormat::Anthropic, request_id), "\n\n")
            }
        };
        [before.as_bytes(), &body, after.as_bytes()].concat().into()
    }

    /// The event `error` of OpenAI's Responses API as JSON.
    fn responses_event(&self) -> Vec<u8> {
        let message = self.to_string();
        let event =
            ResponsesEvent { kind: "error", code: self.code(), message: &message, param: self.param() };
        serde_json::to_vec(&event).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::Overload, *};

    fn text(error: &Error, family: ErrorFormat) -> String {
        String::from_utf8(error.body(family, "id-1")).unwrap()
    }

    #[test]
    fn each_family_has_its_own_shape() {
        let error = Error::MissingField("message");
        let words = "the field 'message' is required";
        assert_eq!(
            text(&error, ErrorFormat::OpenAi),
            format!(
                r#"{{"error":{{"code":"missing_field","message":"{words}","type":"invalid_request_error","param":"message"}}}}"#
            )
        );
        assert_eq!(text(&error, ErrorFormat::Own), text(&error, ErrorFormat::OpenAi));
        assert_eq!(text(&error, ErrorFormat::Ollama), format!(r#"{{"error":"{words}"}}"#));
        assert_eq!(
            text(&error, ErrorFormat::Anthropic),
            format!(
                r#"{{"type":"error","error":{{"type":"invalid_request_error","message":"{words}"}},"request_id":"id-1"}}"#
            )
        );
    }

    #[test]
    fn the_words_of_ollama_are_passed_on_as_they_came_except_on_our_own_routes() {
        let original = Original {
            status: StatusCode::BAD_REQUEST,
            content_type: Some(HeaderValue::from_static("application/json; charset=utf-8")),
            body: Bytes::from_static(b"{\"error\":\"no\"}"),
        };
        let error = Error::UpstreamFailed { message: "no".into(), original: Some(Box::new(original)) };
        let passed = error.clone().into_response(ErrorFormat::Ollama, "");
        assert_eq!(passed.status(), 400);
        assert_eq!(passed.headers()[header::CONTENT_TYPE], "application/json; charset=utf-8");
        assert_eq!(passed.headers()[header::CONTENT_LENGTH], "14");
        assert_eq!(error.into_response(ErrorFormat::Own, "").status(), 502);
    }

    #[test]
    fn an_error_of_another_format_is_told_in_the_one_of_the_surface_with_its_status() {
        let page = "<html>denied</html>";
        let (ollamas, openais) = (r#"{"error":"no"}"#, r#"{"error":{"message":"no"}}"#);
        for (body, family, passes) in [
            (page, ErrorFormat::Ollama, false),
            (page, ErrorFormat::OpenAi, false),
            (page, ErrorFormat::Anthropic, false),
            (r#"{"detail":"no"}"#, ErrorFormat::OpenAi, false),
            (ollamas, ErrorFormat::Ollama, true),
            (ollamas, ErrorFormat::OpenAi, false),
            (ollamas, ErrorFormat::Anthropic, false),
            (openais, ErrorFormat::Ollama, false),
            (openais, ErrorFormat::OpenAi, true),
        ] {
            let status = StatusCode::UNAUTHORIZED;
            let kind = Some(HeaderValue::from_static("text/html"));
            let original = Original { status, content_type: kind, body: Bytes::from_static(body.as_bytes()) };
            let message = "no".to_owned();
            let error = Error::UpstreamDenied { status, message, original: Some(Box::new(original)) };
            let response = error.into_response(family, "");
            let is_page = response.headers()[header::CONTENT_TYPE] == "text/html";
            assert_eq!((response.status(), is_page), (status, passes), "{body} {family:?}");
            // Ollama's own errors are read on every surface.
            assert_eq!(family.passes(body.as_bytes(), false), body.contains("error"), "{body} {family:?}");
        }
    }

    #[test]
    fn every_reply_has_its_content_length_and_busy_says_when_to_come_back() {
        let wait = Duration::from_secs;
        for (error, seconds) in [
            (Error::UpstreamBusy { said: None, retry_after: Some(wait(7)) }, "7"),
            (Error::UpstreamBusy { said: None, retry_after: Some(Duration::ZERO) }, "1"),
            (Error::UpstreamBusy { said: None, retry_after: None }, "1"),
            (Error::Overloaded { cause: Overload::QueueFull, retry_after: wait(12) }, "12"),
            (Error::StoreUnavailable, "1"),
        ] {
            let response = error.into_response(ErrorFormat::Own, "");
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds);
            assert!(response.headers().contains_key(header::CONTENT_LENGTH));
        }
    }

    #[test]
    fn an_error_inside_a_stream_is_an_event_of_its_protocol() {
        let error = Error::MissingField("model");
        let event = |protocol| String::from_utf8(error.event(protocol, "id-1").to_vec()).unwrap();
        let words = "the field 'model' is required";
        let (ollama, openai) = (text(&error, ErrorFormat::Ollama), text(&error, ErrorFormat::OpenAi));
        assert_eq!(event(Protocol::OllamaChat), format!("{ollama}\n"));
        assert_eq!(event(Protocol::OllamaGenerate), format!("{ollama}\n"));
        assert_eq!(event(Protocol::OpenAiChat), format!("data: {openai}\n\n"));
        assert_eq!(event(Protocol::OpenAiCompletion), format!("data: {openai}\n\n"));
        assert_eq!(
            event(Protocol::OpenAiResponse),
            format!(
                "event: error\ndata: {{\"type\":\"error\",\"code\":\"missing_field\",\"message\":\"{words}\",\"param\":\"model\"}}\n\n"
            )
        );
        let anthropic = text(&error, ErrorFormat::Anthropic);
        assert_eq!(event(Protocol::AnthropicMessage), format!("event: error\ndata: {anthropic}\n\n"));
    }
}
