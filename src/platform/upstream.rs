//! The port to backend hosts: a request goes out, its answer streams in.
//!
//! The time limits are passed with each call: the platform enforces them, and the core races no timers.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;

use super::{MaybeSend, MaybeSync};

/// How long each phase of an upstream call may take. The platform enforces them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the start until the connection is made, name resolution and TLS included.
    pub connect: Duration,
    /// From the sent request until the response head. Ollama withholds the head while it loads a model.
    pub first_byte: Duration,
    /// Between two pieces of the response body.
    pub between_bytes: Duration,
    /// From the start until the end of the response body, if the call has such a limit.
    pub total: Option<Duration>,
}

/// Why an upstream call, or the body of its answer, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamFailure {
    /// No connection: refused, unresolvable or not allowed.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// A time limit passed.
    #[error("timed out {0}")]
    TimedOut(Phase),
    /// The host closed the connection early, or did not speak HTTP.
    #[error("protocol: {0}")]
    Protocol(String),
    /// What stands before the host answered with this status, 502, 503 or 504, in its place.
    #[error("the host answered {0}")]
    Gateway(StatusCode),
    /// The host answered 508: it is this service again, or leads back to it.
    #[error("the host leads back to this service, or goes round by itself")]
    Looped,
}

/// The phase of a call whose time limit passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Making the connection.
    Connect,
    /// Waiting for the response head.
    FirstByte,
    /// Waiting for more of the body.
    BetweenBytes,
    /// Until the end of the body.
    Total,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Connect => "while connecting",
            Self::FirstByte => "before the first byte",
            Self::BetweenBytes => "between two bytes",
            Self::Total => "before the end",
        })
    }
}

/// Sends requests to backend hosts.
pub trait Upstream: MaybeSend + MaybeSync {
    /// The response body, which yields data as it arrives. Dropping it closes the upstream connection
    /// unless the body was complete.
    type Body: Body<Data = Bytes, Error = UpstreamFailure> + Unpin + MaybeSend + 'static;

    /// Sends `request` and resolves with the response head. Dropping the future cancels the call.
    fn send(
        &self,
        request: http::Request<Bytes>,
        limits: Timeouts,
    ) -> impl Future<Output = Result<http::Response<Self::Body>, UpstreamFailure>> + MaybeSend;
}
