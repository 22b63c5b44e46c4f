//! The port for the log: what the service reports to its operator, as typed events.
//!
//! An event has no field that could hold a message, a reply, a credential or a session id, so none of these can reach a
//! log. A platform turns events into lines and adds nothing to them.

use std::time::Duration;

use serde::Serialize;

use super::{MaybeSend, MaybeSync};

/// The longest method that a line holds, in bytes; those that mean something are shorter.
const METHOD_LIMIT: usize = 32;
/// The longest detail that a line holds, in bytes.
const DETAIL_LIMIT: usize = 2_000;

/// Receives the events.
pub trait Journal: MaybeSend + MaybeSync {
    /// Writes one event; must not block and must not fail.
    fn record(&self, event: &Event<'_>);
}

/// How urgent an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Normal operation.
    Info,
    /// Something is impaired, but requests are served.
    Warn,
    /// A request failed because of Paddock or of a host.
    Error,
}

/// One line of the log. A platform that does not know an event writes it by [`Event::to_json`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A request was answered, or its client left. One per request.
    Request(RequestRecord<'a>),
    /// One attempt at a backend host failed; another may follow.
    #[non_exhaustive]
    AttemptFailed {
        /// The id of the request.
        request_id: &'a str,
        /// The host's address.
        host: &'a str,
        /// The failure as a stable word.
        outcome: &'static str,
        /// Details of the failure, without content of the request or the answer.
        detail: &'a str,
    },
    /// The store stopped answering. Once per outage.
    #[non_exhaustive]
    StoreDown {
        /// The operation that failed first.
        operation: &'static str,
        /// What the store or its connection said.
        detail: &'a str,
    },
    /// The store answers again.
    StoreUp,
    /// A store that answers refuses an operation. Once, until that operation succeeds.
    #[non_exhaustive]
    StoreRefuses {
        /// The operation.
        operation: &'static str,
        /// What the store said.
        detail: &'a str,
    },
    /// The store works, but is not set up as it should be. Once.
    #[non_exhaustive]
    StoreAdvice {
        /// What is wrong, and what to do.
        detail: &'a str,
    },
    /// The settings are invalid; every problem is listed.
    Misconfigured {
        /// One sentence per problem.
        problems: &'a [String],
    },
}

impl<'a> Event<'a> {
    /// The event with no more of what clients, hosts and stores say than a line holds: they may say any amount.
    pub(crate) fn bounded(&self) -> Event<'a> {
        match self.clone() {
            Self::Request(record) => Self::Request(RequestRecord {
                method: cut(record.method, METHOD_LIMIT),
                detail: record.detail.map(|detail| cut(detail, DETAIL_LIMIT)),
                ..record
            }),
            Self::AttemptFailed { request_id, host, outcome, detail } => {
                Self::AttemptFailed { request_id, host, outcome, detail: cut(detail, DETAIL_LIMIT) }
            }
            Self::StoreDown { operation, detail } => {
                Self::StoreDown { operation, detail: cut(detail, DETAIL_LIMIT) }
            }
            Self::StoreRefuses { operation, detail } => {
                Self::StoreRefuses { operation, detail: cut(detail, DETAIL_LIMIT) }
            }
            // These are Paddock's own words, and the operator's settings.
            own @ (Self::StoreUp | Self::StoreAdvice { .. } | Self::Misconfigured { .. }) => own,
        }
    }

    /// The urgency of this event.
    pub fn level(&self) -> Level {
        match self {
            Self::Request(record) => record.level,
            Self::AttemptFailed { .. }
            | Self::StoreDown { .. }
            | Self::StoreRefuses { .. }
            | Self::StoreAdvice { .. } => Level::Warn,
            Self::StoreUp => Level::Info,
            Self::Misconfigured { .. } => Level::Error,
        }
    }

    /// All fields of the event as JSON, with its name as `event`.
    pub fn to_json(&self) -> String {
        // Serialising strings and numbers cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A short sentence for people; the fields of the event hold the data.
    pub fn summary(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::AttemptFailed { .. } => "attempt failed",
            Self::StoreDown { .. } => "store is down: serving without cache and history",
            Self::StoreUp => "store is back",
            Self::StoreRefuses { .. } => "store refuses an operation: serving without it",
            Self::StoreAdvice { .. } => "store is not set up as it should be",
            Self::Misconfigured { .. } => "settings do not hold",
        }
    }
}

/// One request in the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RequestRecord<'a> {
    /// The urgency, derived from the outcome.
    #[serde(skip)]
    pub level: Level,
    /// The id that the reply carries in `X-Request-Id`.
    pub request_id: &'a str,
    /// The request's method.
    pub method: &'a str,
    /// The route, never the raw path.
    pub route: &'static str,
    /// The reply's status; 499 when the client left before the reply.
    pub status: u16,
    /// `ok` or the error's code.
    pub outcome: &'static str,
    /// The time until the last byte was handed over, written in microseconds.
    #[serde(rename = "duration_us", serialize_with = "microseconds")]
    pub duration: Duration,
    /// What the cache did (the word of `X-Cache`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<&'static str>,
    /// The address of the host that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a str>,
    /// How many attempts were made at hosts.
    pub attempts: usize,
    /// Details that the client was not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
}

impl RequestRecord<'_> {
    /// The duration in whole microseconds.
    pub fn duration_us(&self) -> u64 {
        u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX)
    }
}

/// The beginning of a text, at most `limit` bytes of whole characters.
fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or_default()
}

fn microseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_no_more_than_the_beginning_of_what_others_say() {
        let long = "é".repeat(60_000);
        let record = RequestRecord {
            level: Level::Info,
            request_id: "1",
            method: &long,
            route: "other",
            status: 404,
            outcome: "not_found",
            duration: Duration::ZERO,
            cache: None,
            host: None,
            attempts: 0,
            detail: Some(&long),
        };
        let detail = &*long;
        for event in [
            Event::Request(record),
            Event::AttemptFailed { request_id: "1", host: "h", outcome: "broken", detail },
            Event::StoreDown { operation: "ping", detail },
            Event::StoreRefuses { operation: "ping", detail },
        ] {
            let line = event.bounded().to_json();
            assert!(line.len() < 4_000 && line.contains("éééé"), "{line}");
            assert!(event.to_json().len() > 60_000);
        }
    }
}
