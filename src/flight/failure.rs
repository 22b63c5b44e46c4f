//! The failure of a flight, as a record that the publisher hands over to followers in other processes.
//!
//! Pure. A failure that concerns the leader's own process is never handed over, so that the followers choose another
//! leader. A record of another version is read where this version knows its code, else it counts as no record.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    api::error::{Error, Original, Overload, Said},
    platform::{Phase, milliseconds},
    wire::members::{self, Members},
};

/// The longest upstream body that is handed over, in bytes.
const BODY_LIMIT: usize = 64 << 10;
/// How many characters of a detail for the operator are handed over.
const DETAIL_LIMIT: usize = 500;
const PHASES: [(Phase, &str); 4] = [
    (Phase::Connect, "connect"),
    (Phase::FirstByte, "first_byte"),
    (Phase::BetweenBytes, "between_bytes"),
    (Phase::Total, "total"),
];

/// The first line of a record, as JSON. Upstream's own body follows the line.
#[derive(Debug, Default, Serialize)]
struct FailureHead<'a> {
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<OriginalHead<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_full: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Upstream's own reply without its body.
#[derive(Debug, Serialize)]
struct OriginalHead<'a> {
    status: u16,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
}

/// The record of a failure that holds for every process; `None` when it concerns the leader's process alone. A leader
/// that has lost the store knew only its own queue.
pub(super) fn record(error: &Error, has_lost_store: bool) -> Option<Bytes> {
    let head = head(error, has_lost_store)?;
    let original = error.original().filter(|original| original.body.len() <= BODY_LIMIT);
    let original_head = original.map(|original| OriginalHead {
        status: original.status.as_u16(),
        content_type: original.content_type.as_ref().and_then(|kind| kind.to_str().ok()),
    });
    let mut record = serde_json::to_vec(&FailureHead { original: original_head, ..head }).unwrap_or_default();
    record.push(b'\n');
    record.extend_from_slice(original.map(|original| &*original.body).unwrap_or_default());
    Some(record.into())
}

/// The fields of each failure that is handed over; `None` for the others.
fn head(error: &Error, has_lost_store: bool) -> Option<FailureHead<'_>> {
    let head = FailureHead { code: error.code(), ..FailureHead::default() };
    Some(match error {
        Error::UpstreamRejected { status, message, original: _ }
        | Error::UpstreamDenied { status, message, original: _ } => {
            FailureHead { status: Some(status.as_u16()), message: Some(message), ..head }
        }
        Error::UpstreamFailed { message, original: _ } => FailureHead { message: Some(message), ..head },
        Error::ModelNotFound { model, nearest } => {
            FailureHead { model: Some(model), nearest: Some(nearest), ..head }
        }
        Error::ModelUnavailable { model, unknown } => {
            FailureHead { model: Some(model), unknown: Some(*unknown), ..head }
        }
        Error::UpstreamUnreachable { detail }
        | Error::UpstreamProtocol { detail }
        | Error::LoopDetected { detail } => {
            FailureHead { detail: Some(detail.chars().take(DETAIL_LIMIT).collect()), ..head }
        }
        Error::NotOllama { words } | Error::RouteMissing { words } => FailureHead { message: Some(words), ..head },
        Error::AnswerTooLong { limit } => FailureHead { limit: Some(*limit), ..head },
        Error::UpstreamBusy { said, retry_after } => FailureHead {
            status: said.as_ref().map(|said| said.status.as_u16()),
            message: said.as_ref().map(|said| &*said.message),
            retry_after_ms: retry_after.map(milliseconds),
            ..head
        },
        Error::Overloaded { cause: cause @ (Overload::QueueFull | Overload::QueueSlow), retry_after }
            if !has_lost_store =>
        {
            let is_full = *cause == Overload::QueueFull;
            FailureHead { is_full: Some(is_full), retry_after_ms: Some(milliseconds(*retry_after)), ..head }
        }
        Error::UpstreamTimeout { phase } => {
            let word = PHASES.iter().find(|(known, _)| known == phase).map(|(_, word)| *word);
            FailureHead { phase: word, ..head }
        }
        // These concern the leader's process alone: its own queue is full, its clients left or read too slowly, or it stops.
        Error::Overloaded { .. }
        | Error::ClientClosed | Error::FellBehind | Error::ShuttingDown
        // These are reported before a flight begins, or to one client.
        | Error::NotCached
        | Error::IdempotencyKeyReused
        | Error::IdempotencyKeyInUse
        | Error::InvalidIdempotencyKey
        | Error::VersionUnknown
        | Error::TooManyConnections
        | Error::SessionUnavailable
        | Error::SessionNotFound
        | Error::SessionUnsupported
        | Error::InvalidSessionId
        | Error::StoreUnavailable
        | Error::InvalidJson(_)
        | Error::MissingField(_)
        | Error::EmptyField(_)
        | Error::WrongType { .. }
        | Error::BodyTooLarge { .. }
        | Error::IncompleteBody
        | Error::UnsupportedMediaType
        | Error::UnsupportedEncoding
        | Error::DamagedBody
        | Error::PurgeForbidden
        | Error::HostNotAllowed
        | Error::ForeignOrigin
        | Error::ForeignAdministration
        | Error::ManagementForbidden
        | Error::ManagementFailed { .. }
        | Error::UploadForbidden
        | Error::Unauthorized
        | Error::AmbiguousCaller
        | Error::NotFound { .. }
        | Error::Moved { .. }
        | Error::MethodNotAllowed { .. }
        | Error::Misconfigured { .. } => return None,
    })
}

