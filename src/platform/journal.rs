//! What the service tells its operator, as typed events.
//!
//! An event has no field that could hold a message, a reply, a credential or a session id, so none can reach a
//! log. A host turns events into lines; it never adds to them.

use std::time::Duration;

use serde::Serialize;

use super::{MaybeSend, MaybeSync};

/// Takes what the service has to say to its operator.
pub trait Journal: MaybeSend + MaybeSync {
    /// Writes one event; must not block and must not fail.
    fn record(&self, event: &Event<'_>);
}

/// How urgent an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The ordinary course of things.
    Info,
    /// Something is impaired; requests are still served.
    Warn,
    /// A request failed for a reason on our side or upstream.
    Error,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A request was answered, or its client left. One per request.
    Request(RequestRecord<'a>),
    /// One attempt at a backend host failed; another may follow.
    AttemptFailed {
        /// The request it was made for.
        request_id: &'a str,
        /// The host's address.
        host: &'a str,
        /// What happened: a stable word.
        outcome: &'static str,
        /// What exactly happened, as far as it is known without reading content.
        detail: &'a str,
    },
    /// The store stopped answering. Once per outage.
    StoreDown {
        /// The operation that met it.
        operation: &'static str,
        /// What the store or its connection said.
        detail: &'a str,
    },
    /// The store answers again.
    StoreUp,
    /// A living store refuses an operation. Once, until that operation succeeds.
    StoreRefuses {
        /// The operation.
        operation: &'static str,
        /// What the store said.
        detail: &'a str,
    },
    /// The settings do not hold; every problem is listed.
    Misconfigured {
        /// One sentence per problem.
        problems: &'a [String],
    },
}

impl Event<'_> {
    /// The urgency of this event.
    pub fn level(&self) -> Level {
        match self {
            Self::Request(record) => record.level,
            Self::AttemptFailed { .. } | Self::StoreDown { .. } | Self::StoreRefuses { .. } => Level::Warn,
            Self::StoreUp => Level::Info,
            Self::Misconfigured { .. } => Level::Error,
        }
    }

    /// A short sentence for people; the fields carry the facts.
    pub fn summary(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::AttemptFailed { .. } => "attempt failed",
            Self::StoreDown { .. } => "store is down: serving without cache and history",
            Self::StoreUp => "store is back",
            Self::StoreRefuses { .. } => "store refuses an operation: serving without it",
            Self::Misconfigured { .. } => "settings do not hold",
        }
    }
}

/// What is told about one request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestRecord<'a> {
    /// Urgency, from the outcome.
    #[serde(skip)]
    pub level: Level,
    /// The id that the reply carries in `X-Request-Id`.
    pub request_id: &'a str,
    /// The request's method.
    pub method: &'a str,
    /// The route, never the raw path.
    pub route: &'static str,
    /// The reply's status; 499 when the client left before it.
    pub status: u16,
    /// `ok` or the error's code.
    pub outcome: &'static str,
    /// Time until the last byte was handed over, written in microseconds.
    #[serde(rename = "duration_us", serialize_with = "microseconds")]
    pub duration: Duration,
    /// What the cache did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<&'static str>,
    /// The host that answered, by its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a str>,
    /// How many backend hosts were asked.
    pub attempts: usize,
    /// What the client was not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
}

impl RequestRecord<'_> {
    /// The duration in whole microseconds.
    pub fn duration_us(&self) -> u64 {
        u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX)
    }
}

fn microseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_micros())
}