/// The failure in a record; `None` when this version cannot read it.
pub(super) fn read(record: &Bytes) -> Option<Error> {
    let end = memchr::memchr(b'\n', record)?;
    let head = Members::parse(record.get(..end)?)?;
    let text = |name| head.string(name).map(Cow::into_owned);
    let retry_after = head.number("retry_after_ms").map(Duration::from_millis);
    let original = head.object("original").and_then(|original| {
        let content_type = original.string("type").and_then(|kind| HeaderValue::from_str(&kind).ok());
        Some(Box::new(Original { status: status(&original)?, content_type, body: record.slice(end + 1..) }))
    });
    Some(match &*head.string("code")? {
        "upstream_rejected" => {
            Error::UpstreamRejected { status: status(&head)?, message: text("message")?, original }
        }
        "upstream_denied" => {
            Error::UpstreamDenied { status: status(&head)?, message: text("message")?, original }
        }
        "route_missing" => Error::RouteMissing { words: text("message")? },
        "not_ollama" => Error::NotOllama { words: text("message")? },
        "upstream_failed" => Error::UpstreamFailed { message: text("message")?, original },
        "model_not_found" => {
            let name = |name: &&RawValue| members::string(name).map(Cow::into_owned);
            let nearest = head.array("nearest")?.iter().map(name).collect::<Option<_>>()?;
            Error::ModelNotFound { model: text("model")?, nearest }
        }
        "model_unavailable" => {
            let unknown = usize::try_from(head.number("unknown")?).ok()?;
            Error::ModelUnavailable { model: text("model")?, unknown }
        }
        "upstream_unreachable" => Error::UpstreamUnreachable { detail: text("detail")? },
        "upstream_protocol" => Error::UpstreamProtocol { detail: text("detail")? },
        "loop_detected" => Error::LoopDetected { detail: text("detail")? },
        "answer_too_long" => Error::AnswerTooLong { limit: usize::try_from(head.number("limit")?).ok()? },
        "upstream_busy" => {
            let said = status(&head).zip(text("message"));
            let said = said.map(|(status, message)| Box::new(Said { status, message }));
            Error::UpstreamBusy { said, retry_after }
        }
        "overloaded" => {
            let cause = if head.boolean("is_full")? { Overload::QueueFull } else { Overload::QueueSlow };
            Error::Overloaded { cause, retry_after: retry_after? }
        }
        "upstream_timeout" => {
            let word = head.string("phase")?;
            Error::UpstreamTimeout { phase: PHASES.iter().find(|(_, known)| *known == word)?.0 }
        }
        _ => return None,
    })
}

fn status(members: &Members<'_>) -> Option<StatusCode> {
    StatusCode::from_u16(u16::try_from(members.number("status")?).ok()?).ok()
}

#[cfg(test)]
mod tests;
